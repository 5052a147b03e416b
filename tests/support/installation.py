"""duplexd as a user installs it: a wheel in a virtual environment, over which another one can be
installed while the daemon runs.
"""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from duplexd import __version__
from tests.support.daemon import ROOT, Daemon, run_duplexctl

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonFiles

OTHER_VERSION = "9.9.9"


def wheel(directory: Path, version: str) -> Path:
    """Of this tree, with another version."""
    tree = directory / f"tree-{version}"
    kept_out = shutil.ignore_patterns(".*", "__pycache__", "tests", "var", "dist")
    shutil.copytree(ROOT, tree, ignore=kept_out)
    package = tree / "duplexd" / "__init__.py"
    text = package.read_text()
    assert f'"{__version__}"' in text
    package.write_text(text.replace(f'"{__version__}"', f'"{version}"'))
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "-d",
        str(directory),
    ]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (made,) = directory.glob(f"duplexd-{version}-*.whl")
    return made


class Installation:
    """A virtual environment; its libraries are those of the tests."""

    def __init__(self, directory: Path) -> None:
        self.python = directory / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
        (packages,) = directory.glob("lib/python*/site-packages")
        (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")

    def install(self, made: Path) -> None:
        """In the place of whatever version is there."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", "--force-reinstall", made], check=True)


class InstalledDaemon(Daemon):
    """The daemon of an installation."""

    def __init__(self, files: DaemonFiles, installation: Installation) -> None:
        super().__init__(files, env={"PYTHONPATH": ""})
        self._installation = installation

    def command(self) -> list[str]:
        program = self._installation.python.parent / "duplexd"
        return [str(program), "run", "--config", str(self.files.config)]

    def version(self) -> str:
        return str(self.request("GET", "/v1/status")[1]["controller"]["version"])


class Upgrades:
    """Two wheels, and a daemon of whichever is installed; the one of this tree's version first."""

    def __init__(self, files: DaemonFiles, directory: Path) -> None:
        self._wheels = {each: wheel(directory, each) for each in (__version__, OTHER_VERSION)}
        self._installation = Installation(directory / "venv")
        self._installation.install(self._wheels[__version__])
        self.daemon = InstalledDaemon(files, self._installation)

    def go_to(self, version: str) -> dict[str, Any]:
        """Install that one and restart in place; returns what `duplexctl restart` says."""
        before = self.daemon.version()
        self._installation.install(self._wheels[version])
        assert self.daemon.version() == before
        done = run_duplexctl(self.daemon.files, "restart", "--json")
        assert done.returncode == 0, f"{done.stderr}\n{self.daemon.log()[-4000:]}"
        answer = json.loads(done.stdout)
        assert (answer["previous_version"], answer["version"]) == (before, version)
        assert self.daemon.version() == version != before
        return dict(answer)

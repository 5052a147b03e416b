"""An upgrade as users do it: another wheel is installed over the one that runs, and the daemon is
restarted in place. Its clients go on, and so they do when the first wheel comes back.
"""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from duplexd import __version__
from tests.support.daemon import ROOT, Daemon
from tests.support.sockets import Talk
from tests.system.test_restart_in_place import restart

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import DaemonFiles

OTHER = "9.9.9"


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
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", "--force-reinstall", made], check=True)


class Installed(Daemon):
    """The daemon of an installation."""

    def __init__(self, files: DaemonFiles, installation: Installation) -> None:
        super().__init__(files, env={"PYTHONPATH": ""})
        self.installation = installation

    def command(self) -> list[str]:
        program = self.installation.python.parent / "duplexd"
        return [str(program), "run", "--config", str(self.files.config)]

    def version(self) -> str:
        return str(self.request("GET", "/v1/status")[1]["controller"]["version"])


@pytest.mark.long
def test_clients_go_on_through_an_upgrade_and_back(
    make_files: Callable[..., DaemonFiles], tmp_path: Path
) -> None:
    files = make_files(directory=tmp_path)
    wheels = {version: wheel(tmp_path, version) for version in (__version__, OTHER)}
    installation = Installation(tmp_path / "venv")
    installation.install(wheels[__version__])
    daemon = Installed(files, installation)
    daemon.start()
    try:
        assert daemon.version() == __version__
        with closing(Talk(files.nbd_socket, "data")) as talk:
            for before, after in ((__version__, OTHER), (OTHER, __version__)):
                talk.write(0, before.encode().ljust(512))
                installation.install(wheels[after])
                done = restart(daemon)
                assert (done["previous_version"], done["version"]) == (before, after)
                assert (done["clients_kept"], done["clients_lost"]) == (1, 0)
                assert daemon.version() == after
                assert talk.read(0, 512) == before.encode().ljust(512)
        assert daemon.stop() == 0
    finally:
        daemon.kill()

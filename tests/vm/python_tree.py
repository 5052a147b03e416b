"""This Python with duplexd in a virtual environment, as `python3 -m venv /opt/duplexd &&
/opt/duplexd/bin/pip install .` leaves it.

The interpreter comes from whatever runs the tests; in the guest it is /usr/bin/pythonX.Y. Modules
come compiled: the guest is slow.
"""

from __future__ import annotations

import marshal
import re
import sys
import sysconfig
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.metadata import distribution
from importlib.util import MAGIC_NUMBER
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.vm.cpio import Archive

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
ENVIRONMENT = "opt/duplexd"
SITE = f"{ENVIRONMENT}/lib/{VERSION}/site-packages"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What a daemon never imports, and what belongs to others.
LEFT_OUT = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "ensurepip",
    "pydoc_data",
}
LEFT_OUT_PREFIXES = ("config-", "_tkinter.", "_test", "_ctypes_test")

# compiled code that is taken as it is, whatever the time of its source
_UNCHECKED_HASH = (1).to_bytes(4, "little") + bytes(8)


def interpreter() -> Path:
    """The program behind the virtual environment that runs the tests."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def add_python(archive: Archive) -> list[Path]:
    """Adds all of it, but not the shared libraries; returns the programs and modules that need
    some.
    """
    archive.file(f"usr/bin/{VERSION}", interpreter().read_bytes())
    archive.file(
        f"{ENVIRONMENT}/pyvenv.cfg",
        b"home = /usr/bin\ninclude-system-site-packages = false\n",
        0o644,
    )
    archive.link(f"{ENVIRONMENT}/bin/python", f"/usr/bin/{VERSION}")
    for name, target in PROJECT["scripts"].items():
        archive.file(f"{ENVIRONMENT}/bin/{name}", _script(*target.split(":")))
    binaries = [interpreter()]
    for path, source in _files():
        archive.file(path, source.read_bytes(), 0o644)
        if source.suffix == ".py":
            _add_compiled(archive, path, source)
        elif source.suffix == ".so":
            binaries.append(source)
    return binaries


def _files() -> Iterator[tuple[str, Path]]:
    """Path in the guest and file here: the standard library, duplexd, and what it depends on."""
    for key in ("stdlib", "platstdlib"):
        yield from _tree(Path(sysconfig.get_path(key)), f"usr/lib/{VERSION}")
    yield from _tree(ROOT / "duplexd", f"{SITE}/duplexd")
    for name in sorted(_distributions(PROJECT["dependencies"])):
        for file in distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                yield f"{SITE}/{file.as_posix()}", Path(str(file.locate()))


def _tree(directory: Path, target: str) -> Iterator[tuple[str, Path]]:
    for entry in sorted(directory.iterdir()):
        if entry.name in LEFT_OUT or entry.name.startswith(LEFT_OUT_PREFIXES):
            continue
        if entry.is_dir():
            yield from _tree(entry, f"{target}/{entry.name}")
        elif entry.suffix in {".py", ".so", ".toml", ".json", ".typed"}:
            yield f"{target}/{entry.name}", entry


def _distributions(requirements: Iterable[str]) -> set[str]:
    """The names of what `requirements` lead to, on this machine."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found and (
            requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ):
            found.add(name)
            waiting += distribution(name).requires or ()
    return found


def _add_compiled(archive: Archive, path: str, source: Path) -> None:
    try:
        code = SourceFileLoader(source.stem, str(source)).get_code(source.stem)
    except SyntaxError:  # a library keeps modules for other Pythons
        return
    where = PurePosixPath(path)
    name = f"{where.parent}/__pycache__/{where.stem}.{sys.implementation.cache_tag}.pyc"
    archive.file(name, MAGIC_NUMBER + _UNCHECKED_HASH + marshal.dumps(code), 0o644)


def _script(module: str, function: str) -> bytes:
    lines = [
        f"#!/{ENVIRONMENT}/bin/python",
        "import sys",
        f"from {module} import {function}",
        f"sys.exit({function}())",
    ]
    return "".join(f"{line}\n" for line in lines).encode()

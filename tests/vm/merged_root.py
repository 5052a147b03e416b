"""Parts of a guest's file system that has programs of this host, laid out as Debian does it: /bin,
/sbin, /lib and /lib64 are links into /usr.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.vm.cpio import Archive

MERGED = ("bin", "sbin", "lib", "lib64")  # each of them is a link into /usr


def add_merged(archive: Archive) -> None:
    """The links, and the directories that they lead to."""
    for name in MERGED:
        archive.link(name, f"usr/{name}")
        archive.directory(f"usr/{name}")


def add_programs(archive: Archive, names: Iterable[str]) -> list[Path]:
    """Add programs, at the places they have here, which are returned."""
    programs = [Path(tool(name)) for name in names]
    for path in programs:
        archive.file(merged(str(path)), path.read_bytes())
    return programs


def add_libraries(archive: Archive, binaries: list[Path]) -> None:
    """Each under its own name in the directory where every loader looks, wherever it lies here.

    What does not load here does not there.
    """
    done = subprocess.run(
        [tool("ldd"), *map(str, binaries)], capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines():
        name, _, rest = line.strip().partition(" => ")
        if rest.startswith("/"):
            archive.file(
                f"usr/lib/x86_64-linux-gnu/{Path(name).name}",
                Path(rest.rpartition(" (")[0]).read_bytes(),
            )
        elif name.startswith("/lib64/") and " (" in name:
            archive.file(
                f"usr{name.rpartition(' (')[0]}", Path(name.rpartition(" (")[0]).read_bytes()
            )


def merged(path: str) -> str:
    """The place of a file in the archive."""
    relative = path.lstrip("/")
    return f"usr/{relative}" if relative.split("/")[0] in MERGED else relative

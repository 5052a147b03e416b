"""The guest's file system: busybox, nbd-client, mkfs.ext4 and e2fsck of this host."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.cpio import Archive
from tests.vm.tools import MachineError, tool

if TYPE_CHECKING:
    from collections.abc import Iterable

DIRECTORIES = (
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "etc",
    "mnt",
    "bin",
    "sbin",
    "usr/bin",
    "usr/sbin",
    "modules",
)
PROGRAMS = {"nbd-client": "sbin/nbd-client", "mkfs.ext4": "sbin/mkfs.ext4", "e2fsck": "sbin/e2fsck"}
GUEST_SCRIPTS = Path(__file__).parent / "guest"


def write_initramfs(target: Path, modules: Iterable[Path]) -> None:
    """Write the archive.

    The modules are numbered: the guest's init inserts them in the order given.
    """
    files = {path: Path(tool(name)) for name, path in PROGRAMS.items()}
    files["bin/busybox"] = Path(tool("busybox"))
    for program in list(files.values()):
        files |= {str(library).lstrip("/"): library for library in _libraries(program)}
    files |= {
        f"modules/{order:02d}-{module.name}.ko": module for order, module in enumerate(modules)
    }
    files |= {
        script.name if script.name == "init" else f"bin/{script.name}": script
        for script in GUEST_SCRIPTS.iterdir()
    }
    if Path(
        "/etc/mke2fs.conf"
    ).exists():  # without it mkfs.ext4 makes another kind of file system than users get
        files["etc/mke2fs.conf"] = Path("/etc/mke2fs.conf")
    with target.open("wb") as file:
        archive = Archive(file)
        for directory in DIRECTORIES:
            archive.directory(directory)
        for path, source in files.items():
            archive.file(path, source.read_bytes())
        archive.end()


def _libraries(program: Path) -> list[Path]:
    """The shared libraries of a program, under the paths at which its loader looks for them; none
    if it is static.
    """
    done = subprocess.run([tool("ldd"), str(program)], capture_output=True, text=True, check=False)
    if done.returncode:
        if "not a dynamic executable" in done.stderr + done.stdout:
            return []
        raise MachineError(f"ldd {program}: {done.stderr}")
    words = (word for line in done.stdout.splitlines() for word in line.split())
    return [Path(word) for word in words if word.startswith("/")]

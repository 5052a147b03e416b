"""The guest's file system: busybox, nbd-client, mkfs.ext4 and e2fsck of this host, as one uncompressed cpio archive in the "newc" format."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tests.vm.tools import MachineError, tool

if TYPE_CHECKING:
    from collections.abc import Iterable

DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "etc", "mnt", "bin", "sbin", "usr/bin", "usr/sbin", "modules")
PROGRAMS = {"nbd-client": "sbin/nbd-client", "mkfs.ext4": "sbin/mkfs.ext4", "e2fsck": "sbin/e2fsck"}
GUEST_SCRIPTS = Path(__file__).parent / "guest"

_DIRECTORY, _FILE = 0o040755, 0o100755


def write_initramfs(target: Path, modules: Iterable[Path]) -> None:
    """Write the archive. The modules are numbered: the guest's init inserts them in the order given."""
    files = {path: Path(tool(name)) for name, path in PROGRAMS.items()}
    files["bin/busybox"] = Path(tool("busybox"))
    for program in list(files.values()):
        files |= {str(library).lstrip("/"): library for library in _libraries(program)}
    files |= {f"modules/{order:02d}-{module.name}.ko": module for order, module in enumerate(modules)}
    files |= {script.name if script.name == "init" else f"bin/{script.name}": script for script in GUEST_SCRIPTS.iterdir()}
    if Path("/etc/mke2fs.conf").exists():  # without it mkfs.ext4 makes another kind of file system than users get
        files["etc/mke2fs.conf"] = Path("/etc/mke2fs.conf")
    with target.open("wb") as archive:
        for directory in _with_parents(DIRECTORIES, files):
            _add(archive, directory, _DIRECTORY, b"")
        for path, source in files.items():
            _add(archive, path, _FILE, source.read_bytes())
        _add(archive, "TRAILER!!!", 0, b"")


def _libraries(program: Path) -> list[Path]:
    """The shared libraries of a program, under the paths at which its loader looks for them; none if it is static."""
    done = subprocess.run([tool("ldd"), str(program)], capture_output=True, text=True, check=False)
    if done.returncode:
        if "not a dynamic executable" in done.stderr + done.stdout:
            return []
        raise MachineError(f"ldd {program}: {done.stderr}")
    words = (word for line in done.stdout.splitlines() for word in line.split())
    return [Path(word) for word in words if word.startswith("/")]


def _with_parents(directories: Iterable[str], files: Iterable[str]) -> list[str]:
    """Every directory that must exist, parents before what they hold."""
    paths = [Path(directory) / "x" for directory in directories] + [Path(file) for file in files]
    return sorted({str(parent) for path in paths for parent in path.parents if str(parent) != "."})


def _add(archive: BinaryIO, name: str, mode: int, data: bytes) -> None:
    """One member: 13 fields of 8 hexadecimal digits, the name, the data, each padded to 4 bytes."""
    encoded = name.encode() + b"\0"
    links = 2 if mode == _DIRECTORY else 1
    #        inode mode  uid gid links mtime size      device, rdevice  name          check
    fields = (0, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    archive.write(header + bytes(-len(header) % 4))
    archive.write(data + bytes(-len(data) % 4))

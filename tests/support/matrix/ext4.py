"""A file of nbdfuse, and ext4 on a loop device of it: the kernel without its NBD driver. Needs
root, FUSE and loop devices.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.daemon import PATIENCE_SECONDS
from tests.support.fuse.mounting import unmount
from tests.support.matrix import features as f
from tests.support.matrix.libnbd import read_back
from tests.support.matrix.rig import FIXED, MIB, NAMED, SIZE, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.matrix.rig import Rig


def _version() -> str:
    done = subprocess.run(["nbdfuse", "--version"], capture_output=True, text=True, check=True)
    return f"nbdfuse {done.stdout.split()[1]}, Linux {'.'.join(os.uname().release.split('.')[:2])}"


CLIENT = f.Client("ext4", "nbdfuse, loop, ext4", _version)
CLIENT.lacks("nbdfuse does not ask for it", f.LIST, f.EXPORT_NAME, f.STATUS, f.EXTENDED)
CLIENT.lacks("it takes certificates from a directory of the system only", f.TLS12, f.TLS13)
CLIENT.lacks("FUSE cuts requests to at most 1 MiB", f.MIB_32, f.MIB_64)
CLIENT.differs("fsync is FLUSH; nbdfuse does not send FUA", f.FLUSH)


@contextmanager
def device(rig: Rig, uri: str, *options: str) -> Iterator[Path]:
    """A file that is the volume."""
    directory = rig.directory / "nbdfuse"
    directory.mkdir(exist_ok=True)
    command = ["nbdfuse", *options, str(directory / "nbd"), uri]
    with subprocess.Popen(command, env=rig.env(), stdin=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (directory / "nbd").exists():
                assert process.poll() is None, "nbdfuse ended"
                assert time.monotonic() < deadline, "nbdfuse has not mounted its file"
                time.sleep(0.02)
            yield directory / "nbd"
        finally:
            unmount(str(directory))


@contextmanager
def mounted(rig: Rig, file: Path) -> Iterator[Path]:
    """The file system on the file of `device`."""
    point = rig.directory / "mnt"
    point.mkdir(exist_ok=True)
    rig.run("mount", "-o", "loop,errors=remount-ro,discard", file, point)
    try:
        yield point
    finally:
        rig.run("umount", point)


def write_synced(path: Path, data: bytes) -> None:
    """As a database writes."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _file_system(rig: Rig, uri: str) -> None:
    """Made, written to, mounted again, checked."""
    with device(rig, uri) as file:
        rig.run("mkfs.ext4", "-q", "-F", "-b", "4096", file, "65536")
        content = os.urandom(3 * MIB)
        with mounted(rig, file) as point:
            write_synced(point / "a", content)
        with mounted(rig, file) as point:
            assert (point / "a").read_bytes() == content
    with device(rig, uri) as file:
        rig.run("e2fsck", "-fn", file)


@CLIENT.can(f.UNIX)
def _unix(rig: Rig) -> None:
    _file_system(rig, rig.unix(CLIENT.key))


@CLIENT.can(f.TCP)
def _tcp(rig: Rig) -> None:
    _file_system(rig, rig.tcp(CLIENT.key))


@CLIENT.can(f.NAMES)
def _names(rig: Rig) -> None:
    for name in NAMED:
        with device(rig, rig.unix(name)) as file:
            assert file.stat().st_size == SMALL


@CLIENT.can(f.READ_ONLY)
def _read_only(rig: Rig) -> None:
    with device(rig, rig.unix(FIXED), "--readonly") as file:
        assert file.read_bytes()[:512] == bytes(512)
        rig.run("dd", "if=/dev/zero", f"of={file}", "bs=4k", "count=1", "conv=notrunc", status=1)


@CLIENT.can(f.FLUSH)
def _flush(rig: Rig) -> None:
    with device(rig, rig.unix(CLIENT.key)) as file, file.open("r+b", buffering=0) as opened:
        opened.write(b"f" * 4096)
        os.fsync(opened.fileno())


def _filled(rig: Rig, *command: str) -> Path:
    """4 MiB of random bytes at the end of 4 GiB, and `fallocate` with these options before it."""
    source = rig.random_file(4 * MIB)
    with device(rig, rig.unix(CLIENT.key)) as file:
        with file.open("r+b", buffering=0) as opened:
            opened.seek(1 << 32)
            opened.write(source.read_bytes())
        assert file.stat().st_size == SIZE
        rig.run("fallocate", *command, file)
    return source


@CLIENT.can(f.TRIM)
def _trim(rig: Rig) -> None:
    source = _filled(rig, "--punch-hole", "--keep-size", "-l", str(4 * MIB))
    read_back(rig, source, CLIENT.key, 1 << 32)


@CLIENT.can(f.TRIM_4G)
def _trim_4g(rig: Rig) -> None:
    source = _filled(rig, "--punch-hole", "--keep-size", "-l", str((1 << 32) - 512))
    read_back(rig, source, CLIENT.key, 1 << 32)


@CLIENT.can(f.ZEROES)
def _zeroes(rig: Rig) -> None:
    source = _filled(rig, "--zero-range", "--keep-size", "-l", str(4 * MIB))
    read_back(rig, source, CLIENT.key, 1 << 32)


@CLIENT.can(f.STRUCTURED)
def _structured(rig: Rig) -> None:
    """They are negotiated by libnbd, for nbdfuse."""
    with device(rig, rig.unix(FIXED)) as file, file.open("rb") as opened:
        assert opened.read(1 * MIB) == bytes(1 * MIB)


@CLIENT.can(f.UNALIGNED)
def _unaligned(rig: Rig) -> None:
    source = rig.random_file(10_007)
    with device(rig, rig.unix(CLIENT.key)) as file, file.open("r+b", buffering=0) as opened:
        opened.seek(12_345)
        opened.write(source.read_bytes())
    read_back(rig, source, CLIENT.key, 12_345)


@CLIENT.can(f.FOUR)
def _four(rig: Rig) -> None:
    source = rig.random_file(16 * MIB)
    with device(rig, rig.unix(CLIENT.key), "--connections=4") as file:
        rig.run("dd", f"if={source}", f"of={file}", "bs=1M", "conv=notrunc,fsync")
    read_back(rig, source, CLIENT.key)

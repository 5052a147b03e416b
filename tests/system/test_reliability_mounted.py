"""A mounted ext4, by the kernel, that never sees an error while a disk under its volume fails.

nbdfuse makes a file of the volume, and the kernel mounts it on a loop device (that needs root). The
kernel's own NBD client does the same in tests/vm.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd.uri import NbdUri
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.fuse.mounting import unmount
from tests.support.reliability.clients import run
from tests.support.reliability.measure import good, resync
from tests.support.reliability.rig import MIB, rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.fuse import FaultyDisk
    from tests.support.reliability.rig import Rig

FILE_BYTES = 256 << 10
FILES = 24
# Writes and syncs files, one after the other; then what hangs in the kernel hangs there.
_WRITER = """
import os, pathlib, sys
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    with (pathlib.Path(sys.argv[1]) / str(number)).open("wb") as file:
        file.write(bytes([number]) * int(sys.argv[4]))
        os.fsync(file.fileno())
"""


@contextlib.contextmanager
def mounted(broken: Rig) -> Iterator[Path]:
    """The volume `data`, with a new ext4, mounted."""
    directory = broken.files.directory
    device, point = directory / "nbdfuse", directory / "mnt"
    device.mkdir()
    point.mkdir()
    uri = str(NbdUri("data", str(broken.files.nbd_socket)))
    with subprocess.Popen(["nbdfuse", str(device / "data"), uri]) as process:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (device / "data").exists():
                assert process.poll() is None, "nbdfuse ended"
                assert time.monotonic() < deadline, "nbdfuse has not mounted its file"
                time.sleep(0.02)
            run("mkfs.ext4", "-q", "-F", device / "data")
            run("mount", "-o", "loop,errors=remount-ro", device / "data", point)
            yield point
        finally:
            for disk in broken.disks.values():  # what hangs would let nothing be unmounted
                disk.lift()
            if point.is_mount():
                run("umount", point)
            unmount(str(device))


async def write_files(point: Path, first: int, end: int) -> None:
    """In another process: it may hang in the kernel."""
    arguments = [str(point), str(first), str(end), str(FILE_BYTES)]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _WRITER, *arguments)
    assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0, "the file system failed"


def check_files(point: Path, end: int) -> None:
    for number in range(end):
        assert (point / str(number)).read_bytes() == bytes([number]) * FILE_BYTES


def writes(disk: FaultyDisk) -> None:
    disk.fail("write fallocate", "data.img", skip=20)


def everything_hangs(disk: FaultyDisk) -> None:
    disk.hang("", "data.img", skip=20)


def full(disk: FaultyDisk) -> None:
    disk.fill(1 * MIB)


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("primary", writes),
        ("primary", everything_hangs),
        ("secondary", everything_hangs),
        ("secondary", full),
    ],
)
async def test_a_mounted_file_system_does_not_notice(
    tmp_path: Path, part: str, fault: Callable[[FaultyDisk], None]
) -> None:
    with rig(tmp_path) as broken:
        with mounted(broken) as point:
            await write_files(point, 0, FILES)
            fault(broken.disks[part])
            await write_files(point, FILES, 2 * FILES)
            assert broken.status()["data"]["state"] == "SUSPENDED"
            assert errors_of(point) == 0
            check_files(point, 2 * FILES)
            broken.disks[part].lift()
            broken.disks[part].fill(None)
            assert await resync(broken)
            await write_files(point, 2 * FILES, 3 * FILES)
            os.sync()
            check_files(point, 3 * FILES)
        assert await good(broken)
        assert broken.daemon.stop() == 0
        for leg in ("primary", "secondary"):
            path = tmp_path / "check.img"
            path.write_bytes(broken.below(leg, "data"))
            run("e2fsck", "-fn", path)


def errors_of(point: Path) -> int:
    """How many errors the kernel's ext4 has counted there."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    device = next(line.split()[0] for line in lines if line.split()[1] == str(point))
    return int((Path("/sys/fs/ext4") / Path(device).name / "errors_count").read_text())

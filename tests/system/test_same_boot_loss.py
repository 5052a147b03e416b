"""A disk fails, is repaired and mounted again, without a reboot: what was not synced is gone, with
the boot id as before.

The journal and one leg lie on that disk, the other leg on a good one, so that the legs differ
afterwards. The disk forgets by itself, or below a real ext4 on a loop device (that needs root),
whose page cache has what the disk never got. Whatever the daemon claims after the next start, from
its first answer on, is compared with the images themselves.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.commands import call, resync, same_bytes, suspend, wait_state
from tests.support.daemon import PATIENCE_SECONDS, DaemonFiles
from tests.support.fuse import FaultyDisk
from tests.support.reliability.clients import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

MIB = 1 << 20
BLOCK = 1 << 16
BLOCKS = 64
EXT4_BYTES = 96 * MIB
E2FSCK_CORRECTED = 1


class ForgettingDisk:
    """A disk that loses by `seed` what was not synced: None loses all of it."""

    def __init__(self, path: Path, seed: int | None) -> None:
        self.path = path
        self._disk = FaultyDisk(path, volatile=True)
        self._seed = seed

    def fail(self) -> None:
        """Every call fails from now on."""
        self._disk.fail()

    def repair(self) -> None:
        """Unmount, and mount what is left."""
        assert self._disk.forget(self._seed) > 0, "nothing was lost: the test tests nothing"
        self._disk.close()
        self._disk = FaultyDisk(self.path, volatile=True)

    def close(self) -> None:
        self._disk.close()


class Ext4OnAFailingDisk:
    """A real ext4 on a loop device, whose file lies on such a disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._disk = FaultyDisk(path.with_name("device"), volatile=True)
        self._image = self._disk.path / "image"
        with self._image.open("wb") as file:
            file.truncate(EXT4_BYTES)
        run("mkfs.ext4", "-q", "-F", self._image)
        run("mount", "-o", "loop", self._image, path)

    def fail(self) -> None:
        """Every call of the loop device fails from now on."""
        self._disk.fail()

    def repair(self) -> None:
        """Unmount, fsck, mount."""
        run("umount", self.path)
        self._disk.forget()
        self._disk.lift()
        run("e2fsck", "-fy", self._image, status=E2FSCK_CORRECTED)
        run("mount", "-o", "loop", self._image, self.path)

    def close(self) -> None:
        with contextlib.suppress(AssertionError):  # it may be unmounted
            run("umount", self.path)
        self._disk.close()


class LossFiles(DaemonFiles):
    """state_dir and one leg on the disk that fails, the other one beside it."""

    leg = "primary"

    @property
    def state_dir(self) -> Path:
        return self.directory / "lossy" / "state"

    def primary(self, volume: str) -> Path:
        return self.directory / ("lossy" if self.leg == "primary" else "a") / f"{volume}-a.img"

    def secondary_of(self, volume: str) -> Path:
        return self.directory / ("lossy" if self.leg == "secondary" else "b") / f"{volume}-b.img"


Lossy = ForgettingDisk | Ext4OnAFailingDisk


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lossy]:
    """At `lossy`; the parameter is a seed, None or "ext4"."""
    where = tmp_path / "lossy"
    kind = request.param
    made = Ext4OnAFailingDisk(where) if kind == "ext4" else ForgettingDisk(where, kind)
    yield made
    made.close()


@pytest.fixture
def start(
    disk: Lossy, tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> Callable[[str], Daemon]:
    """A daemon with one pair. It depends on the disk, so that it has ended when that goes."""

    def start(leg: str) -> Daemon:
        files = LossFiles(tmp_path, {"data": BLOCKS * BLOCK})
        files.leg = leg
        return start_daemon(files.write())

    return start


def block(version: int) -> bytes:
    return bytes([version]) * BLOCK


async def lose(daemon: Daemon, disk: Lossy, *, suspended: bool) -> None:
    """Version 1 of all blocks is before a checkpoint, so that no replay makes it again; version 2
    of the first half is acknowledged. The disk fails, the daemon stops, the disk is repaired.
    """
    async with connect(daemon.files.uri("data")) as nbd:
        for number in range(BLOCKS):
            await nbd.write(number * BLOCK, block(1))
    assert daemon.stop() == 0
    daemon.start()
    async with connect(daemon.files.uri("data")) as nbd:
        if suspended:
            await suspend(daemon, "data")
        for number in range(BLOCKS // 2):
            await nbd.write(number * BLOCK, block(2))
        disk.fail()
        with pytest.raises(OSError):
            await nbd.write(0, block(3), fua=True)
    daemon.stop()
    disk.repair()


async def claims_are_true(daemon: Daemon) -> None:
    """From the first answer of the daemon until the pair is DUPLEX: whenever the pair is called
    current, or a suspend consistent, the legs are equal. Nobody writes meanwhile.
    """
    legs = daemon.files.primary("data"), daemon.files.secondary_of("data")
    daemon.start(ready=False)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and daemon.running:
        with contextlib.suppress(OSError):
            code, body = daemon.request("POST", "/v1/suspend", {"targets": ["data"]})
            if code == 200 and body["verdict"] == "consistent":
                assert same_bytes(*legs), f"called consistent: {body}"
                return
    raise AssertionError(f"never DUPLEX\n{daemon.log()[-4000:]}")


def check_content(image: bytes) -> None:
    """What was flushed is there, and of the rest any version that was written."""
    for number in range(BLOCKS):
        found = image[number * BLOCK : (number + 1) * BLOCK]
        wanted = {block(1)} if number >= BLOCKS // 2 else {block(1), block(2), block(3)}
        assert found in wanted, f"block {number} begins with {found[:8].hex()}"


@pytest.mark.parametrize(
    ("disk", "leg"),
    [(None, "primary"), (1, "secondary"), ("ext4", "primary")],
    indirect=["disk"],
)
async def test_legs_are_made_equal_before_they_are_called_current(
    start: Callable[[str], Daemon], disk: Lossy, leg: str
) -> None:
    daemon = start(leg)
    await lose(daemon, disk, suspended=False)
    await claims_are_true(daemon)
    check_content(daemon.files.primary("data").read_bytes())
    check_content(daemon.files.secondary_of("data").read_bytes())


@pytest.mark.parametrize("disk", [1, "ext4"], indirect=True)
async def test_a_suspended_pair_copies_what_only_the_primary_has(
    start: Callable[[str], Daemon], disk: Lossy
) -> None:
    """The journal lost changes that the primary, on the good disk, has; the secondary was durable
    at its cut, and stays so until the resync.
    """
    daemon = start("secondary")
    await lose(daemon, disk, suspended=True)
    daemon.start()
    secondary = daemon.files.secondary_of("data")
    assert secondary.read_bytes() == block(1) * BLOCKS
    await resync(daemon, "data")
    await wait_state(daemon, "DUPLEX")
    assert (await call(daemon, "POST", "/v1/verify", {"targets": ["data"]}))["equal"]
    assert same_bytes(daemon.files.primary("data"), secondary)
    check_content(secondary.read_bytes())


def test_a_synced_change_outlives_the_loss(tmp_path: Path) -> None:
    """The equipment: of two writes to an ext4 the synced one is there after the repair."""
    disk = Ext4OnAFailingDisk(tmp_path / "fs")
    try:
        with (disk.path / "one").open("wb") as synced, (disk.path / "two").open("wb") as other:
            synced.write(b"content")
            synced.flush()
            os.fsync(synced.fileno())
            disk.fail()
            other.write(b"content")
        disk.repair()
        assert (disk.path / "one").read_bytes() == b"content"
        assert (disk.path / "two").read_bytes() == b""
    finally:
        disk.close()

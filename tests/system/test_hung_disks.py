"""Several images on one disk that hangs: it is waited for once, not once for each of them.

Each of these bounds is a promise, and less than half of what one time-out after the other takes.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import Daemon, DaemonFiles
from tests.support.fuse import faulty_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.fuse import FaultyDisk

TIMEOUT_SECONDS = 2.0
HANGING = [f"v{number}" for number in range(8)]
GOOD = "good"
WAITS = 3 * TIMEOUT_SECONDS  # one time-out after the other: 16 s


@dataclass
class OnOneDisk(DaemonFiles):
    """One leg of each volume but GOOD, its `role`, lies on the disk `shared`."""

    role: str = "secondary"

    def primary(self, volume: str) -> Path:
        return self._at("primary", volume)

    def secondary_of(self, volume: str) -> Path:
        return self._at("secondary", volume)

    def _at(self, role: str, volume: str) -> Path:
        shared = role == self.role and volume != GOOD
        directory = self.directory / "shared" if shared else self.directory / role
        return directory / f"{volume}-{role}.img"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    with faulty_disk(tmp_path / "shared") as made:
        yield made


def files(tmp_path: Path, role: str, secondary: bool = True) -> OnOneDisk:
    volumes = dict.fromkeys([*HANGING, GOOD], "1MiB")
    limits = [f"secondary_timeout = {TIMEOUT_SECONDS}", f"primary_timeout = {TIMEOUT_SECONDS}"]
    made = OnOneDisk(tmp_path, volumes, controller=limits, role=role, secondary=secondary)
    for directory in ("primary", "secondary"):
        (tmp_path / directory).mkdir()
    made.write()
    return made


async def write(daemon: Daemon, volume: str, content: bytes) -> int:
    """Write 4 KiB over a connection of its own; the errno."""
    async with await connect(daemon.files.uri(volume)) as client:
        try:
            await client.write(0, content * 4096)
        except OSError as error:
            return error.errno or -1
    return 0


async def all_written(
    daemon: Daemon, disk: FaultyDisk, operations: str
) -> tuple[dict[str, int], float]:
    """A write to each volume on the disk that hangs in these operations, and one to another: the
    errnos of the former, and for how long the latter waited.
    """
    stuck = disk.hang(operations, "v*")
    writes = [asyncio.ensure_future(write(daemon, name, b"x")) for name in HANGING]
    await asyncio.to_thread(stuck.wait_met)
    began = monotonic()
    assert await write(daemon, GOOD, b"y") == 0
    waited = monotonic() - began
    errors = await asyncio.gather(*writes)
    assert monotonic() - began < WAITS, "of the last of all"
    return dict(zip(HANGING, errors, strict=True)), waited


def states(daemon: Daemon) -> dict[str, tuple[str, bool]]:
    """Of each volume, and whether it is served."""
    status = daemon.request("GET", "/v1/status")[1]
    return {volume["name"]: (volume["state"], volume["served"]) for volume in status["volumes"]}


def expected(state: str, served: bool = True, good: str = "DUPLEX") -> dict[str, tuple[str, bool]]:
    return {**dict.fromkeys(HANGING, (state, served)), GOOD: (good, True)}


@pytest.mark.parametrize("operations", ["", "write"], ids=["everything", "writes"])
@pytest.mark.parametrize("role", ["secondary", "primary"])
async def test_a_disk_under_many_images_is_waited_for_once(
    disk: FaultyDisk,
    start_daemon: Callable[..., Daemon],
    tmp_path: Path,
    role: str,
    operations: str,
) -> None:
    daemon = start_daemon(files(tmp_path, role))
    errors, waited = await all_written(daemon, disk, operations)
    assert set(errors.values()) == {0}
    print(f"the other volume waited {waited:.1f} s")
    assert waited < WAITS
    assert states(daemon) == expected("SUSPENDED")


async def test_a_disk_under_primaries_that_nothing_can_replace_is_waited_for_once(
    disk: FaultyDisk, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start_daemon(files(tmp_path, "primary", secondary=False))
    errors, waited = await all_written(daemon, disk, "")
    assert set(errors.values()) == {errno.EIO}
    print(f"the other volume waited {waited:.1f} s")
    assert waited < WAITS
    assert states(daemon) == expected("SIMPLEX", served=False, good="SIMPLEX")


async def test_idle_pairs_are_suspended_with_the_one_that_is_written_to(
    disk: FaultyDisk, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """So who writes to one after the other waits once."""
    daemon = start_daemon(files(tmp_path, "secondary"))
    disk.hang("", "v*")
    began = monotonic()
    for name in HANGING:
        assert await write(daemon, name, b"x") == 0
    assert monotonic() - began < WAITS
    assert states(daemon) == expected("SUSPENDED")


async def test_a_disk_that_is_slow_for_one_image_costs_the_others_nothing(
    disk: FaultyDisk, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start_daemon(files(tmp_path, "secondary"))
    disk.hang("", "v0-*")
    for name in HANGING:
        assert await write(daemon, name, b"x") == 0
    assert states(daemon) == expected("DUPLEX") | {"v0": ("SUSPENDED", True)}

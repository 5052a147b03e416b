"""What `Leg` promises, asked of each kind, those of the tests too."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.images.place import misplaced
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.machine import in_memory
from tests.sim.disk import SimDisk
from tests.support.fault_leg import FaultLeg
from tests.support.memory_leg import MemoryLeg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.images.leg import Leg

SIZE = 1 << 20


@pytest.fixture(params=["file", "memory", "fault", "simulated"])
def leg(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Leg]:
    made: Leg
    match request.param:
        case "file":
            made = RealDisk().create(str(tmp_path / "a.img"), SIZE)
        case "memory":
            made = MemoryLeg(SIZE)
        case "fault":
            made = FaultLeg(MemoryLeg(SIZE))
        case _:
            made = SimDisk(cold=0).create("/a.img", SIZE)
    yield made
    made.close()


def read(leg: Leg, offset: int = 0, length: int = SIZE) -> bytes:
    buffer = bytearray(length)
    leg.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_leg_holds_what_was_written(leg: Leg) -> None:
    assert leg.size == SIZE
    leg.write(4094, b"abcd")
    assert read(leg, 4093, 6) == b"\0abcd\0"
    buffer = bytearray(4)
    assert leg.read_cached(4094, memoryview(buffer))
    assert buffer == b"abcd"
    leg.sync()


def test_dropping_the_cache_loses_nothing(leg: Leg) -> None:
    leg.write(0, b"\xff" * SIZE)
    leg.drop_cache()
    assert read(leg) == b"\xff" * SIZE


def test_a_file_whose_cache_was_dropped_is_read_from_its_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    leg = RealDisk().create(str(path), SIZE)
    leg.write(0, b"\xff" * SIZE)
    leg.sync()
    assert leg.read_cached(0, memoryview(bytearray(SIZE)))
    leg.drop_cache()
    with path.open("rb") as file:
        assert leg.read_cached(0, memoryview(bytearray(SIZE))) is in_memory(file.fileno())
    leg.close()


def test_what_a_failed_sync_gave_up_is_not_shown_once_the_cache_was_dropped() -> None:
    disk = SimDisk(cold=0)
    leg = disk.create("/a.img", SIZE)
    disk.fail("/a.img", errno.EIO, operation="sync", times=1)
    leg.write(0, b"\xff" * SIZE)
    with pytest.raises(OSError, match="Input/output error"):
        leg.sync()
    leg.sync()
    assert read(leg) == b"\xff" * SIZE, "the page cache shows it"
    leg.drop_cache()
    seen = read(leg)
    disk.crash(power=True)
    assert seen == disk.content("/a.img") != b"\xff" * SIZE


@pytest.mark.parametrize("allocate", [True, False])
def test_zeroed_range_reads_as_zeroes(leg: Leg, allocate: bool) -> None:
    leg.write(0, b"\xff" * SIZE)
    leg.reserve(0, SIZE)
    leg.zero(1000, 100_000, allocate)
    assert read(leg) == b"\xff" * 1000 + bytes(100_000) + b"\xff" * (SIZE - 101_000)


def test_extents_cover_the_range_and_every_hole_is_zeroes(leg: Leg) -> None:
    leg.write(65536, b"\xff" * 65536)
    assert leg.can_punch
    found = leg.extents(1000, SIZE - 1000)
    assert [offset for offset, _, _ in found] == [
        1000,
        *(offset + length for offset, length, _ in found[:-1]),
    ]
    assert sum(length for _, length, _ in found) == SIZE - 1000
    assert all(
        is_data or read(leg, offset, length) == bytes(length) for offset, length, is_data in found
    )
    assert leg.extents(0, 0) == []


def test_past_the_end_is_an_error(leg: Leg) -> None:
    with pytest.raises(OSError) as caught:
        leg.write(SIZE - 1, b"ab")
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError):
        read(leg, SIZE - 1, 2)
    assert read(leg) == bytes(SIZE)


def test_allocating_zeroes_keep_the_space_and_others_give_it_back(tmp_path: Path) -> None:
    leg = RealDisk().create(str(tmp_path / "a.img"), SIZE)
    leg.write(0, b"\xff" * SIZE)
    leg.zero(0, SIZE // 2, False)
    leg.zero(SIZE // 2, SIZE // 2, True)
    leg.sync()
    assert SIZE // 2 <= (tmp_path / "a.img").stat().st_blocks * 512 < SIZE
    leg.close()


def test_an_image_that_was_not_moved_is_in_place(leg: Leg) -> None:
    assert leg.in_place()
    assert misplaced(leg) == ""

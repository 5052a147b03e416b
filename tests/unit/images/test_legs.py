"""What `Leg` promises, asked of each kind; and what each does beyond that."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError
from duplexd.images.blockdev import BlockDeviceLeg
from duplexd.images.file import FileLeg
from duplexd.images.open import open_leg
from duplexd.images.place import misplaced
from duplexd.runtime.disk import RealDisk
from tests.sim.disk import SimDisk
from tests.support.fault_leg import FaultLeg
from tests.support.memory_leg import MemoryLeg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.images.leg import Leg

SIZE = 1 << 20


@pytest.fixture(params=["file", "block device", "memory", "fault", "simulated"])
def leg(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Leg]:
    made: dict[str, Leg] = {"memory": MemoryLeg(SIZE), "fault": FaultLeg(MemoryLeg(SIZE))}
    if request.param == "simulated":
        made["simulated"] = FileLeg(SimDisk(cold=0).create("/a.img", SIZE))
    elif request.param not in made:
        file = RealDisk().create(str(tmp_path / "a.img"), SIZE)
        made[request.param] = FileLeg(file) if request.param == "file" else BlockDeviceLeg(file)
    yield made[request.param]
    made[request.param].close()


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
    leg = FileLeg(RealDisk().create(str(tmp_path / "a.img"), SIZE))
    leg.write(0, b"\xff" * SIZE)
    leg.zero(0, SIZE // 2, False)
    leg.zero(SIZE // 2, SIZE // 2, True)
    leg.sync()
    assert SIZE // 2 <= (tmp_path / "a.img").stat().st_blocks * 512 < SIZE
    leg.close()


def test_closed_memory_is_not_used() -> None:
    leg = MemoryLeg(SIZE)
    leg.sync()
    leg.close()
    assert (leg.syncs, leg.closed) == (1, True)
    with pytest.raises(OSError, match="closed"):
        leg.sync()


def test_fault_strikes_after_as_many_and_as_often_as_told() -> None:
    leg = FaultLeg(MemoryLeg(SIZE))
    leg.fail("write", errno.ENOSPC, after=2, times=1)
    outcomes = []
    for place in range(5):
        try:
            leg.write(place, b"x")
            outcomes.append(0)
        except OSError as error:
            outcomes.append(error.errno or 0)
    assert outcomes == [0, 0, errno.ENOSPC, 0, 0]
    assert read(leg, 0, 5) == b"xx\0xx"
    assert leg.calls["write"] == 5


@pytest.mark.parametrize(
    "operation", ["read_into", "read_cached", "write", "zero", "reserve", "extents", "sync"]
)
def test_any_operation_can_fail_until_it_is_healed(operation: str) -> None:
    leg = FaultLeg(MemoryLeg(SIZE))

    def use(name: str) -> object:
        buffer = memoryview(bytearray(1))
        return {
            "read_into": lambda: leg.read_into(0, buffer),
            "read_cached": lambda: leg.read_cached(0, buffer),
            "write": lambda: leg.write(0, b"x"),
            "zero": lambda: leg.zero(0, 1, False),
            "reserve": lambda: leg.reserve(0, 1),
            "extents": lambda: leg.extents(0, 1),
            "sync": leg.sync,
        }[name]()

    assert operation in leg.calls
    for name in leg.calls:
        if name == operation:
            leg.fail(name)
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            use(operation)
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, "memory")
    for name in leg.calls:
        if name != operation:
            use(name)
    leg.heal()
    use(operation)


def test_torn_write_puts_down_its_first_half() -> None:
    leg = FaultLeg(MemoryLeg(SIZE))
    leg.tear(errno.EIO, after=1)
    leg.write(0, b"whole")
    with pytest.raises(OSError):
        leg.write(10, b"abcdefgh")
    leg.write(20, b"whole")
    assert read(leg, 0, 25) == b"whole\0\0\0\0\0abcd\0\0\0\0\0\0whole"


def test_delay_is_taken_before_each_operation() -> None:
    delayed: list[str] = []
    leg = FaultLeg(MemoryLeg(SIZE), delayed.append)
    leg.write(0, b"x")
    leg.sync()
    assert delayed == ["write", "sync"]


def test_a_new_leg_is_sparse_and_of_the_volumes_size(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.img"
    leg, created = open_leg(RealDisk(), str(path), SIZE)
    assert created
    assert (leg.path, leg.size, leg.is_block) == (str(path), SIZE, False)
    assert (path.stat().st_size, path.stat().st_blocks) == (SIZE, 0)
    leg.write(0, b"kept")
    leg.close()
    leg, created = open_leg(RealDisk(), str(path), SIZE)
    assert not created
    assert read(leg, 0, 4) == b"kept"
    leg.close()


@pytest.mark.parametrize("size", [SIZE - 4096, SIZE + 4096])
def test_an_image_of_another_size_is_refused_with_both_sizes_and_left_alone(
    tmp_path: Path, size: int
) -> None:
    path = str(tmp_path / "a.img")
    RealDisk().create(path, SIZE).close()
    with pytest.raises(ConfigurationError) as caught:
        open_leg(RealDisk(), path, size)
    assert path in str(caught.value)
    assert f"{SIZE} bytes (1.0 MiB)" in str(caught.value)
    assert f"{size} bytes" in str(caught.value)
    assert "\n" not in str(caught.value)
    open_leg(RealDisk(), path, SIZE)[0].close()  # nothing stayed open


def test_a_path_that_is_no_good_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept, _ = open_leg(RealDisk(), str(tmp_path / "kept"), SIZE)
    for path, reason in (
        (str(tmp_path), "neither a regular file nor a block device"),
        (str(tmp_path / "file" / "below"), "Not a directory"),
        (str(tmp_path / ("n" * 300)), "File name too long"),
        (str(tmp_path / "kept"), "in use already"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            open_leg(RealDisk(), path, SIZE)
        assert str(caught.value).startswith(f"{path}: {reason}")
    kept.close()


def test_a_disk_that_fails_is_no_configuration_error() -> None:
    disk = SimDisk()
    disk.fail("/a.img", errno.EIO)
    with pytest.raises(OSError) as caught:
        open_leg(disk, "/a.img", SIZE)
    assert caught.value.errno == errno.EIO


def test_leg_that_nobody_moved_lies_where_it_should(leg: Leg) -> None:
    assert leg.in_place()
    assert misplaced(leg) == ""


def test_leg_that_was_replaced_says_which_path_leads_elsewhere() -> None:
    disk = SimDisk()
    leg = FaultLeg(FileLeg(disk.create("/a.img", SIZE)))
    disk.replace_file("/a.img", bytes(SIZE))
    assert misplaced(leg).startswith("/a.img: ")
    assert misplaced(None) == ""

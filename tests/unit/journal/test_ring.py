"""The ring: segments that grow, are recycled and dropped, and what is found of them after a
restart.
"""

from __future__ import annotations

import errno
from pathlib import PurePosixPath

import pytest

from duplexd.errors import DamageError
from duplexd.journal.format import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    pack_segment_header,
    unpack_segment_header,
)
from duplexd.journal.segment import Ring
from tests.sim.disk import SimDisk
from tests.unit.journal.journals import (
    CONTROLLER,
    DIRECTORY,
    SEGMENT,
    append,
    existing,
    new_ring,
    new_writer,
    patch,
    path,
)

BIG = 1500


def names(disk: SimDisk) -> list[str]:
    return disk.list(DIRECTORY)


def header(disk: SimDisk, slot: int) -> SegmentHeader | None:
    return unpack_segment_header(disk.read_file(path(slot)))


def test_a_new_segment_is_whole_zeroed_and_durable() -> None:
    disk = SimDisk()
    new_ring(disk, segments=2)
    for slot in (0, 1):
        assert header(disk, slot) == SegmentHeader(CONTROLLER, slot + 1, SEGMENT)
        assert not any(disk.read_file(path(slot))[48:])
        assert disk.unsynced(path(slot)) == 0


def test_it_grows_to_its_limit() -> None:
    ring = new_ring(SimDisk(), segments=3)
    assert (len(ring.live), len(ring.spares), ring.can_grow()) == (1, 2, False)
    assert ring.size_bytes == 3 * SEGMENT
    ring.spares.pop()
    assert ring.can_grow()


@pytest.mark.parametrize("operation", ["create", "write", "sync"])
def test_growing_without_success_leaves_nothing_behind(operation: str) -> None:
    disk = SimDisk()
    ring = new_ring(disk, segments=1)
    ring.segments_max = 2
    disk.fail(DIRECTORY, errno.ENOSPC, operation=operation, times=1)
    with pytest.raises(OSError, match="space"):
        ring.grow()
    assert names(disk) == ["0000.seg"]
    assert ring.grow().index == 2, (
        "a gap between the indexes of live segments would look like a missing one"
    )


def test_growing_on_a_full_disk_is_enospc() -> None:
    disk = SimDisk()
    ring = new_ring(disk, segments=1)
    disk.full(DIRECTORY)
    with pytest.raises(OSError, match="space") as refused:
        ring.grow()
    assert refused.value.errno == errno.ENOSPC
    assert names(disk) == ["0000.seg"]


def test_recycling_gives_a_file_a_new_index_durably() -> None:
    disk = SimDisk()
    ring = new_ring(disk, segments=3)
    again = ring.recycle(ring.live[0])
    assert (again.index, again.first, again.end, again.file.path) == (
        4,
        0,
        SEGMENT_HEADER_BYTES,
        path(0),
    )
    assert header(disk, 0) == SegmentHeader(CONTROLLER, 4, SEGMENT)
    assert disk.unsynced(path(0)) == 0
    assert PurePosixPath(path(0)).name in names(disk)


def test_a_segment_that_cannot_be_recycled_is_gone_and_no_index_with_it() -> None:
    disk = SimDisk()
    ring = new_ring(disk, segments=2)
    disk.fail(path(0), errno.EIO, operation="write", times=1)
    with pytest.raises(OSError, match="error"):
        ring.recycle(ring.live.pop())
    assert names(disk) == ["0001.seg"]
    assert ring.grow().index == 3


def test_only_the_oldest_segment_is_droppable_once_it_is_not_needed() -> None:
    writer = new_writer(SimDisk(), segments=4)
    ring = writer.ring
    assert ring.droppable(100) is None, "the one being written stays"
    append(writer, [b"x" * BIG, b"y" * BIG, b"z" * BIG])  # 1 SEAL 3 SEAL 5
    assert ring.droppable(1) is None
    assert ring.droppable(2) is ring.live[0]
    ring.live.pop(0)
    assert ring.droppable(3) is None
    assert ring.droppable(4) is ring.live[0]


def test_what_is_pinned_is_all_but_what_could_be_dropped() -> None:
    writer = new_writer(SimDisk(), segments=4)
    ring = writer.ring
    append(writer, [b"x" * BIG, b"y" * BIG, b"z" * BIG])  # 1 SEAL 3 SEAL 5
    ends = [segment.end for segment in ring.live]
    assert min(ends) > BIG
    assert [ring.pinned_bytes(floor) for floor in (1, 2, 3, 4, 100)] == [
        sum(ends),
        *[sum(ends[1:])] * 2,
        *[ends[2]] * 2,  # the one being written stays
    ]


def test_find_names_the_segment_that_holds_a_number() -> None:
    writer = new_writer(SimDisk(), segments=4)
    append(writer, [b"x" * BIG, b"y" * BIG, b"z" * BIG])
    ring = writer.ring
    held = [segment.index if (segment := ring.find(number)) else None for number in range(8)]
    assert held == [None, 1, 1, 2, 2, 3, 3, 3]
    ring.live.pop(0)
    assert ring.find(2) is None
    assert ring.oldest == 3


def test_an_empty_ring_finds_nothing() -> None:
    ring = Ring(SimDisk(), DIRECTORY, CONTROLLER, SEGMENT, 4)
    assert (ring.find(1), ring.oldest, ring.used_bytes) == (None, 0, 0)


def test_used_bytes_counts_headers_and_records() -> None:
    writer = new_writer(SimDisk())
    append(writer, [b"x" * 100])
    assert writer.ring.used_bytes == SEGMENT_HEADER_BYTES + 72 + 100


# After a restart


def test_existing_segments_are_found_in_the_order_of_their_indexes() -> None:
    disk = SimDisk()
    ring = new_ring(disk, segments=3)
    ring.recycle(ring.live[0])
    found = existing(disk)
    assert [(segment.index, segment.file.path) for segment in found.live] == [
        (2, path(1)),
        (3, path(2)),
        (4, path(0)),
    ]
    assert found.grow().file.path == path(3)
    assert found.recycle(found.live[0]).index == 6


@pytest.mark.parametrize("size", [0, 100, SEGMENT_HEADER_BYTES, SEGMENT])
def test_a_file_whose_making_was_cut_short_is_removed(size: int) -> None:
    disk = SimDisk()
    new_ring(disk, segments=2)
    disk.create(path(2), size).close()
    assert [segment.index for segment in existing(disk).live] == [1, 2]
    assert names(disk) == ["0000.seg", "0001.seg"]


def test_a_file_that_was_cut_short_is_damage_and_stays() -> None:
    disk = SimDisk()
    new_ring(disk, segments=2)
    for size in (100, SEGMENT_HEADER_BYTES, SEGMENT - 1):
        disk.replace_file(path(1), disk.read_file(path(0))[:size].ljust(size, b"\0"))
        with pytest.raises(DamageError, match=r"0001\.seg"):
            existing(disk)
        assert "0001.seg" in names(disk)


def test_a_damaged_header_is_damage_that_names_the_file() -> None:
    for bit in range(48 * 8):
        disk = SimDisk()
        append(new_writer(disk, segments=1), [b"x"])
        patch(disk, path(0), bit // 8, bytes([disk.read_file(path(0))[bit // 8] ^ 1 << bit % 8]))
        with pytest.raises(DamageError, match=r"0000\.seg.*damaged.*inspect"):
            existing(disk)


def test_a_header_that_vanished_from_over_its_records_is_damage() -> None:
    disk = SimDisk()
    append(new_writer(disk, segments=1), [b"x"])
    patch(disk, path(0), 0, bytes(SEGMENT_HEADER_BYTES))
    with pytest.raises(DamageError, match=r"0000\.seg"):
        existing(disk)


def test_a_segment_of_another_controller_is_refused() -> None:
    disk = SimDisk()
    new_ring(disk, segments=1)
    patch(disk, path(0), 0, pack_segment_header(SegmentHeader(bytes(16), 1, SEGMENT)))
    with pytest.raises(DamageError, match="another controller"):
        existing(disk)


def test_a_strange_file_is_refused_by_name() -> None:
    disk = SimDisk()
    new_ring(disk, segments=1)
    disk.replace_file(f"{DIRECTORY}/copy.seg", b"")
    with pytest.raises(DamageError, match=r"copy\.seg"):
        existing(disk)


def test_other_files_are_left_alone() -> None:
    disk = SimDisk()
    new_ring(disk, segments=1)
    disk.replace_file(f"{path(0)}.7.torn", b"kept aside")
    existing(disk)
    assert names(disk) == ["0000.seg", "0000.seg.7.torn"]


def test_every_file_can_be_opened_again_after_damage_was_met() -> None:
    """`close` closes what was opened before the error came."""
    disk = SimDisk()
    new_ring(disk, segments=3)
    patch(disk, path(1), 0, b"?")
    ring = Ring(disk, DIRECTORY, CONTROLLER, SEGMENT, 4)
    with pytest.raises(DamageError):
        ring.open_existing()
    ring.close()
    for slot in range(3):
        disk.open(path(slot)).close()

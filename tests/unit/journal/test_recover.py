"""Opening a journal: the same decisions as in `test_scan.py`, on real bytes; what is cut off is
kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.errors import DamageError
from duplexd.journal.format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from duplexd.journal.recover import Position, Walk
from duplexd.journal.writer import Writer
from tests.sim.disk import PowerCut, SimDisk
from tests.unit.journal.journals import (
    DIRECTORY,
    Found,
    append,
    existing,
    flip,
    new_ring,
    new_writer,
    patch,
    path,
    reopen,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PAYLOADS = [bytes([place]) * 100 for place in range(5)]
RECORD_BYTES = RECORD_HEADER_BYTES + 100
BIG = 1500


def at(number: int) -> int:
    """Where record `number` of `PAYLOADS` begins."""
    return SEGMENT_HEADER_BYTES + (number - 1) * RECORD_BYTES


def journal(synced_after: int = 0) -> SimDisk:
    """Five records in one segment; those behind number `synced_after` say that it was durable."""
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, PAYLOADS[:synced_after])
    if synced_after:
        writer.sync_now()
    append(writer, PAYLOADS[synced_after:])
    return disk


def torn_files(disk: SimDisk) -> list[str]:
    return [name for name in disk.list(DIRECTORY) if name.endswith(".torn")]


def assert_whole_from_now_on(disk: SimDisk, found: Found) -> None:
    """A cut-off tail stays removed: after new records, the end is a clean end."""
    kept = torn_files(disk)
    for place in range(4):
        append(found.writer(), [bytes([place])])
        found = reopen(disk)
        assert found.payloads[-1] == bytes([place])
        assert found.tail.torn == ""
    assert torn_files(disk) == kept


def test_nothing_behind_the_last_record_is_the_end() -> None:
    disk = journal()
    found = reopen(disk)
    assert (found.payloads, found.tail.sequence, found.tail.torn) == (PAYLOADS, 5, "")
    assert torn_files(disk) == []
    assert_whole_from_now_on(disk, found)


@pytest.mark.parametrize("place", [9, RECORD_HEADER_BYTES + 50], ids=["header", "payload"])
def test_a_broken_last_record_is_torn_off_and_kept(place: int) -> None:
    disk = journal()
    flip(disk, path(0), at(5) + place)
    broken = disk.read_file(path(0))[at(5) : at(5) + RECORD_BYTES]
    found = reopen(disk)
    assert (found.payloads, found.tail.torn) == (PAYLOADS[:4], f"{path(0)}.4.torn")
    kept = disk.read_file(found.tail.torn)
    assert kept == broken[: len(kept)]
    assert len(kept) >= RECORD_HEADER_BYTES
    assert not any(disk.read_file(path(0))[at(5) :])
    assert_whole_from_now_on(disk, found)


def test_later_records_that_claim_nothing_are_torn_off() -> None:
    """A disk that was repaired and mounted again has lost what nobody synced, in any order."""
    disk = journal()
    flip(disk, path(0), at(3))
    lost = disk.read_file(path(0))[at(3) : at(6)]
    found = reopen(disk)
    assert found.payloads == PAYLOADS[:2]
    assert disk.read_file(found.tail.torn) == lost
    assert_whole_from_now_on(disk, found)


@pytest.mark.parametrize("number", [1, 3])
def test_a_gap_that_later_records_claim_to_be_durable_is_damage(number: int) -> None:
    disk = journal(synced_after=3)
    flip(disk, path(0), at(number))
    before = disk.read_file(path(0))
    with pytest.raises(DamageError, match=rf"{path(0)}: byte {at(number)}: record {number} "):
        reopen(disk)
    assert disk.read_file(path(0)) == before
    assert torn_files(disk) == []


def test_a_gap_behind_what_is_claimed_durable_is_not_claimed() -> None:
    disk = journal(synced_after=3)
    flip(disk, path(0), at(4))
    assert reopen(disk).payloads == PAYLOADS[:3]


def test_a_claim_counts_even_if_the_payload_under_it_is_broken() -> None:
    disk = journal(synced_after=4)
    flip(disk, path(0), at(4))
    flip(disk, path(0), at(5) + RECORD_HEADER_BYTES)
    with pytest.raises(DamageError, match="record 4 "):
        reopen(disk)


# Several segments


def long_journal(synced: bool) -> SimDisk:
    """Three segments: 1 SEAL 3 SEAL 5 6."""
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"x" * BIG, b"y" * BIG, b"z" * BIG])
    if synced:
        writer.sync_now()
    append(writer, [b"last"])
    return disk


def test_records_are_walked_over_segment_borders_from_any_checkpoint() -> None:
    disk = long_journal(synced=True)
    whole = reopen(disk)
    assert whole.sequences == [1, 2, 3, 4, 5, 6]
    for record in whole.records:
        index = 1 + (record.sequence - 1) // 2
        start = Position(record.sequence, record.crc, index, record.end)
        assert reopen(disk, start).sequences == list(range(record.sequence + 1, 7))


def test_a_segment_that_is_missing_in_the_middle_is_damage() -> None:
    disk = long_journal(synced=True)
    disk.remove(path(1))
    with pytest.raises(DamageError):
        reopen(disk)


@pytest.mark.parametrize("slot", [0, 2])
def test_a_segment_that_is_missing_at_either_end_is_damage(slot: int) -> None:
    disk = SimDisk()
    append(new_writer(disk, segments=3), [b"x" * BIG, b"y" * BIG, b"z" * BIG])
    disk.remove(path(slot))
    with pytest.raises(DamageError, match="missing"):
        reopen(disk)


def test_a_segment_that_is_missing_before_a_spare_one_is_damage() -> None:
    """The last one with records: the spare behind it is not where the journal goes on."""
    disk = SimDisk()
    append(new_writer(disk, segments=4), [b"x" * BIG, b"y" * BIG, b"z" * BIG])
    disk.remove(path(2))
    with pytest.raises(DamageError, match="segment 3 is missing"):
        reopen(disk)


def test_a_segment_that_lost_its_first_page_is_damage_and_is_not_removed() -> None:
    disk = SimDisk()
    append(new_writer(disk, segments=4), [b"x" * BIG, b"y" * BIG])
    patch(disk, path(1), 0, bytes(SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES))
    with pytest.raises(DamageError, match="header is damaged"):
        reopen(disk)
    assert disk.exists(path(1))


def test_a_gap_takes_whole_segments_with_it_and_they_are_spare_again() -> None:
    disk = long_journal(synced=False)
    flip(disk, path(0), SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + BIG + 5)  # the SEAL
    found = reopen(disk)
    assert found.payloads == [b"x" * BIG]
    assert [segment.index for segment in found.ring.live] == [1]
    assert [segment.index for segment in found.ring.spares] == [2, 3, 4]
    assert all(not any(disk.read_file(path(slot))[SEGMENT_HEADER_BYTES:]) for slot in (1, 2, 3))
    assert_whole_from_now_on(disk, found)


def test_a_gap_that_records_in_later_segments_claim_durable_is_damage() -> None:
    disk = long_journal(synced=True)
    flip(disk, path(0), SEGMENT_HEADER_BYTES + 100)
    with pytest.raises(DamageError, match="record 1 "):
        reopen(disk)


def test_segments_before_the_checkpoint_stay_live_for_followers() -> None:
    disk = long_journal(synced=True)
    last = reopen(disk).records[-1]
    found = reopen(disk, Position(last.sequence, last.crc, 3, last.end))
    assert [(segment.index, segment.first) for segment in found.ring.live] == [
        (1, 1),
        (2, 3),
        (3, 5),
    ]
    assert [segment.index for segment in found.ring.spares] == [4]


def test_the_header_of_a_segment_that_a_killed_process_made_is_durable_before_it_is_used() -> None:
    """Else a power cut may leave records below a header that is none: damage."""
    disk = SimDisk(1)
    ring = new_ring(disk, segments=1)
    append(Writer(ring, 0, 0), [b"first"])
    ring.segments_max = 2
    disk.before = _die_in_the_sync_of(path(1))
    with pytest.raises(PowerCut):
        ring.grow()
    disk.before = None
    assert [segment.index for segment in reopen(disk).ring.spares] == [2]
    assert disk.unsynced(path(1)) == 0


def _die_in_the_sync_of(name: str) -> Callable[[str, str], None]:
    def before(operation: str, at: str) -> None:
        if (operation, at) == ("sync", name):
            raise PowerCut

    return before


def test_what_an_earlier_use_of_a_segment_left_is_not_found() -> None:
    """Segment 1 comes round again: its old records lie behind the new ones."""
    disk = SimDisk()
    writer = new_writer(disk, segments=2)
    append(writer, [b"old" * 30] * 5)
    append(writer, [b"x" * BIG])
    position = Position(writer.sequence, writer.chain, 2, writer.position)
    ring = writer.ring
    ring.spares.append(ring.recycle(ring.live.pop(0)))
    append(writer, [b"y" * BIG, b"new"])
    found = reopen(disk, position)
    assert found.payloads[-2:] == [b"y" * BIG, b"new"]
    assert found.tail.torn == ""
    assert [segment.index for segment in found.ring.live] == [2, 3]


def test_a_checkpoint_in_a_segment_that_is_missing_is_damage() -> None:
    disk = journal()
    with pytest.raises(DamageError, match=r"segment 9.*missing"):
        Walk(existing(disk), Position(0, 0, 9, SEGMENT_HEADER_BYTES))


def test_an_end_in_a_segment_without_records_is_gone_on_from() -> None:
    """Killed between the SEAL and the first record of the next segment."""
    disk = SimDisk()
    append(new_writer(disk), [b"x" * BIG, b"y" * BIG])
    patch(disk, path(1), SEGMENT_HEADER_BYTES, bytes(RECORD_HEADER_BYTES + BIG))
    found = reopen(disk)
    assert (found.sequences, [segment.index for segment in found.ring.live]) == ([1, 2], [1, 2])
    assert_whole_from_now_on(disk, found)

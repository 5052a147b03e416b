"""The writer: numbers, one `pwritev` a batch, segments that follow each other, and batches that the
disk refuses.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.journal.format import RECORD_HEADER_BYTES, SEAL, SEGMENT_HEADER_BYTES, WRITE
from duplexd.journal.writer import Writer
from tests.sim.disk import SimDisk
from tests.unit.journal.journals import SEGMENT, append, new_ring, new_writer, path, reopen

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.journal.segment import Ring

ROOM = SEGMENT - SEGMENT_HEADER_BYTES
BIG = 1500  # only one of these fits into a segment


class Operations:
    """What a simulated disk was asked to do."""

    def __init__(self, disk: SimDisk) -> None:
        self.seen: list[tuple[str, str]] = []
        disk.before = lambda operation, name: self.seen.append((operation, name))


def state(writer: Writer) -> tuple[object, ...]:
    ring = writer.ring
    firsts = [(segment.index, segment.first, segment.end) for segment in ring.live]
    return (
        writer.sequence,
        writer.written,
        writer.chain,
        writer.position,
        firsts,
        [segment.index for segment in ring.spares],
    )


def test_a_batch_is_one_writev() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    operations = Operations(disk)
    assert append(writer, [b"a" * 100, b"", b"c" * 300]) == [1, 2, 3]
    assert operations.seen == [("writev", path(0))]
    assert writer.written == writer.sequence == 3
    assert writer.position == SEGMENT_HEADER_BYTES + 3 * RECORD_HEADER_BYTES + 400


def test_an_empty_batch_writes_nothing() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    operations = Operations(disk)
    writer.write()
    assert (operations.seen, writer.written) == ([], 0)


def test_nothing_is_written_before_write() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    writer.append(WRITE, 1, 0, 10, b"0123456789", 0, 0)
    assert (writer.sequence, writer.written) == (1, 0)
    assert reopen(disk).sequences == []


def test_a_full_segment_is_sealed_and_a_spare_follows() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    assert append(writer, [b"x" * BIG, b"y" * BIG]) == [1, 3]
    assert [(segment.index, segment.first) for segment in writer.ring.live] == [(1, 1), (2, 3)]
    found = reopen(disk)
    assert [(record.sequence, record.kind) for record in found.records] == [
        (1, WRITE),
        (2, SEAL),
        (3, WRITE),
    ]


@pytest.mark.parametrize("left", [RECORD_HEADER_BYTES, RECORD_HEADER_BYTES - 1])
def test_there_is_always_room_for_the_seal(left: int) -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"", bytes(ROOM - 2 * RECORD_HEADER_BYTES - left)])
    assert [segment.index for segment in writer.ring.live] == (
        [1] if left == RECORD_HEADER_BYTES else [1, 2]
    )
    append(writer, [b"next"])
    assert reopen(disk).payloads[-1] == b"next"


def test_log_position_grows_with_every_batch() -> None:
    writer = new_writer(SimDisk())
    positions = [writer.log_position]
    for _ in range(3):
        append(writer, [b"x" * BIG])
        positions.append(writer.log_position)
    assert positions == sorted(set(positions))


def test_room_keeps_its_word() -> None:
    for spares in range(3):
        for size in range(100, 3 * ROOM, 97):
            writer = new_writer(SimDisk(), segments=1 + spares)
            payload = min(size, 500) - RECORD_HEADER_BYTES
            if payload > 0 and writer.room(size, 500):
                # raises if the word was not kept
                append(writer, [bytes(payload)] * (size // (payload + RECORD_HEADER_BYTES)))


def test_room_says_no_when_no_spare_is_left() -> None:
    writer = new_writer(SimDisk(), segments=1)
    assert writer.room(ROOM - RECORD_HEADER_BYTES, 500)
    assert not writer.room(ROOM - RECORD_HEADER_BYTES + 1, 500)


# What the disk refuses


def test_no_spare_segment_is_enospc_and_leaves_the_journal_as_it_was() -> None:
    disk = SimDisk()
    writer = new_writer(disk, segments=2)
    append(writer, [b"kept"])
    before = state(writer)
    for payload in (b"x" * BIG, b"y" * BIG):
        writer.append(WRITE, 1, 0, BIG, payload, 0, 0)
    with pytest.raises(OSError, match="spare") as refused:
        writer.append(WRITE, 1, 0, BIG, b"z" * BIG, 0, 0)
    assert refused.value.errno == errno.ENOSPC
    assert state(writer) == before
    append(writer, [b"after"])
    assert reopen(disk).payloads == [b"kept", b"after"]


REFUSALS: dict[str, Callable[[SimDisk], None]] = {
    "the first segment does not take its part": lambda disk: disk.fail(
        path(0), errno.EIO, operation="writev", times=1
    ),
    "the first segment takes half of its part": lambda disk: disk.tear(path(0)),
    "the second segment does not take its part": lambda disk: disk.fail(
        path(1), errno.EIO, operation="writev", times=1
    ),
    "the second segment takes half of its part": lambda disk: disk.tear(path(1)),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("killed", [False, True])
def test_a_batch_over_two_segments_that_is_refused_never_was(name: str, killed: bool) -> None:
    """Its numbers are given again, and none of its records is found, whatever was written."""
    for seed in range(5):
        disk = SimDisk(seed)
        writer = new_writer(disk)
        append(writer, [b"kept"])
        before = state(writer)
        REFUSALS[name](disk)
        with pytest.raises(OSError, match=r"I.O error|Input"):
            append(writer, [b"1" * 200, b"2" * 200, b"3" * BIG, b"4" * 100, b"5" * 100])
        assert state(writer) == before
        if killed:
            found = reopen(disk)
            assert found.payloads == [b"kept"]
            writer = found.writer()
        assert append(writer, [b"6" * 10]) == [2]
        found = reopen(disk)
        assert (found.payloads, found.tail.torn) == ([b"kept", b"6" * 10], "")


def test_what_a_refused_batch_left_is_not_found_behind_later_records() -> None:
    """A short record takes the place of the first refused one; the refused ones behind it must be
    gone.
    """
    disk = SimDisk(3)
    writer = new_writer(disk)
    disk.tear(path(0))
    with pytest.raises(OSError, match="error"):
        append(writer, [bytes([place]) * 90 for place in range(10)])
    for place in range(5):
        append(writer, [bytes([place])])
        assert reopen_copy(disk) == place + 1


def reopen_copy(disk: SimDisk) -> int:
    """How many records a process would find if this one were killed now."""
    twin = SimDisk()
    twin.make_directory("/state/journal")
    for slot in range(4):
        twin.replace_file(path(slot), disk.read_file(path(slot)))
    return len(reopen(twin).records)


# Syncs


def sync(writer: Writer) -> list[int]:
    """Sync as the flusher does; the indexes of the segments it touched."""
    files, sequence, index = writer.begin_sync()
    for file in files:
        file.sync()
    writer.end_sync(sequence, index)
    return [segment.index for segment in writer.ring.live if segment.file in files]


# ------------------------------------------------------------------ on a disk that copies on write


def refused_half_way(disk: SimDisk) -> Writer:
    """A writer with a batch of which the disk took one segment, and no more: nor its wipe."""
    writer = new_writer(disk)
    append(writer, [b"before"])
    disk.fail(path(1), errno.ENOSPC, times=1)
    disk.before = lambda _, name: (
        disk.full("/state/journal", copies=True) if name == path(1) else None
    )
    with pytest.raises(OSError, match="No space left") as refused:
        append(writer, [b"x" * BIG, b"y" * BIG, b"z" * 200])
    assert refused.value.errno == errno.ENOSPC
    disk.before = None
    return writer


def test_a_refused_batch_that_cannot_be_wiped_is_refused_all_the_same() -> None:
    disk = SimDisk()
    writer = refused_half_way(disk)
    assert (writer.sequence, writer.written) == (1, 1)
    disk.heal("/state/journal")
    assert append(writer, [b"after"]) == [2]
    assert reopen(disk).payloads == [b"before", b"after"]


def test_nothing_is_written_before_the_wipe_is_made_up_for() -> None:
    """Rests behind a shorter record would be later records, and the journal damaged."""
    disk = SimDisk()
    writer = refused_half_way(disk)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            append(writer, [b"after"])
        assert (writer.sequence, writer.written) == (1, 1)
    disk.heal("/state/journal")
    append(writer, [b"s"])
    found = reopen(disk)
    assert (found.payloads, found.tail.torn) == ([b"before", b"s"], "")


def test_a_wipe_that_fails_for_another_reason_than_room_is_final() -> None:
    disk = SimDisk()
    writer = refused_half_way(disk)
    disk.heal("/state/journal")
    disk.fail(path(0), errno.EIO, operation="write", times=1)
    with pytest.raises(OSError, match="could not be wiped") as caught:
        append(writer, [b"after"])
    assert caught.value.errno == errno.EIO


def test_a_sync_covers_what_was_written_when_it_began() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"before"])
    files, sequence, index = writer.begin_sync()
    append(writer, [b"meanwhile"])
    for file in files:
        file.sync()
    writer.end_sync(sequence, index)
    assert (writer.synced, writer.written) == (1, 2)


def test_a_sync_after_rotations_touches_every_segment_written_since_the_last() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"x" * BIG] * 3)
    assert sync(writer) == [1, 2, 3]
    append(writer, [b"tail"])
    assert sync(writer) == [3]
    assert writer.synced == writer.written
    for slot in range(3):
        assert disk.unsynced(path(slot)) == 0


def test_a_segment_that_was_sealed_during_a_sync_is_synced_by_the_next() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"first"])
    files, sequence, index = writer.begin_sync()
    for file in files:
        file.sync()
    append(writer, [b"more", b"x" * BIG, b"y" * BIG])  # seals segment 1
    writer.end_sync(sequence, index)
    sync(writer)
    assert [disk.unsynced(path(slot)) for slot in range(3)] == [0, 0, 0]


def test_syncs_that_end_out_of_order_do_not_take_anything_back() -> None:
    writer = new_writer(SimDisk())
    append(writer, [b"one"])
    early = writer.begin_sync()
    append(writer, [b"two"])
    writer.sync_now()
    writer.end_sync(*early[1:])
    assert writer.synced == 2


def test_a_sync_during_a_batch_that_is_rolled_back_leaves_nothing_unsynced_later() -> None:
    """The batch had moved on to the next segment when the sync began; after it is gone, the old
    segment is written on, and must be synced.
    """
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"kept"])
    writer.append(WRITE, 1, 0, BIG, b"x" * BIG, 0, 0)
    writer.append(WRITE, 1, 0, BIG, b"y" * BIG, 0, 0)  # in segment 2
    files, sequence, index = writer.begin_sync()
    disk.fail(path(1), errno.EIO, operation="writev", times=1)
    with pytest.raises(OSError, match="error"):
        writer.write()
    for file in files:
        file.sync()
    writer.end_sync(sequence, index)
    append(writer, [b"after"])
    sync(writer)
    assert writer.synced == writer.written == 2
    assert disk.unsynced(path(0)) == 0


def test_records_say_what_was_durable_when_they_were_written() -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"one", b"two"])
    writer.sync_now()
    append(writer, [b"three"])
    assert [record.synced for record in reopen(disk).records] == [0, 0, 2]


def test_a_writer_goes_on_where_another_stopped() -> None:
    disk = SimDisk()
    append(new_writer(disk), [b"one", b"x" * BIG])
    again = reopen(disk).writer()
    assert append(again, [b"two"]) == [3]
    assert reopen(disk).payloads == [b"one", b"x" * BIG, b"two"]


def test_a_journal_needs_a_spare_only_when_it_is_full() -> None:
    disk = SimDisk()
    ring: Ring = new_ring(disk, segments=1)
    writer = Writer(ring, 0, 0)
    append(writer, [b"a" * 500, b"b" * 500])
    assert not ring.spares
    assert writer.written == 2


def test_a_batch_is_written_to_the_end_of_its_last_page_and_the_next_goes_on_within_it() -> None:
    disk = SimDisk()
    ring = new_ring(disk, segment_size=4 * SEGMENT_HEADER_BYTES)
    # what an earlier use left
    ring.live[0].file.write(SEGMENT_HEADER_BYTES, b"x" * SEGMENT_HEADER_BYTES)
    writer = Writer(ring, 0, 0)
    append(writer, [b"a" * 100])
    page = ring.live[0].file.read(SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES)
    assert page[RECORD_HEADER_BYTES + 100 :] == bytes(
        SEGMENT_HEADER_BYTES - RECORD_HEADER_BYTES - 100
    )
    append(writer, [b"b" * 100])
    assert [bytes(payload) for payload in reopen(disk).payloads] == [b"a" * 100, b"b" * 100]

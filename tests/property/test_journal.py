"""Whatever is appended, however it is cut off or damaged: a prefix is recovered, or damage is
reported.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexd.errors import DamageError
from duplexd.journal.format import (
    RECORD_HEADER_BYTES,
    SEAL,
    SEGMENT_HEADER_BYTES,
    WRITE,
    crc32c,
    journal_number,
    pack_record,
)
from tests.sim.disk import SimDisk
from tests.unit.journal.journals import (
    CONTROLLER,
    SEGMENT,
    append,
    flip,
    new_writer,
    patch,
    path,
    reopen,
)

if TYPE_CHECKING:
    from duplexd.journal.format import Record
    from duplexd.journal.writer import Writer

SEGMENTS = 4

payloads = st.one_of(
    st.binary(max_size=40), st.integers(0, 700).map(lambda length: b"\xa5" * length)
)
batches = st.lists(st.lists(payloads, min_size=1, max_size=4), min_size=1, max_size=6)


def foreign(first: int, journal: int, synced: int) -> bytes:
    """Two records of another journal, as a backup of one would hold them."""
    one, chain = pack_record(0, crc32c(b"a"), first, synced, 0, 1, 0, 1, 1, WRITE, 0, journal)
    two, _ = pack_record(chain, crc32c(b"b"), first + 1, synced, 0, 1, 0, 1, 1, WRITE, 0, journal)
    return one + b"a" + two + b"b"


copies = st.tuples(st.integers(0, 400), st.integers(0, 600)).map(lambda span: ("copy", span))
strangers = st.builds(foreign, st.integers(0, 1 << 40), st.integers(0, 99), st.integers(0, 1 << 40))
nested = st.lists(
    st.one_of(copies, strangers, st.binary(max_size=30), st.just(b"DXR1")), min_size=1, max_size=8
)


def write(
    disk: SimDisk, plan: list[list[bytes]], syncs: bool = False
) -> tuple[Writer, list[bytes]]:
    """Append batches while there is room; what was appended."""
    writer, done = new_writer(disk, SEGMENTS), list[bytes]()
    for batch in plan:
        if writer.room(sum(len(data) + RECORD_HEADER_BYTES for data in batch), 700):
            append(writer, batch)
            done += batch
            if syncs:
                writer.sync_now()
    return writer, done


def data_of(records: list[Record], found: list[bytes]) -> list[bytes]:
    return [data for record, data in zip(records, found, strict=True) if record.kind != SEAL]


@given(plan=batches, cut=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_a_journal_that_is_cut_at_any_byte_is_a_prefix(plan: list[list[bytes]], cut: float) -> None:
    disk = SimDisk()
    writer, done = write(disk, plan)
    used = [(segment.file.path, segment.end) for segment in writer.ring.live]
    reach = kept = round(cut * sum(end - SEGMENT_HEADER_BYTES for _, end in used))
    ends = list(
        accumulate(RECORD_HEADER_BYTES + record.payload_length for record in reopen(disk).records)
    )
    for name, end in used:
        keep = min(reach, end - SEGMENT_HEADER_BYTES)
        reach -= keep
        patch(disk, name, SEGMENT_HEADER_BYTES + keep, bytes(SEGMENT - SEGMENT_HEADER_BYTES - keep))
    whole = reopen(disk)
    assert len(whole.records) == sum(end <= kept for end in ends)
    found = data_of(whole.records, whole.payloads)
    assert found == done[: len(found)]
    append(whole.writer(), [b"and on"])
    assert reopen(disk).payloads[-1] == b"and on"


@given(plan=batches, data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_flipped_bit_of_what_is_known_to_be_durable_is_damage(
    plan: list[list[bytes]], data: st.DataObject
) -> None:
    disk = SimDisk()
    writer, _ = write(disk, plan, syncs=True)
    durable = [(segment.file.path, segment.end) for segment in writer.ring.live]
    append(writer, [b"knows it"])
    name, end = data.draw(st.sampled_from(durable))
    offset = data.draw(
        st.one_of(
            st.integers(0, 47),
            st.integers(SEGMENT_HEADER_BYTES, max(end - 1, SEGMENT_HEADER_BYTES)),
        )
    )
    flip(disk, name, offset, data.draw(st.integers(0, 7)))
    with pytest.raises(DamageError):
        reopen(disk)


@given(plan=batches, place=st.floats(0, 1), bit=st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_behind_the_end_changes_nothing(
    plan: list[list[bytes]], place: float, bit: int
) -> None:
    disk = SimDisk()
    writer, done = write(disk, plan)
    last = writer.ring.live[-1]
    offset = last.end + int(place * (last.size - last.end - 1))
    if offset < last.size:
        flip(disk, last.file.path, offset, bit)
    found = reopen(disk)
    assert (data_of(found.records, found.payloads), found.tail.torn) == (done, "")


@given(plan=batches, payload=nested, cut=st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_a_journal_in_a_payload_is_not_mistaken_for_records(
    plan: list[list[bytes]],
    payload: list[bytes | tuple[str, tuple[int, int]]],
    cut: int,
) -> None:
    """A volume may hold a copy of any journal, also of the very one its changes go to; the last
    record is torn in the middle of it.
    """
    disk = SimDisk()
    writer, done = write(disk, plan[:2])
    own = disk.read_file(path(0))[SEGMENT_HEADER_BYTES:]
    inner = b"".join(
        own[piece[1][0] : sum(piece[1])] if isinstance(piece, tuple) else piece for piece in payload
    )
    if not writer.room(len(inner) + RECORD_HEADER_BYTES, len(inner) + RECORD_HEADER_BYTES):
        return
    append(writer, [inner])
    last = writer.ring.live[-1]
    found = reopen(disk)
    assert (data_of(found.records, found.payloads), found.tail.torn) == ([*done, inner], "")
    keep = max(last.end - cut, last.end - len(inner) - RECORD_HEADER_BYTES)
    patch(disk, last.file.path, keep, bytes(last.end - keep))
    found = reopen(disk)
    whole = data_of(found.records, found.payloads)
    assert whole == [*done, inner][: len(whole)]
    assert len(whole) >= len(done)
    append(found.writer(), [b"and on"])
    assert reopen(disk).payloads[-1] == b"and on"


def test_strangers_are_told_apart_by_the_journals_own_number() -> None:
    """With the journal's own number the same bytes would be damage: the test above can fail."""
    disk = SimDisk()
    writer = new_writer(disk, SEGMENTS)
    append(writer, [b"x" * 50 + foreign(60, journal_number(CONTROLLER), 55) + b"y" * 50])
    patch(disk, path(0), writer.position - 10, bytes(10))
    with pytest.raises(DamageError):
        reopen(disk)

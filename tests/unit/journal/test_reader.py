"""The reader: any number on, over segment borders, while the journal is written and dropped behind
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.errors import DamageError
from duplexd.journal.format import RECORD_HEADER_BYTES, SEAL, SEGMENT_HEADER_BYTES, WRITE
from duplexd.journal.reader import Reader
from tests.sim.disk import SimDisk
from tests.unit.journal.journals import append, new_writer, path

if TYPE_CHECKING:
    from duplexd.journal.writer import Writer

BIG = 1500


def drain(reader: Reader, until: int, size_bytes: int = 1 << 20) -> list[tuple[int, bytes]]:
    """All WRITEs up to `until`."""
    found: list[tuple[int, bytes]] = []
    while reader.sequence <= until:
        buffer, records = reader.read(until, size_bytes)
        assert records, "it must get on"
        found += [
            (record.sequence, buffer[record.payload_start : record.end])
            for record in records
            if record.kind == WRITE
        ]
    return found


def three_segments() -> tuple[Writer, dict[int, bytes]]:
    """A journal of three segments, and its WRITEs by number."""
    writer = new_writer(SimDisk())
    payloads = [bytes([place]) * (500 + place) for place in range(9)]
    numbers = [append(writer, [payload])[0] for payload in payloads]
    assert len(writer.ring.live) == 3
    return writer, dict(zip(numbers, payloads, strict=True))


def test_from_every_number_to_every_number() -> None:
    writer, written = three_segments()
    for start in range(1, writer.written + 2):
        for until in range(start - 1, writer.written + 1):
            expected = [
                (number, data) for number, data in written.items() if start <= number <= until
            ]
            assert drain(Reader(writer.ring, start), until) == expected


@pytest.mark.parametrize("size_bytes", [1, RECORD_HEADER_BYTES, 600, 1200])
def test_in_pieces_smaller_than_a_record(size_bytes: int) -> None:
    writer, written = three_segments()
    assert drain(Reader(writer.ring, 1), writer.written, size_bytes) == list(written.items())


def test_nothing_is_handed_out_beyond_until() -> None:
    writer, _ = three_segments()
    reader = Reader(writer.ring, 1)
    assert drain(reader, 2)[-1][0] == 2
    assert reader.read(2, 1 << 20) == (b"", [])
    assert reader.sequence == 3


def test_while_it_is_written() -> None:
    writer = new_writer(SimDisk())
    append(writer, [b"first"])
    reader = Reader(writer.ring, 1)
    for place in range(12):
        payload = bytes([place]) * 400
        (number,) = append(writer, [payload])
        assert drain(reader, writer.written)[-1] == (number, payload)
    assert len(writer.ring.live) > 1


def test_a_batch_that_is_not_complete_is_not_read() -> None:
    writer = new_writer(SimDisk())
    append(writer, [b"done"])
    reader = Reader(writer.ring, 1)
    for _ in range(2):  # the first goes to the file when the second needs a new segment
        writer.append(WRITE, 1, 0, BIG, b"x" * BIG, 0, 0)
    assert drain(reader, writer.written) == [(1, b"done")]


def test_a_journal_that_does_not_reach_back_is_a_lookup_error() -> None:
    writer, _ = three_segments()
    writer.ring.live.pop(0)
    with pytest.raises(LookupError):
        Reader(writer.ring, writer.ring.oldest - 1)
    assert Reader(writer.ring, writer.ring.oldest).sequence == writer.ring.oldest


def test_a_segment_that_was_finished_may_be_dropped_behind_the_reader() -> None:
    """The reader has handed out the SEAL, so that segment is not needed; the reader goes on in the
    next.
    """
    writer, written = three_segments()
    ring = writer.ring
    reader = Reader(ring, 1)
    last = ring.live[1].first - 1
    drain(reader, last)
    dropped = ring.droppable(reader.sequence - 1)
    assert dropped is ring.live[0]
    ring.live.remove(dropped)
    ring.spares.append(ring.recycle(dropped))
    assert drain(reader, writer.written) == [
        (number, data) for number, data in written.items() if number > last
    ]


def test_log_position_trails_the_writers_by_what_is_left_to_read() -> None:
    writer, _ = three_segments()
    reader = Reader(writer.ring, 1)
    lags = []
    for until in range(1, writer.written + 1):
        drain(reader, until)
        lags.append(writer.log_position - reader.log_position)
    assert lags == sorted(lags, reverse=True)
    assert lags[-1] == 0


def test_nothing_is_left_to_read_behind_a_seal_whatever_the_segment_left_unused() -> None:
    writer = new_writer(SimDisk())
    append(writer, [b"x" * 500])
    while len(writer.ring.live) == 1:
        append(
            writer,
            [
                b"x" * (writer.segment.size - writer.position)
                if writer.segment.size - writer.position < 1500
                else b"x" * 500
            ],
        )
    reader = Reader(writer.ring, 1)
    drain(reader, writer.ring.live[1].first - 1)
    assert reader.sequence == writer.ring.live[1].first
    assert (
        reader.log_position
        == writer.ring.live[1].index * writer.segment.size + SEGMENT_HEADER_BYTES
    )


@pytest.mark.parametrize("place", [8, RECORD_HEADER_BYTES + 3])
def test_damage_is_named_with_file_and_number(place: int) -> None:
    disk = SimDisk()
    writer = new_writer(disk)
    append(writer, [b"x" * 100, b"y" * 100])
    at = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 100 + place
    writer.ring.live[0].file.write(at, b"\xff")
    reader = Reader(writer.ring, 1)
    with pytest.raises(DamageError, match=rf"{path(0)}: record 2 is damaged.*inspect"):
        drain(reader, 2)
    assert drain(Reader(writer.ring, 1), 1) == [(1, b"x" * 100)], (
        "what lies before the damage is still read"
    )


def test_damage_before_the_start_is_named_too() -> None:
    writer = new_writer(SimDisk())
    append(writer, [b"x" * 100, b"y" * 100])
    writer.ring.live[0].file.write(SEGMENT_HEADER_BYTES + 8, b"\xff")
    with pytest.raises(DamageError, match="record 1 is damaged"):
        Reader(writer.ring, 2)


def test_seals_are_records_too() -> None:
    writer, _ = three_segments()
    reader, kinds = Reader(writer.ring, 1), []
    while reader.sequence <= writer.written:
        kinds += [record.kind for record in reader.read(writer.written, 1 << 20)[1]]
    assert kinds.count(SEAL) == 2
    assert len(kinds) == writer.written

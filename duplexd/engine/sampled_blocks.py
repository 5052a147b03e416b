"""Which blocks of an image are sampled, and their checksums.

Some are the same ones each time: they show that an image was emptied, or is another. Some are those
that were written last, because an older copy of the same image differs there.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from duplexd.images.probe import SAMPLE_BYTES, checksum
from duplexd.journal.format import SEGMENT_HEADER_BYTES, TRIM, WRITE, ZERO, crc32c, unpack_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from duplexd.images.leg import Leg
    from duplexd.journal.format import Record
    from duplexd.journal.segment import Segment

_SPREAD = 0x9E3779B97F4A7C15  # multiples of it, modulo any number, lie apart
_NEVER = 1 << 62
_PIECE_BYTES = 1 << 20  # of a segment, read at once; more where one record is longer
_ZERO_CRC = crc32c(bytes(SAMPLE_BYTES))


class Recent(NamedTuple):
    """The blocks of a volume that were written last, latest last, with their checksums; and the
    number of the last change. `behind`: those of them that were written up to the number that a
    trailing secondary is at, and not again since: it has them wherever it is now. `earlier`: where
    a run before this one wrote last; what is there has to be read. `touched`: those of
    `Bounds.offsets` that were written to since.
    """

    blocks: dict[int, int]
    sequence: int
    behind: dict[int, int]
    earlier: dict[int, int]
    touched: set[int]


def fixed(volume: int, size: int, count: int) -> set[int]:
    """The first block, the last, and some between, the same ones each time."""
    blocks = size // SAMPLE_BYTES
    between = {(volume + place) * _SPREAD % blocks for place in range(count - 2)}
    return {block * SAMPLE_BYTES for block in between | {0, blocks - 1}}


def bounded(
    found: dict[int, int], fixed: set[int], samples_max: int
) -> tuple[tuple[int, int], ...]:
    """The fixed ones, and of the others the latest, which are last in `found` and stay so."""
    always = [sample for sample in found.items() if sample[0] in fixed]
    others = [sample for sample in found.items() if sample[0] not in fixed]
    return (*always, *others[len(others) - min(len(others), samples_max - len(always)) :])


def read(leg: Leg, offsets: Iterable[int], holds: Callable[[int], bool]) -> dict[int, int]:
    """The checksums of these blocks, of those that `holds` says were not written to meanwhile."""
    found: dict[int, int] = {}
    for offset in sorted(offsets):
        with contextlib.suppress(OSError):  # it is not a sample, then; who reads it finds out
            found[offset] = checksum(leg, offset)
    return {offset: crc for offset, crc in found.items() if holds(offset)}


class Bounds(NamedTuple):
    """Of a volume: changes up to number `after` are not taken from the journal, because an image
    need not hold them, or may hold others, whose records were lost. Its secondary is at `applied`.
    `offsets`: where it was sampled at the checkpoint before, of number `last`; sorted.
    """

    after: int
    applied: int = 0
    last: int = 0
    offsets: Sequence[int] = ()


UNWRITTEN = Recent({}, 0, {}, {}, set())
_NOTHING = Bounds(_NEVER)


def recent(
    segment: Segment, end: int, kept_max: int, bounds: Mapping[int, Bounds]
) -> dict[int, Recent]:
    """By volume, from a segment up to byte `end` of it. Left out are blocks that were written in
    part, because what they hold is not in the journal.
    """
    found: dict[int, Recent] = {}
    for buffer, record in _records(segment, end):
        if record.kind not in (WRITE, ZERO, TRIM):
            continue
        seen = found.get(record.volume) or Recent({}, 0, {}, {}, set())
        found[record.volume] = seen._replace(sequence=record.sequence)
        behind = record.offset + record.length
        for each in (seen.blocks, seen.behind, seen.earlier):
            _forget(each, record.offset, behind, kept_max)
        after, applied, last, offsets = bounds.get(record.volume, _NOTHING)
        if record.sequence > last:
            place = bisect_right(offsets, record.offset - SAMPLE_BYTES)
            seen.touched.update(offsets[place : bisect_left(offsets, behind)])
        if record.kind == TRIM:
            continue  # what is there after it depends on the image
        head = -(-record.offset // SAMPLE_BYTES) * SAMPLE_BYTES
        tail = behind // SAMPLE_BYTES * SAMPLE_BYTES - SAMPLE_BYTES
        for offset in sorted({head, tail} if head <= tail else ()):
            if record.sequence <= after:
                seen.earlier[offset] = 0
                continue
            start = record.payload_start + offset - record.offset
            content = buffer[start : start + SAMPLE_BYTES]
            crc = crc32c(content) if record.kind == WRITE else _ZERO_CRC
            seen.blocks[offset] = crc
            if record.sequence <= applied:
                seen.behind[offset] = crc
    return found


def _records(segment: Segment, end: int) -> Iterator[tuple[bytes, Record]]:
    """Each record up to byte `end`, and the buffer that it lies in. A piece at a time: what a
    checkpoint takes of memory, malloc keeps, and a segment may have 16 MiB.
    """
    at, size = SEGMENT_HEADER_BYTES, _PIECE_BYTES
    while at < end:
        buffer, start = segment.file.read(at, min(size, end - at)), 0
        while (record := unpack_record(buffer, start)) is not None and record.end <= len(buffer):
            yield buffer, record
            start = record.end
        if start:
            at, size = at + start, _PIECE_BYTES
        elif record is not None and at + record.end <= end:
            size = record.end
        else:
            return


def _forget(blocks: dict[int, int], start: int, end: int, kept_max: int) -> None:
    """Drop the blocks in a range that is written to again, and those that are too many."""
    first = start // SAMPLE_BYTES * SAMPLE_BYTES
    if end - first <= SAMPLE_BYTES:  # the common case
        blocks.pop(first, None)
    else:
        for offset in [offset for offset in blocks if first <= offset < end]:
            del blocks[offset]
    while len(blocks) > kept_max:
        del blocks[next(iter(blocks))]

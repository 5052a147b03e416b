"""Applying records of the journal to primaries: in the replay of a start, and later to one that was
not there then; and what the journal has for one that fails or is absent.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, cast

from duplexd.core.pair import Lacks
from duplexd.core.patience import JournalRead
from duplexd.engine.opening import PRIMARY
from duplexd.engine.recovery.image_faults import Side
from duplexd.engine.recovery.progress import PRIMARIES
from duplexd.engine.recovery.refusals import BLOCK_BYTES, Refusals, different
from duplexd.images.probe import SAMPLE_BYTES
from duplexd.journal.format import TRIM, WRITE, ZERO
from duplexd.journal.reader import Reader
from duplexd.replication.backlog import UNREADABLE
from duplexd.replication.follower import SinkError, put
from duplexd.replication.watched import WatchedLegs
from duplexd.runtime.medium import Aligned
from duplexd.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.core.pair import Pair
    from duplexd.core.patience import StateNotes, Waited
    from duplexd.engine.recovery.image_faults import Noted
    from duplexd.engine.recovery.progress import Report
    from duplexd.journal.format import Record
    from duplexd.journal.segment import Ring
    from duplexd.replication.follower import Buffer, Sink
    from duplexd.runtime.watch import Watch

PIECE_BYTES = MIB  # read of an image at once


class PrimarySink:
    """Applies records to primaries; see `follower.Sink`."""

    moves_secondary = False

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        """A WRITE."""
        pair.primary.write(offset, data)

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """A WRITE_ZEROES or a TRIM."""
        pair.primary.zero(offset, length, allocate)


class WatchedSink:
    """A sink whose calls are watched."""

    def __init__(self, sink: Sink, role: str, watch: Watch[Noted]) -> None:
        self.moves_secondary = sink.moves_secondary
        self.legs = WatchedLegs()
        # A follower notes its reads of the journal there; the legs are noted by their sides, below.
        self.legs.watch = cast("Watch[Waited]", watch)
        self._sink = sink
        self._role = role
        self._watch = watch

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        """See `Sink`."""
        with self._watch.at(Side(pair, self._role)):
            self._sink.write(pair, offset, data)

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """See `Sink`."""
        with self._watch.at(Side(pair, self._role)):
            self._sink.zero(pair, offset, length, allocate)


class PrimaryReplay:
    """Blocking. Reads the journal by `chunk_bytes`."""

    def __init__(self, ring: Ring, chunk_bytes: int, watch: Watch[Noted]) -> None:
        self._ring = ring
        self._chunk_bytes = chunk_bytes
        self._watch = watch

    def run(self, pairs: Sequence[Pair], tail: int, progress: Report) -> dict[Pair, OSError]:
        """Apply what comes after `primary_at`, up to number `tail`; returns the primaries that
        refused something, with the error.

        Raises DamageError, LookupError, OSError if the journal cannot be read.
        """
        todo = {pair.id: pair for pair in pairs if pair.record.primary_at < tail}
        if not todo:
            return {}
        sink = WatchedSink(PrimarySink(), PRIMARY, self._watch)
        refusals = {number: Refusals() for number in todo}
        first = min(pair.record.primary_at for pair in todo.values()) + 1
        note = JournalRead(self._ring.directory)
        with self._watch.at(note):
            reader = Reader(self._ring, first)
        while reader.sequence <= tail:
            with self._watch.at(note):
                buffer, records = reader.read(tail, self._chunk_bytes)
            for record in records:
                pair = todo.get(record.volume)
                if pair is None or record.kind not in (WRITE, ZERO, TRIM):
                    continue
                if record.sequence > pair.record.primary_at:
                    # Not durable before its next sync, though a checkpoint may have closed it.
                    pair.regions.open.update(pair.regions.of(record.offset, record.length))
                    pair.primary_dirty = True
                    self._put(sink, pair, record, buffer, refusals[pair.id])
            progress(PRIMARIES, reader.sequence - first, tail + 1 - first)
        return {
            todo[number]: error
            for number, refused in refusals.items()
            if (error := refused.error) is not None
        }

    def _put(
        self, sink: Sink, pair: Pair, record: Record, buffer: bytes, refusals: Refusals
    ) -> None:
        """Apply a record, or note what of it the image refused."""
        if refusals.too_many:
            return
        try:
            put(sink, pair, record, buffer)
        except SinkError as failure:
            refusals.written(record.offset, record.length)
            refusals.refused(self._not_there(pair, record, buffer), failure.error)
        else:
            refusals.written(record.offset, record.length)

    def _not_there(self, pair: Pair, record: Record, buffer: bytes) -> list[tuple[int, int]]:
        """What of a refused record the image does not hold; all of it, if it cannot be read.

        The disk is asked, not the page cache: after a sync that failed, in the life of another
        process, the cache shows what the disk never got, and no later sync writes it.
        """
        found, start, end = Aligned(PIECE_BYTES), record.offset, record.offset + record.length
        aligned_end = min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, pair.size)
        ranges: list[tuple[int, int]] = []
        try:
            for at in range(start // BLOCK_BYTES * BLOCK_BYTES, aligned_end, PIECE_BYTES):
                length = min(PIECE_BYTES, aligned_end - at)
                with self._watch.at(Side(pair, PRIMARY)):
                    pair.primary.read_medium(at, found.view[:length])
                first, last = max(at, start), min(at + length, end)
                wanted = bytes(last - first)
                if record.kind == WRITE:
                    place = record.payload_start + first - start
                    wanted = buffer[place : place + last - first]
                ranges += different(wanted, bytes(found.view[first - at : last - at]), first)
        except OSError:
            return [(start, end)]
        return ranges


def lacking(ring: Ring, pair: Pair, tail: int, chunk_bytes: int, watch: StateNotes) -> Lacks | None:
    """What the journal has for a primary that does not have it; None if that is not known.
    Blocking; each read of the journal is noted in `watch`.
    """
    lacks = Lacks(last=tail)
    try:
        first = pair.record.primary_at + 1
        for record in _of_pair(ring, pair, first, tail, chunk_bytes, watch):
            lacks = Lacks(
                lacks.records + 1,
                lacks.first or record.sequence,
                record.sequence,
                lacks.nbytes + record.length,
            )
    except UNREADABLE:
        return None
    return lacks


def touching(
    ring: Ring,
    pair: Pair,
    first: int,
    last: int,
    offsets: Sequence[int],
    chunk_bytes: int,
    watch: StateNotes,
) -> set[int] | None:
    """Which of these blocks records with numbers from `first` to `last` touch; None if that is not
    known. Blocking, as `lacking`.
    """
    offsets, touched = sorted(offsets), set[int]()
    try:
        for record in _of_pair(ring, pair, first, last, chunk_bytes, watch):
            at = bisect_right(offsets, record.offset - SAMPLE_BYTES)
            touched.update(offsets[at : bisect_left(offsets, record.offset + record.length)])
    except UNREADABLE:
        return None
    return touched


def _of_pair(
    ring: Ring, pair: Pair, first: int, tail: int, chunk_bytes: int, watch: StateNotes
) -> Iterator[Record]:
    note = JournalRead(ring.directory)
    with watch.at(note):
        reader = Reader(ring, first) if first <= tail else None
    while reader is not None and reader.sequence <= tail:
        with watch.at(note):
            _, records = reader.read(tail, chunk_bytes)
        yield from (
            record
            for record in records
            if record.volume == pair.id and record.kind in (WRITE, ZERO, TRIM)
        )

"""A follower applies journal records, in order, to secondaries or to a staging log for them.

Everything that brings a secondary forward is a walk along the journal: async mode, a resync, the
replay after a crash. So a secondary only goes through states that the volume really had, and its
content is described by one number.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from duplexd.core.patience import JournalRead
from duplexd.journal.format import FLAG_ALLOCATE, TRIM, WRITE, ZERO
from duplexd.journal.reader import Reader
from duplexd.replication.watched import WatchedLegs
from duplexd.runtime.watch import HungError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair, PairRecord
    from duplexd.images.leg import Leg
    from duplexd.journal.format import Record
    from duplexd.journal.segment import Ring

Buffer = bytes | bytearray | memoryview


class UntouchedError(OSError):
    """A secondary refused a change before any of it was written."""


class SinkError(Exception):
    """A change could not be applied. `sequence` is its number (0: a copied grain); everything
    before it was applied. `offset` is where, if that is known. `torn`: part of it may be on the
    secondary.
    """

    def __init__(
        self, pair: Pair, sequence: int, error: OSError, offset: int | None = None
    ) -> None:
        super().__init__(f"{pair.name}: {error}")
        self.offset = offset
        self.pair = pair
        self.sequence = sequence
        self.error = error
        self.torn = not isinstance(error, UntouchedError)

    def located(self) -> OSError:
        """The error with the image it is of, the secondary if it names none, and the offset."""
        if isinstance(self.error, HungError):
            return self.error
        error, why = self.error, self.error.strerror or str(self.error)
        path = error.filename or (self.pair.copy_of.path if self.pair.secondary else "")
        where = f" at offset {self.offset}" if self.offset is not None else ""
        text = why if path in why else f"{path}: {why}{where}"
        return OSError(error.errno or errno.EIO, text, path)


class Sink(Protocol):
    """Where a follower puts changes. Calls raise OSError."""

    moves_secondary: bool  # whether what is put here is on the secondary

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        """A WRITE."""

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """A WRITE_ZEROES or a TRIM."""


class WatchedSink(Sink, Protocol):
    """One that a worker can hang in: `legs` are how it reaches the images."""

    legs: WatchedLegs


class SecondarySink:
    """The secondaries themselves. They are marked dirty after a write, failed or not, because a
    sync that runs during the write may not cover it.
    """

    moves_secondary = True

    def __init__(self, reserves: bool = True) -> None:
        """`reserves`: without it, a write that meets a full disk may be half done. For secondaries
        that hold no state that existed, or whose room is reserved already. The file system then
        chooses where the data goes when it is written, all of it at once, which is faster.
        """
        self.legs = WatchedLegs()
        self._reserves = reserves

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        """See `Sink`. Space is reserved first, so that a full disk is detected before anything is
        written and the secondary is not torn.
        """
        secondary = self.legs.secondary(pair)
        try:
            if self._reserves:
                _reserve(secondary, offset, len(data))
            secondary.write(offset, data)
        finally:
            pair.secondary_dirty = True

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """See `Sink`."""
        try:
            self.legs.secondary(pair).zero(offset, length, allocate)
        finally:
            pair.secondary_dirty = True


def _reserve(secondary: Leg, offset: int, length: int) -> None:
    try:
        secondary.reserve(offset, length)
    except OSError as error:
        raise UntouchedError(*error.args) from error


def put(sink: Sink, pair: Pair, record: Record, buffer: Buffer) -> None:
    """Apply one record, whose payload lies in `buffer`. Raises SinkError, whatever went wrong: how
    much of the record was applied is not known, but all before it was.
    """
    try:
        if record.kind == WRITE:
            sink.write(pair, record.offset, memoryview(buffer)[record.payload_start : record.end])
        else:
            sink.zero(pair, record.offset, record.length, bool(record.flags & FLAG_ALLOCATE))
    except OSError as error:
        raise SinkError(pair, record.sequence, error, record.offset) from error
    except Exception as error:
        why = OSError(errno.EIO, repr(error))
        raise SinkError(pair, record.sequence, why, record.offset) from error


class Follower:
    """Walks the journal for a set of pairs. `position` is the last number that it has processed.

    A record is applied if it is of one of the pairs, comes after what the pair holds already, and
    is not beyond the pair's cut. `advance` (the ledger's) records how far a secondary has come.
    Blocking methods, one caller at a time; any thread.

    A thread that hangs in a step can be given up. It changes nothing from then on, and `left` says
    where it was.
    """

    __slots__ = (
        "_advance", "_at", "_in_journal", "_now", "_reader", "_ring", "counted_until", "ends",
        "pairs", "position", "sink", "spent_s",
    )  # fmt: skip

    def __init__(
        self,
        ring: Ring,
        pairs: Sequence[Pair],
        position: int,
        sink: WatchedSink,
        advance: Callable[[PairRecord, int], None],
        counted_until: int = 0,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Start after number `position`. What comes after `counted_until` is new, and not counted
        as copied. `now` is used to find out how long each secondary takes.
        """
        self.pairs = {pair.id: pair for pair in pairs}
        self.position = position
        self.sink = sink
        self.counted_until = counted_until
        self.ends = False  # after the present record: another thread wants it
        self.spent_s: dict[
            Pair, float
        ] = {}  # by their secondaries, half as much in each later step
        self._now = now
        self._advance = advance
        self._at = 0  # the record that is being applied
        self._ring = ring
        self._in_journal = JournalRead(ring.directory)
        self._reader: Reader | None = None

    def lag_bytes(self, log_position: int) -> int:
        """How many bytes of journal lie between here and the writer."""
        reader = self._reader  # once: a step in a worker may drop it meanwhile
        return log_position - reader.log_position if reader is not None else 0

    def reach(self) -> Reader:
        """What reads on from the position in the journal. Raises LookupError."""
        reader = self._reader  # once: the loop may drop it meanwhile
        if reader is None:
            with self.sink.legs.watch.at(self._in_journal):
                reader = Reader(self._ring, self.position + 1)
            self._reader = reader  # not by a thread that was given up in there
        return reader

    def step(self, until: int, size_bytes: int) -> int:
        """Process some records up to number `until`; returns how many bytes were applied. Raises
        SinkError, DamageError.
        """
        if self.position >= until:
            return 0
        reader = self.reach()
        with self.sink.legs.watch.at(self._in_journal):
            buffer, records = reader.read(until, size_bytes)
        applied_bytes, pairs, now = 0, self.pairs, self._now
        spent_s: dict[Pair, float] = {}
        for record in records:
            self._at = record.sequence
            if self.ends:
                break
            pair = pairs.get(record.volume)
            if (
                pair is not None
                and record.kind in (WRITE, ZERO, TRIM)
                and pair.applied < record.sequence <= pair.limit(until)
            ):
                began = now()
                try:
                    put(self.sink, pair, record, buffer)
                except SinkError:
                    self.left()
                    raise
                spent_s[pair] = spent_s.get(pair, 0.0) + now() - began
                applied_bytes += record.payload_length
                if record.sequence <= self.counted_until:
                    pair.copied_bytes += record.payload_length
        else:
            if records:
                self._arrive(records[-1].sequence)
            for pair in list(pairs.values()):
                self.spent_s[pair] = self.spent_s.get(pair, 0.0) / 2 + spent_s.get(pair, 0.0)
            return applied_bytes
        self.left()
        return applied_bytes

    def slow(self) -> list[Pair]:
        """The pairs whose secondaries took most of the time: those that are to write less."""
        spent_s = {pair: self.spent_s.get(pair, 0.0) for pair in self.pairs.values()}
        most = max(spent_s.values(), default=0.0)
        return [pair for pair, seconds in spent_s.items() if seconds >= most / 2]

    def left(self) -> None:
        """No thread is in a step any more, or the one that is was given up: everything before the
        record that it was at was applied.
        """
        self._arrive(max(self.position, self._at - 1))
        self._reader = None  # it is ahead: the rest is read again for other pairs

    def _arrive(self, sequence: int) -> None:
        self.position = sequence
        if self.sink.moves_secondary:
            for pair in list(self.pairs.values()):
                self._advance(pair.record, min(sequence, pair.limit(sequence)))

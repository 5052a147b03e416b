"""A follower applies journal records, in order, to secondaries or to a staging log for them.

Everything that brings a secondary forward is a walk along the journal: async mode, a resync, the
replay after a crash. So a secondary only goes through states that the volume really had, and its
content is described by one number.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from duplexd.journal.format import FLAG_ALLOCATE, TRIM, WRITE, ZERO
from duplexd.journal.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair, PairRecord
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


class SecondarySink:
    """The secondaries themselves. They are marked dirty after a write, failed or not, because a
    sync that runs during the write may not cover it.
    """

    moves_secondary = True

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        """See `Sink`. Space is reserved first, so that a full disk is detected before anything is
        written and the secondary is not torn.
        """
        try:
            pair.copy_of.reserve(offset, len(data))
        except OSError as error:
            raise UntouchedError(*error.args) from error
        try:
            pair.copy_of.write(offset, data)
        finally:
            pair.secondary_dirty = True

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """See `Sink`."""
        try:
            pair.copy_of.zero(offset, length, allocate)
        finally:
            pair.secondary_dirty = True


def put(sink: Sink, pair: Pair, record: Record, buffer: bytes) -> None:
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
    """

    __slots__ = ("_advance", "_reader", "_ring", "counted_until", "pairs", "position", "sink")

    def __init__(
        self,
        ring: Ring,
        pairs: Sequence[Pair],
        position: int,
        sink: Sink,
        advance: Callable[[PairRecord, int], None],
        counted_until: int = 0,
    ) -> None:
        """Start after number `position`. What comes after `counted_until` is new, and not counted
        as copied.
        """
        self.pairs = {pair.id: pair for pair in pairs}
        self.position = position
        self.sink = sink
        self.counted_until = counted_until
        self._advance = advance
        self._ring = ring
        self._reader: Reader | None = None

    def lag_bytes(self, log_position: int) -> int:
        """How many bytes of journal lie between here and the writer."""
        reader = self._reader  # once: a step in a worker may drop it meanwhile
        return log_position - reader.log_position if reader is not None else 0

    def reach(self) -> None:
        """Find the place in the journal. Raises LookupError."""
        if self._reader is None:
            self._reader = Reader(self._ring, self.position + 1)

    def step(self, until: int, size_bytes: int) -> int:
        """Process some records up to number `until`; returns how many bytes were applied. Raises
        SinkError, DamageError.
        """
        if self.position >= until:
            return 0
        self.reach()
        assert self._reader is not None
        buffer, records = self._reader.read(until, size_bytes)
        applied_bytes, pairs = 0, self.pairs
        for record in records:
            pair = pairs.get(record.volume)
            if (
                pair is not None
                and record.kind in (WRITE, ZERO, TRIM)
                and pair.applied < record.sequence <= pair.limit(until)
            ):
                try:
                    put(self.sink, pair, record, buffer)
                except SinkError:
                    self._arrive(record.sequence - 1)
                    self._reader = None  # it is ahead: the rest is read again for other pairs
                    raise
                applied_bytes += record.payload_length
                if record.sequence <= self.counted_until:
                    pair.copied_bytes += record.payload_length
        if records:
            self._arrive(records[-1].sequence)
        return applied_bytes

    def _arrive(self, sequence: int) -> None:
        self.position = sequence
        if self.sink.moves_secondary:
            for pair in list(self.pairs.values()):
                self._advance(pair.record, min(sequence, pair.limit(sequence)))

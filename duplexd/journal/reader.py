"""Reading the journal from a number on, while it is being written.

Followers read behind the writer, in worker threads, without a lock: records are never changed once
they are written, and the caller says up to which number they are (`until`). The ring may drop the
segment that was just read, but none that the caller still needs; that is the caller's promise,
because only it knows every reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.errors import DamageError
from duplexd.journal.format import (
    RECORD_HEADER_BYTES,
    SEAL,
    SEGMENT_HEADER_BYTES,
    Record,
    payload_is_whole,
    unpack_record,
)

if TYPE_CHECKING:
    from duplexd.journal.segment import Ring, Segment


class Reader:
    """Hands out records in order, from number `sequence` on. Safe in a worker thread: it reads only
    what `until` says is written.

    The caller keeps the ring from dropping segments that hold record `sequence` or later ones.
    """

    __slots__ = ("_position", "_sealed", "_segment", "ring", "sequence")

    def __init__(self, ring: Ring, sequence: int) -> None:
        """Raises LookupError if the journal does not reach back to `sequence`."""
        self.ring = ring
        self.sequence = sequence  # the next to be handed out
        segment = ring.find(sequence)
        if segment is None:
            raise LookupError(f"the journal no longer reaches back to record {sequence}")
        self._segment: Segment = segment
        self._position = SEGMENT_HEADER_BYTES
        self._sealed = False
        self._skip_to(sequence)

    @property
    def log_position(self) -> int:
        """Comparable with `Writer.log_position`: equal when everything was handed out, whatever
        space a sealed segment left unused.
        """
        if self._sealed:
            following = self._following()
            if following is not None:
                return following.index * following.size + SEGMENT_HEADER_BYTES
        return self._segment.index * self._segment.size + self._position

    def _skip_to(self, sequence: int) -> None:
        at = self._segment.first
        while at < sequence and self._position < self._segment.end:
            header = self._segment.file.read(self._position, RECORD_HEADER_BYTES)
            record = unpack_record(header, 0)
            if record is None or record.sequence != at:
                raise self._damage(at)
            self._position += RECORD_HEADER_BYTES + record.payload_length
            self._sealed = record.kind == SEAL
            at += 1
        self.sequence = at

    def read(self, until: int, size_bytes: int) -> tuple[bytes, list[Record]]:
        """Some records up to number `until`: the bytes they lie in, and the headers. Empty only if
        there are none. Raises DamageError.
        """
        if self.sequence > until:
            return b"", []
        if self._sealed:
            self._next_segment()
        segment = self._segment
        want = min(size_bytes, segment.end - self._position)
        buffer = segment.file.read(self._position, want)
        records = self._parse(buffer, until)
        if not records:  # one record larger than size_bytes
            buffer = segment.file.read(self._position, segment.end - self._position)
            records = self._parse(buffer, until)
            if not records:
                raise self._damage(self.sequence)
        self._position += records[-1].end
        self.sequence = records[-1].sequence + 1
        self._sealed = records[-1].kind == SEAL
        return buffer, records

    def _next_segment(self) -> None:
        # The one that was just finished may have been dropped meanwhile: no reader needs it any
        # more.
        following = self._following()
        if following is None:
            raise self._damage(self.sequence)
        self._segment = following
        self._position = SEGMENT_HEADER_BYTES
        self._sealed = False

    def _following(self) -> Segment | None:
        return next(
            (segment for segment in list(self.ring.live) if segment.index > self._segment.index),
            None,
        )

    def _parse(self, buffer: bytes, until: int) -> list[Record]:
        found: list[Record] = []
        start, sequence = 0, self.sequence
        while sequence <= until:
            record = unpack_record(buffer, start)
            if record is None or record.end > len(buffer):
                break
            if record.sequence != sequence or not payload_is_whole(buffer, record):
                raise self._damage(sequence)
            found.append(record)
            if record.kind == SEAL:
                break
            start, sequence = record.end, sequence + 1
        return found

    def _damage(self, sequence: int) -> DamageError:
        return DamageError(
            f"{self._segment.file.path}: record {sequence} is damaged; changes from there on are at"
            " risk. Keep a copy of the state directory, then run: duplexd journal inspect DIRECTORY"
        )

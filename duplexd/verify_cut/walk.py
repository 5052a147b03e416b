"""Walks a journal from the oldest record that is left to its end, and on from there as it grows.

Every record's check-sums, number and chain are checked on the way. Where the walk ends, the journal
may end, be torn, be damaged, or be in the middle of being written: `durable_beyond` looks for later
records, more than once, to distinguish these.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from duplexd.errors import DamageError
from duplexd.journal.format import (
    RECORD_MAGIC,
    SEAL,
    SEGMENT_HEADER_BYTES,
    Record,
    journal_number,
    payload_is_whole,
    unpack_record,
)
from duplexd.verify_cut import segments
from duplexd.verify_cut.segments import RecycledError, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAUSE_S = 0.05
_PIECE_BYTES = 1 << 20


class Walk:
    """`first` and `sequence` are the numbers of the first and the last record so far, 0 before the
    first.

    `visited` has each segment with the number of its first record. Methods raise RecycledError if
    the daemon recycled a segment before it was read, DamageError, and OSError.
    """

    def __init__(self, directory: Path, tries: int) -> None:
        self._tries = tries
        found = segments.find(directory, tries)
        if not found:
            raise DamageError(f"{directory}: no segment holds any record")
        self.directory = directory
        self.controller = found[0].controller
        self.first = self.sequence = 0
        self.visited: list[tuple[Segment, int]] = []
        self._number = journal_number(self.controller)
        self._segment = found[0]
        self._at = SEGMENT_HEADER_BYTES
        self._chain = 0
        self._sealed = False

    @property
    def place(self) -> str:
        """Where the walk is, for messages."""
        return f"{self._segment.path}: byte {self._at}"

    def records(self) -> Iterator[tuple[bytes, Record]]:
        """Each whole record up to the present end, with the buffer that holds its payload."""
        while True:
            buffer, found = self._next()
            if not found:
                return
            for record in found:
                yield buffer, record

    def durable_beyond(self) -> tuple[int, int] | None:
        """At the end: a record beyond a gap, and the newest number that such records say is
        durable.

        None if there is no record beyond.
        """
        later = None
        for _ in range(self._tries):
            later = self._look_beyond()
            if later is None or self._parse(self._segment.read(self._at, _PIECE_BYTES)):
                return None  # the end; or it has grown just now
            time.sleep(_PAUSE_S)  # it may be in the middle of being written
        return later

    def _next(self) -> tuple[bytes, list[Record]]:
        if self._sealed:
            self._segment, self._at, self._sealed = (
                self._following(self._segment.number + 1),
                SEGMENT_HEADER_BYTES,
                False,
            )
        buffer = self._segment.read(self._at, _PIECE_BYTES)
        found = self._parse(buffer)
        if not found and (long := unpack_record(buffer, 0)) is not None and long.end > len(buffer):
            buffer = self._segment.read(self._at, long.end)
            found = self._parse(buffer)
        if found:
            self._advance(found)
        return buffer, found

    def _following(self, index: int) -> Segment:
        for segment in segments.find(self.directory, self._tries):
            if segment.number == index:
                return segment
        if not self._segment.current():
            raise RecycledError
        raise DamageError(
            f"{self.directory}: segment {index}, with the records after number {self.sequence}, "
            "is missing"
        )

    def _parse(self, buffer: bytes) -> list[Record]:
        found: list[Record] = []
        start, sequence, chain = 0, self.sequence, self._chain
        while (record := unpack_record(buffer, start)) is not None:
            follows = record.journal == self._number and (
                not sequence or (record.sequence, record.chain) == (sequence + 1, chain)
            )
            if not follows or not payload_is_whole(buffer, record):
                break
            found.append(record)
            if record.kind == SEAL:
                break
            start, sequence, chain = record.end, record.sequence, record.crc
        return found

    def _advance(self, found: list[Record]) -> None:
        if self._at == SEGMENT_HEADER_BYTES:
            self.visited.append((self._segment, found[0].sequence))
        self.first = self.first or found[0].sequence
        self._at += found[-1].end
        self.sequence, self._chain, self._sealed = (
            found[-1].sequence,
            found[-1].crc,
            found[-1].kind == SEAL,
        )

    def _look_beyond(self) -> tuple[int, int] | None:
        found: tuple[int, int] | None = None
        for segment in segments.find(self.directory, self._tries):
            if segment.number < self._segment.number:
                continue
            buffer = segment.read_whole()
            at = self._at if segment.number == self._segment.number else SEGMENT_HEADER_BYTES
            while (at := buffer.find(RECORD_MAGIC, at)) >= 0:
                record = unpack_record(buffer, at)
                if (
                    record is not None
                    and record.journal == self._number
                    and record.sequence > self.sequence + 1
                    and payload_is_whole(buffer, record)
                ):
                    found = (
                        found[0] if found else record.sequence,
                        max(found[1] if found else 0, record.synced),
                    )
                at += len(RECORD_MAGIC)
        return found

"""Finding numbers by their time in the journal, before anything goes there.

Each record carries the time at which it was made. The wall clock may be set back, so times may go
back along the journal. What counts is therefore the first record that is later than a time: nothing
from after that time is before it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.patience import JournalRead, Waited
from duplexd.journal.format import TRIM, WRITE, ZERO
from duplexd.journal.reader import Reader
from duplexd.runtime.watch import Watch

if TYPE_CHECKING:
    from duplexd.journal.segment import Ring


class _Seen(NamedTuple):
    sequence: int
    time_us: int
    position: int  # in bytes of journal, where the record ends
    changes: bool  # it is no marker


class Scout:
    """Goes along the journal, from after number `position` on, and never back. Blocking, one caller
    at a time.
    """

    def __init__(self, ring: Ring, position: int, chunk_bytes: int, time_us: int = 0) -> None:
        """`time_us`: no record up to `position` is later."""
        self._ring = ring
        self._in_journal = JournalRead(ring.directory)
        self.watch: Watch[Waited] = Watch()  # of each read: all of them together may take long
        self._chunk_bytes = chunk_bytes
        self._reader: Reader | None = None
        self._ahead: deque[_Seen] = deque()  # read, and not passed
        self.position = position
        self.time_us = time_us  # the latest of all that it passed
        self.bytes = 0  # of journal that end there; 0 if that is not known
        self.last_change = position  # the last number passed that changes a volume

    def go(self, time_us: int, until: int, bytes_from: int = 0, reads_max: int = 1 << 62) -> int:
        """Pass all records up to the first that is later than `time_us`, and up to where `until` or
        the journal ends; later ones, too, that end at or before byte `bytes_from`. The last number
        passed: an earlier one after `reads_max` reads. Raises DamageError, LookupError.
        """
        reads = 0
        while self.position < until:
            if not self._ahead:
                reads += 1
                if reads > reads_max or not self._read(until):
                    break
            seen = self._ahead[0]
            if seen.sequence > until or (seen.time_us > time_us and seen.position > bytes_from):
                break
            self._ahead.popleft()
            self.position, self.bytes = seen.sequence, seen.position
            self.time_us = max(self.time_us, seen.time_us)
            if seen.changes:
                self.last_change = seen.sequence
        return self.position

    def _read(self, until: int) -> bool:
        if self._reader is None:
            with self.watch.at(self._in_journal):
                self._reader = Reader(self._ring, self.position + 1)
        start = self._reader.log_position
        with self.watch.at(self._in_journal):
            _, records = self._reader.read(until, self._chunk_bytes)
        self._ahead.extend(
            _Seen(each.sequence, each.time_us, start + each.end, each.kind in (WRITE, ZERO, TRIM))
            for each in records
        )
        return bool(records)

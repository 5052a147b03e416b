"""Reading records out of bytes, and deciding what it means when they stop. Pure.

The decision for the end of the journal (`judge`) is the table of ARCHITECTURE.md, "The journal",
and nothing else decides it: recovery and `journal inspect` both ask here. It needs two facts: what
the checkpoint knows to be durable, and what later records claim.

That the machine has not rebooted since would be no third fact. A disk that fails, is repaired and
mounted again has lost its un-synced writes although the boot is the same, so records may be missing
in the middle after any stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.journal.format import (
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    Record,
    payload_is_whole,
    unpack_record,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

END, TORN, DAMAGE = "end", "torn", "damage"


def records(buffer: bytes | memoryview, start: int, sequence: int, chain: int) -> Iterator[Record]:
    """The valid records from `start` on: the first must have number `sequence` and follow the
    record of crc `chain`.
    """
    while True:
        record = unpack_record(buffer, start)
        if (
            record is None
            or record.sequence != sequence
            or record.chain != chain
            or not payload_is_whole(buffer, record)
        ):
            return
        yield record
        start, sequence, chain = record.end, sequence + 1, record.crc


class Beyond:
    """What lies after the last valid record: is there a broken record, are there later valid ones,
    what do they claim?
    """

    __slots__ = ("broken", "later", "length", "synced")

    def __init__(self) -> None:
        self.broken = False  # something was begun here
        self.later = False  # whole records with later numbers follow
        self.synced = 0  # highest number they claim to be durable
        self.length = 0  # bytes from the end to the last of all that

    def look(self, buffer: bytes, start: int, sequence: int, journal: int) -> None:
        """Search `buffer` from `start` for records of this journal numbered `sequence` or later."""
        at = start
        while (at := buffer.find(RECORD_MAGIC, at)) >= 0:
            record = unpack_record(buffer, at)
            if record is not None and record.journal == journal and record.sequence >= sequence:
                self._found(record, sequence, whole=payload_is_whole(buffer, record))
                self.length = max(self.length, min(record.end, len(buffer)) - start)
            elif record is None and at == start:
                self.broken = True
                self.length = max(self.length, RECORD_HEADER_BYTES)
            at += len(RECORD_MAGIC)

    def _found(self, record: Record, sequence: int, whole: bool) -> None:
        self.synced = max(self.synced, record.synced)
        if whole and record.sequence > sequence:
            self.later = True
        else:
            self.broken = True


def judge(beyond: Beyond, last: int, durable: int) -> str:
    """END, TORN or DAMAGE, for a journal whose last valid record is number `last`.

    `durable` is the number that the checkpoint knows to be durable.
    """
    if max(durable, beyond.synced) > last:
        return DAMAGE
    return TORN if beyond.later or beyond.broken else END

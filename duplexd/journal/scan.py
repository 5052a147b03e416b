"""Reading records out of bytes, and deciding what it means when they stop. Pure.

The decision for the end of the journal (`judge`) is the table of ARCHITECTURE.md, "The journal",
and nothing else decides it: recovery and `journal inspect` both ask here. It needs three facts:
what the checkpoint knows to be durable, what later records claim, and whether the machine has been
up since (then the page cache was not lost, so nothing that was written can be missing).
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


def judge(beyond: Beyond, last: int, durable: int, same_boot: bool) -> str:
    """END, TORN or DAMAGE, for a journal whose last valid record is number `last`.

    `durable` is the number that the checkpoint knows to be durable, `same_boot` whether the machine
    has been up since the journal was written (then nothing that was written can be missing).
    """
    if max(durable, beyond.synced) > last:
        return DAMAGE
    if beyond.later:
        return DAMAGE if same_boot else TORN
    return TORN if beyond.broken else END

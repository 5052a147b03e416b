"""Opening a journal after whatever happened: find its end, cut off a torn tail, stop at damage.

A log that ends in rubbish is normal after a power cut, and a log with a hole in records that were
known to be durable is a catastrophe; both look alike at the first broken record. The difference is
what the journal itself claims further on, so the walk goes on looking behind its end before it
decides (`scan.judge`). A claim stands behind every synced record soon after its sync, in the next
record or in a marker that is written for it (`core/synced.py`). A torn tail is copied to
a file of its own before it is wiped: if the decision was wrong, nothing is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.errors import DamageError
from duplexd.journal.format import SEAL, SEGMENT_HEADER_BYTES, Record, journal_number
from duplexd.journal.scan import DAMAGE, TORN, Beyond, judge, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.journal.segment import Ring, Segment


class Position:
    """The position of a checkpoint: record `sequence` has crc `chain` and ends at `offset` of
    segment `index`.
    """

    __slots__ = ("chain", "index", "offset", "sequence")

    def __init__(self, sequence: int, chain: int, index: int, offset: int) -> None:
        self.sequence = sequence
        self.chain = chain
        self.index = index
        self.offset = offset


class Tail:
    """The end of the journal: record `sequence`, crc `chain`; `torn` says what was cut off and
    where it is kept.
    """

    __slots__ = ("chain", "sequence", "torn")

    def __init__(self, sequence: int, chain: int) -> None:
        self.sequence = sequence
        self.chain = chain
        self.torn = ""


class Walk:
    """All records after a checkpoint, in order; afterwards `close` judges how the journal ends and
    leaves the ring ready for a Writer.
    """

    def __init__(self, ring: Ring, start: Position) -> None:
        self.ring = ring
        self.start = start
        self.sequence = start.sequence
        self.chain = start.chain
        self._segment = self._starting_segment()
        self._content = b""  # of `_segment`, once it was read
        self._at = start.offset

    def _starting_segment(self) -> Segment:
        for segment in self.ring.live:
            if segment.index == self.start.index:
                return segment
        raise DamageError(
            f"{self.ring.directory}: segment {self.start.index}, in which the checkpoint ends,"
            f" is missing; changes after {self.start.sequence} are at risk."
            " Restore the segment file"
        )

    def __iter__(self) -> Iterator[tuple[bytes, Record]]:
        """Each record with the buffer that its payload lies in."""
        sealed = True
        while sealed:
            segment = self._segment
            buffer = self._content = segment.file.read(0, segment.size)
            sealed = False
            for record in records(buffer, self._at, self.sequence + 1, self.chain):
                self.sequence, self.chain, self._at = record.sequence, record.crc, record.end
                sealed = record.kind == SEAL
                yield buffer, record
            segment.end = self._at
            if sealed or self._sealed_by_start():
                self._next_segment()
                sealed = True

    def _sealed_by_start(self) -> bool:
        """Whether the checkpoint itself is right behind a SEAL."""
        following = self._following()
        return (
            self.sequence == self.start.sequence
            and following is not None
            and following.first == self.sequence + 1
        )

    def _following(self) -> Segment | None:
        place = self.ring.live.index(self._segment) + 1
        return self.ring.live[place] if place < len(self.ring.live) else None

    def _next_segment(self) -> None:
        following = self._following()
        if (
            following is None or following.index != self._segment.index + 1
        ):  # a spare one may lie behind the one that is missing
            raise DamageError(
                f"{self.ring.directory}: segment {self._segment.index + 1} is missing;"
                f" changes after {self.sequence} may be at risk. Restore the segment file"
            )
        self._segment, self._at = following, SEGMENT_HEADER_BYTES

    @property
    def end(self) -> tuple[str, int]:
        """File and offset behind the last valid record."""
        return self._segment.file.path, self._at

    def verdict(self) -> str:
        """How the journal ends, after a whole walk: END, TORN or DAMAGE. Changes nothing."""
        beyond, _ = self._look()
        return judge(beyond, self.sequence, self.start.sequence)

    def _look(self) -> tuple[Beyond, int]:
        """What lies behind the end, and how many bytes of it in this segment."""
        beyond, journal = Beyond(), journal_number(self.ring.controller)
        beyond.look(self._content, self._at, self.sequence + 1, journal)
        length = beyond.length
        for other in self._later_segments():
            beyond.look(
                other.file.read(0, other.size), SEGMENT_HEADER_BYTES, self.sequence + 1, journal
            )
        return beyond, length

    def close(self) -> Tail:
        """Judge the end, after a whole walk. Raises DamageError; else later segments become spare
        and nothing after the end looks like a record.
        """
        segment, later = self._segment, self._later_segments()
        beyond, length = self._look()
        verdict = judge(beyond, self.sequence, self.start.sequence)
        if verdict == DAMAGE:
            raise DamageError(
                f"{segment.file.path}: byte {self._at}: record {self.sequence + 1} is missing or"
                " damaged, although it was durable; it and every change after it are at risk."
                " Keep a copy of the state directory, then run:"
                f" duplexd journal inspect {self.ring.directory}"
            )
        tail = Tail(self.sequence, self.chain)
        if verdict == TORN:
            tail.torn = self._cut_off(length, later)
        self._settle(later)
        return tail

    def _later_segments(self) -> list[Segment]:
        place = self.ring.live.index(self._segment) + 1
        return self.ring.live[place:]

    def _cut_off(self, length: int, later: list[Segment]) -> str:
        segment, disk = self._segment, self.ring.disk
        kept = f"{segment.file.path}.{self.sequence}.torn"
        disk.replace_file(kept, self._content[self._at : self._at + max(length, 1)])
        for scrubbed, start in [
            (segment, self._at),
            *((other, SEGMENT_HEADER_BYTES) for other in later),
        ]:
            scrubbed.file.write(start, bytes(scrubbed.size - start))
            scrubbed.file.sync()
        return kept

    def _settle(self, later: list[Segment]) -> None:
        ring, current = self.ring, self._segment
        current.end = self._at
        if self._at == SEGMENT_HEADER_BYTES:
            current.first = 0
        for other in later:
            other.first, other.end = 0, SEGMENT_HEADER_BYTES
            other.file.sync()  # its header may not be durable, if who made it was killed
            ring.live.remove(other)
            ring.spares.append(other)
        before = ring.live[: ring.live.index(current)]
        for older, newer in reversed(list(zip(before, ring.live[1:], strict=False))):
            if older.index != newer.index - 1 or not older.first:
                stale = ring.live[: ring.live.index(newer)]
                ring.live = ring.live[ring.live.index(newer) :]
                ring.spares += [ring.recycle(segment) for segment in stale]
                return
            if older.end == SEGMENT_HEADER_BYTES:
                older.end = older.size

"""Whether a secondary holds what it should: by what the journal has of the time before the cut, and by the primary where it did not change since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.journal.format import SEGMENT_HEADER_BYTES, TRIM, WRITE, Record, payload_is_whole, unpack_record
from duplexd.limits import PROOF_CHUNK_BYTES
from duplexd.proof.ranges import Ranges
from duplexd.proof.segments import RecycledError
from duplexd.proof.story import CHANGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.proof.image import Image
    from duplexd.proof.story import VolumeStory
    from duplexd.proof.walk import Walk


class Contents:
    """One volume's secondary. `wrong` tells the first contradiction; after that nothing more is looked at, and the piece it is in does not count."""

    def __init__(self, story: VolumeStory, secondary: Image, ranges_max: int) -> None:
        self.story = story
        self.secondary = secondary
        self.size = story.volume.size
        self.proved = Ranges()  # by the journal
        self.by_primary_bytes = 0
        self.by_primary_alone_bytes = 0
        self.wrong = ""
        self.unreadable = ""  # why
        self.whole = True  # every change that the journal has was looked at
        self._seen = Ranges()  # the newest change here was met already
        self._ranges_max = ranges_max

    # ------------------------------------------------------------------------------------------------------ by the journal

    def meet(self, record: Record, buffer: bytes) -> None:
        """A change before the cut; newer ones were met before."""
        if not self.wrong and self.whole and record.sequence > self.story.floor:
            try:
                self._meet(record, buffer)
            except OSError as error:
                self._can_not_read(error)

    def _meet(self, record: Record, buffer: bytes) -> None:
        for start, end in self._seen.missing(record.offset, min(record.offset + record.length, self.size)):
            if record.kind == WRITE:
                payload = record.payload_start + start - record.offset
                self._expect(start, buffer[payload : payload + end - start], record.sequence)
            elif record.kind != TRIM:
                self._expect_zeroes(start, end, f"record {record.sequence} made it zero")
            if self.wrong:
                return
            if record.kind != TRIM:  # what is read after a trim is not defined, only that both legs read the same
                self.proved.add(start, end)
            self._seen.add(start, end)
        self.whole = len(self._seen) + len(self.proved) <= self._ranges_max

    def meet_blank(self) -> None:
        """What no record changed since the images were new."""
        if self.story.blank and self.whole and not self.wrong:
            try:
                self._meet_blank()
            except OSError as error:
                self._can_not_read(error)

    def _meet_blank(self) -> None:
        for start, end in self._seen.missing(0, self.size):
            self._expect_zeroes(start, end, "nothing was ever written there before the cut")
            if self.wrong:
                return
            self.proved.add(start, end)

    def _can_not_read(self, error: OSError) -> None:
        self.unreadable, self.whole = f"{self.secondary.path}: {error.strerror}", False

    def _expect(self, start: int, data: bytes, sequence: int) -> None:
        present = self.secondary.read(start, start + len(data))
        if present != data:
            self._contradict(start, data, present, f"record {sequence} wrote something else there, and nothing after it before the cut")

    def _expect_zeroes(self, start: int, end: int, why: str) -> None:
        while (start := self.secondary.next_data(start)) < end and not self.wrong:
            stop = min(start + PROOF_CHUNK_BYTES, end)
            present = self.secondary.read(start, stop)
            if any(present):
                self._contradict(start, bytes(len(present)), present, why)
            start = stop

    def _contradict(self, start: int, expected: bytes, present: bytes, why: str) -> None:
        place = start + next(at for at, (one, other) in enumerate(zip(expected, present, strict=True)) if one != other)
        self.wrong = self.wrong or f"{self.secondary.path}: byte {place} is not as it was at the cut: {why}"

    # ------------------------------------------------------------------------------------------------------ by the primary

    def compare(self, primary: Image, follow: Callable[[], bool]) -> None:
        """With the primary, piece by piece. `follow` brings the story up to date after a piece was read; False ends it."""
        position, after = 0, self.story.after
        while position < self.size:
            data = min(primary.next_data(position), self.secondary.next_data(position), self.size)
            end = min(data + PROOF_CHUNK_BYTES, self.size)
            read = [(start, primary.read(start, stop), self.secondary.read(start, stop)) for start, stop in after.missing(data, end)]
            if not follow():
                return
            for start, expected, present in read:
                self._compare(start, expected, present)
            if self.wrong:
                return
            for start, stop in after.missing(position, end):
                self.by_primary_bytes += stop - start
                self.by_primary_alone_bytes += self.proved.missing_bytes(start, stop)
            position = end

    def _compare(self, base: int, expected: bytes, present: bytes) -> None:
        if expected == present:
            return
        for start, end in self.story.after.missing(base, base + len(expected)):  # the journal may have grown since it was read
            if expected[start - base : end - base] != present[start - base : end - base]:
                why = "the primary holds something else there, and the journal has no change of it since"
                self._contradict(start, expected[start - base : end - base], present[start - base : end - base], why)

    @property
    def checked_bytes(self) -> int:
        """What anything spoke for."""
        return self.proved.total_bytes + self.by_primary_alone_bytes


def meet_all(walk: Walk, contents: dict[int, Contents]) -> None:
    """Every change before the cut that the journal still has, newest first."""
    sequence = next(iter(contents.values())).story.cut_sequence
    for segment, first in reversed(walk.visited):
        if first > sequence:
            continue
        try:
            buffer = segment.read_whole()
        except RecycledError:  # and with it all that are older
            for each in contents.values():
                each.whole = False
            break
        for record in _backwards(buffer, first, sequence):
            if record.volume in contents and record.kind in CHANGES:
                contents[record.volume].meet(record, buffer)
    for each in contents.values():
        each.meet_blank()


def _backwards(buffer: bytes, first: int, last: int) -> Iterator[Record]:
    """Records of a segment, which the walk has found good, from number `last` or its end back to its first."""
    starts: list[int] = []
    at = SEGMENT_HEADER_BYTES
    while (record := unpack_record(buffer, at)) is not None and record.sequence == first + len(starts) <= last:
        if not payload_is_whole(buffer, record):
            break
        starts.append(at)
        at = record.end
    for start in reversed(starts):
        found = unpack_record(buffer, start)
        assert found is not None
        yield found

"""Whether a secondary holds what it should: by what the journal has of the time before the cut, and by the primary where it did not change since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.journal.format import (
    SEGMENT_HEADER_BYTES,
    TRIM,
    WRITE,
    Record,
    payload_is_whole,
    unpack_record,
)
from duplexd.limits import PROOF_CHUNK_BYTES
from duplexd.verify_cut.places import Places
from duplexd.verify_cut.ranges import Ranges
from duplexd.verify_cut.segments import RecycledError
from duplexd.verify_cut.story import CHANGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.verify_cut.image import Image
    from duplexd.verify_cut.story import VolumeStory
    from duplexd.verify_cut.walk import Walk


class Contents:
    """One volume's secondary. `wrong` is where it is not as it was at the cut.

    `replays_from` is given where a daemon may be writing to the image what it holds already, oldest first, or may have been cut short at
    that: what records after that number say is on it in the end, so where it is not there now nothing is known: `undecided`.
    """

    def __init__(
        self, story: VolumeStory, secondary: Image, ranges_max: int, replays_from: int | None = None
    ) -> None:
        self.story = story
        self.secondary = secondary
        self.size = story.volume.size
        self.proved = Ranges()  # by the journal
        self.by_primary_bytes = 0
        self.by_primary_alone_bytes = 0
        self.wrong = Places()
        self.undecided = Places()
        self.unreadable = ""  # why
        self.whole = True  # every change that the journal has was looked at
        self._seen = Ranges()  # the newest change here was met already
        self._ranges_max = ranges_max
        self._settled = story.cut_sequence if replays_from is None else replays_from

    @property
    def stopped(self) -> bool:
        """Whether it is wrong in so many places that nothing more is looked at."""
        return len(self.wrong.ranges) + len(self.undecided.ranges) > self._ranges_max

    # ------------------------------------------------------------------------------------------------------ by the journal

    def meet(self, record: Record, buffer: bytes) -> None:
        """A change before the cut; newer ones were met before."""
        if self.whole and not self.stopped and record.sequence > self.story.floor:
            try:
                self._meet(record, buffer)
            except OSError as error:
                self._can_not_read(error)

    def _meet(self, record: Record, buffer: bytes) -> None:
        places = self.wrong if record.sequence <= self._settled else self.undecided
        for start, end in self._seen.missing(
            record.offset, min(record.offset + record.length, self.size)
        ):
            if record.kind == WRITE:
                payload = record.payload_start + start - record.offset
                why = f"record {record.sequence} wrote something else there, and nothing after it before the cut"
                places.compare(
                    start,
                    buffer[payload : payload + end - start],
                    self.secondary.read(start, end),
                    why,
                )
            elif record.kind != TRIM:
                self._expect_zeroes(start, end, f"record {record.sequence} made it zero", places)
            if (
                record.kind != TRIM
            ):  # what is read after a trim is not defined, only that both legs read the same
                self._prove(start, end, places)
            self._seen.add(start, end)
        self.whole = len(self._seen) + len(self.proved) <= self._ranges_max

    def meet_blank(self) -> None:
        """What no record changed since the images were new."""
        if self.story.blank and self.whole and not self.stopped:
            try:
                self._meet_blank()
            except OSError as error:
                self._can_not_read(error)

    def _meet_blank(self) -> None:
        for start, end in self._seen.missing(0, self.size):
            self._expect_zeroes(
                start, end, "nothing was ever written there before the cut", self.wrong
            )
            self._prove(start, end, self.wrong)

    def _prove(self, start: int, end: int, places: Places) -> None:
        for begin, stop in places.ranges.missing(start, end):
            self.proved.add(begin, stop)

    def _can_not_read(self, error: OSError) -> None:
        self.unreadable, self.whole = f"{self.secondary.path}: {error.strerror}", False

    def _expect_zeroes(self, start: int, end: int, why: str, places: Places) -> None:
        while (start := self.secondary.next_data(start)) < end:
            stop = min(start + PROOF_CHUNK_BYTES, end)
            present = self.secondary.read(start, stop)
            if any(present):
                places.compare(start, bytes(len(present)), present, why)
            start = stop

    # ------------------------------------------------------------------------------------------------------ by the primary

    def compare(self, primary: Image, follow: Callable[[], bool]) -> None:
        """With the primary, piece by piece. `follow` brings the story up to date after a piece was read; False ends it."""
        position, after = 0, self.story.after
        while position < self.size and not self.stopped:
            data = min(primary.next_data(position), self.secondary.next_data(position), self.size)
            end = min(data + PROOF_CHUNK_BYTES, self.size)
            read = [
                (start, primary.read(start, stop), self.secondary.read(start, stop))
                for start, stop in after.missing(data, end)
            ]
            if not follow():
                return
            for start, expected, present in read:
                self._compare(start, expected, present)
            for start, stop in after.missing(position, end):
                self._agree(start, stop)
            position = end

    def _compare(self, base: int, expected: bytes, present: bytes) -> None:
        if expected == present:
            return
        why = "the primary holds something else there, and the journal has no change of it since"
        for start, end in self.story.after.missing(
            base, base + len(expected)
        ):  # the journal may have grown since it was read
            for begin, stop in self.wrong.ranges.missing(start, end):
                self.wrong.compare(
                    begin,
                    expected[begin - base : stop - base],
                    present[begin - base : stop - base],
                    why,
                )

    def _agree(self, start: int, stop: int) -> None:
        for begin, end in self.wrong.ranges.missing(start, stop):
            self.by_primary_bytes += end - begin
            self.by_primary_alone_bytes += self.proved.missing_bytes(begin, end)

    @property
    def checked_bytes(self) -> int:
        """What anything spoke for, and nothing against."""
        return (
            sum(self.wrong.ranges.missing_bytes(start, end) for start, end in self.proved)
            + self.by_primary_alone_bytes
        )


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
    while (record := unpack_record(buffer, at)) is not None and record.sequence == first + len(
        starts
    ) <= last:
        if not payload_is_whole(buffer, record):
            break
        starts.append(at)
        at = record.end
    for start in reversed(starts):
        found = unpack_record(buffer, start)
        assert found is not None
        yield found

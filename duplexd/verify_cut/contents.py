"""Whether a secondary holds what it held at the cut, by two witnesses.

- The journal: the newest record before the cut says what a range held. So records are taken newest
  first, and a range that a newer one covered is not looked at again.
- The primary: where no record after the cut changed it, it still holds what it held at the cut.

A byte for which neither speaks is unchecked; nobody guesses. Memory is bounded by the number of
ranges: beyond the limit older records are left out, which checks less but nothing wrongly.
"""

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
from duplexd.known import known
from duplexd.verify_cut.places import Places
from duplexd.verify_cut.ranges import Ranges
from duplexd.verify_cut.segments import RecycledError
from duplexd.verify_cut.story import CHANGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.limits import ProofLimits
    from duplexd.verify_cut.image import Image
    from duplexd.verify_cut.story import VolumeStory
    from duplexd.verify_cut.walk import Walk


class Contents:
    """One volume's secondary. `wrong` is where it differs from what it was at the cut.

    `replays_from` is given where a daemon may be replaying records to the image, oldest first, or
    may have been killed while it did. Records after that number are on the image in the end; where
    they are not now, it is `undecided`.
    """

    def __init__(
        self,
        story: VolumeStory,
        secondary: Image,
        ranges_max: int,
        replays_from: int | None,
        limits: ProofLimits,
    ) -> None:
        self.story = story
        self.secondary = secondary
        self.size = story.volume.size
        self.proved = Ranges()  # by the journal
        self.by_primary_bytes = 0
        self.by_primary_alone_bytes = 0
        self._data_by_primary_bytes = 0  # of those, in no hole of the secondary
        self.wrong = Places(limits.places_max)
        self.undecided = Places(limits.places_max)
        self.unreadable = ""  # why
        self.whole = True  # every change that the journal has was looked at
        self._seen = Ranges()  # where the newest change was looked at already
        self._ranges_max = ranges_max
        self._chunk_bytes = limits.chunk_bytes
        self._settled = story.cut_sequence if replays_from is None else replays_from

    @property
    def stopped(self) -> bool:
        """Whether it differs in so many places that the check stopped."""
        return len(self.wrong.ranges) + len(self.undecided.ranges) > self._ranges_max

    # By the journal

    def check_change(self, record: Record, buffer: bytes) -> None:
        """A change before the cut; newer ones were given before it."""
        if self.whole and not self.stopped and record.sequence > self.story.floor:
            try:
                self._check_change(record, buffer)
            except OSError as error:
                self._unreadable(error)

    def _check_change(self, record: Record, buffer: bytes) -> None:
        places = self.wrong if record.sequence <= self._settled else self.undecided
        for start, end in self._seen.missing(
            record.offset, min(record.offset + record.length, self.size)
        ):
            if record.kind == WRITE:
                payload = record.payload_start + start - record.offset
                why = (
                    f"record {record.sequence} wrote other content there, "
                    "and no record changed it between that and the cut"
                )
                places.compare(
                    start,
                    buffer[payload : payload + end - start],
                    self.secondary.read(start, end),
                    why,
                )
            elif record.kind != TRIM:
                self._expect_zeroes(start, end, f"record {record.sequence} zeroed it", places)
            if record.kind != TRIM:  # content after a trim is undefined, but equal on both legs
                self._prove(start, end, places)
            self._seen.add(start, end)
        self.whole = len(self._seen) + len(self.proved) <= self._ranges_max

    def check_blank(self) -> None:
        """What no record changed since the images were new, all zero."""
        if self.story.blank and self.whole and not self.stopped:
            try:
                self._check_blank()
            except OSError as error:
                self._unreadable(error)

    def _check_blank(self) -> None:
        for start, end in self._seen.missing(0, self.size):
            self._expect_zeroes(
                start, end, "nothing was ever written there before the cut", self.wrong
            )
            self._prove(start, end, self.wrong)

    def _prove(self, start: int, end: int, places: Places) -> None:
        for begin, stop in places.ranges.missing(start, end):
            self.proved.add(begin, stop)

    def _unreadable(self, error: OSError) -> None:
        self.unreadable, self.whole = f"{self.secondary.path}: {error.strerror}", False

    def _expect_zeroes(self, start: int, end: int, why: str, places: Places) -> None:
        while (start := self.secondary.next_data(start)) < end:
            stop = min(start + self._chunk_bytes, end)
            present = self.secondary.read(start, stop)
            if any(present):
                places.compare(start, bytes(len(present)), present, why)
            start = stop

    # By the primary

    def compare(self, primary: Image, follow: Callable[[], bool]) -> None:
        """Compare with the primary, piece by piece.

        The primary is being written to. `follow` reads the journal on after a piece was read, so
        that what was changed meanwhile does not count; it returns False to end the comparison.
        """
        position, after = 0, self.story.after
        while position < self.size and not self.stopped:
            data = min(primary.next_data(position), self.secondary.next_data(position), self.size)
            end = min(data + self._chunk_bytes, self.size)
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
        why = "the primary holds other content there, and the journal has no change of it since"
        # Asked again: the journal may have grown since the piece was read.
        for start, end in self.story.after.missing(base, base + len(expected)):
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
            for first, last in self.proved.missing(begin, end):
                self.by_primary_alone_bytes += last - first
                self._data_by_primary_bytes += self.secondary.data_bytes(first, last)

    @property
    def checked_bytes(self) -> int:
        """Bytes that a witness confirmed and none contradicted."""
        return sum(end - start for start, end in self._proved()) + self.by_primary_alone_bytes

    @property
    def checked_data_bytes(self) -> int:
        """Of those, the bytes that are in no hole of the secondary."""
        by_journal = (self.secondary.data_bytes(start, end) for start, end in self._proved())
        return sum(by_journal) + self._data_by_primary_bytes

    def _proved(self) -> Iterator[tuple[int, int]]:
        for start, end in self.proved:
            yield from self.wrong.ranges.missing(start, end)


def check_by_journal(walk: Walk, contents: dict[int, Contents]) -> None:
    """Check by every change before the cut that the journal still has, newest first."""
    sequence = next(iter(contents.values())).story.cut_sequence
    for segment, first in reversed(walk.visited):
        if first > sequence:
            continue
        try:
            buffer = segment.read_whole()
        except RecycledError:  # and all older segments with it
            for each in contents.values():
                each.whole = False
            break
        for record in _backwards(buffer, first, sequence):
            if record.volume in contents and record.kind in CHANGES:
                contents[record.volume].check_change(record, buffer)
    for each in contents.values():
        each.check_blank()


def _backwards(buffer: bytes, first: int, last: int) -> Iterator[Record]:
    """The records of a segment from number `last`, or its end, back to its first.

    Their check-sums are known to be right: the walk has been there.
    """
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
        yield known(unpack_record(buffer, start), "it was a record on the way there")

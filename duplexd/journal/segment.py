"""The ring of segment files: which are in use, which are spare.

A segment is written with zeroes once and recycled from then on. That is worth a class of its own:
appending to preallocated but never written extents costs a metadata update at each sync (2,300
syncs a second against 5,700, ext4). Recycling leaves old records in the file; they fail on number
and chain, so they need not be wiped.

Segments have an index that is never reused, in their header; the file's name says nothing about the
order.

On a file system that copies on write (btrfs, ZFS, a thin volume) a segment is no promise of room:
writing over it needs new blocks, and may be refused with ENOSPC like any other write.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from duplexd.errors import DamageError
from duplexd.journal.format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    pack_segment_header,
    unpack_record,
    unpack_segment_header,
)

if TYPE_CHECKING:
    from duplexd.runtime.disk import Disk, File


_CHUNK_BYTES = 1 << 20


def _is_blank(file: File) -> bool:
    """Whether there is nothing but zeroes in it: a segment that lost its first page only is
    damaged, not new.
    """
    return not any(
        any(file.read(at, min(_CHUNK_BYTES, file.size - at)))
        for at in range(0, file.size, _CHUNK_BYTES)
    )


class Segment:
    """One segment file. `first` is the number of its first record, 0 while it has none; `end` is
    where the next record goes.

    `chain`, of a segment that a restart found, is what its first record says of the record before
    it.
    """

    __slots__ = ("chain", "end", "file", "first", "index", "size")

    def __init__(self, file: File, index: int, size: int) -> None:
        self.file = file
        self.index = index
        self.size = size
        self.first = 0
        self.chain = 0
        self.end = SEGMENT_HEADER_BYTES


class Ring:
    """All segments of one journal, oldest first: `live` hold records, `spares` are ready to be
    written, in order of their index.

    `grow` and `recycle` do I/O and may run in a worker thread; they only touch segments that no
    other thread does. The lists change in the event loop.
    """

    def __init__(
        self, disk: Disk, directory: str, controller: bytes, segment_size: int, segments_max: int
    ) -> None:
        self.disk = disk
        self.directory = directory
        self.controller = controller
        self.segment_size = segment_size
        self.segments_max = segments_max
        self.live: list[Segment] = []
        self.spares: list[Segment] = []
        self._next_index = 1
        self._next_slot = 0

    @property
    def size_bytes(self) -> int:
        """What the journal may take on disk."""
        return self.segment_size * self.segments_max

    @property
    def used_bytes(self) -> int:
        """What the records in the journal take."""
        return sum(segment.end for segment in list(self.live))

    @property
    def oldest(self) -> int:
        """The number of the oldest record kept; 0 if there is none."""
        return self.live[0].first if self.live else 0

    def can_grow(self) -> bool:
        """Whether another segment may be made."""
        return len(self.live) + len(self.spares) < self.segments_max

    def grow(self) -> Segment:
        """Make a new segment, written with zeroes and durable. Raises OSError; nothing is left
        behind then.
        """
        path = f"{self.directory}/{self._next_slot:04d}.seg"
        try:
            file = self.disk.create(path, self.segment_size, allocate=True)
        except OSError:
            if self.disk.exists(path):
                self.disk.remove(path)
            raise
        self._next_slot += 1
        return self._prepare(file)

    def recycle(self, segment: Segment) -> Segment:
        """Make a segment that is no longer needed ready for its next use, durably. Raises
        OSError; the file is gone then.
        """
        return self._prepare(segment.file)

    def _prepare(self, file: File) -> Segment:
        segment = Segment(file, self._next_index, self.segment_size)
        self._next_index += 1
        try:
            file.write(
                0, pack_segment_header(SegmentHeader(self.controller, segment.index, segment.size))
            )
            file.sync()
        except OSError:
            file.close()
            self.disk.remove(file.path)
            self._next_index -= 1  # only now: no two files may have one index
            raise
        return segment

    def probe(self, segment: Segment, size_bytes: int) -> Segment:
        """Find out whether the file system takes writes again: write zeroes over a spare segment,
        as much as a batch may have, durably. Raises OSError.
        """
        length = min(size_bytes, segment.size - SEGMENT_HEADER_BYTES)
        segment.file.write(SEGMENT_HEADER_BYTES, bytes(length))
        segment.file.sync()
        return segment

    def droppable(self, floor: int) -> Segment | None:
        """The oldest segment, if all its records are numbered `floor` or less and it is not the one
        being written.
        """
        if len(self.live) < 2 or self.live[1].first == 0 or self.live[1].first - 1 > floor:
            return None
        return self.live[0]

    def pinned_bytes(self, floor: int) -> int:
        """What the records take of segments that cannot be dropped: see `droppable`."""
        live = list(self.live)
        gone = sum(1 for after in live[1:] if 0 < after.first <= floor + 1)
        return sum(segment.end for segment in live[gone:])

    def find(self, sequence: int) -> Segment | None:
        """The live segment that holds, or would hold, record `sequence`; None if the journal does
        not reach back that far.
        """
        # a worker may ask while the loop drops the oldest: one list has to serve for both looks
        live = list(self.live)
        firsts = [segment.first for segment in live if segment.first]
        place = bisect_right(firsts, sequence) - 1
        return live[place] if place >= 0 else None

    def open_existing(self) -> None:
        """Find the segments on disk. Raises DamageError for a file that is not a segment of this
        controller.
        """
        found: list[Segment] = []
        for name in sorted(
            name for name in self.disk.list(self.directory) if name.endswith(".seg")
        ):
            path = f"{self.directory}/{name}"
            if not name[:-4].isdecimal():
                raise DamageError(f"{path}: not a segment of this journal; move it away")
            self._next_slot = max(self._next_slot, int(name[:-4]) + 1)
            file = self.disk.open(path)
            # so that `close` finds it, whatever comes
            self.live.append(Segment(file, 0, file.size))
            segment = self._read_header(file)
            if segment is None:  # creation was cut short: nothing was ever written to it
                file.close()
                self.disk.remove(path)
            else:
                found.append(segment)
        found.sort(key=lambda segment: segment.index)
        self._next_index = found[-1].index + 1 if found else 1
        self.live = found

    def _read_header(self, file: File) -> Segment | None:
        data = file.read(0, min(SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES, file.size))
        header = unpack_segment_header(data)
        if header is None and _is_blank(file):
            return None
        if header is None or header.size != file.size:
            what = (
                "the segment header is damaged"
                if header is None
                else f"has {file.size} bytes, not the {header.size} it was made with"
            )
            raise DamageError(
                f"{file.path}: {what}; all changes in this segment are at risk. "
                "Keep a copy of the state directory, then run: duplexd journal inspect DIRECTORY"
            )
        if header.controller != self.controller:
            raise DamageError(
                f"{file.path}: belongs to another controller; move it away, or correct state_dir"
            )
        segment = Segment(file, header.number, header.size)
        first = unpack_record(data, SEGMENT_HEADER_BYTES)
        if first is not None:
            segment.first, segment.chain = first.sequence, first.chain
        return segment

    def close(self) -> None:
        """Close every file."""
        for segment in self.live + self.spares:
            segment.file.close()

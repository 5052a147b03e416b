"""Appending records: numbers, chain, one `pwritev` for each batch.

Number and chain are given when a record is appended, before it is written, because the header
contains both. So a batch that cannot be written must be taken back as a whole, in memory and on
disk: the next record gets the same numbers, and rests of the refused one must not look like its
successors. That is why `_roll_back` wipes what it may have written, and why a wipe that fails is
fatal. One refusal is not: a file system that copies on write needs room for the wipe as it did for
the batch. Then nothing is written before the wipe is made up for, so that the rests stay last.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Protocol

from duplexd.journal.format import (
    FLAG_ALLOCATE,
    MARKER,
    RECORD_HEADER_BYTES,
    SEAL,
    SEGMENT_HEADER_BYTES,
    crc32c,
    journal_number,
    pack_record,
)
from duplexd.journal.segment import NO_SPACE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.journal.segment import Ring, Segment
    from duplexd.runtime.disk import File

Buffer = bytes | bytearray | memoryview

_PAGE_BYTES = 4096
_ZEROES = memoryview(bytes(_PAGE_BYTES))


class NoRoomToWipeError(OSError):
    """The file system has no room for zeroes in the place of a batch that was taken back."""


class Numbered(Protocol):
    """A volume, by its number."""

    @property
    def id(self) -> int: ...


class Change(Protocol):
    """What `Writer.write_changes` takes of a change; see `backend.Change`. It sets `sequence`."""

    kind: int
    offset: int
    length: int
    data: Buffer
    allocate: bool
    sequence: int

    @property
    def volume(self) -> Numbered: ...


class Writer:
    """The end of the journal.

    `append` gives a record its number and collects it; `write` puts all collected records into the
    journal file (the page cache), or, on an OSError, none: then their numbers were never given.
    A change may be acknowledged only after `write` has returned. Not thread-safe: one caller at a
    time. A record is never split; a batch may run over into spare segments, so ask `room` first.

    A batch is written up to the end of its last page, with zeroes: of a segment whose earlier use
    has left the page cache the rest of the page would be read first, in the midst of the write,
    behind whatever is being synced.
    """

    __slots__ = (
        "_batch_start",
        "_buffers", "_bytes", "_journal", "_sync_from", "_unwiped",
        "chain", "position", "ring", "segment", "sequence", "synced", "written",
    )  # fmt: skip

    def __init__(self, ring: Ring, sequence: int, chain: int) -> None:
        """Go on after record `sequence`, whose crc is `chain`, at the end of the ring's last live
        segment.
        """
        self.ring = ring
        self.segment: Segment = ring.live[-1]
        self.sequence = sequence
        self.written = (
            sequence  # the last number that is in the file; never ahead of what a reader may read
        )
        self.synced = 0
        self.chain = chain
        self.position = self.segment.end
        self._journal = journal_number(ring.controller)
        self._buffers: list[Buffer] = []
        self._bytes = 0
        self._sync_from = ring.live[0].index  # segments before this one are durable
        self._batch_start = (self.segment, self.position, sequence, chain)
        self._unwiped: dict[Segment, tuple[int, int]] = {}  # what a batch taken back left there

    @property
    def log_position(self) -> int:
        """Bytes ever written, in a sense that grows with every record: for measuring how far a
        reader trails.
        """
        return self.segment.index * self.segment.size + self.segment.end

    def room(self, size_bytes: int, record_bytes_max: int) -> bool:
        """Whether records of that size in all, none larger than `record_bytes_max`, are sure to
        fit.
        """
        left = self.segment.size - self.position - RECORD_HEADER_BYTES
        if size_bytes <= left:
            return True
        capacity = self.segment.size - SEGMENT_HEADER_BYTES - record_bytes_max - RECORD_HEADER_BYTES
        return size_bytes <= len(self.ring.spares) * capacity

    def append(
        self,
        kind: int,
        volume: int,
        offset: int,
        length: int,
        data: Buffer,
        flags: int,
        time_us: int,
    ) -> int:
        """Collect a record and return its number. `data` must not change before `write` returns."""
        size = len(data)
        if self.position + size + 2 * RECORD_HEADER_BYTES > self.segment.size:
            self._rotate(time_us)
        self._collect(kind, volume, offset, length, data, size, flags, time_us)
        return self.sequence

    def write_changes(self, changes: Sequence[Change], time_us: int) -> None:
        """Append a record for each change, give it its number, and `write` them all."""
        for change in changes:
            data = change.data
            flags = FLAG_ALLOCATE if change.allocate else 0
            if self.position + len(data) + 2 * RECORD_HEADER_BYTES > self.segment.size:
                self._rotate(time_us)
            self._collect(
                change.kind,
                change.volume.id,
                change.offset,
                change.length,
                data,
                len(data),
                flags,
                time_us,
            )
            change.sequence = self.sequence
        self.write()

    def write_marker(self, payload: bytes, time_us: int) -> int:
        """Append a marker and `write` it; returns its number."""
        sequence = self.append_marker(payload, time_us)
        self.write()
        return sequence

    def append_marker(self, payload: bytes, time_us: int) -> int:
        """Collect a marker and return its number."""
        return self.append(MARKER, 0, 0, 0, payload, 0, time_us)

    def _collect(
        self,
        kind: int,
        volume: int,
        offset: int,
        length: int,
        data: Buffer,
        size: int,
        flags: int,
        time_us: int,
    ) -> None:
        sequence = self.sequence + 1
        if not self.segment.first:
            self.segment.first = sequence
        payload_crc = crc32c(data) if size else 0
        header, crc = pack_record(
            self.chain,
            payload_crc,
            sequence,
            self.synced,
            offset,
            length,
            time_us,
            volume,
            size,
            kind,
            flags,
            self._journal,
        )
        self._buffers.append(header)
        if size:
            self._buffers.append(data)
        self._bytes += RECORD_HEADER_BYTES + size
        self.position += RECORD_HEADER_BYTES + size
        self.chain = crc
        self.sequence = sequence

    def _rotate(self, time_us: int) -> None:
        if not self.ring.spares:
            self._roll_back()
            raise OSError(errno.ENOSPC, "no spare segment in the journal")
        self._collect(SEAL, 0, 0, 0, b"", 0, 0, time_us)
        self._put_or_roll_back()
        spare = self.ring.spares.pop(0)
        spare.first = self.sequence + 1
        self.ring.live.append(spare)
        self.segment = spare
        self.position = SEGMENT_HEADER_BYTES

    def _put(self) -> None:
        if not self._buffers:
            return
        if self._unwiped:
            self._wipe()
        segment, start = self.segment, self.position - self._bytes
        padding = min(-self.position % _PAGE_BYTES, segment.size - self.position)
        if padding:
            self._buffers.append(_ZEROES[:padding])
        segment.file.writev(start, self._buffers, self._bytes + padding)
        segment.end = self.position
        self._buffers = []
        self._bytes = 0

    def write(self) -> None:
        """Write what was collected. On OSError the journal is as before the first `append` of this
        batch.
        """
        self._put_or_roll_back()
        self.written = self.sequence
        self._batch_start = (self.segment, self.position, self.sequence, self.chain)

    def _put_or_roll_back(self) -> None:
        try:
            self._put()
        except OSError:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        segment, position, sequence, chain = self._batch_start
        touched = [(segment, position, self._reach(segment))]
        self._buffers = []
        while self.ring.live[-1] is not segment:
            spare = self.ring.live.pop()
            touched.append((spare, SEGMENT_HEADER_BYTES, self._reach(spare)))
            spare.first = 0
            spare.end = SEGMENT_HEADER_BYTES
            self.ring.spares.insert(0, spare)
        self._bytes = 0
        self.segment, self.position, self.sequence, self.chain = segment, position, sequence, chain
        segment.end = position
        if position == SEGMENT_HEADER_BYTES:
            segment.first = 0
        for touched_segment, start, end in touched:
            before = self._unwiped.get(touched_segment, (start, end))
            self._unwiped[touched_segment] = min(start, before[0]), max(end, before[1])
        with contextlib.suppress(NoRoomToWipeError):  # made up for before the next write
            self._wipe()

    def _wipe(self) -> None:
        """Nothing of a batch that was taken back may look like a record, now or behind shorter
        ones. Raises OSError EIO: then it may.
        """
        for segment, (start, end) in list(self._unwiped.items()):
            try:
                segment.file.write(start, bytes(end - start))
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise NoRoomToWipeError(*error.args) from error
                raise OSError(
                    errno.EIO,
                    f"{segment.file.path}: a batch that failed could not be wiped: "
                    f"{error.strerror}",
                ) from error
            del self._unwiped[segment]

    def _reach(self, segment: Segment) -> int:
        """How far this batch may have written in a segment."""
        return self.position if segment is self.segment else segment.end

    def begin_sync(self) -> tuple[list[File], int, int]:
        """The files to sync, what to tell `end_sync` afterwards: number and segment. Safe while
        another thread writes.
        """
        # where a batch that is being written moved on to may be taken back
        index, sequence = (
            self._batch_start[0].index,
            self.written,
        )
        files = [
            segment.file for segment in list(self.ring.live) if segment.index >= self._sync_from
        ]
        return files, sequence, index

    def end_sync(self, sequence: int, index: int) -> None:
        """All files that `begin_sync` named were synced."""
        self.synced = max(self.synced, sequence)
        self._sync_from = max(self._sync_from, index)

    def sync_now(self) -> None:
        """Make all that is written durable, here and now."""
        files, sequence, index = self.begin_sync()
        for file in files:
            file.sync()
        self.end_sync(sequence, index)

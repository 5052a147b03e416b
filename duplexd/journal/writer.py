"""Appending records: numbers, chain, one `pwritev` for each batch.

Number and chain are given when a record is appended, before it is written, because the header
contains both. What was appended is then either *staged* or *written* as a batch:

    stage   the numbers are given for good, and nothing is written yet: no system call, so the
            event loop may do it. The next `write` puts it into the file first. If the file refuses
            it, it stays staged, and is written by a later `write`, or never: then a restart finds
            the journal without it and all that follows.
    write   puts everything into the file. A batch that cannot be written is taken back as a whole,
            in memory and on disk: the next record gets the same numbers, and rests of the refused
            one must not look like its successors. That is why `_roll_back` wipes what it may have
            written, and why a wipe that fails is fatal. One reason is not: a file system that
            copies on write needs room for the wipe, as it did for the batch. Then nothing is
            written before the wipe is made up for: whole records behind a shorter new one would be
            taken for damage.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, NamedTuple, Protocol

from duplexd.journal.format import (
    FLAG_ALLOCATE,
    MARKER,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEAL,
    SEGMENT_HEADER_BYTES,
    crc32c,
    journal_number,
    pack_body,
    pack_head,
    pack_record,
)
from duplexd.journal.tally import note_last

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.journal.segment import Ring, Segment
    from duplexd.runtime.disk import File

Buffer = bytes | bytearray | memoryview

TALLY_BYTES = 16  # of number and crc
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
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


class _Extent(NamedTuple):
    """Records that lie together in a segment from `start` on; the last has number `sequence`, and
    crc `chain`.
    """

    segment: Segment
    start: int
    buffers: list[Buffer]
    size: int
    sequence: int
    chain: int


class Writer:
    """The end of the journal.

    `append` gives a record its number and collects it; `write` puts all collected records into the
    journal file (the page cache), or, on an OSError, none: then their numbers were never given.
    `written` is the last number in the file, `sequence` the last that was given. A change may be
    acknowledged only after `write` has returned. `tally` gets number and crc of the last one in the
    file, see `tally.py`; by default nobody reads it. Not thread-safe: one caller at a time. A
    record is never split; a batch may run over into spare segments, so ask `room` first.

    A batch is written up to the end of its last page, with zeroes: of a segment whose earlier use
    has left the page cache the rest of the page would be read first, in the midst of the write,
    behind whatever is being synced.
    """

    __slots__ = (
        "_batch_start", "_buffers", "_bytes", "_closed", "_journal", "_sync_from", "_unwiped",
        "_written_in", "chain", "position", "ring", "segment", "sequence", "staged", "synced",
        "tally", "written",
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
        self.tally: bytearray | memoryview = bytearray(TALLY_BYTES)
        self.chain = chain
        self.position = self.segment.end
        self._journal = journal_number(ring.controller)
        self._buffers: list[Buffer] = []  # collected, to be written at `position - _bytes`
        self._bytes = 0
        self._closed: list[_Extent] = []  # collected, in segments before this one
        self.staged: list[_Extent] = []  # that are not written yet
        self._unwiped: list[_Extent] = []  # of batches that were taken back
        self._written_in = ring.live[-1].index  # the segment with the last written record
        self._sync_from = ring.live[0].index  # segments before this one are durable
        self._batch_start = (self.segment, self.position, sequence, chain)

    @property
    def log_position(self) -> int:
        """Bytes ever written, in a sense that grows with every record: for measuring how far a
        reader trails.
        """
        return self.segment.index * self.segment.size + self.position

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
        try:
            place = self._append_changes(changes, 0, time_us)
            while place < len(changes):
                self._rotate(time_us)
                place = self._append_changes(changes, place, time_us)
        except MemoryError:
            self._roll_back()
            raise
        self.write()

    def _append_changes(self, changes: Sequence[Change], first: int, time_us: int) -> int:
        """Append from place `first` on as many as fit into the segment; returns the place of the
        one that does not.

        On the hot path of every change, so `_collect` is repeated here, without a call for each.
        """
        sequence, chain, position = self.sequence, self.chain, self.position
        buffers, synced, journal = self._buffers, self.synced, self._journal
        last = self.segment.size - 2 * RECORD_HEADER_BYTES
        place = first
        for place in range(first, len(changes)):
            change = changes[place]
            data = change.data
            size = len(data)
            if position + size > last:
                break
            sequence += 1
            body = pack_body(
                chain,
                crc32c(data) if size else 0,
                sequence,
                synced,
                change.offset,
                change.length,
                time_us,
                change.volume.id,
                size,
                change.kind,
                FLAG_ALLOCATE if change.allocate else 0,
                journal,
            )
            chain = crc32c(body)
            buffers.append(pack_head(RECORD_MAGIC, chain) + body)
            if size:
                buffers.append(data)
            position += RECORD_HEADER_BYTES + size
            change.sequence = sequence
        else:
            place = len(changes)
        if not self.segment.first and place > first:
            self.segment.first = self.sequence + 1
        self._bytes += position - self.position
        self.sequence, self.chain, self.position = sequence, chain, position
        return place

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
        self._close_extent(self._closed)
        spare = self.ring.spares.pop(0)
        spare.first = self.sequence + 1
        self.ring.live.append(spare)
        self.segment = spare
        self.position = SEGMENT_HEADER_BYTES

    def stage(self) -> None:
        """Give the numbers of what was collected for good. Writes nothing."""
        self.staged += self._closed
        self._closed = []
        self._close_extent(self.staged)
        self._batch_start = (self.segment, self.position, self.sequence, self.chain)

    def write(self) -> None:
        """Write what was staged, then what was collected. On OSError the journal is as before the
        first `append` of this batch, and what was staged may be in it or not.
        """
        if self.staged or self._closed or self._unwiped:
            self._write_extents()
            self._closed = []
        elif self._buffers:
            self._write_one()
        self.written = self.sequence
        note_last(self.tally, 0, self.sequence, self.chain)
        self._batch_start = (self.segment, self.position, self.sequence, self.chain)

    def _write_one(self) -> None:
        """A batch that lies in one segment, with nothing before it: the common case."""
        segment, size, buffers, end = self.segment, self._bytes, self._buffers, self.position
        start, padding = end - size, min(-end % _PAGE_BYTES, segment.size - end)
        if padding:
            buffers.append(_ZEROES[:padding])
        try:
            segment.file.writev(start, buffers, size + padding)
        except BaseException:
            self._roll_back([_Extent(segment, start, buffers, size, self.sequence, self.chain)])
            raise
        segment.end = end
        self._written_in = segment.index
        self._buffers, self._bytes = [], 0

    def _write_extents(self) -> None:
        tried: list[_Extent] = []
        try:
            if self._unwiped:
                self._wipe()
            while self.staged:
                self._put(self.staged[0])
                self.written = self.staged[0].sequence
                note_last(self.tally, 0, self.written, self.staged[0].chain)
                del self.staged[0]  # last: the loop looks at both
            self._close_extent(self._closed)
            for extent in self._closed:
                tried.append(extent)
                self._put(extent)
        except BaseException:
            self._roll_back(tried)
            raise

    def _close_extent(self, extents: list[_Extent]) -> None:
        if self._buffers:
            start = self.position - self._bytes
            last = self.sequence, self.chain
            extents.append(_Extent(self.segment, start, self._buffers, self._bytes, *last))
            self._buffers, self._bytes = [], 0

    def _put(self, extent: _Extent) -> None:
        segment, start, buffers, size, _sequence, _chain = extent
        end = start + size
        padding = min(-end % _PAGE_BYTES, segment.size - end)
        padded = [*buffers, _ZEROES[:padding]] if padding else buffers
        segment.file.writev(start, padded, size + padding)
        segment.end = end
        self._written_in = segment.index

    def _roll_back(self, tried: Sequence[_Extent] = ()) -> None:
        segment, position, sequence, chain = self._batch_start
        self._buffers, self._bytes, self._closed = [], 0, []
        while self.ring.live[-1] is not segment:
            spare = self.ring.live.pop()
            spare.first = 0
            spare.end = SEGMENT_HEADER_BYTES
            self.ring.spares.insert(0, spare)
        self.segment, self.position, self.sequence, self.chain = segment, position, sequence, chain
        segment.end = min(segment.end, position)
        self._written_in = min(self._written_in, segment.index)
        if position == SEGMENT_HEADER_BYTES:
            segment.first = 0
        self._unwiped += tried
        with contextlib.suppress(NoRoomToWipeError):  # made up for before the next write
            self._wipe()

    def _wipe(self) -> None:
        """Nothing of a batch that was taken back may look like a record, now or behind shorter
        ones. Raises OSError EIO: then it may.
        """
        while self._unwiped:
            segment, start, _buffers, size, *_last = self._unwiped[-1]
            try:
                segment.file.write(start, bytes(size))
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise NoRoomToWipeError(*error.args) from error
                raise OSError(
                    errno.EIO,
                    f"{segment.file.path}: a batch that failed could not be wiped: "
                    f"{error.strerror}",
                ) from error
            del self._unwiped[-1]

    def begin_sync(self) -> tuple[list[File], int, int]:
        """The files to sync, what to tell `end_sync` afterwards: number and segment. Safe while
        another thread writes.
        """
        index, sequence = self._written_in, self.written
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

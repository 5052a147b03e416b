"""The staging log of a resync by map: the new content of the secondaries, before it is applied.

A copy by map takes a secondary from its cut to the tail without the states in between, so a half
done copy would be torn. The copy is therefore written here first and applied as one atomic step.
The log is valid once the journal has the job's COMMIT marker: from then on recovery applies it
again, as often as needed; without the marker recovery removes it.

Files `JOB-NNNN.stg` in one directory, each a sequence of journal records (`journal/format.py`) from
byte 0 on, numbered from 1 over all files, with one chain. NNNN counts from 0, and has more digits
where the log of a large volume has more files. Only the file that is written is open: a log may
have more files than a process may have descriptors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.patience import StagingCall
from duplexd.errors import DamageError
from duplexd.journal.format import (
    FLAG_ALLOCATE,
    RECORD_HEADER_BYTES,
    WRITE,
    ZERO,
    crc32c,
    pack_record,
    unpack_record,
)
from duplexd.journal.scan import records
from duplexd.replication.follower import SinkError, UntouchedError, put
from duplexd.replication.watched import WatchedLegs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.core.pair import Pair
    from duplexd.core.patience import StateNotes
    from duplexd.journal.format import Record
    from duplexd.replication.follower import Buffer, Sink
    from duplexd.runtime.disk import Disk, File


_CHUNK_BYTES = 8 << 20  # read of a log at once: more than the longest record
_WRITE_OUT_BYTES = 4 << 20  # of a log, after which the disk begins with them


class Span(NamedTuple):
    """Where a secondary was written to, and how much of that was."""

    offset: int
    end: int
    written_bytes: int


class StagingSink:
    """Writes a staging log. Blocking; one caller at a time. OSError (no space) ends the job, not
    the pair. Each call on the log's disk is noted in the watch of `legs`.

    Space on the secondaries is reserved while staging: after the commit, a full disk would leave
    them half-way.
    """

    moves_secondary = False

    def __init__(
        self, disk: Disk, directory: str, job: str, file_bytes: int, piece_bytes_max: int
    ) -> None:
        """`file_bytes`: of each file; `piece_bytes_max`: of a write that is put here."""
        self.legs = WatchedLegs()
        self._disk = disk
        self._directory = directory
        self._job = job
        self._file_bytes = max(file_bytes, piece_bytes_max + RECORD_HEADER_BYTES)
        self._file: File | None = None
        self._files = 0
        self._position = self._file_bytes
        self._written_out = 0
        self._sequence = 0
        self._chain = 0
        self._note = StagingCall(directory)

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        """See `Sink`. Raises UntouchedError if the secondary has no room for it."""
        self._reserve(pair, offset, len(data))
        self._append(WRITE, pair, offset, len(data), data, 0)

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """See `Sink`. Raises UntouchedError if the secondary has no room for it."""
        if allocate:
            self._reserve(pair, offset, length)
        self._append(ZERO, pair, offset, length, b"", FLAG_ALLOCATE if allocate else 0)

    def _append(
        self, kind: int, pair: Pair, offset: int, length: int, data: Buffer, flags: int
    ) -> None:
        need = RECORD_HEADER_BYTES + len(data)
        file = self._file
        if file is None or self._position + need > self._file_bytes:
            file = self._next_file()
        crc = crc32c(data) if len(data) else 0
        header, next_chain = pack_record(
            self._chain,
            crc,
            self._sequence + 1,
            0,
            offset,
            length,
            0,
            pair.id,
            len(data),
            kind,
            flags,
            0,
        )
        with self.legs.watch.at(self._note):
            file.writev(self._position, [header, data], need)
            self._position += need
            if self._position - self._written_out >= _WRITE_OUT_BYTES:
                file.write_out(self._written_out, self._position - self._written_out)
                self._written_out = self._position
        self._sequence += 1
        self._chain = next_chain

    def _next_file(self) -> File:
        self.finish()
        path = f"{self._directory}/{_name(self._job, self._files)}"
        with self.legs.watch.at(self._note):
            if not self._files:
                self._disk.make_directory(self._directory)
            file = self._disk.create(path, self._file_bytes)
        self._file = file  # not by a thread that was given up in there
        self._files += 1
        self._position = self._written_out = 0
        return file

    def _reserve(self, pair: Pair, offset: int, length: int) -> None:
        if pair.secondary is not None:
            try:
                self.legs.secondary(pair).reserve(offset, length)
            except OSError as error:
                raise UntouchedError(
                    error.errno, f"{pair.secondary.path}: no room for the changes: {error.strerror}"
                ) from error
            finally:
                pair.secondary_dirty = True  # its time has changed: see `engine/samples.py`

    @property
    def count(self) -> int:
        """How many records it holds."""
        return self._sequence

    def finish(self) -> None:
        """Make it durable and close it."""
        if self._file is not None:
            with self.legs.watch.at(self._note):
                self._file.sync()
        self.close()

    def close(self) -> None:
        """Close the file that is written."""
        if self._file is not None:
            with self.legs.watch.at(self._note):
                self._file.close()
        self._file = None

    def abandon(self) -> None:
        """A thread hangs with the file: it is closed when that thread ends."""
        self._file = None


def _name(job: str, number: int) -> str:
    return f"{job}-{number:04d}.stg"


class StagedLog:
    """A committed log that is applied to secondaries, a few MiB in each step. Blocking. `failed`
    are the pairs whose secondary failed: each fails alone, the others get all of it.

    Raises DamageError or OSError if the log is not whole or cannot be read; the path is named.
    """

    def __init__(
        self, disk: Disk, directory: str, job: str, pairs: Mapping[int, Pair], count: int
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._job = job
        self._pairs = pairs
        self._count = count
        self._buffer = memoryview(bytearray(_CHUNK_BYTES))
        self._file: File | None = None
        self._number = 0  # of the file
        self._position = 0  # in it
        self._sequence = 0
        self._chain = 0
        self.failed: dict[Pair, OSError] = {}

    @property
    def is_applied(self) -> bool:
        return self._sequence >= self._count

    def step(self, sink: Sink, watch: StateNotes) -> dict[Pair, Span]:
        """Apply the next records; returns where each pair got something. Each call on the log is
        noted in `watch`.
        """
        with watch.at(StagingCall(self._path())):
            buffer = self._read()
        spans: dict[Pair, Span] = {}
        end, pairs, failed = 0, self._pairs, self.failed
        for record in records(buffer, 0, self._sequence + 1, self._chain):
            self._sequence, self._chain, end = record.sequence, record.crc, record.end
            pair = pairs.get(record.volume)
            if pair is not None and pair not in failed:
                try:
                    put(sink, pair, record, buffer)
                except SinkError as error:
                    failed[pair] = error.located()
                spans[pair] = _with(spans.get(pair), record)
        if not end and not self._position:
            self._damaged(buffer)
        self._position += end
        if not end or self.is_applied:
            with watch.at(StagingCall(self._path())):
                self._close()
        return spans

    def _path(self) -> str:
        return f"{self._directory}/{_name(self._job, self._number)}"

    def _read(self) -> memoryview:
        """What follows in the present file; nothing if there is none of that number."""
        path = self._path()
        try:
            if self._file is None:
                if not self._disk.exists(path):
                    return self._buffer[:0]
                self._file = self._disk.open(path)
            buffer = self._buffer[: self._file.size - self._position]
            self._file.read_into(self._position, buffer)
        except OSError as error:
            why = error.strerror or str(error)
            raise OSError(error.errno, f"{path}: {why}", path) from error
        return buffer

    def _close(self) -> None:
        """On to the next file."""
        if self._file is not None:
            self._file.close()
        self._file, self._position = None, 0
        self._number += 1

    def _damaged(self, buffer: memoryview) -> None:
        """Nothing in this file goes on from the last record: it is damaged, or the end of the file
        before it is.
        """
        first = unpack_record(buffer, 0)
        before = not buffer or (first is not None and first.sequence > self._sequence + 1)
        name = _name(self._job, max(self._number - before, 0))
        raise DamageError(
            f"{self._directory}/{name}: the staging log ends after record {self._sequence} of "
            f"{self._count}; what it was to bring to the secondaries is on the primaries: resync"
        )


def _with(span: Span | None, record: Record) -> Span:
    end, written = record.offset + record.length, record.payload_length
    if span is None:
        return Span(record.offset, end, written)
    return Span(min(span.offset, record.offset), max(span.end, end), span.written_bytes + written)


class StagingArea:
    """The directory of the staging logs. Blocking."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self.directory = directory

    def sink(self, job: str, file_bytes: int, piece_bytes_max: int) -> StagingSink:
        """A new log for a job."""
        return StagingSink(self._disk, self.directory, job, file_bytes, piece_bytes_max)

    def log(self, job: str, pairs: Mapping[int, Pair], count: int) -> StagedLog:
        """A committed log of `count` records, to be applied to these pairs, by number."""
        return StagedLog(self._disk, self.directory, job, pairs, count)

    def apply(
        self, job: str, pairs: Mapping[int, Pair], count: int, sink: Sink, watch: StateNotes
    ) -> dict[Pair, OSError]:
        """Apply a whole log. Returns the pairs whose secondary failed; raises as `StagedLog`."""
        log = self.log(job, pairs, count)
        while not log.is_applied:
            log.step(sink, watch)
        return log.failed

    def remove(self, job: str) -> None:
        """Remove the log of a job, if there is one."""
        for path in self._files_of(job):
            self._disk.remove(path)

    def clear(self, watch: StateNotes) -> None:
        """Remove all logs: no job runs, and what was committed is applied. Each call is noted."""
        with watch.at(StagingCall(self.directory)):
            names = self._names()
        for name in names:
            with watch.at(StagingCall(f"{self.directory}/{name}")):
                self._disk.remove(f"{self.directory}/{name}")

    def _names(self) -> list[str]:
        if not self._disk.exists(self.directory):
            return []
        return sorted(name for name in self._disk.list(self.directory) if name.endswith(".stg"))

    def _files_of(self, job: str) -> list[str]:
        return [f"{self.directory}/{name}" for name in self._names() if name.startswith(f"{job}-")]

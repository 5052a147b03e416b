"""The staging log of a resync by map: what will be on the secondaries, written beside them first.

Files `JOB-NNNN.stg` in one directory, each a sequence of journal records (`journal/format.py`) from byte 0 on, numbered from 1
over all files, the chain running on. It counts only once the journal has the job's COMMIT marker; until then it is rubbish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.errors import DamageError
from duplexd.journal.format import (
    FLAG_ALLOCATE,
    RECORD_HEADER_BYTES,
    WRITE,
    ZERO,
    crc32c,
    pack_record,
)
from duplexd.journal.scan import records
from duplexd.replication.follower import UntouchedError, put

if TYPE_CHECKING:
    from duplexd.core.pair import Pair
    from duplexd.replication.follower import Buffer, Sink
    from duplexd.runtime.disk import Disk, File

PIECE_BYTES_MAX = 4 << 20


class StagingSink:
    """Writes a staging log. Blocking; one caller at a time. OSError (no space) ends the job, not the pair.

    The room that the secondaries will need is taken beforehand: once the log counts, a full disk would leave them half-way.
    """

    moves_secondary = False

    def __init__(self, disk: Disk, directory: str, job: str, file_bytes: int) -> None:
        self._disk = disk
        self._stem = f"{directory}/{job}"
        self._file_bytes = max(file_bytes, PIECE_BYTES_MAX + RECORD_HEADER_BYTES)
        self._files: list[File] = []
        self._position = self._file_bytes
        self._sequence = 0
        self._chain = 0
        disk.make_directory(directory)

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        """See `Sink`. Raises UntouchedError if the secondary has no room for it."""
        _reserve(pair, offset, len(data))
        self._append(WRITE, pair, offset, len(data), data, 0)

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """See `Sink`. Raises UntouchedError if the secondary has no room for it."""
        if allocate:
            _reserve(pair, offset, length)
        self._append(ZERO, pair, offset, length, b"", FLAG_ALLOCATE if allocate else 0)

    def _append(
        self, kind: int, pair: Pair, offset: int, length: int, data: Buffer, flags: int
    ) -> None:
        need = RECORD_HEADER_BYTES + len(data)
        if self._position + need > self._file_bytes:
            path = f"{self._stem}-{len(self._files):04d}.stg"
            self._files.append(self._disk.create(path, self._file_bytes))
            self._position = 0
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
        self._files[-1].writev(self._position, [header, data], need)
        self._position += need
        self._sequence += 1
        self._chain = next_chain

    @property
    def count(self) -> int:
        """How many records it holds."""
        return self._sequence

    def finish(self) -> None:
        """Make it durable and close it."""
        for file in self._files:
            file.sync()
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files = []


def _reserve(pair: Pair, offset: int, length: int) -> None:
    if pair.secondary is not None:
        try:
            pair.secondary.reserve(offset, length)
        except OSError as error:
            raise UntouchedError(
                error.errno, f"{pair.secondary.path}: no room for what changed: {error.strerror}"
            ) from error


def _files_of(disk: Disk, directory: str, job: str) -> list[str]:
    if not disk.exists(directory):
        return []
    return [
        f"{directory}/{name}"
        for name in sorted(disk.list(directory))
        if name.startswith(f"{job}-") and name.endswith(".stg")
    ]


def apply_staging(
    disk: Disk, directory: str, job: str, pairs: dict[int, Pair], count: int, sink: Sink
) -> None:
    """Put a whole staging log of `count` records on the secondaries. Raises SinkError, and DamageError if it is not whole."""
    sequence, chain = 0, 0
    for path in _files_of(disk, directory, job):
        file = disk.open(path)
        try:
            buffer = file.read(0, file.size)
        finally:
            file.close()
        for record in records(buffer, 0, sequence + 1, chain):
            sequence, chain = record.sequence, record.crc
            pair = pairs.get(record.volume)
            if pair is not None:
                put(sink, pair, record, buffer)
    if sequence != count:
        raise DamageError(
            f"{directory}/{job}: the staging log ends at record {sequence} of {count}; resync these volumes anew"
        )


def remove_staging(disk: Disk, directory: str, keep: set[str]) -> None:
    """Remove the files of all jobs but those in `keep`."""
    for name in disk.list(directory) if disk.exists(directory) else []:
        if name.endswith(".stg") and name.rsplit("-", 1)[0] not in keep:
            disk.remove(f"{directory}/{name}")

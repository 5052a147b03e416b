"""A little room on a disk, kept for the moment when the disk is full: one for the next start, one
for the checkpoints of a daemon that runs.

The start of a daemon needs some: a checkpoint is a new file before it replaces the old one, the
journal may need a segment for the markers of the start. If others have filled the disk meanwhile
the volumes would stay down until somebody makes room. So a file of some MiB lies in the state
directory; it is removed when a start meets the full disk, and made again when there is room.

A checkpoint of a running daemon frees journal segments, so without room for one all changes would
be refused until a restart used that reserve. So it has one of its own, and never takes the other.

Considered: `fallocate` (reserves nothing that counts on a compressing or copy-on-write file system,
where each write needs new room), spare copies of the files that are written (two checkpoints in
turn; useless there too). So the file is *written*, with bytes that no file system can compress or
share, and removing it gives that room back everywhere, on ext4 as on btrfs and ZFS. That is a few
milliseconds for each start that has none yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import structlog

from duplexd.runtime import directory, owned
from duplexd.runtime.free_space import free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")

_MODE = 0o600
_CHUNK_BYTES = 1 << 20


class Reserve:
    """The file at `path`. Blocking."""

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """How much is kept; 0 if there is none."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0

    def make(self, size: int) -> None:
        """Keep at least `size` bytes. Raises OSError, that names the file; nothing is kept then.
        What is known to have no place is not begun: others would meet the full disk meanwhile.
        """
        if self.size >= size:
            return
        with owned.naming(self.path):
            free = free_bytes(directory.parent(self.path))
            if free is not None and free + self.size < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fd = owned.open_file(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE)
            try:
                for done in range(0, size, _CHUNK_BYTES):
                    _write(fd, os.urandom(min(_CHUNK_BYTES, size - done)))
                os.fsync(fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
                raise
            finally:
                os.close(fd)
        directory.sync(directory.parent(self.path))

    def release(self) -> bool:
        """Give the room back; whether there was some."""
        if not self.size:
            return False
        directory.remove(self.path)
        return True

    def lend(self, write: Callable[[], None]) -> None:
        """Call `write`; if there is no room for it, once more with what is kept here, which is then
        made again if there is room. Raises what `write` does.
        """
        try:
            write()
        except OSError as error:
            size = self.size
            if error.errno not in NO_ROOM or not self.release():
                raise
            log.warning("no room; the reserve is used", reserve=self.path, error=str(error))
            try:
                write()
            finally:
                with contextlib.suppress(OSError):
                    self.make(size)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]

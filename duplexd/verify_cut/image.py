"""An image that is only read: a secondary may be a backup's source, so nothing here may write.

A path in a certificate is foreign input. It may lead to a pipe, on which an ordinary open would
wait.

What the disk holds is read, not what memory has of it: a block that rots under a cached page would
be found by the first reader after the page is gone, which may be the restore.
"""

from __future__ import annotations

import errno
import os
import stat


class Image:
    """A file or block device. Raises OSError if it can't be opened or synced, or is neither."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "neither a regular file nor a block device", path)
        self.identity = (
            (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else (-1, status.st_rdev)
        )
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            os.fsync(self._fd)  # a dirty page is not dropped
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            self.close()
            raise

    def read(self, start: int, end: int) -> bytes:
        """The bytes of a range. Raises OSError if the image is shorter."""
        buffer = bytearray(end - start)
        view, done = memoryview(buffer), 0
        while done < len(buffer):
            count = os.preadv(self._fd, [view[done:]], start + done)
            if count == 0:
                raise OSError(errno.EIO, "ends early", self.path)
            done += count
        return bytes(buffer)

    def next_data(self, start: int) -> int:
        """Offset of the next byte that may be other than zero; the size if there is none.

        `start` itself where the file system does not report holes.
        """
        if start >= self.size:
            return self.size
        try:
            return os.lseek(self._fd, start, os.SEEK_DATA)
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else start

    def data_bytes(self, start: int, end: int) -> int:
        """How many bytes of a range are not in a hole."""
        found = 0
        while (start := self.next_data(start)) < end:
            stop = min(self._next_hole(start), end)
            found += stop - start
            start = stop
        return found

    def _next_hole(self, start: int) -> int:
        try:
            return os.lseek(self._fd, start, os.SEEK_HOLE)
        except OSError:
            return self.size

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

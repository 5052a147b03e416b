"""An image that is only looked at: no lock is taken, and nothing on it can change.

The daemon opens an image for itself alone, to write to it. Who only wants to know what a start
would find must not be in the way of that start, and may not be allowed to write.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import TYPE_CHECKING, Self

from duplexd.runtime.stamp import read_mark, stamp

if TYPE_CHECKING:
    from types import TracebackType

    from duplexd.runtime.stamp import Stamp


class ReadOnlyImage:
    """The file or block device at `path`, open within a `with`. Raises OSError."""

    def __init__(self, path: str) -> None:
        self.path = path
        # a pipe would wait for its other end
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        mode = os.fstat(self._fd).st_mode
        self._is_block = modes.S_ISBLK(mode)
        if not self._is_block and not modes.S_ISREG(mode):
            os.close(self._fd)
            raise OSError(errno.EINVAL, "neither a file nor a block device", path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def stamp(self) -> Stamp:
        """Which file or device it is, its size, and when it was last modified."""
        return stamp(self._fd, self._is_block)

    def read_mark(self) -> bytes:
        """The mark that it carries; b"" if none."""
        return read_mark(self._fd)

    def read_into(self, offset: int, buffer: memoryview, /) -> None:
        """Fill the whole buffer."""
        while buffer:
            done = os.preadv(self._fd, [buffer], offset)
            if not done:
                raise OSError(errno.EIO, "the image ends before that", self.path)
            offset, buffer = offset + done, buffer[done:]

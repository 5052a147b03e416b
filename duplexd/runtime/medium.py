"""Reading what a disk holds, and not what memory holds of it.

O_DIRECT goes past the page cache and leaves it as it is: clients that have their data there notice
nothing, and nothing is copied twice. The alternative is to drop the pages first. Then clients wait
for the disk, and readahead brings back large folios, which make small writes slow (`machine.py`).
It is used only where there is no O_DIRECT.

The file is opened for each read: 10 us beside a millisecond, and a thousand images keep their
descriptors for themselves. The lock of an image belongs to the descriptor that it was taken with,
so this close does not give it up.

Such a read needs memory that begins with a page, hence `Aligned`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

# The file system, no /proc, a sandbox; or no descriptor is left, which says nothing of the disk
_REFUSED = frozenset(
    {
        errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EMFILE,
        errno.ENFILE,
    }
)  # fmt: skip
_memcmp = ctypes.CDLL(None).memcmp  # gives up the GIL
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def read_direct(fd: int, offset: int, buffer: memoryview) -> bool:
    """Fill the buffer from the disk of an open file; False if that is not possible there. What is
    dirty in memory is written first. Raises OSError, EIO past the end.
    """
    try:
        direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        raise
    try:
        done = os.preadv(direct, [buffer], offset)
    except OSError as error:
        if error.errno == errno.EINVAL:  # offset, length or memory are not aligned enough
            return False
        raise
    finally:
        os.close(direct)
    if done != len(buffer):
        raise OSError(errno.EIO, "read past the end")
    return True


class Aligned:
    """A buffer of whole pages."""

    __slots__ = ("_address", "view")

    def __init__(self, size: int) -> None:
        memory = mmap.mmap(-1, size)
        self.view = memoryview(memory)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def equals(self, other: Aligned, length: int) -> bool:
        """Whether the first `length` bytes of both are the same."""
        return bool(_memcmp(self._address, other._address, length) == 0)

"""What the kernel could not write to a disk, and what it still has in memory.

A write goes to the page cache and succeeds. The kernel writes the pages later, by itself, and if
the disk refuses them then, it calls them clean all the same: they are dropped when memory is
wanted, and the next read returns what the disk had before. Only a sync says that something was
lost, so what is read from a disk counts only if nothing had been lost by then. sync_file_range(2)
says it at once: for a range beyond the end there is nothing to write or to wait for.

The kernel reports a loss once to each descriptor, to whoever asks first.
"""

from __future__ import annotations

import ctypes
import errno
import os

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_BEYOND = 1 << 62  # the end of any file
# Pipes, odd file systems, sandboxes: the next sync says it, as ever
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EPERM, errno.ESPIPE, errno.EINVAL})


class LostWritesError(OSError):
    """The disk has not taken writes that had succeeded. Which ones is not known."""


_ask = ctypes.PyDLL(None, use_errno=True).sync_file_range  # keeps the GIL: it does not wait
_wait = ctypes.CDLL(None, use_errno=True).sync_file_range
for _function in (_ask, _wait):
    _function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    _function.restype = ctypes.c_int


def find_loss(fd: int) -> OSError | None:
    """What was lost since the last time that this descriptor was asked or synced. Does not wait."""
    return _error(_ask(fd, _BEYOND, 1, _WAIT_BEFORE))


def write_back(fd: int, offset: int, length: int) -> OSError | None:
    """Write a range to the disk, and drop its pages, so that they are read from there. Blocking.

    Not a sync: the disk may have it in a cache of its own.
    """
    loss = _error(_wait(fd, offset, length, _WAIT_BEFORE | _WRITE | _WAIT_AFTER))
    if loss is None:
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
    return loss


def _error(result: int) -> OSError | None:
    code = ctypes.get_errno() if result else 0
    if not code or code in _UNSUPPORTED:
        return None
    return LostWritesError(code, f"the disk has lost writes: {os.strerror(code)}")

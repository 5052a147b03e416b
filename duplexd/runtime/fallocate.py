"""fallocate(2): punch holes, zero ranges, reserve space.

By way of ctypes, because the standard library has only posix_fallocate, which falls back to writing
zeroes without saying so. ctypes gives up the GIL while the call runs: a large hole can take
seconds.
"""

from __future__ import annotations

import ctypes
import errno
import os

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

_libc = ctypes.CDLL(None, use_errno=True)
# glibc on 32-bit machines has a 64-bit variant beside the plain one; elsewhere the plain one takes
# 64-bit offsets.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    """True when done, False when the kernel or the file system cannot do this at all. Raises
    OSError for anything else.
    """
    while _fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code in UNSUPPORTED:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True

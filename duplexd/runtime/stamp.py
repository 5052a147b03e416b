"""What the kernel says of an open image, beside its content: place, size, time, and the mark that
it carries as an extended attribute.

Extended attributes of users exist on regular files only, and not on every file system; where there
are none, an image carries no mark. A mark is small, so the file system keeps it in the inode.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

_MARK = "user.duplexd.image"
# no such attribute; no attributes here; the file system, or a security module, does not allow them
_NONE = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES})
# the attributes of this file are too large for its file system: as good as not supported
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE})


DEVICE = "device "  # the place of one begins with this


class Stamp(NamedTuple):
    """`place` names the file or device on this machine, for comparison only. `mtime_ns` is 0 for a
    device: the time of its node has nothing to do with its content.
    """

    place: str
    size: int
    mtime_ns: int

    @property
    def device(self) -> str:
        """What it lies on: the images of one file system have this in common."""
        return self.place if self.place.startswith(DEVICE) else self.place.rpartition(":")[0]


def stamp(fd: int, is_block: bool) -> Stamp:
    """Of an open image. Raises OSError."""
    found = os.fstat(fd)
    if is_block:
        major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        return Stamp(f"{DEVICE}{major}:{minor}", os.lseek(fd, 0, os.SEEK_END), 0)
    return Stamp(f"file {found.st_dev}:{found.st_ino}", found.st_size, found.st_mtime_ns)


def read_mark(image: int | str) -> bytes:
    """The mark of an open image, or of what lies at a path; b"" where there is none. Raises
    OSError.
    """
    try:
        return os.getxattr(image, _MARK)
    except OSError as error:
        if error.errno in _NONE:
            return b""
        raise


def write_mark(fd: int, mark: bytes, durable: bool) -> bool:
    """Write the mark. False where an image cannot carry one. Raises OSError."""
    try:
        os.setxattr(fd, _MARK, mark)
    except OSError as error:
        if error.errno in _NONE or error.errno in _NO_ROOM:
            return False
        raise
    if durable:
        os.fsync(fd)
    return True

"""What room a file has: on which file system it lies, what it lacks of its size, what is free.

Blocking, and a path on a disk that hangs hangs with it: to be called in a worker with a time-out.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system has


class Room(NamedTuple):
    """`device` 0: a block device. `missing_bytes`: what it takes to write all of a sparse file.
    `free_bytes`: of the file system, for users without privileges; None if it does not say.
    """

    device: int
    missing_bytes: int
    free_bytes: int | None


def room_of(path: str) -> Room:
    """Raises OSError."""
    found = os.stat(path)
    if stat.S_ISBLK(found.st_mode):
        return Room(0, 0, 0)
    missing = 0
    if stat.S_ISREG(found.st_mode):
        missing = max(0, found.st_size - found.st_blocks * _BLOCK_BYTES)
    return Room(found.st_dev, missing, free_bytes(path))


def free_bytes(path: str) -> int | None:
    """Of the file system of a path; None if it does not say. One that reports to have no blocks at
    all, as some of FUSE do, is not full. Raises OSError.
    """
    found = os.statvfs(path)
    return None if found.f_blocks == 0 else found.f_bavail * found.f_frsize

"""A few bytes in a file that outlives the process, but not the machine: mapped, so that a store
into them costs no call, and in a file system without a disk, so that no disk loses them.

Elsewhere there is none: a file on a disk may come back as it was, like what it is to vouch for.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat

from duplexd.runtime import owned
from duplexd.runtime.machine import is_memory_now

_MODE = 0o600


class TallyFile:
    """At `path`. Blocking."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, size: int) -> bytes:
        """What an earlier process left there; b"" unless it is a file of that size, of our user
        alone, in memory.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError), owned.directory_of(self._path) as (above, name):
            fd = os.open(name, flags, dir_fd=above)
            try:
                if _is_ours(os.fstat(fd), size):
                    return os.pread(fd, size + 1, 0)
            finally:
                os.close(fd)
        return b""

    def begin(self, content: bytes) -> memoryview | None:
        """Replace it, in one step; the bytes of the new one, which are in the file as soon as they
        are stored. None, and the old one stays, where that is not possible.
        """
        try:
            with owned.directory_of(self._path) as (above, name):
                if not is_memory_now(os.fstat(above).st_dev):
                    return None
                return _mapped(above, name, content)
        except OSError:
            return None


def _mapped(above: int, name: str, content: bytes) -> memoryview:
    fresh = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=above)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(fresh, flags, _MODE, dir_fd=above)
    try:
        # This takes the memory, so that no store fails later
        if os.pwrite(fd, content, 0) != len(content):
            raise OSError("no room")
        mapped = mmap.mmap(fd, len(content))
        os.replace(fresh, name, src_dir_fd=above, dst_dir_fd=above)
    finally:
        os.close(fd)
    return memoryview(mapped)


def _is_ours(found: os.stat_result, size: int) -> bool:
    alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size == size
    private = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == _MODE
    return alone and private and is_memory_now(found.st_dev)

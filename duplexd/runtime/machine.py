"""What this machine can do with an open file, found out without changing any content or leaving
anything behind.

Asked once for each file, when it is opened: the answer decides which calls are tried at all, and a
call that fails each time costs more than none.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
import sys
from functools import lru_cache
from pathlib import Path

from duplexd.runtime.fallocate import KEEP_SIZE, PUNCH_HOLE, fallocate

_PROBE_BYTES = 4096
# statx(2), by way of ctypes, because the standard library does not have it: a mount's number that
# is never used again while the machine is up, from Linux 6.8 on
_AT_FDCWD = -100
_STATX_BYTES = 256
_STATX_MNT_ID_UNIQUE = 0x4000
_MNT_ID_AT = 144
_LARGE_FOLIOS_FROM = (6, 16)  # the release of Linux since which ext4 has them
_FOLIO_BYTES = 32 << 10
_PUNCHING_FILE_SYSTEMS = frozenset({"ext4", "xfs", "btrfs", "f2fs", "tmpfs"})
_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "hugetlbfs", "devtmpfs"})


def punches(fd: int, size: int, is_block: bool) -> bool:
    """Whether holes can be punched. Of a file whose file system is not known to be able to, a hole
    past its end is asked for, where nothing is; a device's queue is looked up.

    Even such a hole changes the time of the last modification, by which a start recognises an image
    that nobody else wrote to; so the time is put back.
    """
    found = os.fstat(fd)
    if is_block:
        return queue_punches(found.st_rdev)
    if _file_system(found.st_dev) in _PUNCHING_FILE_SYSTEMS:
        return True
    past_end = -(-size // _PROBE_BYTES) * _PROBE_BYTES
    try:
        return fallocate(fd, PUNCH_HOLE | KEEP_SIZE, past_end, _PROBE_BYTES)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):  # not ours
            os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))


def queue_punches(device: int, sys: Path = Path("/sys/dev/block")) -> bool:
    """Whether a block device discards, and zeroes without being sent zeroes."""
    node = (sys / f"{os.major(device)}:{os.minor(device)}").resolve()
    for queue in (node / "queue", node.parent / "queue"):  # a partition's queue is its disk's
        try:
            return all(
                int((queue / name).read_text()) > 0
                for name in ("discard_max_bytes", "write_zeroes_max_bytes")
            )
        except (OSError, ValueError):
            continue
    return False


def mount(path: str) -> str:
    """Names the mount of the file system that a path is on, on this boot: it differs once that was
    mounted anew, and in another mount namespace. "" where the kernel does not say.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "statx"):
        return ""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if libc.statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_MNT_ID_UNIQUE, found) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EINVAL):
            return ""
        raise OSError(code, os.strerror(code), path)
    mask = int.from_bytes(found.raw[:4], sys.byteorder)
    if not mask & _STATX_MNT_ID_UNIQUE:
        return ""
    return str(int.from_bytes(found.raw[_MNT_ID_AT : _MNT_ID_AT + 8], sys.byteorder))


def in_memory(fd: int) -> bool:
    """Whether the file lives in a file system that has no disk below it, so that no read of it can
    wait for one.
    """
    return _file_system(os.fstat(fd).st_dev) in _MEMORY_FILE_SYSTEMS


def is_memory(device: int) -> bool:
    """The same of a file system, by its `st_dev`: a restart of the machine empties it."""
    return _file_system(device) in _MEMORY_FILE_SYSTEMS


def at_once_bytes_max(fd: int) -> int:
    """How much to write to a file in one call, so that later small writes there are fast.

    The page cache keeps a write as one piece of memory, a folio, and ext4 walks all blocks of a
    folio for each later write into it: 4 KiB take 2.7 us in folios of 32 KiB, 4.2 us in 64 KiB, and
    13 us in 1 MiB. 1 MiB in pieces of 32 KiB takes 0.20 ms, in one 0.18 ms, and each piece gives up
    the GIL. So what has its folios already (`page_cache.py`) is written in one.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        return sys.maxsize
    return folio_bytes_max(_file_system(found.st_dev), os.uname().release)


def folio_bytes_max(file_system: str, release: str) -> int:
    """The same, by the type of the file system and the release of the kernel."""
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    large = file_system == "ext4" and version >= _LARGE_FOLIOS_FROM
    return _FOLIO_BYTES if large else sys.maxsize


def is_memory_now(device: int) -> bool:
    """The same, without what is remembered of devices: another file system may have that number by
    now.
    """
    return _find_file_system(device) in _MEMORY_FILE_SYSTEMS


@lru_cache(maxsize=256)
def _file_system(device: int) -> str:
    return _find_file_system(device)


def _find_file_system(device: int) -> str:
    """The type of the file system with that `st_dev`; "" if that is not known."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, file_system = line.partition(" - ")
        if before.split()[2] == wanted:
            return file_system.split()[0]
    return ""

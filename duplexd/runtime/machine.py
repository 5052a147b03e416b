"""What this machine can do with an open file, found out without changing any content or leaving
anything behind.

Asked once for each file, when it is opened: the answer decides which calls are tried at all, and a
call that fails each time costs more than none.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from duplexd.runtime.fallocate import KEEP_SIZE, PUNCH_HOLE, fallocate

_PROBE_BYTES = 4096
_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "hugetlbfs", "devtmpfs"})


def punches(fd: int, size: int, is_block: bool) -> bool:
    """Whether holes can be punched. A file is asked for a hole past its end, where nothing is; a
    device's queue is looked up.
    """
    if is_block:
        return queue_punches(os.fstat(fd).st_rdev)
    past_end = -(-size // _PROBE_BYTES) * _PROBE_BYTES
    try:
        return fallocate(fd, PUNCH_HOLE | KEEP_SIZE, past_end, _PROBE_BYTES)
    except OSError:
        return False


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


def in_memory(fd: int) -> bool:
    """Whether the file lives in a file system that has no disk below it, so that no read of it can
    wait for one.
    """
    return _device_in_memory(os.fstat(fd).st_dev)


@lru_cache(maxsize=256)
def _device_in_memory(device: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        mount, _, file_system = line.partition(" - ")
        if mount.split()[2] == wanted:
            return file_system.split()[0] in _MEMORY_FILE_SYSTEMS
    return False

"""How much more the disk takes, in blocks that have nothing yet: a full disk still overwrites.

Which blocks of a file have space is kept here, because file systems below say it in different ways
(reserved space is a hole to SEEK_DATA, and st_blocks does not say which).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

BLOCK_BYTES = 4096


@dataclass
class Room:
    """Bytes left for the whole disk, None without a limit. The caller holds its lock."""

    left: int | None = None

    def take(self, blocks: bytearray, offset: int, length: int) -> None:
        """Give the range space, or ENOSPC with nothing changed."""
        first, end = offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)
        if len(blocks) < end:
            blocks.extend(bytes(end - len(blocks)))
        if self.left is not None:
            wanted = blocks.count(0, first, end) * BLOCK_BYTES
            if wanted > self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= wanted
        blocks[first:end] = b"\1" * (end - first)

    def give(self, blocks: bytearray, offset: int, end: int) -> None:
        """Take back the space of the whole blocks in a range."""
        first = -(-offset // BLOCK_BYTES)
        last = min(end // BLOCK_BYTES, len(blocks))
        if first >= last:
            return
        if self.left is not None:
            self.left += blocks.count(1, first, last) * BLOCK_BYTES
        blocks[first:last] = bytes(last - first)


def blocks_of(fd: int) -> bytearray:
    """The map of a file that was there before: what has data has space."""
    size = os.fstat(fd).st_size
    blocks = bytearray(-(-size // BLOCK_BYTES))
    offset = 0
    while offset < size:
        try:
            data = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:
            break
        offset = os.lseek(fd, data, os.SEEK_HOLE)
        first, end = data // BLOCK_BYTES, -(-offset // BLOCK_BYTES)
        blocks[first:end] = b"\1" * (end - first)
    return blocks

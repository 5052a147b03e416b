"""Which image cannot be read, and where: one text for all who read whole ranges.

A read of a megabyte that fails says nothing of where; the operator who has to decide between
another disk and a single sector wants the block.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.images.leg import Leg

BLOCK_BYTES = 4096


class UnreadableError(OSError):
    """The block at `offset` of an image cannot be read. The text names the image and the offset."""

    offset = 0


def read(leg: Leg, offset: int, length: int) -> bytearray:
    """Bytes of an image. What fails as a whole is tried once more, block by block.

    Raises UnreadableError for the first block that cannot be read.
    """
    data = bytearray(length)
    try:
        leg.read_into(offset, memoryview(data))
    except OSError:
        for at in range(0, length, BLOCK_BYTES):
            _read_block(leg, offset + at, memoryview(data)[at : at + BLOCK_BYTES])
    return data


def _read_block(leg: Leg, offset: int, block: memoryview) -> None:
    try:
        leg.read_into(offset, block)
    except OSError as error:
        why = error.strerror or str(error)
        text = f"{leg.path}: cannot be read at offset {offset}: {why}"
        unreadable = UnreadableError(error.errno or errno.EIO, text, leg.path)
        unreadable.offset = offset
        raise unreadable from error

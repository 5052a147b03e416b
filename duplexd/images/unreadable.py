"""Which image cannot be read, and where: one text for all who read whole ranges.

A read of a megabyte that fails says nothing of where; the operator who has to decide between
another disk and a single sector wants the block.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.images.leg import Leg

BLOCK_BYTES = 4096


class UnreadableError(OSError):
    """The block at `offset` of an image cannot be read. The text names the image and the offset."""

    offset = 0


def read(
    leg: Leg, offset: int, length: int, take: Callable[[int], bytearray] = bytearray
) -> bytearray:
    """Bytes of an image, in a buffer that `take` gives. What fails as a whole is tried once more,
    block by block.

    Raises UnreadableError for the first block that cannot be read.
    """
    data = take(length)
    _fill(leg, leg.read_into, offset, memoryview(data))
    return data


def read_medium(leg: Leg, offset: int, buffer: memoryview) -> None:
    """The same from the disk, into a buffer."""
    _fill(leg, leg.read_medium, offset, buffer)


def _fill(
    leg: Leg, read_into: Callable[[int, memoryview], None], at: int, into: memoryview
) -> None:
    try:
        read_into(at, into)
    except OSError:
        for start in range(0, len(into), BLOCK_BYTES):
            block = into[start : start + BLOCK_BYTES]
            try:
                read_into(at + start, block)
            except OSError as error:
                raise _unreadable(leg, at + start, error) from error


def _unreadable(leg: Leg, offset: int, error: OSError) -> UnreadableError:
    why = error.strerror or str(error)
    text = f"{leg.path}: cannot be read at offset {offset}: {why}"
    unreadable = UnreadableError(error.errno or errno.EIO, text, leg.path)
    unreadable.offset = offset
    return unreadable

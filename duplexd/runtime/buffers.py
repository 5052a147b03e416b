"""Large buffers that are used again once nothing refers to them.

Python fills a new bytearray with zeroes, and malloc may take its memory from the kernel page by
page: for 1 MiB about 100 us, of 600 that a read of it takes in all. So some are kept.

Nobody gives a buffer back. It may wait, as a view, to be sent; and the thread of a read that hung
and was given up fills its own at any later time. The reference count knows all of that: a buffer
that is referred to by this file alone is free. Only buffers of one size are kept, the last one that
was asked for, because a client that reads or writes much does so in equal pieces.
"""

from __future__ import annotations

import threading
from sys import getrefcount

KEPT_BYTES_MIN = 128 << 10  # smaller ones are as fast new
_FREE = 2  # references: in the list, and to ask


class Buffers:
    """Keeps at most `bytes_max` of buffers, used or not. May be used by any thread."""

    __slots__ = ("_bytes_max", "_kept", "_lock", "_size")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: list[bytearray] = []
        self._lock = threading.Lock()
        self._size = 0  # of each

    def take(self, size: int) -> bytearray:
        """A buffer with any content."""
        if not KEPT_BYTES_MIN <= size <= self._bytes_max:
            return bytearray(size)
        with self._lock:
            kept = self._kept
            if size != self._size:
                self._size = size
                kept.clear()
            for at in range(len(kept)):
                if getrefcount(kept[at]) == _FREE:
                    return kept[at]
            made = bytearray(size)
            if (len(kept) + 1) * size <= self._bytes_max:
                kept.append(made)
            return made

    def clear(self) -> None:
        """Keep none for now."""
        with self._lock:
            self._kept.clear()

"""A leg in memory, for tests and trials: it holds what it was given until it is closed."""

from __future__ import annotations

import errno
from sys import maxsize
from typing import TYPE_CHECKING

from duplexd.runtime.stamp import Stamp

if TYPE_CHECKING:
    from duplexd.backend import Pages
    from duplexd.runtime.disk import Data


class MemoryLeg:
    """See `Leg`. `data` is the content; `syncs` counts `sync` calls."""

    __slots__ = ("closed", "data", "device", "is_block", "mark", "path", "size", "syncs")

    can_punch = True

    def __init__(self, size: int, path: str = "memory") -> None:
        self.path = path
        self.size = size
        self.is_block, self.device = False, ""
        self.data = bytearray(size)
        self.mark = b""
        self.syncs = 0
        self.closed = False

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = self._end(offset, len(buffer))
        buffer[:] = memoryview(self.data)[offset:end]

    def read_medium(self, offset: int, buffer: memoryview) -> None:
        self.read_into(offset, buffer)

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        self.read_into(offset, buffer)
        return True

    def put_pages(self, offset: int, length: int, pipe: Pages) -> bool:
        return pipe.put(memoryview(self.data)[offset : self._end(offset, length)])

    def has_lost_writes(self) -> bool:
        return False

    def write(self, offset: int, data: Data) -> None:
        self.data[offset : self._end(offset, len(data))] = data

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        self.data[offset : self._end(offset, length)] = bytes(length)

    def resize(self, size: int) -> None:
        self._end(0, 0)
        kept = self.data[: min(self.size, size)]
        self.data[:] = kept + bytes(size - len(kept))
        self.size = size

    def reserve(self, offset: int, length: int) -> None:
        self._end(offset, length)

    def extents(
        self, offset: int, length: int, _count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        self._end(offset, length)
        return [(offset, length, True)] if length else []

    def write_back(self, offset: int, length: int) -> None:
        self._end(offset, length)

    def write_out(self, offset: int, length: int) -> None:
        self._end(offset, length)

    def sync(self, times: bool = False) -> None:
        self._end(0, 0)
        self.syncs += 1

    def drop_cache(self) -> None:
        pass

    def stamp(self) -> Stamp:
        self._end(0, 0)
        return Stamp("memory", self.size, 0)

    def read_mark(self) -> bytes:
        return self.mark

    def write_mark(self, mark: bytes, durable: bool) -> bool:
        self.mark = mark
        return True

    def in_place(self, path: str = "") -> bool:
        return not self.closed

    def close(self) -> None:
        self.closed = True

    def _end(self, offset: int, length: int) -> int:
        if self.closed:
            raise OSError(errno.EBADF, "closed", self.path)
        if offset < 0 or offset + length > self.size:
            raise OSError(errno.EIO, "past the end", self.path)
        return offset + length

"""A leg of which some blocks cannot be read until they are written to, as on a disk."""

from __future__ import annotations

import errno
from sys import maxsize
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.backend import Pages
    from duplexd.images.leg import Leg
    from duplexd.runtime.disk import Data
    from duplexd.runtime.stamp import Stamp

BLOCK = 4096


class BadSectors:
    """See `Leg`. `bad` are offsets of blocks."""

    __slots__ = ("_leg", "bad", "device", "is_block", "path", "size")

    def __init__(self, leg: Leg, *bad: int) -> None:
        self._leg = leg
        self.bad = set(bad)
        self.path = leg.path
        self.size = leg.size
        self.is_block, self.device = leg.is_block, leg.device

    @property
    def can_punch(self) -> bool:
        return self._leg.can_punch

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if any(offset < at + BLOCK and at < offset + len(buffer) for at in self.bad):
            raise OSError(errno.EIO, "Input/output error")
        self._leg.read_into(offset, buffer)

    def read_medium(self, offset: int, buffer: memoryview) -> None:
        self.read_into(offset, buffer)

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        self.read_into(offset, buffer)
        return True

    def put_pages(self, offset: int, length: int, pipe: Pages) -> bool:
        buffer = memoryview(bytearray(length))
        return self.read_cached(offset, buffer) and pipe.put(buffer)

    def has_lost_writes(self) -> bool:
        return self._leg.has_lost_writes()

    def write(self, offset: int, data: Data) -> None:
        self._leg.write(offset, data)
        self.bad -= {at for at in self.bad if offset <= at and at + BLOCK <= offset + len(data)}

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        self._leg.zero(offset, length, allocate)

    def resize(self, size: int) -> None:
        self._leg.resize(size)
        self.size = size

    def reserve(self, offset: int, length: int) -> None:
        self._leg.reserve(offset, length)

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        return self._leg.extents(offset, length, count_max)

    def write_back(self, offset: int, length: int) -> None:
        self._leg.write_back(offset, length)

    def write_out(self, offset: int, length: int) -> None:
        self._leg.write_out(offset, length)

    def sync(self, times: bool = False) -> None:
        self._leg.sync(times)

    def drop_cache(self) -> None:
        self._leg.drop_cache()

    def stamp(self) -> Stamp:
        return self._leg.stamp()

    def read_mark(self) -> bytes:
        return self._leg.read_mark()

    def write_mark(self, mark: bytes, durable: bool) -> bool:
        return self._leg.write_mark(mark, durable)

    def in_place(self, path: str = "") -> bool:
        return self._leg.in_place()

    def close(self) -> None:
        self._leg.close()

"""A leg in memory of any size, that keeps only the pages that were written to."""

from __future__ import annotations

import errno
from sys import maxsize
from typing import TYPE_CHECKING

from duplexd.runtime.stamp import Stamp

if TYPE_CHECKING:
    from duplexd.backend import Pages
    from duplexd.runtime.disk import Data

PAGE = 4096


class SparseLeg:
    """See `Leg`. Offsets and lengths are whole pages. `pages` by number; `read_bytes` counts what
    was read, holes too.
    """

    __slots__ = ("device", "is_block", "pages", "path", "read_bytes", "size")

    can_punch = True

    def __init__(self, size: int, path: str = "memory") -> None:
        self.path = path
        self.size = size
        self.is_block, self.device = False, ""
        self.pages: dict[int, bytes] = {}
        self.read_bytes = 0

    @property
    def content(self) -> dict[int, bytes]:
        """The pages that are not zeroes."""
        return {page: data for page, data in self.pages.items() if any(data)}

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.read_bytes += len(buffer)
        buffer[:] = bytes(len(buffer))
        for page in self._in(offset, len(buffer)):
            at = page * PAGE - offset
            buffer[at : at + PAGE] = self.pages[page]

    def read_medium(self, offset: int, buffer: memoryview) -> None:
        self.read_into(offset, buffer)

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        self.read_into(offset, buffer)
        return True

    def put_pages(self, offset: int, length: int, pipe: Pages) -> bool:
        buffer = memoryview(bytearray(length))
        return self.read_cached(offset, buffer) and pipe.put(buffer)

    def has_lost_writes(self) -> bool:
        return False

    def write(self, offset: int, data: Data) -> None:
        self._check(offset, len(data))
        for at in range(0, len(data), PAGE):
            self.pages[(offset + at) // PAGE] = bytes(data[at : at + PAGE])

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        for page in self._in(offset, length):
            del self.pages[page]

    def resize(self, size: int) -> None:
        self.pages = {page: data for page, data in self.pages.items() if page * PAGE < size}
        self.size = size

    def reserve(self, offset: int, length: int) -> None:
        self._check(offset, length)

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        found: list[tuple[int, int, bool]] = []
        at, end = offset, offset + length
        for page in self._in(offset, length):
            if len(found) >= count_max:
                return found
            if page * PAGE > at:
                found.append((at, page * PAGE - at, False))
            found.append((page * PAGE, PAGE, True))
            at = (page + 1) * PAGE
        if at < end:
            found.append((at, end - at, False))
        return found

    def write_back(self, _offset: int, _length: int) -> None:
        pass

    def write_out(self, _offset: int, _length: int) -> None:
        pass

    def sync(self, times: bool = False) -> None:
        pass

    def in_place(self, path: str = "") -> bool:
        return True

    def drop_cache(self) -> None:
        pass

    def stamp(self) -> Stamp:
        return Stamp("memory", self.size, 0)

    def read_mark(self) -> bytes:
        return b""

    def write_mark(self, _mark: bytes, durable: bool) -> bool:
        return False

    def close(self) -> None:
        pass

    def _in(self, offset: int, length: int) -> list[int]:
        """The pages of a range that are there."""
        self._check(offset, length)
        first, stop = offset // PAGE, (offset + length) // PAGE
        return sorted(page for page in self.pages if first <= page < stop)

    def _check(self, offset: int, length: int) -> None:
        if offset % PAGE or length % PAGE:
            raise OSError(errno.EINVAL, "not whole pages", self.path)
        if offset < 0 or offset + length > self.size:
            raise OSError(errno.EIO, "past the end", self.path)

"""A leg that is not there: its image is missing, foreign, locked, hung, or of another size.

With it a pair always has its legs, so no code asks whether one is there: whatever is done to an
absent leg fails like a disk that fails, with the reason, and takes the path of such an error.
"""

from __future__ import annotations

import errno
from sys import maxsize
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from duplexd.backend import Pages
    from duplexd.runtime.disk import Data
    from duplexd.runtime.stamp import Stamp


class AbsentLeg:
    """See `Leg`. Methods raise OSError EIO with `why`; only `close` does nothing, and those that
    ask something of the image find nothing good of it.
    """

    __slots__ = ("busy", "device", "is_block", "path", "settled", "short", "size", "why")

    can_punch = True  # it does not decide what a trim does to the other leg

    def __init__(self, path: str, size: int, why: str) -> None:
        self.path = path
        self.size = size
        self.why = why
        self.is_block, self.device = False, ""
        self.busy = False  # a thread that hangs may still write to the image
        self.settled = False  # what is recorded of the image allows for all that may be on it
        self.short = ""  # which file was found there that is too short: its end was lost

    def read_into(self, _offset: int, _buffer: memoryview) -> None:
        self._fail()

    def read_medium(self, _offset: int, _buffer: memoryview) -> None:
        self._fail()

    def read_cached(self, _offset: int, _buffer: memoryview) -> bool:
        self._fail()

    def put_pages(self, _offset: int, _length: int, _pipe: Pages) -> bool:
        self._fail()

    def has_lost_writes(self) -> bool:
        return True

    def write(self, _offset: int, _data: Data) -> None:
        self._fail()

    def zero(self, _offset: int, _length: int, allocate: bool) -> None:  # noqa: ARG002
        self._fail()

    def resize(self, _size: int) -> None:
        self._fail()

    def reserve(self, _offset: int, _length: int) -> None:
        self._fail()

    def extents(
        self, _offset: int, _length: int, _count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        self._fail()

    def write_back(self, _offset: int, _length: int) -> None:
        self._fail()

    def write_out(self, _offset: int, _length: int) -> None:
        self._fail()

    def sync(self, times: bool = False) -> None:  # noqa: ARG002
        self._fail()

    def drop_cache(self) -> None:
        self._fail()

    def stamp(self) -> Stamp:
        self._fail()

    def read_mark(self) -> bytes:
        self._fail()

    def write_mark(self, _mark: bytes, durable: bool) -> bool:  # noqa: ARG002
        self._fail()

    def in_place(self, path: str = "") -> bool:  # noqa: ARG002
        return False

    def close(self) -> None:
        """Nothing is open."""

    def _fail(self) -> NoReturn:
        raise OSError(errno.EIO, self.why)

"""Legs as a worker uses them that makes many calls, one after the other: each is noted in a watch.

So the loop sees in which call on which leg the worker hangs, and the code that reads, compares and
copies needs to know nothing of it: it is given legs.
"""

from __future__ import annotations

from sys import maxsize
from typing import TYPE_CHECKING

from duplexd.core.patience import PRIMARY, SECONDARY, SYNC, Access, Waited
from duplexd.runtime.buffers import Buffers
from duplexd.runtime.watch import Watch

if TYPE_CHECKING:
    from duplexd.backend import Pages
    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg
    from duplexd.runtime.disk import Data
    from duplexd.runtime.stamp import Stamp


_BUFFERS_BYTES_MAX = 2 << 20  # a part of a copy, and what it is compared with


class WatchedLeg:
    """See `Leg`. Raises GivenUp when a call returns after the loop has gone on without it."""

    __slots__ = ("_leg", "_pair", "_use", "_watch", "device", "is_block", "path", "size")

    def __init__(self, pair: Pair, leg: Leg, use: str, watch: Watch[Waited]) -> None:
        self._pair = pair
        self._leg = leg
        self._use = use
        self._watch = watch
        self.path = leg.path
        self.size = leg.size
        self.is_block, self.device = leg.is_block, leg.device

    @property
    def can_punch(self) -> bool:
        return self._leg.can_punch

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            self._leg.read_into(offset, buffer)

    def read_medium(self, offset: int, buffer: memoryview) -> None:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            self._leg.read_medium(offset, buffer)

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        return self._leg.read_cached(offset, buffer)

    def put_pages(self, offset: int, length: int, pipe: Pages) -> bool:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            return self._leg.put_pages(offset, length, pipe)

    def has_lost_writes(self) -> bool:
        return self._leg.has_lost_writes()

    def write(self, offset: int, data: Data) -> None:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            self._leg.write(offset, data)

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            self._leg.zero(offset, length, allocate)

    def resize(self, size: int) -> None:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            self._leg.resize(size)
        self.size = size

    def reserve(self, offset: int, length: int) -> None:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            self._leg.reserve(offset, length)

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            return self._leg.extents(offset, length, count_max)

    def write_back(self, offset: int, length: int) -> None:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            self._leg.write_back(offset, length)

    def write_out(self, offset: int, length: int) -> None:
        with self._watch.at(Access(self._pair, self._leg, SYNC)):
            self._leg.write_out(offset, length)

    def sync(self, times: bool = False) -> None:
        with self._watch.at(Access(self._pair, self._leg, SYNC)):
            self._leg.sync(times)

    def drop_cache(self) -> None:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            self._leg.drop_cache()

    def stamp(self) -> Stamp:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            return self._leg.stamp()

    def read_mark(self) -> bytes:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            return self._leg.read_mark()

    def write_mark(self, mark: bytes, durable: bool) -> bool:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            return self._leg.write_mark(mark, durable)

    def in_place(self, path: str = "") -> bool:
        with self._watch.at(Access(self._pair, self._leg, self._use)):
            return self._leg.in_place(path)

    def close(self) -> None:
        """It is the pair's."""


class WatchedLegs:
    """The legs of pairs for one worker, with its watch, and buffers for what it reads."""

    __slots__ = ("buffers", "watch")

    def __init__(self) -> None:
        self.watch: Watch[Waited] = Watch()
        self.buffers = Buffers(_BUFFERS_BYTES_MAX)

    def anew(self) -> None:
        """The worker was given up, and still uses its watch: another one goes on."""
        self.watch = Watch()

    def primary(self, pair: Pair) -> Leg:
        """The image that is the primary now."""
        return WatchedLeg(pair, pair.primary, PRIMARY, self.watch)

    def secondary(self, pair: Pair) -> Leg:
        """The image that is the secondary now."""
        return WatchedLeg(pair, pair.copy_of, SECONDARY, self.watch)

"""`VOLUME@POINT+NAME`: a clone, a secondary at its cut that can be written to. Pure.

A clone is a volume to the NBD server, with the rules of its volume, and a reader to the cut
(`core/readers.py`): while it is there, nothing moves the secondary. What clients of the clone
change is in its overlay, which ends with it.

Names of clones have no `+`, so the last one begins it; a tag may have more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import point

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.backend import Changes, Reader
    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.core.point import Point, PointName

NAME_PATTERN = r"[A-Za-z0-9._][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(NAME_PATTERN)


class CloneName(NamedTuple):
    """`data@latest+test`: the point, and what the clone is called."""

    of: PointName
    clone: str


def parse(name: str) -> CloneName | None:
    """None for a name that is that of no clone."""
    of, plus, clone = name.rpartition("+")
    found = point.parse(of) if plus and _NAME.fullmatch(clone) else None
    return CloneName(found, clone) if found is not None else None


def name_of(volume: str, cut: Cut, clone: str) -> str:
    """What LIST shows, and what a clone is called whatever it was asked for by."""
    return f"{point.name_of(volume, cut)}+{clone}"


class Clone:
    """Implements `backend.Volume`, and `backend.Reader` for the cut. `ended`: why nothing of it can
    be read any more; `on_ended` is called then, once. `takes`: who takes its changes. `since`:
    seconds since 1970. `first_fault`: the first request of it that failed, and why, "" for none.
    What was found on it after that says nothing of the cut.
    """

    __slots__ = (
        "__weakref__", "_connected", "base", "can_zero_fast", "clone", "connections",
        "counted_as", "cut", "ended", "failed", "failing", "first_fault", "limit_bytes", "lineage",
        "name", "of", "on_ended", "pair", "read_only", "since", "size", "takes",
    )  # fmt: skip

    takes: Changes

    def __init__(
        self,
        base: Point,
        clone: str,
        limit_bytes: int,
        can_zero_fast: bool,
        since: float,
        on_ended: Callable[[Clone], object],
    ) -> None:
        """`base`: the point that it begins with."""
        self.base = base
        self.pair: Pair = base.pair
        self.cut: Cut = base.cut
        self.clone = clone
        self.name = name_of(base.of, base.cut, clone)
        self.of = base.of
        self.counted_as = f"{base.of}@+"
        self.size = base.size
        self.read_only = False
        self.can_zero_fast = can_zero_fast
        self.connections = 0
        self.failing: dict[str, int] = {}
        self.failed = ""
        self.first_fault = ""
        self.limit_bytes = limit_bytes
        self.since = since
        self.lineage = f"{int(since * 1e6):x}"  # a later one may have the name
        self.ended = ""
        self.on_ended = on_ended
        self._connected: set[Reader] = set()

    @property
    def why_not(self) -> str:
        """Why it can't be read; "" while it can."""
        return self.ended or self.base.ended

    @property
    def reader(self) -> str:
        """What it is called as a reader of the cut."""
        return f"clone {self.clone}"

    def closed_to(self, _name: str) -> str:
        """See `Volume`: nothing closes it but its end."""
        return ""

    def bitmaps(self) -> Mapping[str, str]:
        """None: it no longer is what it was at the cut."""
        return {}

    def joined(self, reader: Reader, _peer: str) -> None:
        """See `Volume`: the clone itself keeps the secondary where it is."""
        self.connections += 1
        self._connected.add(reader)

    def left(self, reader: Reader) -> None:
        """See `Volume`."""
        self.connections -= 1
        self._connected.discard(reader)

    def read_cached(self, _offset: int, _buffer: memoryview) -> bool:
        """See `Volume`: never, what a range consists of is known to its worker."""
        return False

    def has_lost_writes(self) -> bool:
        """See `Volume`: nothing was read from memory."""
        return False

    def end_reading(self, why: str) -> None:
        """See `Reader`: nothing is read or written from now on, and its clients have to go."""
        if self.ended:
            return
        self.ended = why
        for reader in list(self._connected):
            reader.end_reading(why)
        self.on_ended(self)

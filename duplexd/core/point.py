"""`VOLUME@POINT`: a secondary at its cut, as an export that can be read. Pure.

A point is a volume like any other to the NBD server, so its reads take the same way: from the page
cache in the loop, or in a worker. What differs is that it may end, when the secondary leaves the
cut. That is checked where it happens, in the turn of the loop that folds the marker: from then on
no read is answered from the image, and one that a worker has begun is thrown away.

A name is taken apart here and nowhere else. Volumes cannot have a `@` in theirs, so the first one
ends the volume's; a tag may have more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.pair_states import SUSPENDED
from duplexd.core.readers import Who

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Reader
    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.core.readers import Readers
    from duplexd.images.leg import Leg

LATEST = "latest"


class PointName(NamedTuple):
    """`data@latest`: the volume, and what its cut is called by."""

    volume: str
    point: str

    def means(self, cut: Cut, consistent: bool) -> bool:
        """Whether it names this cut. An id does so in any case: it says which bytes are wanted. A
        tag or `latest` stand for a backup source, so they are those of a cut that is known to be
        `consistent`.
        """
        return self.point == cut.id or (consistent and self.point in {LATEST, cut.tag})


def parse(name: str) -> PointName | None:
    """None for a name that is that of no point."""
    volume, at, point = name.partition("@")
    return PointName(volume, point) if at and volume and point else None


def name_of(volume: str, cut: Cut) -> str:
    """What LIST shows, and what a point is called whatever it was asked for by."""
    return f"{volume}@{cut.id}"


def is_at_cut(pair: Pair, cut: Cut | None) -> bool:
    """Whether the secondary of a pair holds exactly the state of this cut."""
    record = pair.record
    there = record.state == SUSPENDED and cut is not None and record.cut is cut
    return there and pair.usable and cut is not None and record.applied == cut.sequence


class Point:
    """Implements `backend.Volume`. `leg` is the image it was made of; `ended`: why it is no longer
    to be read. It keeps no image then: one that hangs is closed by the last reference to it.
    """

    __slots__ = (
        "__weakref__", "_earlier", "_ends", "_readers", "connections", "counted_as", "cut",
        "ended", "failed", "failing", "has_lost_writes", "leg", "lineage", "name", "of", "pair",
        "read_cached", "read_only", "size",
    )  # fmt: skip

    read_cached: Callable[[int, memoryview], bool]
    has_lost_writes: Callable[[], bool]

    def __init__(self, pair: Pair, cut: Cut, leg: Leg, readers: Readers) -> None:
        self.name = name_of(pair.name, cut)
        self.of = pair.name
        self.counted_as = f"{pair.name}@"
        self.size = pair.record.size_at(cut.sequence)
        self.read_only = True
        self.connections = 0
        self.failing: dict[str, int] = {}
        self.failed = ""
        self.lineage = ""  # the id of the cut is in the name
        self.pair = pair
        self.cut = cut
        self.leg: Leg | None = leg
        self.ended = ""
        self.read_cached = leg.read_cached
        self.has_lost_writes = leg.has_lost_writes
        self._readers = readers
        self._earlier: dict[str, str] = {}
        self._ends = "", ""  # of the history that `_earlier` was made of

    @property
    def can_zero_fast(self) -> bool:
        """See `Volume`: nothing can be written."""
        return False

    @property
    def stands(self) -> bool:
        """Whether the secondary is at the cut still, and is that image."""
        return self.pair.secondary is self.leg and is_at_cut(self.pair, self.cut)

    def closed_to(self, _name: str) -> str:
        """See `Volume`: nothing closes it but its end."""
        return ""

    def bitmaps(self) -> dict[str, str]:
        """See `Volume`: ids are listed. Made once, because every client may ask for it as
        often as it likes. A tag with a NUL is no name in the protocol.
        """
        history = self.pair.record.history
        if history is None:
            return {}
        ends = history.cuts[0].id, history.cuts[-1].id
        if ends != self._ends:
            self._ends, found = ends, history.before(self.cut.id)
            self._earlier = {name: cut for name, cut in found.items() if "\0" not in name}
        return self._earlier

    def joined(self, reader: Reader, peer: str) -> None:
        """See `Volume`: the connection keeps the secondary where it is."""
        self.connections += 1
        self._readers.join(self.pair.id, reader, Who(peer))

    def left(self, reader: Reader) -> None:
        """See `Volume`."""
        self.connections -= 1
        self._readers.leave(self.pair.id, reader)

    def end(self, why: str) -> None:
        """Nothing is read of it from now on."""
        self.ended = self.ended or why
        self.read_cached, self.has_lost_writes, self.leg = _not_here, _nothing_lost, None


def _not_here(_offset: int, _buffer: memoryview) -> bool:
    """A worker's way is taken, which finds that it has ended."""
    return False


def _nothing_lost() -> bool:
    """Nothing was read."""
    return False

"""A set of byte ranges, of bounded size. Pure.

Two sorted arrays of integers and bisection: 16 bytes a range, against about 150 for tuples in a
list, so that a million ranges are affordable.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ranges:
    """Half-open ranges, disjoint and in order, 16 bytes each."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts = array("Q")
        self._ends = array("Q")

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each as `(start, end)`."""
        return iter(zip(self._starts, self._ends, strict=True))

    @property
    def total_bytes(self) -> int:
        """The bytes in all of them."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add a range; ranges that it touches are merged with it."""
        if start >= end:
            return
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = array("Q", [start])
        self._ends[first:last] = array("Q", [end])

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of a range that are not in the set."""
        found: list[tuple[int, int]] = []
        place = bisect_right(self._ends, start)
        while start < end and place < len(self._starts):
            if self._starts[place] >= end:
                break
            if self._starts[place] > start:
                found.append((start, self._starts[place]))
            start = self._ends[place]
            place += 1
        if start < end:
            found.append((start, end))
        return found

    def missing_bytes(self, start: int, end: int) -> int:
        """How many bytes of a range are not in the set."""
        return sum(stop - begin for begin, stop in self.missing(start, end))

    def coarsen(self, ranges_max: int, end: int) -> None:
        """Enlarge the set, up to `end`, until it has at most `ranges_max` ranges: round them
        outwards.
        """
        grain = 4096
        while len(self) > ranges_max:
            grain *= 2
            old, self._starts, self._ends = list(self), array("Q"), array("Q")
            for start, stop in old:
                self.add(start // grain * grain, min(-(-stop // grain) * grain, end))

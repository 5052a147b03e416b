"""Sets of bytes as sorted extents that neither overlap nor touch. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ExtentSet:
    """A set of bytes. Ranges are `(offset, length)`; an empty range adds, removes and overlaps nothing, and is always contained.

    O(log n) to look up; add and remove move what lies behind them.
    """

    __slots__ = ("_ends", "_starts", "_total")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._total = 0

    @property
    def total(self) -> int:
        """How many bytes are in the set."""
        return self._total

    def __len__(self) -> int:
        """How many extents there are."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """`(offset, length)`, in order. The set must not change meanwhile."""
        return ((start, end - start) for start, end in zip(self._starts, self._ends, strict=True))

    def add(self, offset: int, length: int) -> None:
        if length <= 0:
            return
        end = offset + length
        # the extents that overlap or touch the range become one with it
        first = bisect_left(self._ends, offset)
        last = bisect_right(self._starts, end)
        if first < last:
            offset = min(offset, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._replace(first, last, [(offset, end)])

    def remove(self, offset: int, length: int) -> None:
        if length <= 0:
            return
        end = offset + length
        first = bisect_right(self._ends, offset)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        rest = []
        if self._starts[first] < offset:
            rest.append((self._starts[first], offset))
        if self._ends[last - 1] > end:
            rest.append((end, self._ends[last - 1]))
        self._replace(first, last, rest)

    def clear(self) -> None:
        self._replace(0, len(self._starts), [])

    def overlaps(self, offset: int, length: int) -> bool:
        """Whether any byte of the range is in the set."""
        place = bisect_right(self._ends, offset)
        return length > 0 and place < len(self._starts) and self._starts[place] < offset + length

    def contains(self, offset: int, length: int) -> bool:
        """Whether every byte of the range is in the set."""
        if length <= 0:
            return True
        place = bisect_right(self._ends, offset)
        return place < len(self._starts) and self._starts[place] <= offset and offset + length <= self._ends[place]

    def _replace(self, first: int, last: int, extents: list[tuple[int, int]]) -> None:
        self._total -= sum(self._ends[first:last]) - sum(self._starts[first:last])
        self._total += sum(end - start for start, end in extents)
        self._starts[first:last] = [start for start, _ in extents]
        self._ends[first:last] = [end for _, end in extents]

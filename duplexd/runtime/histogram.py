"""A histogram with exact upper bounds, for what is counted as it happens and shown when scraped.

Why not `core.waits.Waits`, which is a histogram too: that one is merged over controllers and asked
for quantiles, so it has steps of 4.4 % over any range and keeps no sum. Prometheus wants the sum,
and counts that are exact at the bounds that alerts are set to: a write that waited 10.1 ms must not
be counted as one of at most 10 ms. Neither can be had from the other.

Where a call for each value would cost too much, its user does the two additions of `observe` in
place.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


class Histogram:
    """Counts by upper bound.

    `counts[i]` values were <= `bounds[i]` and above the bound before it; the last count is of those
    above all bounds. `total` is the sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def copy(self) -> Histogram:
        """What it is now."""
        same = Histogram(self.bounds)
        same.counts, same.total = self.counts.copy(), self.total
        return same

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

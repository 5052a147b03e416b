"""How long writes waited: a small histogram that can be merged. Pure.

Buckets are logarithmic, sixteen to a doubling (4.4 % each), from 1 us on. They are the same on all
controllers, so their counts can be added up without loss; the longest wait is kept exactly.
"""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.json_object import Json

_STEPS = 16  # a doubling
_UNIT_S = 1e-6


class Waits:
    """Counts of waits in seconds."""

    __slots__ = ("buckets", "count", "max_s")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one wait."""
        bucket = max(0, round(log2(max(seconds, _UNIT_S) / _UNIT_S) * _STEPS))
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.max_s = max(self.max_s, seconds)

    def merge(self, other: Waits) -> None:
        """Add the counts of another one."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count
        self.max_s = max(self.max_s, other.max_s)

    def quantile(self, part: float) -> float:
        """The seconds that `part` (0 to 1) of all waits do not exceed, to 4.4 %; 0 if there are
        none.
        """
        if not self.count:
            return 0.0
        wanted, seen = part * self.count, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return min(self.max_s, _UNIT_S * float(2.0 ** (bucket / _STEPS)))
        return self.max_s

    def figures(self) -> Json:
        """`count`, `max_s`, `p50_s`, `p99_s`."""
        return {
            "count": self.count,
            "max_s": self.max_s,
            "p50_s": self.quantile(0.5),
            "p99_s": self.quantile(0.99),
        }

    def pack(self) -> list[list[int]]:
        """[bucket, count] of each, for `unpack` on another machine; `max_s` is sent beside it."""
        return [[bucket, count] for bucket, count in sorted(self.buckets.items())]


def unpack(buckets: Iterable[Iterable[int]], max_s: float) -> Waits:
    """The reverse of `pack`."""
    waits = Waits()
    for bucket, count in buckets:
        waits.buckets[bucket] = count
    waits.count = sum(waits.buckets.values())
    waits.max_s = max_s
    return waits


def together(all_waits: Iterable[Waits]) -> Waits:
    """The sum of all."""
    whole = Waits()
    for waits in all_waits:
        whole.merge(waits)
    return whole


def by_name(waits: Mapping[str, Waits]) -> dict[str, Json]:
    """`figures` of each."""
    return {name: each.figures() for name, each in waits.items()}

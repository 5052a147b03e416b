"""Places where an image differs from what it should hold. Pure.

All of them are counted, since the total distinguishes a flipped bit from a wrong image; only
the first are kept to be listed one by one, since a wrong image has millions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.verify_cut.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTOR_BYTES = 512


class Place(NamedTuple):
    """Bytes `start` to `end - 1`: first and last differ, and every sector between them does."""

    start: int
    end: int
    why: str


class Places:
    """Fed with what was expected and what is there, each range once.

    `kept` are the first `places_max` of them. `ranges` has all; its user bounds it.
    """

    __slots__ = ("_last", "_places_max", "count", "kept", "ranges")

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self.ranges = Ranges()
        self.kept: list[Place] = []
        self.count = 0
        self._last = Place(-1, -1, "")

    def compare(self, base: int, expected: bytes, present: bytes, why: str) -> None:
        """Two views of the same bytes, from `base` on."""
        for start, end in differing(expected, present):
            self._add(Place(base + start, base + end, why))

    def _add(self, place: Place) -> None:
        goes_on = self._last.end == place.start and self._last.why == place.why
        if goes_on:
            place = Place(self._last.start, place.end, place.why)
        else:
            self.count += 1
        if self.count <= self._places_max:
            self.kept[self.count - 1 :] = [place]
        self._last = place
        self.ranges.add(place.start, place.end)

    def describe(self, path: str) -> Iterator[str]:
        """In words: each place that was kept, by offset, and how many more there are."""
        for start, end, why in sorted(self.kept):
            which = (
                f"byte {start} differs from what it was"
                if end == start + 1
                else f"bytes {start} to {end - 1} differ from what they were"
            )
            yield f"{path}: {which} at the cut: {why}"
        if self.count > len(self.kept):
            more = self.count - len(self.kept)
            yield f"{path}: {more} more places differ; {self.ranges.total_bytes} bytes in all"


def differing(one: bytes, other: bytes) -> Iterator[tuple[int, int]]:
    """Where two views differ: runs of sectors, without the equal bytes at either end."""
    if one == other:
        return
    start = -1
    for at in range(0, len(one) + _SECTOR_BYTES, _SECTOR_BYTES):
        if one[at : at + _SECTOR_BYTES] != other[at : at + _SECTOR_BYTES]:
            start = at if start < 0 else start
        elif start >= 0:
            yield _trimmed(one, other, start, min(at, len(one)))
            start = -1


def _trimmed(one: bytes, other: bytes, start: int, end: int) -> tuple[int, int]:
    while one[start] == other[start]:
        start += 1
    while one[end - 1] == other[end - 1]:
        end -= 1
    return start, end

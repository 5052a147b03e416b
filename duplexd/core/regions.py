"""The dirty regions of a pair: a write-intent bitmap, as sets of region numbers.

The page cache may write a leg to the disk before it writes the journal. After a power cut the legs
may then differ where no record says so. Therefore the first change of a region since the last
checkpoint waits until a REGIONS marker is durable, and a restart on another boot compares the
regions that were open. A region is at least 16 MiB, so one such wait covers many changes; a volume
has a few thousand regions at most, so plain sets stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def _shift(size_bytes: int, region_bytes_min: int, regions_max: int) -> int:
    region = region_bytes_min
    while size_bytes > region * regions_max:
        region *= 2
    return region.bit_length() - 1


class DirtyRegions:
    """`open`: the journal says that the legs may differ there. `touched`: changed since the last
    checkpoint, so they stay open after the next one. A checkpoint that fails leaves open what it
    would have closed.

    The sets and `shift` (log2 of the bytes of a region) are public because the write path reads
    them for each change.
    """

    __slots__ = ("_closing", "open", "shift", "touched")

    def __init__(self, size_bytes: int, region_bytes_min: int, regions_max: int) -> None:
        self.shift = _shift(size_bytes, region_bytes_min, regions_max)
        self._closing: set[int] = set()
        self.open: set[int] = set()
        self.touched: set[int] = set()

    def fit(self, size_bytes: int, region_bytes_min: int, regions_max: int) -> None:
        """The volume has grown: there may be larger regions now, which cover those that were."""
        shift = _shift(size_bytes, region_bytes_min, regions_max)
        up, self.shift = shift - self.shift, shift
        if up:
            self._closing = {region >> up for region in self._closing}
            self.open = {region >> up for region in self.open}
            self.touched = {region >> up for region in self.touched}

    def of(self, offset: int, length: int) -> range:
        """The regions that a range of bytes touches."""
        return range(offset >> self.shift, ((offset + length - 1) >> self.shift) + 1)

    def touch(self, offset: int, length: int) -> list[int]:
        """Note a change; returns the regions that have to be opened before it reaches a leg."""
        fresh: list[int] = []
        for region in self.of(offset, length):
            if region not in self.touched:
                self.touched.add(region)
                if region not in self.open:
                    fresh.append(region)
        return fresh

    def untouch(self, regions: Iterable[int]) -> None:
        """The marker for these was not written: the next change there needs one."""
        self.touched.difference_update(regions)

    def checkpointed(self) -> None:
        """Both legs are about to be synced: only what changed since the last time stays open."""
        self._closing, self.open, self.touched = self.open, self.touched, set()

    def closed(self) -> None:
        """There is no second leg any more: with the next one, each change opens its region anew."""
        self.open.clear()
        self.touched.clear()

    def not_checkpointed(self) -> None:
        """They were not synced after all."""
        self.open |= self._closing

    def ranges(self, size_bytes: int) -> list[tuple[int, int]]:
        """(offset, length) of each open region, cut off at the volume's end."""
        return self._ranges(self.open, size_bytes)

    def unsynced(self, size_bytes: int) -> list[tuple[int, int]]:
        """The same of all regions that the last sync of a leg may not have covered: it may have
        been that of a checkpoint that is under way.
        """
        return self._ranges(self.open | self.touched | self._closing, size_bytes)

    def _ranges(self, regions: Iterable[int], size_bytes: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for region in sorted(regions):
            offset = region << self.shift
            found.append((offset, min(1 << self.shift, size_bytes - offset)))
        return found

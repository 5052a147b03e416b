"""A volume grows: the marker, and what it changes of a pair. Pure.

Both images are made longer first, with zeroes where nothing was, durably. Then one marker says that
the volumes have their new sizes from that record on: so no record goes past the end of an image,
wherever a crash comes. A marker that is not `done` is written before the images are touched: it
lets them have a later time than any record, and be longer than their volume (`growing`). It changes
nothing else. Without the second one the volumes have the sizes they had, and what is longer than
that is shortened, or used by another try.

    grow  volumes {id: size}, done    to be made longer (`done` is false), or as long as that

Cuts keep their size: that of the volume at their number (`PairRecord.size_at`). The image of a
secondary at its cut grows with the others, because a pair whose images differ in length would have
to be known as such everywhere. What it has beyond the cut's size reads as zeroes; points do not
show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.core.pair import PairRecord
    from duplexd.json_object import Json

GROWN_MAX = 64  # times that are remembered of a volume, and that it may grow while it is at a cut


class Grow(NamedTuple):
    """See above; `sizes` in bytes, by volume."""

    sizes: Mapping[int, int]
    done: bool

    def pack(self) -> Json:
        sizes = {str(number): size for number, size in self.sizes.items()}
        return {"m": "grow", "volumes": sizes, "done": self.done}

    @classmethod
    def unpack(cls, fields: Json) -> Grow:
        sizes = {int(number): int(size) for number, size in fields["volumes"].items()}
        return cls(sizes, bool(fields["done"]))


def fold(marker: Grow, pairs: Iterable[PairRecord], sequence: int) -> None:
    """Raises ValueError for a volume that would not grow."""
    for pair in pairs:
        size, before = marker.sizes[pair.id], pair.size
        if size <= before:
            raise ValueError(f"{pair.name} has {before} bytes, and cannot grow to {size}")
        pair.primary_image, pair.secondary_image = (
            image and image._replace(loose=True)
            for image in (pair.primary_image, pair.secondary_image)
        )
        if not marker.done:
            pair.growing = max(pair.growing, size)
            continue
        pair.growing = 0
        pair.size = size
        pair.grown = (*pair.grown, (sequence, before))[-GROWN_MAX:]
        pair.regions.fit(size, pair.limits.region_bytes_min, pair.limits.regions_max)
        if pair.changed is not None:
            pair.changed = pair.merged(pair.new_map())
        if pair.history is not None:
            pair.history.grew(pair.new_map, before)


def since_cut(pair: PairRecord) -> int:
    """How often the volume has grown since the cut that its secondary is at."""
    if pair.cut is None:
        return 0
    return sum(at > pair.cut.sequence for at, _before in pair.grown)

"""When the content of a volume stopped following from what its clients were answered. Pure.

A client that keeps things of a volume in its own memory, as a file system does, may reconnect after
a restart of the daemon: nothing that it was answered is lost. It must not after a rollback, a swap
that gives up changes, another image, or a power cut that lost changes nobody had flushed. It would
write what it remembers over content that it never had. So a volume has a `lineage`: the time of the
marker at which it last began anew. The description of its export has it, and who reconnects
compares (`attach/export.py`).

The time, and not the number of the marker: volumes of two controllers must not look the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import markers
from duplexd.core.pair_states import SUSPENDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.core.markers import Marker
    from duplexd.core.pair import PairRecord


MAY_BEGIN_ANEW = (markers.NewVolume, markers.Open, markers.Rollback, markers.Swap)


def follow(pairs: Mapping[int, PairRecord], marker: Marker, time_us: int) -> None:
    """After a marker was folded. There is none of images that are adopted: `Unmarked.adopted`."""
    for number in _anew(pairs, marker):
        pairs[number].lineage = time_us


def _anew(pairs: Mapping[int, PairRecord], marker: Marker) -> Iterable[int]:
    match marker:
        case markers.NewVolume():
            return [marker.id]
        case markers.Rollback():
            return marker.volumes
        case markers.Swap():  # a pair that mirrors has the same content on both
            return [each for each in marker.volumes if pairs[each].state == SUSPENDED]
        case markers.Open(lost=True):
            return list(pairs)
    return ()

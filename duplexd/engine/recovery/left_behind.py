"""Delayed secondaries at a start: which stay behind, and those that are not to be delayed any more.

A delayed secondary gets only records that are durable, and only up to its horizon, which is in the
journal (`replication/delayed_walk.py`). So the replay brings it to exactly that number. What an
unclean stop may have cost is records of changes that are on the primary. Where that cannot be, as
the journal is complete, there is nothing to compare, and the secondary stays behind. Else it is
brought to the tail and compared like any other, and there is nothing to go back to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.delayed import DELAYED
from duplexd.core.markers import CutAt
from duplexd.core.pair_states import DUPLEX
from duplexd.engine.cut_archive import new_id

if TYPE_CHECKING:
    from collections.abc import Container

    from duplexd.config.daemon_file import VolumeConfig
    from duplexd.core.pair import Pair, PairRecord
    from duplexd.engine.recovery.read import ReadJournal
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits


def mode(record: PairRecord | None, configured: str) -> str:
    """In which mode a pair begins: one whose secondary is behind by its delay has to leave that
    first (`left`).
    """
    behind = record is not None and record.state == DUPLEX and record.horizon is not None
    return DELAYED if behind else configured


def is_exact(journal: ReadJournal, record: PairRecord, is_short: bool) -> bool:
    """Whether the legs of a pair differ only where records say so. `is_short`: what a delayed
    secondary lacks cannot be kept for it any more, so it is brought to the tail.
    """
    kept_back = record.state == DUPLEX and record.horizon is not None
    is_known = record.secondary_image is not None and journal.was_served(record)
    if kept_back and is_short:
        return False
    return (kept_back and is_known and journal.complete) or journal.is_clean(record)


def is_short(journal: ReadJournal, limits: EngineLimits) -> bool:
    """Whether the journal may have no room for the markers of the start, see `room.py`. It comes to
    the same at the next start, if this one dies.
    """
    ring = journal.ring
    firsts = [segment.first for segment in ring.live[1:] if segment.first]
    free = ring.segments_max - len(ring.live) + sum(first - 1 <= journal.floor for first in firsts)
    return free < limits.marker_reserve_bytes * 2 // ring.segment_size + 2


def brought_along(saved: Json, numbers: Container[int]) -> Json:
    """A checkpoint after which a start keeps none of these behind. Markers that follow it may say
    so again: only after an unclean stop, and then the start that finds such a checkpoint trusts no
    journal to be complete.
    """
    pairs = [
        {key: value for key, value in pair.items() if key != "horizon"}
        if pair["id"] in numbers
        else pair
        for pair in saved["pairs"]
    ]
    return {**saved, "pairs": pairs}


def left(timeline: Timeline, volumes: Volumes, config: dict[str, VolumeConfig]) -> list[Pair]:
    """Suspend the pairs that the configuration does not call delayed any more, where they are: a
    resync brings them along, and until it is done a restart finds them at a number. What changed
    since is in the journal; the map says more than that. At rest.
    """
    found = [
        pair
        for pair in volumes.all()
        if pair.is_delayed and pair.name in config and config[pair.name].mode != DELAYED
    ]
    for pair in found:
        if pair.usable and not pair.failed:
            everything = {pair.id: pair.record.full_map()}
            at, time_us = pair.applied, timeline.now_us()
            timeline.append(CutAt(new_id(), "", [pair.id], at, time_us, everything))
        pair.set_legs(pair.primary, pair.secondary, config[pair.name].mode)
    return [pair for pair in found if not pair.failed]

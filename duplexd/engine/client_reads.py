"""What reads images for clients: reads, holes, points and who reads them, ranges written anew.

They signal to each other whatever is found to be unreadable, so they are put together here and not
in the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.engine.allocation import Extents
from duplexd.engine.bad_ranges import BadRanges
from duplexd.engine.cut_readers import CutReaders
from duplexd.engine.points import Points
from duplexd.engine.reads import Reads

if TYPE_CHECKING:
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.failed_legs import FailedLegs
    from duplexd.engine.own_writes import OwnWrites
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.engine.write_path import WritePath
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.clock import Clock


class ClientReads:
    """Of one controller."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        archive: CutArchive,
        write_path: WritePath,
        own_writes: OwnWrites,
        failed_legs: FailedLegs,
        legs: LegCalls,
        events: Events,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self.reads = Reads(legs, events)
        extents = Extents(legs, clock, limits)
        self.points = Points(
            volumes, archive, legs, self.reads, extents, timeline.ledger.readers, failed_legs.found
        )
        self.readers = CutReaders(timeline, self.points, archive, events, limits)
        self.bad_ranges = BadRanges(timeline, write_path, legs, events, own_writes)
        self.reads.on_leg_failed = self.bad_ranges.on_primary_failed = failed_legs.found
        self.reads.on_unreadable = self.bad_ranges.found
        self.bad_ranges.on_rewritten = self.reads.repaired
        timeline.on_moved = self.readers.moved

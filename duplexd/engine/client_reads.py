"""What reads volumes for clients, and writes ranges anew that could not be read.

They signal to each other whatever is found to be unreadable, so they are put together here and not
in the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.engine.bad_ranges import BadRanges
from duplexd.engine.reads import Reads

if TYPE_CHECKING:
    from duplexd.engine.events import Events
    from duplexd.engine.failed_legs import FailedLegs
    from duplexd.engine.own_writes import OwnWrites
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.write_path import WritePath
    from duplexd.replication.leg_calls import LegCalls


class ClientReads:
    """Of one controller."""

    def __init__(
        self,
        timeline: Timeline,
        write_path: WritePath,
        own_writes: OwnWrites,
        failed_legs: FailedLegs,
        legs: LegCalls,
        events: Events,
    ) -> None:
        self.reads = Reads(legs, events)
        self.bad_ranges = BadRanges(timeline, write_path, legs, events, own_writes)
        self.reads.on_leg_failed = self.bad_ranges.on_primary_failed = failed_legs.found
        self.reads.on_unreadable = self.bad_ranges.found
        self.bad_ranges.on_rewritten = self.reads.repaired

"""What looks at both images of a pair at once: verify, scrub, the record of what they found,
repair, rollback, and restore.

They share their collaborators and one record, so they are put together here and not in the
controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.engine.difference_record import DifferenceRecord
from duplexd.engine.repairing import Repairs
from duplexd.engine.restoring import Restores
from duplexd.engine.rollback_check import RollbackCheck
from duplexd.engine.rolling_back import Rollbacks
from duplexd.engine.scrubbing import Scrubs
from duplexd.engine.verify import Verification

if TYPE_CHECKING:
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.leases import Leases
    from duplexd.engine.own_writes import OwnWrites
    from duplexd.engine.points import Points
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.limits import EngineLimits
    from duplexd.replication.followers import Followers
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.resync import Resyncs
    from duplexd.runtime.clock import Clock


class Comparisons:
    """Of one controller."""

    def __init__(
        self,
        timeline: Timeline,
        leases: Leases,
        followers: Followers,
        resyncs: Resyncs,
        archive: CutArchive,
        own_writes: OwnWrites,
        legs: LegCalls,
        volumes: Volumes,
        points: Points,
        events: Events,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self.record = DifferenceRecord(timeline, archive, events, limits.differing_runs_max)
        self.verification = Verification(timeline, leases, followers, legs, self.record, limits)
        self.repairs = Repairs(
            timeline, leases, followers, resyncs, self.verification, self.record, own_writes, legs,
            events, clock, limits,
        )  # fmt: skip
        self.scrubs = Scrubs(
            timeline, volumes, self.verification, self.record, events, clock, limits
        )
        check = RollbackCheck(volumes, leases, archive, points)
        self.rollbacks = Rollbacks(timeline, check, own_writes, legs, events)
        self.restores = Restores(timeline, check, events)

    async def stop(self) -> None:
        """End what goes on by itself. The next run takes it up."""
        await self.scrubs.stop()
        await self.rollbacks.stop()

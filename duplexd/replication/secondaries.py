"""The parts of replication, put together: what brings the secondaries of a controller along its
journal.

Resyncs run jobs, jobs copy and follow, and what they reach is signalled back, so they are made and
connected here and not in the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.replication.async_follower import AsyncFollower
from duplexd.replication.backlog import Backlog
from duplexd.replication.copying import Copying
from duplexd.replication.followers import Followers
from duplexd.replication.job_runner import Runner
from duplexd.replication.resync import Resyncs
from duplexd.replication.trailing import Trailing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from duplexd.core.pair import Pair
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.seams import Checkpointer, Emit, Freeze, Gates, Timeline
    from duplexd.replication.staging import StagingArea
    from duplexd.runtime.clock import Clock


class Secondaries:
    """Of one controller."""

    def __init__(
        self,
        timeline: Timeline,
        checkpointer: Checkpointer,
        staging: StagingArea,
        gates: Gates,
        legs: LegCalls,
        freeze: Freeze,
        group_of: Callable[[Pair], set[Pair]],
        unsettled: Collection[str],
        emit: Emit,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        """`unsettled`: cuts whose secondaries are not durable yet, by id."""
        self.backlog = backlog = Backlog(timeline, gates, legs, limits)

        def make(goal: Callable[[], int] | None) -> AsyncFollower:
            follower = AsyncFollower(
                timeline, gates, backlog, freeze, group_of, legs, clock, limits, goal
            )
            follower.on_moved = moved
            return follower

        def moved() -> None:
            self.followers.moved()  # which is made later

        self.trailing = Trailing(timeline, legs, clock, limits, make)
        self.async_follower = self.trailing.async_follower
        self.copying = Copying(timeline, checkpointer, staging, legs, clock, emit, limits)
        self.runner = Runner(
            timeline, freeze, backlog, self.copying, self.trailing, emit, clock, limits
        )
        self.followers = Followers(timeline, gates, legs, self.trailing, self.runner.run, clock)
        self.resyncs = Resyncs(timeline, checkpointer, self.followers, unsettled, emit)
        self.copying.on_moved = self.followers.moved
        self.runner.again = self.resyncs.begin_again

"""All followers of the journal: those of pairs that trail, and one for each running job.

The rest of the engine needs the same from all of them: how far back the journal is still needed,
how far a secondary trails, and a way to wait until it has arrived. New changes of its volumes wait
for a job that trails by more than its cap (`throttle.py`). That check listens to the journal only
while jobs run, so that writes pay nothing for it otherwise.

Waiting is by condition, not by event: `until` evaluates its condition again whenever anything
moved. A wait for one event would miss that the pair was suspended, that it left the job, or that
the controller failed.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.errors import DuplexdError
from duplexd.replication.job import COPY, Job
from duplexd.replication.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from duplexd.core.pair import Pair
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.seams import Gates, Timeline
    from duplexd.replication.trailing import Trailing
    from duplexd.runtime.clock import Clock


class Followers:
    """`jobs` are those that run, by id. `on_moved` is called when one went on, arrived or ended."""

    def __init__(
        self,
        timeline: Timeline,
        gates: Gates,
        legs: LegCalls,
        trailing: Trailing,
        run: Callable[[Job], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`run` does a job to its end."""
        self._timeline = timeline
        self._gates = gates
        self._legs = legs
        self.trailing = trailing
        self._run_job = run
        self._clock = clock
        self._throttles: dict[Job, Throttle] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self.jobs: dict[str, Job] = {}
        self.on_moved: list[Callable[[], None]] = []

    # ------------------------------------------------------------------------------- their life

    def start(self, pairs: Sequence[Pair]) -> None:
        """Go on with what was under way."""
        self.trailing.start()
        self.adopt(pairs)

    def adopt(self, pairs: Sequence[Pair]) -> None:
        """Take care of pairs that are new here: copy those that are PENDING, follow for those that
        are DUPLEX and `async`, or not yet at their cut.

        In the same step as the markers that brought them: the follower would be past the changes
        that come in between, and never apply them.
        """
        self.trailing.add([pair for pair in pairs if _is_followed_for(pair)])
        # One that a job works on was not served for a moment: the job knows, and ends.
        pending = [
            pair
            for pair in pairs
            if pair.state == pair_states.PENDING and self._job_of(pair) is None
        ]
        if pending:
            self.begin(Job(COPY, pending, min(pair.applied for pair in pending)))

    def is_past(self, pair: Pair) -> bool:
        """Whether a pair that is new here would miss changes, so that it cannot be adopted."""
        return _is_followed_for(pair) and self.trailing.is_past(pair)

    def begin(self, job: Job) -> None:
        """Run a job."""
        if not self.jobs:
            self._timeline.on_written.append(self._look_at_lag)
        self.jobs[job.id] = job
        job.without_primary = {pair for pair in job.pairs if pair.failed}
        job.spoiled |= job.without_primary
        self._throttles[job] = Throttle(
            self._gates, job.cap, lambda: self._legs.patience.secondary_s, job.end, catches_up=True
        )
        job.began = self._clock.monotonic()
        job.task = asyncio.get_running_loop().create_task(self._run(job), name=f"job {job.id}")

    async def _run(self, job: Job) -> None:
        try:
            await self._run_job(job)
        finally:
            del self.jobs[job.id]
            self._throttles.pop(job).keep(())
            if not self.jobs:
                self._timeline.on_written.remove(self._look_at_lag)
            self.moved()

    def unserved(self, pair: Pair) -> None:
        """Its primary failed. A copy would take what it holds for what the journal says."""
        for job in self.jobs.values():
            if pair in job.pairs:
                job.spoiled.add(pair)

    def forget(self, pair: Pair) -> None:
        """A pair was removed from the configuration. Only while `stepping` is held."""
        self.trailing.forget(pair)

    @property
    def stepping(self) -> AbstractAsyncContextManager[None]:
        """While it is held, no worker writes to secondaries that trail and are DUPLEX."""
        return self.trailing.standing()

    async def stop(self) -> None:
        """End all tasks; what they were at is in the journal."""
        tasks = [job.task for job in self.jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.trailing.stop()

    # ------------------------------------------------------------------------ seen from outside

    def lag_bytes(self, pair: Pair) -> int:
        """How many bytes of journal a secondary that is being followed for trails behind."""
        if pair.state == pair_states.DUPLEX:
            return self.trailing.lag_bytes(pair)
        job = self._job_of(pair)
        return job.lag_bytes(self._timeline.log_position) if job is not None else 0

    def began(self, pair: Pair) -> float | None:
        """When the job that works on this pair began (monotonic seconds)."""
        job = self._job_of(pair)
        return None if job is None else job.began

    def is_rolled_forward(self, pair: Pair) -> bool:
        """Whether a job brings its secondary to the last change because it has no primary."""
        job = self._job_of(pair)
        return job is not None and pair in job.without_primary

    def _job_of(self, pair: Pair) -> Job | None:
        """The latest: one that is about to end may still name the pair."""
        jobs = reversed(self.jobs.values())
        return next((job for job in jobs if pair in job.pairs), None)

    def floor(self) -> int:
        """The number after which they still need the journal."""
        return min([*(job.floor for job in self.jobs.values()), self.trailing.floor])

    def needing(self) -> list[str]:
        """The volumes whose secondaries need the journal from `floor` on."""
        floor = self.floor()
        names = [
            pair.name for job in self.jobs.values() if job.floor == floor for pair in job.pairs
        ]
        return names + [pair.name for pair in self.trailing.pairs(floor)]

    def is_on_its_way(self, pair: Pair) -> bool:
        """Whether a suspended pair is not yet at its cut."""
        return self.trailing.takes(pair)

    def _look_at_lag(self) -> None:
        position = self._timeline.log_position
        for job, throttle in self._throttles.items():
            throttle.limit_bytes = job.cap
            throttle.keep(job.pairs)
            throttle.look(position, job.lag_bytes(position), partial(list, job.pairs))

    # -------------------------------------------------------------------------------- waiting

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until `true()`; asked again whenever a follower went on.

        Raises DuplexdError once the controller has failed: then none does.
        """
        while not true():
            if self._timeline.failed:
                raise DuplexdError(f"{self._timeline.failed}; restart the daemon")
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    async def reached(self, pairs: Sequence[Pair], sequence: int) -> None:
        """Wait until the secondaries of suspended pairs are at `sequence`, or that is off."""
        trailing = [pair for pair in pairs if pair.mode != "sync" or self.is_on_its_way(pair)]
        self.trailing.poke()

        def there(pair: Pair) -> bool:
            off = pair.cut is None or pair.cut.sequence != sequence or not pair.usable
            return off or pair.applied >= sequence

        await self.until(lambda: all(there(pair) for pair in trailing))

    def moved(self) -> None:
        """A follower went on, a cut was settled, or the controller has failed."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        self._look_at_lag()
        self.trailing.poke()
        for listener in self.on_moved:
            listener()


def _is_followed_for(pair: Pair) -> bool:
    if pair.state == pair_states.DUPLEX:
        return pair.mode != "sync"
    suspended = pair.state == pair_states.SUSPENDED
    return suspended and pair.usable and pair.applied < pair.limit(0)

"""Resyncs: bringing suspended secondaries back, going on with copies after a start, and waiting for it.

Which way a resync goes is decided once, for all pairs that are resynced together: replay the journal if
it still reaches back to every cut and would copy no more than the change maps; else copy by map.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.markers import Copy, Resync
from duplexd.errors import DuplexdError, WrongStateError
from duplexd.images.place import lost_image
from duplexd.replication.job import ALREADY, COPY, JOURNAL, MAP, Job
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from duplexd.core.admission import Admission
    from duplexd.core.pair import Pair
    from duplexd.json_object import Json
    from duplexd.replication.async_follower import AsyncFollower
    from duplexd.replication.runner import Runner
    from duplexd.replication.seams import Checkpointer, Emit, Timeline
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.threads import Workers

TOO_FAR_BEHIND = "a resync is too far behind"  # the reason in `Admission`


class Resyncs:
    """All resyncs and copies of a controller. `unsettled`: ids of cuts that are not yet durable;
    `may_be_free` is called when less of the journal may be needed than before.
    """

    def __init__(
        self,
        timeline: Timeline,
        admission: Admission,
        checkpointer: Checkpointer,
        async_follower: AsyncFollower,
        runner: Runner,
        workers: Workers,
        clock: Clock,
        emit: Emit,
        unsettled: Collection[str],
    ) -> None:
        self._timeline = timeline
        self._admission = admission
        self._checkpointer = checkpointer
        self._async_follower = async_follower
        self._runner = runner
        self._workers = workers
        self._clock = clock
        self._emit = emit
        self._unsettled = unsettled
        self._waiting: list[asyncio.Future[None]] = []
        self.may_be_free: Callable[[], None] = _nobody
        runner.again = self._begin_again
        runner.look_at_lag = self._look_at_lag

    # ------------------------------------------------------------------------------- its life

    def start(self, pairs: Sequence[Pair], interrupted: Sequence[Pair]) -> None:
        """Go on with what was under way; `interrupted` are resyncs that a restart cut short."""
        self._async_follower.start()
        self.adopt(pairs)
        if interrupted:
            self._timeline.when_at_rest(lambda: self._begin_again(interrupted))

    def adopt(self, pairs: Sequence[Pair]) -> None:
        """Take care of pairs that are new here: copy those that are PENDING, follow for those that
        are DUPLEX and `async`, or not yet at their cut.
        """
        states = pair_states
        self._async_follower.add(
            [pair for pair in pairs if pair.mode == "async" and pair.state == states.DUPLEX]
        )
        self._async_follower.add(
            [
                pair
                for pair in pairs
                if pair.state == states.SUSPENDED and pair.usable and pair.applied < pair.limit(0)
            ]
        )
        pending = [pair for pair in pairs if pair.state == states.PENDING]
        if pending:
            self._launch(Job(COPY, pending, min(pair.applied for pair in pending), self._now()))

    async def stop(self) -> None:
        """End all tasks; what they were at is in the journal."""
        tasks = [job.task for job in self._runner.jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._async_follower.stop()

    def _now(self) -> float:
        return self._clock.monotonic()

    # ------------------------------------------------------------------------ seen from outside

    def lag_bytes(self, pair: Pair) -> int:
        """How many bytes of journal a secondary that is being followed for trails behind."""
        if pair.state == pair_states.DUPLEX:
            return self._async_follower.lag_bytes
        job = self._job_of(pair)
        return job.lag_bytes(self._timeline.log_position) if job is not None else 0

    def began(self, pair: Pair) -> float | None:
        """When the job that works on this pair began (monotonic seconds)."""
        job = self._job_of(pair)
        return None if job is None else job.began

    def _job_of(self, pair: Pair) -> Job | None:
        return next((job for job in self._runner.jobs.values() if pair in job.pairs), None)

    def floor(self) -> int:
        """The number after which followers still need the journal."""
        floors = [job.floor for job in self._runner.jobs.values()]
        return min([*floors, self._async_follower.floor])

    def _look_at_lag(self) -> None:
        """New changes wait for a job that trails by more than its cap."""
        jobs, listeners = self._runner.jobs, self._timeline.on_written
        if jobs and self._look_at_lag not in listeners:
            listeners.append(self._look_at_lag)
        elif not jobs and self._look_at_lag in listeners:
            listeners.remove(self._look_at_lag)  # the write path pays for those that listen
        position = self._timeline.log_position
        behind = any(job.lag_bytes(position) > job.cap for job in jobs.values())
        self._admission.set(TOO_FAR_BEHIND, behind)

    # -------------------------------------------------------------------------------- waiting

    async def reached(self, pairs: Sequence[Pair], sequence: int) -> None:
        """Wait until the secondaries of suspended pairs are at `sequence`, or that is off."""
        trailing = [pair for pair in pairs if pair.mode == "async"]

        def there(pair: Pair) -> bool:
            off = pair.cut is None or pair.cut.sequence != sequence or not pair.usable
            return off or pair.applied >= sequence

        await self.until(lambda: all(there(pair) for pair in trailing))

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

    def moved(self) -> None:
        """A follower went on, a cut was settled, or the controller has failed."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        self._look_at_lag()
        self.may_be_free()

    async def wait(self, pairs: Sequence[Pair]) -> Json:
        """Wait until none of the pairs is PENDING."""
        await self.until(lambda: all(pair.state != pair_states.PENDING for pair in pairs))
        return {
            "volumes": [
                {
                    "name": pair.name,
                    "state": pair.state,
                    "reason": pair.reason,
                    "copied_bytes": pair.copied_bytes,
                    "error": self._runner.errors.get(pair),
                }
                for pair in pairs
            ]
        }

    # ------------------------------------------------------------------------------ beginning

    async def resync(self, pairs: Sequence[Pair]) -> Json:
        """Start; says how for each volume.

        Raises WrongStateError, with nothing started, for a volume without secondary, or whose
        secondary's path leads to another image.
        """
        await self.until(lambda: all(self._has_arrived(pair) for pair in pairs))
        # A resync leaves the cuts, and a restart does not go back to them: what a freeze left there
        # has to be durable.
        suspended = [pair for pair in pairs if pair.state == pair_states.SUSPENDED]
        await self._checkpointer.sync_secondaries(suspended)
        lost = await to_its_end(self._workers.run(lambda: _lost(suspended)))
        if lost:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise WrongStateError(f"{lost[0]}{more}; nothing was started")
        report = await self._timeline.at_rest(lambda: self._begin(pairs))
        return {"job": next(iter(self._runner.jobs), ""), "volumes": report}

    def _has_arrived(self, pair: Pair) -> bool:
        settled = pair.cut is None or pair.cut.id not in self._unsettled
        return settled and not self._async_follower.takes(pair)

    def _begin_again(self, pairs: Sequence[Pair]) -> None:
        self._begin(pairs)

    def _begin(self, pairs: Sequence[Pair]) -> list[Json]:
        simplex = [pair.name for pair in pairs if pair.state == pair_states.SIMPLEX]
        if simplex:
            raise WrongStateError(
                f"{', '.join(simplex)}: SIMPLEX, there is no secondary to resync; "
                "give it one in the configuration"
            )
        todo = [pair for pair in pairs if pair.state == pair_states.SUSPENDED]
        usable = [pair for pair in todo if pair.usable]
        torn = [pair for pair in todo if not pair.usable]
        how = self._how(usable)
        hows = dict.fromkeys(usable, how) | dict.fromkeys(torn, COPY)
        report: list[Json] = [
            {"name": pair.name, "how": hows.get(pair, ALREADY), "state": pair.state}
            for pair in pairs
        ]
        for pair in todo:
            pair.copied_bytes = 0
            self._runner.errors.pop(pair, None)
        if torn:
            self._begin_copy(torn)
        if usable:
            self._begin_following(usable, how)
        if todo:
            self._emit("resync-started", volumes=[pair.name for pair in todo], how=how)
        return report

    def _begin_copy(self, pairs: Sequence[Pair]) -> None:
        maps = {pair.id: pair.changed or pair.new_map() for pair in pairs}
        number = self._timeline.append(Copy(maps, pair_states.RESYNCING))
        self._launch(Job(COPY, pairs, number, self._now()))

    def _begin_following(self, pairs: Sequence[Pair], how: str) -> None:
        job = Job(how, pairs, self._timeline.written, self._now())
        self._timeline.append(Resync(job.id, how, [pair.id for pair in pairs]))
        if how == JOURNAL:
            # A restart needs the journal from there, too, until a checkpoint knows more.
            job.floor = min(pair.applied for pair in pairs)
            self._checkpointer.keep_from(job.floor)
        self._launch(job)

    def _how(self, pairs: Sequence[Pair]) -> str:
        changed = [pair for pair in pairs if pair.changed is not None]
        if not changed:
            return JOURNAL
        oldest = self._timeline.writer.ring.oldest
        reaches = 0 < oldest <= min(pair.applied for pair in changed) + 1
        return JOURNAL if reaches and all(_journal_is_shorter(pair) for pair in changed) else MAP

    def _launch(self, job: Job) -> None:
        self._runner.jobs[job.id] = job
        self._look_at_lag()
        loop = asyncio.get_running_loop()
        job.task = loop.create_task(self._runner.run(job), name=f"job {job.id}")


def _journal_is_shorter(pair: Pair) -> bool:
    return pair.changed is None or pair.record.tracked_bytes <= pair.changed.changed_bytes


def _lost(pairs: Sequence[Pair]) -> list[str]:
    """What is wrong with the paths of secondaries. Blocking."""
    errors = [lost_image(pair.secondary) for pair in pairs]
    return [str(error.strerror) for error in errors if error is not None]


def _nobody() -> None:
    """Nobody needs room."""

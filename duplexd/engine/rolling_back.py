"""Rollbacks: volumes go back to the cut that their secondaries are at.

    close    a marker, durable before anything else: no client uses the volumes from here on, and no
             command takes the secondaries from their cut. Clients that are connected keep the
             command from it, or are disconnected; what they had in flight ends first
    copy     what differs is written as changes of the journal (`own_writes.py`), so it has numbers,
             is tracked, and is mirrored later. The secondaries are only read
    open     a marker: all volumes of the rollback are served again in one turn of the loop. With
             several controllers a coordinator asks for it when the copies of all are done

Whatever ends in between leaves the volumes closed, and the same command goes on: blocks that are
back already are equal, so it finds the rest. Who wants them as they are abandons the rollback.

Considered and rejected: a swap that makes the secondary the primary. It takes no time, but then the
cut is gone with the first write, there is no second try, and all of it has to be copied again.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import rollback as states
from duplexd.core.markers import Rollback, RolledBack
from duplexd.core.rollback_state import DONE
from duplexd.engine.cut_archive import new_id
from duplexd.engine.rollback_check import is_restored, left_cut
from duplexd.engine.rollback_job import RollbackJob, check_place, clients_gone
from duplexd.errors import DuplexdError, UsageError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.pair import Pair
    from duplexd.core.rollback import Order
    from duplexd.engine.events import Events
    from duplexd.engine.own_writes import OwnWrites
    from duplexd.engine.rollback_check import Plan, RollbackCheck
    from duplexd.engine.timeline import Timeline
    from duplexd.json_object import Json
    from duplexd.replication.leg_calls import LegCalls

FORCED = "a rollback takes the volume, with --force"
ABANDONED = "the restore was abandoned"
_RUNNING, _READY, _STOPPED = "running", "ready", "stopped"


class Rollbacks:
    """Of a controller. `jobs`: those of this run that have not ended, by the id of the rollback."""

    def __init__(
        self,
        timeline: Timeline,
        check: RollbackCheck,
        own_writes: OwnWrites,
        legs: LegCalls,
        events: Events,
    ) -> None:
        self._timeline = timeline
        self._check = check
        self._own_writes = own_writes
        self._legs = legs
        self._events = events
        self._jobs: dict[str, RollbackJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------- commands

    async def rollback(self, pairs: Sequence[Pair], order: Order) -> Json:
        """Let these pairs go back together, or do a step of that. A rollback of them that is not
        finished goes on; one that is under way is waited for. A cancelled caller does not stop it.

        Raises WrongStateError, NotFoundError with nothing done; DuplexdError if it fails half-way:
        the volumes stay closed.
        """
        if not pairs:
            raise UsageError("name at least one volume or group")
        if order.step == states.OPEN:
            return await self._open_copied(pairs, order.id)
        if order.step == states.ABANDON:
            return await self._abandon_all(pairs)
        plan = self._check.plan(pairs, order)
        if order.step == states.MEASURE:
            return await self._measure(pairs, plan)
        if not (plan.unfinished or order.force):
            self._check.refuse_users(pairs)
        for pair in pairs:
            await check_place(pair, self._legs)
        if order.step == states.CHECK:
            return self._answer(plan.unfinished or order.id, plan, [_row(pair) for pair in pairs])
        job = self._jobs.get(plan.unfinished)
        if job is None or job.failed:
            job = await self._begin(pairs, order)
        await asyncio.shield(job.done)
        if order.step == states.WHOLE:
            await self._open(job)
        return self._answer(job.id, plan, [job.row(pair) for pair in pairs])

    async def _open_copied(self, pairs: Sequence[Pair], rollback_id: str) -> Json:
        """Serve the volumes of a rollback again, whose copy is done. One that is open is no error.

        Raises WrongStateError if it is not done, as far as this run of the daemon knows.
        """
        ended = [pair for pair in pairs if ended_by(pair, rollback_id)]
        if len(ended) < len(pairs):
            job = self._jobs.get(rollback_id)
            if job is None or not job.copied or set(job.pairs) != set(pairs):
                names = " ".join(pair.name for pair in pairs if pair not in ended)
                raise WrongStateError(
                    f"{names}: rollback {rollback_id} has not copied everything back yet; the same "
                    "`duplexctl rollback` goes on with it"
                )
            await self._open(job)
        return _ended(rollback_id, pairs)

    async def _abandon_all(self, pairs: Sequence[Pair]) -> Json:
        """Serve the volumes of unfinished rollbacks as they are: a mixture. Those that are in none
        are no error.

        Raises WrongStateError if others go back together with them.
        """
        ids = dict.fromkeys(
            rollback.id
            for pair in pairs
            if (rollback := pair.record.rollback) is not None and rollback.unfinished
        )
        for each in ids:
            if others := [pair.name for pair in self._check.together(each) if pair not in pairs]:
                raise WrongStateError(
                    f"{' '.join(others)}: they go back together with these volumes; name them too"
                )
        for each in ids:
            await self._abandon(each)
        return _ended(next(iter(ids), ""), pairs)

    async def stop(self) -> None:
        """The daemon stops: the volumes stay closed, and the same command goes on."""
        for job in self._jobs.values():
            job.stop("the daemon stops")
        if self._tasks:
            await asyncio.wait(self._tasks)

    def show(self, pair: Pair) -> Json | None:
        """The last rollback of a pair, as status has it."""
        rollback = pair.record.rollback
        if rollback is None:
            return None
        job = self._jobs.get(rollback.id)
        written_to = bool(rollback.backup and pair.clients)
        return {
            "id": rollback.id,
            "cut": rollback.cut,
            "backup": rollback.backup or None,
            "state": rollback.ended or (_RUNNING if written_to else _state(job)),
            "time": rollback.time_us / 1e6,
            "done_bytes": job.done_bytes[pair] if job is not None else 0,
            "total_bytes": job.total_bytes[pair] if job is not None else 0,
            "written_bytes": job.written_bytes[pair] if job is not None else 0,
            "error": (job.error or None) if job is not None else None,
        }

    # -------------------------------------------------------------------------------- its steps

    async def _begin(self, pairs: Sequence[Pair], order: Order) -> RollbackJob:
        """Close the volumes, if they are not, and let the copy begin. All in one step, so that
        there is one of each rollback.
        """

        def step() -> RollbackJob:
            plan = self._check.plan(pairs, order)  # as it is by now
            if not (plan.unfinished or order.force):
                self._check.refuse_users(pairs)
            there = self._jobs.get(plan.unfinished)
            if there is not None and not there.failed:
                return there
            rollback_id = plan.unfinished or order.id or new_id()
            if not plan.unfinished:
                numbers = [pair.id for pair in pairs]
                self._timeline.append(Rollback(rollback_id, plan.cut.id, numbers))
            return self._start(RollbackJob(rollback_id, plan.cut, pairs), order)

        return await self._timeline.at_rest(step)

    def _start(self, job: RollbackJob, order: Order) -> RollbackJob:
        self._jobs[job.id] = job
        for pair in job.pairs:
            for reader in list(pair.clients):
                reader.end_reading(FORCED)
        self._emit("rollback-started", job.pairs, job.cut.id, job.id)
        work = self._run(job, order.step == states.WHOLE)
        task = asyncio.get_running_loop().create_task(work, name=f"rollback {job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def _run(self, job: RollbackJob, opens: bool) -> None:
        """To its end, also if no caller waits for it."""
        try:
            await job.run(self._timeline, self._own_writes, self._legs)
            if opens:
                await self._open(job)
        except DuplexdError as error:
            self._failed(job, error)
        except OSError as error:  # of the journal: it could not be written
            self._failed(job, DuplexdError(error.strerror or str(error)))
        else:
            job.done.set_result(None)
        finally:
            if not job.done.done():
                job.fail(DuplexdError("unexpected error in the rollback; see the log"))

    def _failed(self, job: RollbackJob, error: DuplexdError) -> None:
        job.fail(error)
        self._emit("rollback-failed", job.pairs, job.cut.id, job.id, error=str(error))

    async def _open(self, job: RollbackJob) -> None:
        """All at once. Durable when it returns."""
        if await self._timeline.at_rest(partial(self._open_now, job)):
            self._jobs.pop(job.id, None)
            written = sum(job.written_bytes.values())
            self._emit("rolled-back", job.pairs, job.cut.id, job.id, written_bytes=written)
        await self._timeline.durable()

    def _open_now(self, job: RollbackJob) -> bool:
        """False if that was done before."""
        if all(ended_by(pair, job.id) for pair in job.pairs):
            return False
        for pair in job.pairs:
            differs = pair.record.differs  # a comparison that had begun before may have found it
            known = f"{differs.text}, so its secondary may be wrong" if differs is not None else ""
            if why := pair.failed or left_cut(pair, job.cut) or known:
                raise WrongStateError(f"{pair.name}: {why}; the rollback is not finished")
        self._timeline.append(RolledBack(job.id, [pair.id for pair in job.pairs], whole=True))
        return True

    async def _abandon(self, rollback_id: str) -> None:
        job = self._jobs.get(rollback_id)
        if job is not None and not job.done.done():
            job.stop("it was abandoned")
            await asyncio.wait((job.done,))
        restored = [pair for pair in self._check.together(rollback_id) if is_restored(pair)]
        for pair in restored:
            for reader in list(pair.clients):
                reader.end_reading(ABANDONED)
        await clients_gone(restored)
        pairs = await self._timeline.at_rest(partial(self._abandon_now, rollback_id))
        await self._timeline.durable()
        self._jobs.pop(rollback_id, None)
        for pair in pairs[:1]:
            cut = pair.record.rollback.cut if pair.record.rollback is not None else ""
            self._emit("rollback-abandoned", pairs, cut, rollback_id)

    def _abandon_now(self, rollback_id: str) -> list[Pair]:
        """Those that it was done for: none, if they have just been opened."""
        pairs = self._check.together(rollback_id)
        if pairs:
            numbers = [pair.id for pair in pairs]
            self._timeline.append(RolledBack(rollback_id, numbers, whole=False))
        return pairs

    def _emit(
        self, event: str, pairs: Sequence[Pair], cut: str, rollback_id: str, **more: object
    ) -> None:
        names = [pair.name for pair in pairs]
        self._events.emit(event, volumes=names, cut=cut, rollback=rollback_id, **more)

    async def _measure(self, pairs: Sequence[Pair], plan: Plan) -> Json:
        """Of volumes that are in use it is what differed when it was looked at."""
        job = RollbackJob("", plan.cut, pairs)
        for pair in pairs:
            await job.measure(pair, self._legs)
        return self._answer(plan.unfinished, plan, [job.row(pair) for pair in pairs])

    def _answer(self, rollback_id: str, plan: Plan, rows: list[Json]) -> Json:
        return {"id": rollback_id, "cut": plan.cut.id, "tag": plan.cut.tag, "volumes": rows}


def _row(pair: Pair) -> Json:
    """As `RollbackJob.row`, of one that nothing was copied of."""
    none = {"compared_bytes": 0, "differing_bytes": 0, "written_bytes": 0}
    return {"name": pair.name, "served": not (pair.failed or pair.closed), **none}


def _ended(rollback_id: str, pairs: Sequence[Pair]) -> Json:
    rollback = pairs[0].record.rollback
    cut = rollback.cut if rollback is not None else ""
    return {"id": rollback_id, "cut": cut, "tag": "", "volumes": [_row(pair) for pair in pairs]}


def ended_by(pair: Pair, rollback_id: str) -> bool:
    """Whether this rollback of a pair is done."""
    rollback = pair.record.rollback
    return rollback is not None and rollback.id == rollback_id and rollback.ended == DONE


def _state(job: RollbackJob | None) -> str:
    if job is None or job.failed:
        return _STOPPED
    return _READY if job.copied else _RUNNING

"""Running a job: what brings pairs to DUPLEX, in one of three ways.

    copy      straight to the secondary, which is unusable until it is done: a first copy, after
              a power cut, after a failed secondary
    journal   follow from the cut: the secondary goes through states that existed
    map       copy to a staging log, commit, apply, then follow

Each ends with the same catch-up to the tail. A job alternates blocking calls in a worker with steps
at rest (markers). Stopped or killed at any point, it leaves a state from which recovery continues.
"""

from __future__ import annotations

import asyncio
import errno
import math
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.markers import Abandon, Commit, Equal, Missed, Settled
from duplexd.core.pair_states import PENDING
from duplexd.errors import DamageError, DuplexdError
from duplexd.replication.follower import SecondarySink, SinkError
from duplexd.replication.job import COPY, JOURNAL, MAP, copied_well, in_work, not_given_up
from duplexd.replication.pieces import PrimaryUnreadableError
from duplexd.replication.retries import when_there_is_room

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.limits import EngineLimits
    from duplexd.replication.backlog import Backlog
    from duplexd.replication.copying import Copying
    from duplexd.replication.job import Job
    from duplexd.replication.seams import Emit, Freeze, Timeline
    from duplexd.replication.trailing import Trailing
    from duplexd.runtime.clock import Clock

    Backlogs = dict[Pair, ChangeMap]


class Runner:
    """Runs jobs. `again` begins another resync of pairs, at rest."""

    def __init__(
        self,
        timeline: Timeline,
        freeze: Freeze,
        backlog: Backlog,
        copying: Copying,
        trailing: Trailing,
        emit: Emit,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._freeze = freeze
        self._backlog = backlog
        self._copying = copying
        self._trailing = trailing
        self._emit = emit
        self._clock = clock
        self._limits = limits
        self.again: Callable[[Sequence[Pair]], None] = _nothing_again

    async def run(self, job: Job) -> None:
        """Do a job to its end, whatever that is."""
        try:
            await self._work(job)
        except SinkError as error:
            await self._end(job, error, partial(self._failed, job, error))
        except Exception as error:  # noqa: BLE001  no pair may stay PENDING without a job
            await self._end(job, error, partial(self._ended_early, job, error))

    async def _work(self, job: Job) -> None:
        timeline = self._timeline
        if job.how == MAP:
            # It reserves room on secondaries, which changes their times. A restart that knew of no
            # resync would take them for images that somebody else wrote to.
            await timeline.durable()
            await self._commit(job, await self._copying.stage(job))
        elif job.how == COPY:
            job.whole = False
            await self._copy(job)
        else:
            job.follower = self._copying.follower(job, SecondarySink(), job.floor, job.begun_at)
            await timeline.durable()  # no secondary leaves a cut that a restart would go back to
        if job.pairs:
            await self._catch_up(job, list(job.pairs))
        await self._remove_log(job)  # nobody needs it, and nobody waits for that

    async def _end(
        self, job: Job, why: Exception, consequences: Callable[[Backlogs], None]
    ) -> None:
        try:
            since, pairs = _in_doubt(job, why)
            async with self._backlog.after(since, pairs, why) as missed:
                await when_there_is_room(self._timeline, lambda: consequences(missed))
            await self._remove_log(job)
        except (OSError, DuplexdError):
            # A failed controller can't record it in the journal; the restart finds out.
            if not self._timeline.failed:
                raise

    async def _remove_log(self, job: Job) -> None:
        """Remove the staging log, but only after the end of the job is durable in the journal: a
        restart that finds a COMMIT without an end needs the log to apply it.
        """
        if job.how == MAP:
            await self._timeline.durable()
            try:
                await self._copying.remove_staged(job)
            except OSError as error:  # the next start removes what is left
                self._emit("staging-left", error=str(error))

    # ----------------------------------------------------------------------------- its stages

    async def _copy(self, job: Job) -> None:
        """Pair by pair. One whose image fails leaves the job, which goes on with the others: none
        of them holds a state that the failed one would have to share.
        """
        sink = SecondarySink(reserves=False)
        job.follower = self._copying.follower(job, sink, job.floor)
        while job.pairs:
            pair = job.pairs[0]
            pair.copy_total = pair.changed.changed_bytes if pair.changed is not None else 0
            pair.copy_done = 0
            try:
                await self._copying.changed(job, pair)
                await self._catch_up(job, [pair])
            except PrimaryUnreadableError as error:
                await self._leave(job, SinkError(pair, 0, error))
            except SinkError as error:
                await self._leave(job, error)

    async def _leave(self, job: Job, error: SinkError) -> None:
        since = _since(job.walk().position, [error.pair])
        async with self._backlog.after(since, [error.pair], error) as missed:
            leaves = partial(self._leaves, job, error, missed)
            await when_there_is_room(self._timeline, leaves)

    async def _commit(self, job: Job, count: int) -> None:
        """From the COMMIT on the journal says that the secondaries are at `at`, or will be."""
        timeline, numbers = self._timeline, [pair.id for pair in job.pairs]
        at = job.floor = job.walk().position
        job.whole = False

        def commit() -> int:
            copied_well(job, job.pairs)
            # A checkpoint may have been taken since `at`: it does not know of this resync.
            self._copying.keep_journal_from(at)
            return timeline.append(Commit(job.id, at, count, numbers))

        await timeline.durable(await when_there_is_room(timeline, commit))
        failed = await self._copying.apply_staged(job, count)
        job.whole, job.torn = True, set(failed)
        for pair, error in failed.items():
            raise SinkError(pair, 0, error)
        in_work(job.pairs)
        done = Settled(job.id, numbers)
        await when_there_is_room(timeline, lambda: timeline.append(done))
        job.follower = self._copying.follower(job, SecondarySink(), at)

    async def _catch_up(self, job: Job, pairs: list[Pair]) -> None:
        """Follow to the tail; these pairs are DUPLEX then. The lag at which new changes have to
        wait shrinks with time, so that this ends under any load.
        """
        timeline, limits = self._timeline, self._limits
        first_tail, passed = timeline.written, 0.0
        while True:
            followed = await self._copying.follow(job)  # before its lag is known, that is called 0
            near = job.lag_bytes(timeline.log_position) <= limits.follower_final_bytes
            if near and await self._finish(job, pairs):
                break
            if not followed:
                await timeline.at_rest(_nothing)  # the rest belongs to a batch that still runs
                await asyncio.sleep(0)
            if job.walk().position >= first_tail:
                passed = passed or self._clock.monotonic()
                halvings = (self._clock.monotonic() - passed) * 2
                cap = limits.async_lag_bytes_max / 2**halvings
                job.cap = max(cap, limits.follower_final_bytes)
        job.cap = math.inf
        self._copying.on_moved()

    async def _finish(self, job: Job, pairs: list[Pair]) -> bool:
        """The last bytes: no change of these volumes comes in between. False if that is not all
        that there is to copy.
        """
        async with self._backlog.held(pairs) as tail:
            while job.walk().position < tail:
                await self._copying.follow(job)
            return await when_there_is_room(self._timeline, lambda: self._equal(job, pairs))

    def _equal(self, job: Job, pairs: list[Pair]) -> bool:
        timeline, follower = self._timeline, job.walk()
        in_work(pairs)
        not_given_up(pairs)
        if job.how == COPY:
            copied_well(job, pairs)
        copied = all(pair.changed is None or not pair.changed.any() for pair in pairs)
        if job.how == COPY and not copied:
            return False
        timeline.append(Equal([pair.id for pair in pairs]))
        for pair in pairs:
            pair.copy_done = pair.copy_total = 0
            follower.pairs.pop(pair.id, None)
            job.pairs.remove(pair)
        self._trailing.add([pair for pair in pairs if pair.mode != "sync"])
        copied_bytes = sum(pair.copied_bytes for pair in pairs)
        self._emit("duplex", volumes=[pair.name for pair in pairs], copied_bytes=copied_bytes)
        return True

    # ------------------------------------------------------------------------------- failures

    def _leaves(self, job: Job, error: SinkError, missed: Backlogs) -> None:
        """One pair of a copy failed: it is suspended alone."""
        pair, follower = error.pair, job.walk()
        if pair.state == PENDING:
            missed = _with_uncopied(job, missed)
            self._freeze({pair}, pair, follower.position, error.located(), {pair}, missed)
        self._note([pair], str(error.located().strerror))
        job.pairs.remove(pair)
        follower.pairs.pop(pair.id, None)

    def _failed(self, job: Job, error: SinkError, missed: Backlogs) -> None:
        """A secondary failed."""
        torn = {error.pair} if error.torn else set()
        self._stop_there(job, error.pair, error.located(), torn, missed)
        self._note(job.pairs, f"{error.pair.name}: {error.located().strerror}")

    def _stop_there(
        self, job: Job, failed: Pair | None, error: OSError, torn: set[Pair], missed: Backlogs
    ) -> None:
        """The job's pairs are suspended where they are, at one number."""
        unusable = job.torn | torn if job.whole else set(job.pairs)
        missed = _with_uncopied(job, missed)
        self._freeze(set(job.pairs), failed, _position(job), error, unusable, missed)

    def _note(self, pairs: Sequence[Pair], error: str) -> None:
        for pair in pairs:
            pair.resync_error = error

    def _ended_early(self, job: Job, error: Exception, missed: Backlogs) -> None:
        """Anything but a failed secondary. Untouched secondaries are at their cuts again."""
        why = _text(error)
        untouched = [
            pair
            for pair in job.pairs
            if pair.state == PENDING and pair.record.staging == UNCOMMITTED
        ]
        if job.how == JOURNAL and isinstance(error, DamageError | LookupError):
            self._go_by_map(job, error)
        elif untouched:
            numbers = [pair.id for pair in untouched]
            self._timeline.append(Abandon(job.id, numbers, job.reasons))
        elif any(pair.state == PENDING for pair in job.pairs):  # others were suspended meanwhile
            self._stop_there(job, None, OSError(errno.EIO, why), set(), missed)
        self._note(job.pairs, why)
        path = error.filename if isinstance(error, OSError) and error.filename else ""
        names = [pair.name for pair in job.pairs]
        self._emit("resync-failed", volumes=names, error=why, path=path)

    def _go_by_map(self, job: Job, error: Exception) -> None:
        """Copy by map instead: a part of the journal that only these secondaries still need can't
        be read, and their change maps cover the same changes.
        """
        pairs = list(job.pairs)
        at = job.follower.position if job.follower is not None else job.floor
        cause = OSError(errno.EIO, str(error))
        self._freeze(set(pairs), None, at, cause, set(), {})
        self._timeline.append(Missed({pair.id: pair.new_map() for pair in pairs}))
        self.again(pairs)


def _position(job: Job) -> int:
    """The number that the secondaries of a job are at."""
    moved = job.follower is not None and job.follower.sink.moves_secondary
    return job.walk().position if moved else job.floor


def _in_doubt(job: Job, why: Exception) -> tuple[int, list[Pair]]:
    """Secondaries of a job that ends which may lack records, and the number after which."""
    pairs: list[Pair] = []
    if job.how == COPY:
        pairs = list(job.pairs)
    else:
        failed = why.pair if isinstance(why, SinkError) and why.torn else None
        pairs = [pair for pair in job.pairs if pair is failed or pair in job.torn]
    return _since(_position(job), pairs), pairs


def _since(position: int, unusable: Sequence[Pair]) -> int:
    """The number after which these may lack records: no record is applied to them again, so a power
    cut takes what was not synced.
    """
    return min([position, *(pair.record.secondary_at for pair in unusable)])


def _with_uncopied(job: Job, missed: Backlogs) -> Backlogs:
    """What secondaries that were being copied to lack. A restart may know less than `changed` says:
    what a sync lost, no marker says. What a failed primary held at the end is worth nothing.
    """
    for pair, changed in missed.items():
        if pair in job.spoiled:
            changed.set_all()
        elif pair.changed is not None:
            changed.merge(pair.changed)
    return missed


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, DuplexdError | LookupError) else repr(error)


def _nothing() -> None:
    """Only to come to rest."""


def _nothing_again(_pairs: Sequence[Pair]) -> None:
    """Nothing begins resyncs yet."""

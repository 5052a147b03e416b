"""Copying what changed from primaries to secondaries, or to a staging log.

A copy is fuzzy: writes go on meanwhile. Following the journal from the number at which the copy
began corrects it: a run that was written to while it was copied gets those records afterwards.
Copying and following alternate, one call in a worker at a time. For the same reason a follower
never goes past what the primaries hold (`Timeline.performed`): a later copy would overwrite newer
content with older.

All jobs share one rate limit.
"""

from __future__ import annotations

import asyncio
import errno
import math
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from duplexd.core.markers import Copied
from duplexd.core.patience import SECONDARY, SYNC
from duplexd.replication.follower import (
    Follower,
    SecondarySink,
    SinkError,
    UntouchedError,
)
from duplexd.replication.job import copied_well, in_work
from duplexd.replication.leg_calls import JournalHungError, StagingHungError, hung_in
from duplexd.replication.pieces import (
    AHEAD_BYTES,
    PrimaryUnreadableError,
    Progress,
    copy_around,
    copy_changed,
    left_out,
)
from duplexd.replication.rate_limit import Pace
from duplexd.replication.retries import when_there_is_room
from duplexd.replication.throttle import TOO_SLOW
from duplexd.replication.write_out import WriteOut
from duplexd.runtime.tasks import to_its_end
from duplexd.runtime.watch import HungError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.limits import EngineLimits
    from duplexd.replication.follower import WatchedSink
    from duplexd.replication.job import Job
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.pieces import Piece
    from duplexd.replication.seams import Checkpointer, Emit, Timeline
    from duplexd.replication.staging import StagedLog, StagingArea, StagingSink
    from duplexd.runtime.clock import Clock

T = TypeVar("T")


class Copying:
    """The work of all jobs of a controller. `rate` is bytes per second, None for no limit; it may
    change. `on_moved` is called when a job advanced. `copied_bytes` is the total since the start.
    """

    def __init__(
        self,
        timeline: Timeline,
        checkpointer: Checkpointer,
        staging: StagingArea,
        legs: LegCalls,
        clock: Clock,
        emit: Emit,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._checkpointer = checkpointer
        self._staging = staging
        self._legs = legs
        self._clock = clock
        self._emit = emit
        self._limits = limits
        self._pace = Pace()
        self.rate: int | None = None
        self.on_moved: Callable[[], None] = _nobody
        self.copied_bytes = 0

    def follower(
        self, job: Job, sink: WatchedSink, position: int, counted_until: int = 0
    ) -> Follower:
        """A follower for a job's pairs."""
        ring, advance = self._timeline.writer.ring, self._timeline.ledger.advance
        return Follower(ring, job.pairs, position, sink, advance, counted_until)

    def keep_journal_from(self, number: int) -> None:
        """A restart needs the records after this number, until a checkpoint that knows why."""
        self._checkpointer.keep_from(number)

    async def follow(self, job: Job) -> bool:
        """One step along the journal, if there is one.

        Raises SinkError, also if a pair of the job was suspended meanwhile; JournalHungError.
        """
        follower = job.walk()
        in_work(job.pairs)
        if job.late and job.pairs:
            seconds = self._legs.patience.secondary_s
            error = UntouchedError(errno.ETIMEDOUT, TOO_SLOW.format(seconds))
            raise SinkError(job.pairs[0], follower.position + 1, error)
        until, limits = self._timeline.performed, self._limits
        if follower.position >= until:
            return False
        waited_for = job.cap != math.inf  # by clients
        chunk = limits.follower_chunk_bytes
        if waited_for:
            chunk = max(job.step_bytes, limits.follower_final_bytes)
        began = self._clock.monotonic()
        try:
            self.copied_bytes += await self._in_worker(
                job, follower.sink, lambda: follower.step(until, chunk)
            )
        except (SinkError, JournalHungError):
            follower.left()  # a thread that hangs changes nothing any more
            raise
        if waited_for:
            took_s = self._clock.monotonic() - began
            job.step_bytes = step_bytes(chunk, took_s, limits)
        job.floor = follower.position
        self.on_moved()
        return True

    async def _in_worker(self, job: Job, sink: WatchedSink, call: Callable[[], T]) -> T:
        """The result of a call that uses the legs of a job's pairs, in the worker of the job.

        A leg that hangs in it is a SinkError, or, if it is a primary that is copied to a staging
        log, a PrimaryUnreadableError.
        """
        try:
            return await to_its_end(self._legs.walk(job, sink.legs.watch, call))
        except HungError as hung:
            sink.legs.anew()  # a copy goes on with its other pairs
            pair, _, use = hung_in(hung)
            if use == SECONDARY:
                raise SinkError(pair, job.walk().position + 1, hung) from hung
            why = f"{hung.filename}: {hung.strerror}"
            unreadable = PrimaryUnreadableError(hung.errno, why, hung.filename)
            if sink.moves_secondary:
                raise SinkError(pair, 0, unreadable) from hung
            raise unreadable from hung
        except PrimaryUnreadableError as error:
            # Clients would get errors from an image that status calls good, until the next sync.
            if error.lost is not None:
                self._legs.on_hung(*error.lost)
            raise

    # ------------------------------------------------------------- straight to the secondary

    async def changed(self, job: Job, pair: Pair) -> None:
        """Copy the grains of `pair.changed`. The map is looked up again for each piece, because a
        failure replaces it.

        What the primary does not return is left out and stays in `changed`. When the rest is
        copied, or if it is too much, that is raised: a SinkError that names the primary.
        """
        async with self._write_out() as out:
            await self._changed(job, pair, out)

    async def _changed(self, job: Job, pair: Pair, out: WriteOut) -> None:
        progress, limits = Progress(), self._limits
        try:
            while pair.changed is not None and (
                run := pair.changed.next_run(progress.at, AHEAD_BYTES)
            ):
                at = max(run[0], progress.at)
                read_bytes = await self._one(job, pair, *run, progress)
                if read_bytes:
                    await out.add(pair, at, progress.at, read_bytes)
                whole = progress.at % pair.changed.grain_bytes == 0
                if whole and progress.copied_bytes >= limits.copied_mark_bytes:
                    await self._mark(job, pair, progress)
                if len(progress.unreadable) > limits.unreadable_ranges_max:
                    break
                await self._go_on(job, read_bytes)
            await self._mark(job, pair, progress)
        except BaseException:
            self._timeline.ledger.not_copied(pair.record, progress.unmarked)
            raise
        if progress.unreadable:
            raise SinkError(pair, 0, left_out(pair, progress.unreadable))

    async def _one(self, job: Job, pair: Pair, offset: int, length: int, progress: Progress) -> int:
        """Copy the next piece of a run of whole grains; returns how many bytes the disks moved.

        A grain that is larger than a piece counts as changed until its last piece is copied.
        """
        ledger, chunk, end = (
            self._timeline.ledger,
            self._limits.follower_chunk_bytes,
            offset + length,
        )
        at = max(offset, progress.at)
        async with self._checkpointer.copying:
            in_work([pair])
            copied_well(job, [pair])
            # Cleared before the read: a write that comes later sets the grains again.
            ledger.copying(pair.record, offset, length)
            try:
                sink = job.walk().sink
                copy = partial(copy_around, sink, pair, at, end, chunk)
                piece = await self._in_worker(job, sink, copy)
            except BaseException:
                ledger.not_copied(pair.record, [(offset, length)])
                raise
            progress.add(at, piece)
            rest = [(progress.at, end - progress.at)] if progress.at < end else []
            ledger.not_copied(pair.record, [*rest, *progress.unreadable])
        self._count(pair, piece)
        return piece.length if piece.read else 0

    def _write_out(self) -> WriteOut:
        return WriteOut(self._legs, self._limits.copy_ahead_bytes_max)

    def _count(self, pair: Pair, piece: Piece) -> None:
        pair.copied_bytes += piece.copied
        self.copied_bytes += piece.copied
        pair.copy_done += piece.length

    async def _mark(self, job: Job, pair: Pair, progress: Progress) -> None:
        """Make progress durable: a restart continues from there."""
        if not progress.unmarked:
            return
        try:
            leg = pair.copy_of
            await to_its_end(self._legs.on(pair, leg, SYNC, leg.sync))
        except OSError as error:
            self._timeline.ledger.nothing_copied(pair.record)
            raise SinkError(pair, 0, error) from error

        def mark() -> None:
            in_work([pair])
            copied_well(job, [pair])
            self._timeline.append(Copied(pair.id, progress.unmarked))
            progress.marked()

        await when_there_is_room(self._timeline, mark)
        done, total = pair.copy_done, pair.copy_total
        self._emit("copied", volume=pair.name, done_bytes=done, total_bytes=total)

    async def _go_on(self, job: Job, copied_bytes: int) -> None:
        """After `copied_bytes` were copied: follow the journal until the rate allows the next
        run.
        """
        now = self._clock.monotonic
        self._pace.spend(copied_bytes, now(), self.rate)
        while True:
            followed = await self.follow(job)
            wait_s = self._pace.wait_s(now(), self.rate)
            if wait_s <= 0:
                return
            if not followed:
                await asyncio.sleep(min(wait_s, self._limits.copy_pause_seconds_max))

    # ---------------------------------------------------------------------- by a staging log

    async def stage(self, job: Job) -> int:
        """Write what changed, and the records that arrive meanwhile, to a staging log; returns the
        number of its records. Durable when it returns. Raises OSError, with the secondaries
        untouched.
        """
        maps = [(pair, pair.changed.copy()) for pair in job.pairs if pair.changed is not None]
        piece_bytes_max = self._limits.staged_piece_bytes_max
        ring = self._timeline.writer.ring
        file_bytes = min(ring.size_bytes, self._limits.staging_file_bytes_max)
        sink = self._staging.sink(job.id, file_bytes, piece_bytes_max)
        job.follower = self.follower(job, sink, job.floor)
        for pair, todo in maps:
            pair.copy_total, pair.copy_done = todo.changed_bytes, 0
        try:
            for pair, todo in maps:
                await self._stage_one(job, pair, todo, sink)
            await self._end_staging(job, sink)
        except StagingHungError:
            sink.abandon()
            raise
        except (PrimaryUnreadableError, JournalHungError):
            await self._close(job, sink)
            raise
        except (SinkError, OSError) as error:
            await self._close(job, sink)
            cause = error.error if isinstance(error, SinkError) else error
            if isinstance(cause, UntouchedError):  # it names the secondary
                raise cause from error
            raise OSError(cause.errno, f"{self._staging.directory}: {cause.strerror}") from error
        return sink.count

    async def _stage_one(self, job: Job, pair: Pair, todo: ChangeMap, sink: StagingSink) -> None:
        at, piece_bytes = 0, self._limits.staged_piece_bytes_max
        while True:
            copied_well(job, [pair])
            copy = partial(copy_changed, sink, pair, todo, at, piece_bytes)
            staged = await self._in_worker(job, sink, copy)
            if staged is None:
                break
            at = staged.at
            pair.copied_bytes += staged.copied
            pair.copy_done += staged.changed
            await self._go_on(job, staged.changed if staged.read else 0)

    async def _end_staging(self, job: Job, sink: StagingSink) -> None:
        copied_at = await self._timeline.at_rest(lambda: self._timeline.performed)
        while job.walk().position < copied_at:
            await self.follow(job)
        await self._in_worker(job, sink, sink.finish)

    async def _close(self, job: Job, sink: StagingSink) -> None:
        """Why the log is not finished is known; what its close says adds nothing."""
        sink.legs.anew()  # who hangs in the journal does not use the log
        try:
            await self._in_worker(job, sink, sink.close)
        except OSError:
            sink.abandon()

    async def apply_staged(self, job: Job, count: int) -> dict[Pair, OSError]:
        """Apply a committed staging log to the secondaries, durably; returns those that failed.

        Raises DamageError or OSError if the log cannot be read.
        """
        failed: dict[Pair, OSError] = {}
        async with self._write_out() as out:
            while True:
                pairs = {pair.id: pair for pair in job.pairs if pair not in failed}
                log = self._staging.log(job.id, pairs, count)
                try:
                    await self._apply(job, log, out)
                    break
                except SinkError as hung:  # once more, for the others
                    failed[hung.pair] = hung.located()
                finally:
                    failed |= log.failed
        await self._checkpointer.sync_secondaries(
            [each for each in job.pairs if each not in failed]
        )
        self.copied_bytes += sum(pair.copied_bytes for pair in job.pairs)
        return failed

    async def _apply(self, job: Job, log: StagedLog, out: WriteOut) -> None:
        """In steps, so that the disk of the secondaries is never far behind."""
        sink = SecondarySink(reserves=False)  # that was done before
        while not log.is_applied:
            spans = await self._in_worker(job, sink, partial(log.step, sink, sink.legs.watch))
            for pair, span in spans.items():
                await out.add(pair, *span)

    async def remove_staged(self, job: Job) -> None:
        """Remove the staging log of a job."""
        remove = partial(self._staging.remove, job.id)
        await to_its_end(self._legs.on_staging(self._staging, remove))


def step_bytes(last: int, took_s: float, limits: EngineLimits) -> int:
    """How long the next step is to be that clients may wait for, after one of `last` bytes."""
    if took_s > limits.follower_step_seconds:
        return max(last // 2, limits.follower_final_bytes)
    if took_s < limits.follower_step_seconds / 4:
        return min(last * 2, limits.follower_chunk_bytes)
    return last


def _nobody() -> None:
    """Nobody waits."""

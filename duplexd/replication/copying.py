"""Copying what changed from primaries to secondaries, or to a staging log, in turn with steps along the journal.

One worker does both, so a run that was copied while it was written to is put right by the records that follow.
"""

from __future__ import annotations

import asyncio
import errno
import math
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import state
from duplexd.limits import COPIED_MARK_BYTES, COPY_PAUSE_SECONDS_MAX, FOLLOWER_CHUNK_BYTES
from duplexd.replication.follower import Follower, SinkError, UntouchedError, copy_run
from duplexd.replication.rate_limit import Pace
from duplexd.replication.staging import PIECE_BYTES_MAX, StagingSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller


class Job:
    """One resync or copy. `floor` is the number after which it still needs the journal."""

    __slots__ = (
        "began",
        "cap",
        "floor",
        "follower",
        "how",
        "id",
        "pairs",
        "reasons",
        "task",
        "whole",
    )

    def __init__(self, job_id: str, how: str, pairs: list[Pair], floor: int, began: float) -> None:
        self.id = job_id
        self.how = how
        self.pairs = pairs
        self.reasons = {str(pair.id): pair.reason for pair in pairs}  # why they stood at their cuts
        self.floor = floor
        self.began = began
        self.follower: Follower | None = None
        self.cap = math.inf  # lag in bytes beyond which new changes wait
        self.task: asyncio.Task[None] | None = None
        self.whole = (
            True  # whether the secondaries hold a state that existed, but for a torn change
        )


class Copying:
    """The work of all jobs of a controller: they share one pace. `moved` is called whenever a job got on."""

    def __init__(self, controller: Controller, moved: Callable[[], None]) -> None:
        self._controller = controller
        self._moved = moved
        self._pace = Pace()
        self.copied_bytes = 0

    async def follow(self, job: Job) -> bool:
        """One step along the journal, if there is one: never past what the primaries hold, for what is copied from them comes in between.

        Raises SinkError, also if a pair was suspended behind the job's back.
        """
        controller, follower = self._controller, job.follower
        assert follower is not None
        in_work(job.pairs)
        until = controller.batches.performed
        if follower.position >= until:
            return False
        self.copied_bytes += await controller.work(
            lambda: follower.step(until, FOLLOWER_CHUNK_BYTES)
        )
        job.floor = follower.position
        controller.maintenance.space_may_be_free()
        self._moved()
        return True

    async def changed(self, job: Job, pair: Pair) -> None:
        """Copy what `pair.changed` says. The map is asked for anew each time: a failure behind the job's back puts another in its place."""
        unmarked: list[tuple[int, int]] = []
        try:
            while (
                pair.changed is not None
                and (run := pair.changed.next_run(0, FOLLOWER_CHUNK_BYTES)) is not None
            ):
                async with self._controller.maintenance.copying:
                    in_work([pair])
                    await self._one(job, pair, *run)
                unmarked.append(run)
                if sum(length for _, length in unmarked) >= COPIED_MARK_BYTES:
                    await self._mark(pair, unmarked)
                    unmarked = []
                await self._go_on(job, run[1])
            await self._mark(pair, unmarked)
        except BaseException:
            _not_copied(pair, unmarked)  # not known to be durable
            raise

    async def _one(self, job: Job, pair: Pair, offset: int, length: int) -> None:
        controller = self._controller
        assert job.follower is not None
        assert pair.changed is not None
        sink = job.follower.sink
        pair.changed.clear(
            offset, length
        )  # before reading: a restart then copies it again, never too little
        try:
            copied = await controller.work(partial(copy_run, sink, pair, offset, length))
        except BaseException:
            _not_copied(pair, [(offset, length)])
            raise
        pair.copied_bytes += copied
        self.copied_bytes += copied
        pair.copy_done += length

    async def _mark(self, pair: Pair, runs: list[tuple[int, int]]) -> None:
        if runs:
            assert pair.secondary is not None
            try:
                await self._controller.work(pair.secondary.sync)
            except OSError as error:
                if pair.changed is not None:
                    pair.changed.set_all()  # nobody knows what did not get to the disk
                raise SinkError(pair, 0, error) from error

            def mark() -> None:
                in_work([pair])
                self._controller.mark({"m": "copied", "id": pair.id, "runs": runs})

            await self._controller.step(mark)
            self._controller.emit(
                "copied", volume=pair.name, done_bytes=pair.copy_done, total_bytes=pair.copy_total
            )

    async def _go_on(self, job: Job, copied_bytes: int) -> None:
        """Along the journal, after so much was copied; as often as there is time until the next run may be."""
        controller, now = self._controller, self._controller.clock.monotonic
        self._pace.spend(copied_bytes, now(), controller.config.controller.copy_rate)
        while True:
            followed = await self.follow(job)
            wait_s = self._pace.wait_s(now(), controller.config.controller.copy_rate)
            if wait_s <= 0:
                return
            if not followed:
                await asyncio.sleep(min(wait_s, COPY_PAUSE_SECONDS_MAX))

    async def stage(self, job: Job, directory: str) -> int:
        """Put what changed, and what the journal says meanwhile, into a staging log in `directory`; returns the number of its records.

        Durable when it returns. Raises OSError: the secondaries were not touched.
        """
        controller = self._controller
        maps = [(pair, pair.changed.copy()) for pair in job.pairs if pair.changed is not None]
        sink = StagingSink(controller.disk, directory, job.id, controller.ring.segment_size)
        job.follower = Follower(controller.ring, job.pairs, job.floor, sink)
        for pair, todo in maps:
            pair.copy_total, pair.copy_done = todo.changed_bytes, 0
        try:
            for pair, todo in maps:
                offset = 0
                while (run := todo.next_run(offset, PIECE_BYTES_MAX)) is not None:
                    offset = run[0] + run[1]
                    pair.copied_bytes += await controller.work(partial(copy_run, sink, pair, *run))
                    pair.copy_done += run[1]
                    await self._go_on(job, run[1])
            copied_at = await controller.step(lambda: controller.batches.performed)
            while job.follower.position < copied_at:
                await self.follow(job)
            await controller.work(sink.finish)
        except (SinkError, OSError) as error:
            sink.close()
            cause = error.error if isinstance(error, SinkError) else error
            if isinstance(cause, UntouchedError):  # it names the secondary
                raise cause from error
            raise OSError(cause.errno, f"{directory}: {cause.strerror}") from error
        return sink.count


def _not_copied(pair: Pair, runs: list[tuple[int, int]]) -> None:
    if pair.changed is not None:
        for offset, length in runs:
            pair.changed.set(offset, length)


def in_work(pairs: list[Pair]) -> None:
    """Raises SinkError if a pair was suspended behind the job's back, because its secondary could not be synced."""
    for pair in pairs:
        if pair.state != state.PENDING:
            raise SinkError(pair, 0, OSError(errno.EIO, "the secondary could not be synced"))

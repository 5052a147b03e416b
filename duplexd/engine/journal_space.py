"""Room in the journal: spare segments ahead of the writer, and what to do when there are none.

One task. It wakes when a segment was begun, when a batch waits for room (it has set a reason in
`Admission`), when a follower needs less of the journal than before, and once a second for the
periodic sync. It adds segments, else recycles one, else takes a checkpoint that frees some. A
checkpoint may wait long, for slow disks or for a suspend that syncs its secondaries, so periodic
ones run in a task of their own, and room is made meanwhile. Changes are refused only when there is
no room and no follower will free any; they are accepted again as soon as there is room.

There are two ways to have no room. All segments are in use: then followers and checkpoints free
some. Or the file system is full: it refuses another segment, or, where it copies on write, a write
into one that is there. Then only its owner can help. As nothing is written while changes are
refused, a spare segment is written over once a second to find out when there is room again.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING

from duplexd.engine.sync_claim import SyncClaim
from duplexd.errors import DuplexdError
from duplexd.replication.leg_calls import JournalHungError
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.admission import Admission
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.events import Events
    from duplexd.engine.mark_numbers import MarkNumbers
    from duplexd.engine.timeline import Timeline
    from duplexd.journal.segment import Segment
    from duplexd.limits import EngineLimits
    from duplexd.runtime.threads import Workers

NO_ROOM = "the journal has no room"  # the reason in `Admission` while a batch waits for it


class JournalSpace:
    """`followers_floor()` gives the number after which followers still need the journal."""

    def __init__(
        self,
        timeline: Timeline,
        admission: Admission,
        checkpointer: Checkpointer,
        numbers: MarkNumbers,
        workers: Workers,
        events: Events,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._writer = timeline.writer
        self._ring = timeline.writer.ring
        self._admission = admission
        self._checkpointer = checkpointer
        self._claim = SyncClaim(timeline, checkpointer)
        self._numbers = numbers
        self._workers = workers
        self._events = events
        self._limits = limits
        self.followers_floor: Callable[[], int] = _no_followers
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._beside: asyncio.Task[None] | None = None  # takes a checkpoint
        self._grow_error: OSError | None = None  # why there is no further segment
        self._full: OSError | None = None  # why the segments that are there cannot be written
        self._short_since: float | None = None  # a batch waits for room, by the loop's clock

    # -------------------------------------------------------------------- life and wake-ups

    def start(self) -> None:
        """Start the task; it looks for room at once. What is synced is noted on images, too."""
        self._something.set()
        self._numbers.start()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="journal space")

    async def stop(self) -> None:
        """End the tasks. A checkpoint that was under way is complete, or was not taken."""
        await self._numbers.stop()
        tasks = [task for task in (self._task, self._beside) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def segment_begun(self) -> None:
        """The writer took a spare segment. Whether half of the journal is used is checked only
        here, because a checkpoint frees whole segments.
        """
        few = len(self._ring.spares) < self._limits.spare_segments
        if few or (self._half_used() and self._beside is None):
            self._something.set()

    def want(self) -> None:
        """A batch waits for room."""
        self._admission.hold(NO_ROOM)
        if self._short_since is None:
            self._short_since = asyncio.get_running_loop().time()
        self._something.set()

    def no_space(self, error: OSError) -> None:
        """The journal refused a write for lack of room: in a spare segment, or on the disk."""
        self._grow_error = error
        if self._has_room():
            self._full = error
        self.want()

    def may_be_free(self) -> None:
        """A follower needs less of the journal than before."""
        if self._wanted:
            self._something.set()

    @property
    def pinned_bytes(self) -> int:
        """What cannot be written over: a checkpoint or a follower has to advance first."""
        return self._ring.pinned_bytes(self._floor)

    def waits_s(self) -> float:
        """How long changes have waited for room; 0 if none wait."""
        since = self._short_since
        return asyncio.get_running_loop().time() - since if since is not None else 0.0

    @property
    def _floor(self) -> int:
        """Up to this number nobody needs the journal."""
        return min(self._checkpointer.replay_floor, self.followers_floor())

    @property
    def _wanted(self) -> bool:
        return NO_ROOM in self._admission.reasons

    def _half_used(self) -> bool:
        """Whether half of the journal was written since the last checkpoint."""
        since = self._timeline.log_position - self._checkpointer.log_position
        return since > self._ring.size_bytes // 2

    async def _run(self) -> None:
        while not self._timeline.failed:
            timed_out = False
            try:
                async with asyncio.timeout(self._limits.sync_interval_s):
                    await self._something.wait()
            except TimeoutError:
                timed_out = True
            self._something.clear()
            try:
                await self._once(timed_out)
            except (OSError, DuplexdError) as error:
                self._events.emit("checkpoint-failed", error=str(error))
                await asyncio.sleep(self._limits.sync_interval_s)
            except Exception as error:  # noqa: BLE001  it is reported
                self._broke(error)

    def _broke(self, error: Exception) -> None:
        """Nobody would make room any more, and changes would wait for it for ever."""
        why = "unexpected error while making room in the journal"
        self._timeline.fail(f"{why}: {error!r}")
        context = {"message": why, "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    async def _once(self, timed_out: bool) -> None:
        writer = self._writer
        await self._make_room()
        if self._half_used():
            self._begin_checkpoint()
        elif timed_out:
            if writer.written > writer.synced:
                await self._timeline.durable()
            elif self._has_room():
                self._claim.write()
            if self._is_due():
                self._begin_checkpoint()

    def _is_due(self) -> bool:
        """Whether a checkpoint is due by time, or because a start would not recognise an image."""
        last = self._checkpointer
        written = self._writer.written > last.sequence
        if last.age_s() > self._limits.checkpoint_interval_s:
            return written or last.would_close_regions()
        return written and last.would_record_images()

    def _begin_checkpoint(self) -> None:
        if self._beside is None:
            loop = asyncio.get_running_loop()
            self._beside = loop.create_task(self._checkpoint_beside(), name="checkpoint")

    async def _checkpoint_beside(self) -> None:
        try:
            await self._checkpointer.checkpoint()
        except (OSError, DuplexdError) as error:
            self._events.emit("checkpoint-failed", error=str(error))
            await asyncio.sleep(self._limits.sync_interval_s)
        except Exception as error:  # noqa: BLE001  it is reported
            self._broke(error)
        finally:
            self._beside = None
            self._something.set()

    # ----------------------------------------------------------------------------------- room

    async def _make_room(self) -> None:
        ring, checkpointer, tried_at = self._ring, self._checkpointer, -1
        while len(ring.spares) < self._limits.spare_segments:
            if ring.can_grow() and await self._grow():
                continue
            if await self._recycle():
                continue
            if self._beside is not None:
                await asyncio.wait({self._beside})
                continue
            # Followers go on while one is taken: if it freed anything, the next may free more.
            if tried_at == checkpointer.replay_floor or not checkpointer.would_free():
                break
            tried_at = checkpointer.replay_floor
            try:
                await checkpointer.checkpoint()
            except JournalHungError:  # its disk may answer yet: changes wait for that
                raise
            except OSError as error:  # this is also a reason for lack of room
                self._grow_error = error
                self._events.emit("checkpoint-failed", error=str(error))
                break
        if self._full is not None:
            await self._probe()
        await self._judge()
        if not self._wanted:
            self._short_since = None

    async def _probe(self) -> None:
        """Write over a spare segment: of what is live, no byte may be risked. Where there is none,
        the next change finds out.
        """
        if not self._ring.spares:
            self._full = None
            return
        spare = self._ring.spares.pop()
        probe = partial(self._ring.probe, spare, self._limits.batch_bytes_max)
        try:
            await to_its_end(self._workers.run(probe))
            self._full = self._grow_error = None
        except OSError as error:
            self._full = error
        finally:
            self._ring.spares.append(spare)

    async def _grow(self) -> bool:
        try:
            await to_its_end(self._take(self._ring.grow))
        except OSError as error:
            self._not_made(error)
            return False
        self._grow_error = None
        return True

    async def _recycle(self) -> bool:
        ring = self._ring
        segment = ring.droppable(self._floor)
        if segment is None:
            return False
        ring.live.remove(segment)
        try:
            await to_its_end(self._take(lambda: ring.recycle(segment)))
        except OSError as error:  # its file is gone, which gives room to others
            self._not_made(error)
        return True

    def _not_made(self, error: OSError) -> None:
        """Said once, until one is made: a full disk fails every attempt."""
        if self._grow_error is None:
            self._events.emit("segment-failed", error=str(error))
        self._grow_error = error

    async def _take(self, make: Callable[[], Segment]) -> None:
        """A segment that a worker makes ready becomes a spare one: also if the daemon stops
        meanwhile, or its file would never be closed.
        """
        self._ring.spares.append(await self._workers.run(make))
        self._admission.lift(NO_ROOM)

    async def _judge(self) -> None:
        """Let waiting batches try again. If there is no room, and no follower will free any,
        refuse changes until there is.
        """
        refused, pinned = self._refuses(), self._is_pinned()  # before a follower goes on
        if self._wanted and not refused and self._full is None:
            await self._try_waiting()
        stuck = (self._wanted or refused) and not self._has_room() and not pinned
        cause = self._full or (self._grow_error if stuck else None)
        number = cause.errno or errno.ENOSPC if cause is not None else 0
        if self._timeline.failed or number == self._admission.refusal:
            return
        if number and not refused:
            self._events.emit("journal-full", error=str(cause))
        elif refused and not number:
            self._events.emit("journal-has-room")
        self._admission.refuse(number)
        if not number:
            await self._try_waiting()

    def _refuses(self) -> bool:
        return bool(self._admission.refusal) and not self._timeline.failed

    def _has_room(self) -> bool:
        limits = self._limits
        largest = min(limits.batch_bytes_max, self._writer.segment.size // 2)
        return self._writer.room(largest + limits.marker_reserve_bytes, limits.record_bytes_max)

    def _is_pinned(self) -> bool:
        """Whether a follower needs old segments, and frees them as it advances."""
        return self.followers_floor() < min(
            self._timeline.written, self._checkpointer.replay_floor + 1
        )

    async def _try_waiting(self) -> None:
        before = self._timeline.written
        self._admission.lift(NO_ROOM)
        await asyncio.sleep(0)  # now the write path has tried
        if self._wanted and self._timeline.written == before:
            # Still too little room. A part that frees some wakes this task; trying again at once
            # would only take time from it.
            self._something.clear()


def _no_followers() -> int:
    return 1 << 62

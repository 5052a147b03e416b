"""What goes on beside the write path: checkpoints, room in the journal, syncs, reload."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, Any

from duplexd.core import state
from duplexd.core.change_map import ChangeMap
from duplexd.core.ledger import UNCOMMITTED, pack_map
from duplexd.errors import DuplexdError
from duplexd.images.place import lost_image
from duplexd.journal import checkpoint
from duplexd.limits import (
    CHECKPOINT_INTERVAL_S,
    MARKER_RESERVE_BYTES,
    RECORD_BYTES_MAX,
    SPARE_SEGMENTS,
    SYNC_INTERVAL_S,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller


class Maintenance:
    """One task that keeps spare segments ready, and has checkpoints taken beside that: they take as long as the legs' disks do, or a suspend
    whose secondaries are being synced, and changes must not run out of room meanwhile.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.copying = asyncio.Lock()  # a checkpoint and the copy of a run exclude each other
        self._syncing = asyncio.Lock()
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._beside: asyncio.Task[None] | None = None  # takes a checkpoint
        self._wanted = False  # a batch waits for room
        self._checkpoint_position = 0
        self._checkpoint_sequence = 0
        self._checkpoint_time = 0.0
        self._grow_error: OSError | None = None
        self.replay_floor = 0  # a restart replays what comes after this number
        self._kept_from = 1 << 62  # the same for what was begun since the last snapshot was taken
        self.checkpoints = 0

    # ------------------------------------------------------------------------------------------------------ life and wake-ups

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="maintenance")

    async def stop(self) -> None:
        """End the task; say in the journal that all is in order."""
        tasks = [task for task in (self._task, self._beside) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        controller = self._controller
        if controller.failed:
            return
        with contextlib.suppress(OSError, DuplexdError):
            await controller.step(lambda: controller.mark({"m": "close"}))
            await self.checkpoint()

    def written(self) -> None:
        """Something was appended."""
        ring = self._controller.ring
        if len(ring.spares) < SPARE_SEGMENTS or (self._half_used() and self._beside is None):
            self._something.set()

    def _half_used(self) -> bool:
        """Whether half of the journal was written since the last checkpoint."""
        ring = self._controller.ring
        return (
            self._controller.writer.log_position - self._checkpoint_position > ring.size_bytes // 2
        )

    def keep_from(self, number: int) -> None:
        """A restart needs what comes after this number, too: until a checkpoint whose snapshot was taken later is complete."""
        self._kept_from = min(self._kept_from, number)
        self.replay_floor = min(self.replay_floor, number)

    def want_space(self) -> None:
        """A batch waits for room."""
        self._wanted = True
        self._something.set()

    def no_space(self, error: OSError) -> None:
        """The journal refused a write for lack of room."""
        self._grow_error = error
        self.want_space()

    def space_may_be_free(self) -> None:
        """Somebody needs less of the journal than before."""
        if self._wanted:
            self._something.set()

    async def _run(self) -> None:
        while not self._controller.failed:
            timed_out = False
            try:
                async with asyncio.timeout(SYNC_INTERVAL_S):
                    await self._something.wait()
            except TimeoutError:
                timed_out = True
            self._something.clear()
            try:
                await self._once(timed_out)
            except (OSError, DuplexdError) as error:
                self._controller.emit("checkpoint-failed", error=str(error))
                await asyncio.sleep(SYNC_INTERVAL_S)

    async def _once(self, timed_out: bool) -> None:
        controller = self._controller
        writer = controller.writer
        await self._make_space()
        if self._half_used():
            self._begin_checkpoint()
        elif timed_out:
            if writer.written > writer.synced:
                await controller.durable(writer.written)
            due = controller.clock.monotonic() - self._checkpoint_time > CHECKPOINT_INTERVAL_S
            if due and writer.written > self._checkpoint_sequence:
                self._begin_checkpoint()

    def _begin_checkpoint(self) -> None:
        if self._beside is None:
            self._beside = asyncio.get_running_loop().create_task(
                self._checkpoint_beside(), name="checkpoint"
            )

    async def _checkpoint_beside(self) -> None:
        try:
            await self.checkpoint()
        except (OSError, DuplexdError) as error:
            self._controller.emit("checkpoint-failed", error=str(error))
            await asyncio.sleep(SYNC_INTERVAL_S)
        finally:
            self._beside = None
            self._something.set()

    # ------------------------------------------------------------------------------------------------------------- room

    async def _make_space(self) -> None:
        controller = self._controller
        ring = controller.ring
        tried_checkpoint = False
        while len(ring.spares) < SPARE_SEGMENTS:
            if ring.can_grow() and await self._grow():
                continue
            if await self._recycle():
                continue
            if self._beside is not None:
                await asyncio.wait({self._beside})
                continue
            if tried_checkpoint or not self._checkpoint_helps():
                break
            tried_checkpoint = True
            try:
                await self.checkpoint()
            except OSError as error:  # whoever waits for room has to be told, also of this
                self._grow_error = error
                controller.emit("checkpoint-failed", error=str(error))
                break
        self._judge_space()

    def _checkpoint_helps(self) -> bool:
        """Whether one would free anything: also without a new record, if a follower was behind at the last one and is not now."""
        written = self._controller.writer.written
        return (
            replay_floor({"sequence": written, **self._controller.ledger.snapshot(written)})
            > self.replay_floor
        )

    def _judge_space(self) -> None:
        """Let batches that wait for room have it; if there is none, and nobody will give any up, changes are refused until there is."""
        controller = self._controller
        was = controller.refusing
        if self._wanted and not was:
            self._let_go_on()
        pinned = controller.jobs.floor() < min(controller.writer.written, self.replay_floor + 1)
        room = controller.writer.room(
            controller.batches.bytes_max() + MARKER_RESERVE_BYTES, RECORD_BYTES_MAX
        )
        stuck = (self._wanted or was) and not room and not pinned
        controller.refusing = (
            (self._grow_error.errno or errno.ENOSPC)
            if stuck and self._grow_error is not None
            else 0
        )
        if controller.refusing and not was:
            controller.emit("journal-full", error=str(self._grow_error))
        elif was and not controller.refusing:
            controller.emit("journal-has-room")
            self._let_go_on()
        if controller.refusing:
            controller.batches.refuse_queued(controller.refusing)

    def _let_go_on(self) -> None:
        controller = self._controller
        self._wanted, before = False, controller.writer.written
        controller.batches.kick()
        if self._wanted and controller.writer.written == before:
            self._something.clear()  # too little room still: whoever gives some up will say so; asking again at once would stop them

    async def _grow(self) -> bool:
        controller = self._controller
        try:
            segment = await controller.work(controller.ring.grow)
        except OSError as error:
            self._grow_error = error
            return False
        self._grow_error = None
        controller.ring.spares.append(segment)
        controller.batches.kick()
        return True

    async def _recycle(self) -> bool:
        controller = self._controller
        ring = controller.ring
        segment = ring.droppable(min(self.replay_floor, controller.jobs.floor()))
        if segment is None:
            return False
        ring.live.remove(segment)
        ring.spares.append(await controller.work(lambda: ring.recycle(segment)))
        controller.batches.kick()
        return True

    # ------------------------------------------------------------------------------------------------------ checkpoints, syncs

    async def checkpoint(self) -> None:
        """Make both legs durable up to now, and say so in the checkpoint file. Raises OSError, DuplexdError: the old one stays valid."""
        await to_its_end(self._checkpoint())

    async def _checkpoint(self) -> None:
        controller = self._controller
        async with self.copying, self._syncing:
            saved = (
                await self._legs_durable() or await self._legs_durable()
            )  # without those that failed the first time
            if saved is None:
                return
            path = f"{controller.config.controller.state_dir}/checkpoint"
            await controller.work(
                lambda: controller.disk.replace_file(
                    path, checkpoint.pack(controller.ledger.pack_snapshot(saved))
                )
            )
        self.replay_floor = min(replay_floor(saved), self._kept_from)
        self._checkpoint_sequence = saved["sequence"]
        self._checkpoint_position = saved["index"] * controller.ring.segment_size + saved["offset"]
        self._checkpoint_time = controller.clock.monotonic()
        self.checkpoints += 1

    async def _legs_durable(self) -> dict[str, Any] | None:
        """Sync all that a checkpoint stands for; returns what it says. None if secondaries failed: they were suspended, so it would say otherwise."""
        controller = self._controller
        saved, primaries, secondaries = await controller.step(self._snapshot)
        following = [pair for pair in controller.pairs.values() if pair.state == state.DUPLEX]
        try:
            await controller.durable(saved["sequence"])
            await self._sync_primaries(primaries)
        except BaseException:
            for pair in secondaries:
                pair.secondary_dirty = (
                    True  # a suspend that waits beside this has to sync them itself
                )
            raise
        failures = await controller.work(lambda: _lost(following) + _sync_all(secondaries))
        if failures:
            await controller.step(lambda: self._secondaries_failed(failures))
        return None if failures else saved

    def _snapshot(self) -> tuple[dict[str, Any], list[Pair], list[Pair]]:
        controller = self._controller
        writer = controller.writer
        self._kept_from = 1 << 62
        pairs = list(controller.pairs.values())
        saved = {
            "controller": controller.ring.controller.hex(), "segment_size": controller.ring.segment_size,
            "sequence": writer.sequence, "chain": writer.chain, "index": writer.segment.index, "offset": writer.position,
            **controller.ledger.snapshot(writer.sequence),
        }  # fmt: skip
        primaries = [pair for pair in pairs if pair.primary_dirty]
        secondaries = _take_dirty(pairs)
        for pair in primaries:
            pair.primary_dirty = False
        for pair in pairs:
            pair.regions, pair.touched = pair.touched, set()
        return saved, primaries, secondaries

    async def _sync_primaries(self, pairs: list[Pair]) -> None:
        failures = await self._controller.work(lambda: _sync_all(pairs, primary=True))
        for pair, error in failures:
            self._controller.fail(
                f"{pair.primary.path}: could not be synced: {error.strerror}; what it lost is in the journal: restart"
            )
            raise error

    @contextlib.asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """Meanwhile no leg is synced, and none is copied to."""
        async with self.copying, self._syncing:
            yield

    async def sync_secondaries(self, pairs: list[Pair]) -> None:
        """Make these secondaries durable, where they are looked for. One that fails, or lies there no more, is suspended, its cut void."""
        await to_its_end(self._sync_secondaries(pairs))

    async def _sync_secondaries(self, pairs: list[Pair]) -> None:
        async with self._syncing:
            dirty = await self._controller.step(lambda: _take_dirty(pairs))
            usable = [pair for pair in pairs if pair.usable]
            failures = await self._controller.work(lambda: _lost(usable) + _sync_all(dirty))
        if failures:
            await self._controller.step(lambda: self._secondaries_failed(failures))

    def _secondaries_failed(self, failures: list[tuple[Pair, OSError]]) -> None:
        controller = self._controller
        for pair, error in failures:
            lost = ChangeMap(pair.size)
            lost.set_all()  # nobody knows what did not get to the disk
            if not pair.usable and pair.state == state.SUSPENDED:
                controller.mark({"m": "missed", "volumes": {str(pair.id): pack_map(lost)}})
                continue
            members = controller.trouble.group_of(pair) if pair.state == state.DUPLEX else {pair}
            at = pair.applied if pair.state == state.SUSPENDED else controller.writer.written
            controller.trouble.freeze(members, pair, at, error, {pair}, {pair: lost})


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` to its end even if the caller is cancelled: legs count as clean from the moment their sync is planned."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody is left to be told
        raise


def replay_floor(saved: dict[str, Any]) -> int:
    """The number after which a restart from this checkpoint needs records."""
    floor = int(saved["sequence"])
    for pair in saved["pairs"]:
        standing = pair["state"] == state.SUSPENDED and (
            not pair["usable"] or pair["cut"] is None or pair["applied"] >= pair["cut"][1]
        )
        standing = (
            standing or pair["staging"] == UNCOMMITTED
        )  # a restart abandons that resync: it stands at its cut again
        if pair["state"] != state.SIMPLEX and not standing and not pair["removed"]:
            floor = min(floor, int(pair["applied"]))
    return floor


def _lost(pairs: list[Pair]) -> list[tuple[Pair, OSError]]:
    """Whose secondaries do not lie any more where they are looked for."""
    return [(pair, error) for pair in pairs if (error := lost_image(pair.secondary)) is not None]


def _take_dirty(pairs: list[Pair]) -> list[Pair]:
    """Those whose secondaries are to be synced, clean from now on. Within a step: a batch that is under way may write after the sync."""
    dirty = [pair for pair in pairs if pair.secondary_dirty and pair.secondary is not None]
    for pair in (
        dirty
    ):  # and no others: meanwhile a follower, in its thread, may have written to one that was clean
        pair.secondary_dirty = False
    return dirty


def _sync_all(pairs: list[Pair], primary: bool = False) -> list[tuple[Pair, OSError]]:
    failures: list[tuple[Pair, OSError]] = []
    for pair in pairs:
        leg = pair.primary if primary else pair.secondary
        try:
            if leg is not None:
                leg.sync()
        except OSError as error:
            failures.append((pair, error))
    return failures

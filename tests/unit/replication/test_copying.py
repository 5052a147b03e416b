"""Copying what changed: in turn with the journal, at the rate allowed, durable step by step."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core import pair_states
from duplexd.core.markers import Copied, Resync
from duplexd.replication.copying import Copying, step_bytes
from duplexd.replication.follower import SecondarySink, SinkError, UntouchedError
from duplexd.replication.job import COPY, MAP, Job
from duplexd.replication.staging import StagingArea
from duplexd.units import KIB, MIB
from tests.unit.engine.cores import Core, new_disk, run, settings
from tests.unit.replication.fakes import BLOCK, GRAIN, LIMITS, SIZE, World, turns, until

if TYPE_CHECKING:
    from duplexd.core.pair import Pair
    from tests.sim.disk import SimDisk

CHUNK = LIMITS.follower_chunk_bytes
RATE = 1 * MIB
CHUNK_SECONDS = CHUNK / RATE
CONTENT = bytes(range(1, 251)) * (SIZE // 250 + 1)
STAGING = "/state/staging"


class Copies:
    """A `Copying` of a world; `moves` counts `on_moved`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.staging = StagingArea(world.disk, STAGING)
        self.copying = Copying(
            world.timeline,
            world.checkpointer,
            self.staging,
            world.calls,
            world.clock,
            world.emit,
            LIMITS,
        )
        self.moves = 0
        self.copying.on_moved = self._moved

    def _moved(self) -> None:
        self.moves += 1

    def job(self, pair: Pair) -> Job:
        """A copy straight to the secondary."""
        job = Job(COPY, [pair], pair.applied)
        job.follower = self.copying.follower(job, SecondarySink(), job.floor)
        return job

    def begin(self, pair: Pair) -> asyncio.Task[None]:
        """Copy in a task."""
        return asyncio.ensure_future(self.copying.changed(self.job(pair), pair))


def pending(content: bytes = CONTENT[:SIZE]) -> tuple[World, Copies, Pair]:
    """A pair of which all is to be copied."""
    world = World()
    pair = world.to_copy(content=content)
    pair.copy_total = SIZE
    return world, Copies(world), pair


async def test_all_that_changed_is_copied() -> None:
    world, copies, pair = pending()
    await copies.begin(pair)
    assert world.legs[pair].equal
    assert pair.changed is not None
    assert not pair.changed.any()
    assert pair.copied_bytes == copies.copying.copied_bytes == SIZE


async def test_what_did_not_change_is_not_looked_at() -> None:
    world, copies, pair = pending()
    assert pair.changed is not None
    pair.changed.clear(0, SIZE - GRAIN)
    await copies.begin(pair)
    assert not any(world.legs[pair].secondary.data[: SIZE - GRAIN])
    assert pair.copied_bytes == GRAIN


async def test_a_copy_does_not_put_older_content_over_what_was_followed() -> None:
    """A batch may be between the journal and the primary: its records must not be followed yet."""
    world, copies, pair = pending()
    at = 2 * GRAIN  # in a run that is copied later than the first step along the journal
    finish = world.timeline.begin(pair, at, b"new" * BLOCK)
    copy = asyncio.ensure_future(copies.copying.changed(job := copies.job(pair), pair))
    await until(lambda: pair.copy_done >= at + GRAIN)
    finish()
    await copy
    while await copies.copying.follow(job):
        pass
    assert world.legs[pair].equal


async def test_a_write_beside_the_copy_of_its_run_is_followed() -> None:
    world, copies, pair = pending()
    world.workers.held = asyncio.Event()
    copy = asyncio.ensure_future(copies.copying.changed(job := copies.job(pair), pair))
    await turns()
    world.timeline.write(pair, 0, b"new" * BLOCK)
    world.workers.held.set()
    await copy
    while await copies.copying.follow(job):
        pass
    assert world.legs[pair].equal


async def test_no_checkpoint_is_taken_while_a_run_is_copied() -> None:
    """It would say that the run is copied, and its sync might have come before the write."""
    world, copies, pair = pending()
    world.workers.held = asyncio.Event()
    copy = copies.begin(pair)
    await turns()
    assert world.checkpointer.copying.locked()
    world.workers.held.set()
    await copy
    assert not world.checkpointer.copying.locked()


# ------------------------------------------------------------------------------------ its progress


async def test_progress_is_in_the_journal_only_once_it_is_durable() -> None:
    world, copies, pair = pending()
    synced_when_marked: list[int] = []

    def look() -> None:
        if isinstance(world.timeline.markers[-1], Copied):
            synced_when_marked.append(world.legs[pair].secondary.syncs)

    world.timeline.on_written.append(look)
    await copies.begin(pair)
    marked = [marker for marker in world.timeline.markers if isinstance(marker, Copied)]
    assert len(marked) == SIZE // LIMITS.copied_mark_bytes
    marked_bytes = LIMITS.copied_mark_bytes
    assert [run for marker in marked for run in marker.runs] == [
        (at, marked_bytes) for at in range(0, SIZE, marked_bytes)
    ]
    assert synced_when_marked == list(range(1, len(marked) + 1))
    assert world.emit.named("copied")[-1] == {
        "event": "copied", "volume": "data", "done_bytes": SIZE, "total_bytes": SIZE,
    }  # fmt: skip


async def test_what_was_copied_before_a_sync_that_failed_is_copied_again() -> None:
    """A failed sync may have lost any of it, not only the runs since the last one."""
    world, copies, pair = pending()
    world.legs[pair].faults.fail("sync", errno.EIO, after=1)
    with pytest.raises(SinkError):
        await copies.begin(pair)
    assert pair.changed == pair.record.full_map()


async def test_a_run_that_failed_is_still_to_be_copied() -> None:
    world, copies, pair = pending()
    world.legs[pair].faults.fail("write", errno.EIO, after=1)
    with pytest.raises(SinkError):
        await copies.begin(pair)
    assert pair.changed is not None
    assert pair.changed.overlaps(0, BLOCK), "it was copied, but is not durable"
    assert pair.changed.overlaps(CHUNK, BLOCK)


async def test_a_copy_that_is_stopped_keeps_what_is_not_durable_yet() -> None:
    world, copies, pair = pending()
    world.workers.held = asyncio.Event()
    copy = copies.begin(pair)
    await turns()
    copy.cancel()
    world.workers.held.set()
    with pytest.raises(asyncio.CancelledError):
        await copy
    assert pair.changed == pair.record.full_map()
    assert world.legs[pair].secondary.data[:CHUNK] == CONTENT[:CHUNK], "what was begun has ended"


async def test_a_pair_that_was_suspended_meanwhile_is_not_written_to() -> None:
    world, copies, pair = pending()
    copy = copies.begin(pair)
    await until(lambda: pair.copy_done > 0)
    error, full = OSError(errno.EIO, "lost"), pair.record.full_map()
    world.freeze([pair], pair, world.timeline.written, error, [pair], {pair: full})
    done = pair.copy_done
    with pytest.raises(SinkError, match="could not be synced"):
        await copy
    assert pair.copy_done <= done + CHUNK


# ---------------------------------------------------------------------------------------- its rate


async def test_it_waits_for_time_to_pass() -> None:
    world, copies, pair = pending()
    copies.copying.rate = RATE
    copy = copies.begin(pair)
    await until(lambda: pair.copy_done == CHUNK)
    for chunk in (1, 2, 3):
        await asyncio.sleep(0.15)
        assert pair.copy_done == chunk * CHUNK, "no time has passed"
        world.clock.now += CHUNK_SECONDS
    copies.copying.rate = None
    await copy


async def test_it_follows_the_journal_while_it_waits() -> None:
    world, copies, pair = pending()
    copies.copying.rate = RATE
    copy = copies.begin(pair)
    await until(lambda: pair.copy_done == CHUNK)
    last = world.timeline.write(pair, 0, b"new" * BLOCK)
    async with asyncio.timeout(10):
        while pair.applied < last:  # noqa: ASYNC110 - it looks every 50 ms
            await asyncio.sleep(0.01)
    assert pair.copy_done == CHUNK
    assert world.legs[pair].secondary.data[: 3 * BLOCK] == b"new" * BLOCK
    copies.copying.rate = None
    await copy


async def test_without_a_rate_it_goes_on_at_once() -> None:
    _, copies, pair = pending()
    copies.copying.rate = RATE
    copy = copies.begin(pair)
    await until(lambda: pair.copy_done == CHUNK)
    copies.copying.rate = None
    async with asyncio.timeout(10):
        await copy
    assert pair.copy_done == SIZE


def test_a_controller_stops_while_its_copy_waits_and_the_next_one_ends_it() -> None:
    disk = new_disk()
    size = 12 * MIB
    _write_image(disk, "/a/data.img", size)
    slow = settings(size=size)
    slow = slow.model_copy(
        update={"controller": slow.controller.model_copy(update={"copy_rate": 64 * KIB})}
    )

    async def stop() -> None:
        core = await Core.begin(disk, slow)
        await core.until(lambda: core.pair().copy_done > 0)
        await core.controller.stop()
        assert core.pair().state == pair_states.PENDING

    async def again() -> None:
        core = await Core.begin(disk, settings(size=size))
        await core.until(lambda: core.pair().state == pair_states.DUPLEX)
        assert core.equal()
        await core.controller.stop()

    run(asyncio.wait_for(stop(), 60))
    run(asyncio.wait_for(again(), 60))


def _write_image(disk: SimDisk, path: str, size: int) -> None:
    file = disk.create(path, size)
    file.write(0, CONTENT[:MIB] * (size // MIB))
    file.sync()
    file.close()


# --------------------------------------------------------------------------- by a staging log


def resyncing(world: World) -> tuple[Copies, Pair, Job]:
    """A suspended pair with a change since its cut, and a job that stages it."""
    pair = world.pair(mode="sync")
    world.suspend(pair)
    world.timeline.write(pair, GRAIN, b"changed" * 100)
    copies = Copies(world)
    job = Job(MAP, [pair], world.timeline.written)
    _to_pending(world, job)
    return copies, pair, job


def _to_pending(world: World, job: Job) -> None:
    world.timeline.append(Resync(job.id, MAP, [pair.id for pair in job.pairs]))


async def test_a_staging_log_has_what_changed_and_what_changes_meanwhile() -> None:
    world = World()
    copies, pair, job = resyncing(world)
    world.workers.held = asyncio.Event()
    staging = asyncio.ensure_future(copies.copying.stage(job))
    await turns()
    world.timeline.write(pair, 3 * GRAIN, b"meanwhile" * 100)
    world.workers.held.set()
    count = await staging
    assert not any(world.legs[pair].secondary.data), "the secondary is at its cut"
    await copies.copying.apply_staged(job, count)
    assert world.legs[pair].equal
    assert world.checkpointer.synced == [["data"]]


async def test_a_batch_that_runs_when_the_copy_ends_is_in_the_log() -> None:
    """Its change may be in what was copied: then the log must reach beyond it."""
    world = World()
    copies, pair, job = resyncing(world)
    finish = world.timeline.begin(pair, GRAIN, b"newer" * 100)
    staging = asyncio.ensure_future(copies.copying.stage(job))
    await turns()
    assert not staging.done()
    finish()
    count = await staging
    assert job.walk().position == world.timeline.written
    await copies.copying.apply_staged(job, count)
    assert world.legs[pair].equal


async def test_no_room_for_the_log_names_where_it_is() -> None:
    world = World()
    copies, pair, job = resyncing(world)
    world.disk.full("/state/staging")
    with pytest.raises(OSError, match="/state/staging: No space") as caught:
        await copies.copying.stage(job)
    assert not isinstance(caught.value, UntouchedError)
    assert not any(world.legs[pair].secondary.data)


async def test_no_room_on_the_secondary_names_the_secondary() -> None:
    world = World()
    copies, pair, job = resyncing(world)
    world.legs[pair].faults.fail("reserve", errno.ENOSPC)
    with pytest.raises(UntouchedError, match="/b/data: no room for the changes"):
        await copies.copying.stage(job)
    assert not any(world.legs[pair].secondary.data)


def test_steps_that_clients_wait_for_are_as_long_as_their_time_allows() -> None:
    least, most, seconds = (
        LIMITS.follower_final_bytes,
        LIMITS.follower_chunk_bytes,
        LIMITS.follower_step_seconds,
    )
    assert step_bytes(least, seconds / 10, LIMITS) == 2 * least
    assert step_bytes(most, seconds / 10, LIMITS) == most
    assert step_bytes(most, seconds / 2, LIMITS) == most
    assert step_bytes(most, seconds * 2, LIMITS) == most // 2
    assert step_bytes(least, seconds * 2, LIMITS) == least

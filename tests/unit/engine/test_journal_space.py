"""Room in the journal: made ahead of need, waited for, and refused only when none can be freed."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.core.markers import Close
from duplexd.engine.checkpoint import Checkpointer
from duplexd.engine.journal_space import NO_ROOM, JournalSpace
from duplexd.engine.mark_numbers import MarkNumbers
from duplexd.limits import EngineLimits
from duplexd.replication.leg_calls import JournalHungError, LegCalls
from duplexd.units import KIB
from tests.unit.engine.cores import MIB, running
from tests.unit.engine.parts import SMALL, Parts
from tests.unit.replication.fakes import InlineWorkers, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from duplexd.core.pair import PairChange
    from tests.unit.engine.cores import Core

SEGMENT = 128 * KIB
SEGMENTS = 6
JOURNAL = "/state/journal"
NOWHERE = 1 << 62
LIMITS = dataclasses.replace(SMALL, sync_interval_s=1.0, checkpoint_interval_s=20.0)


class HandCheckpointer(Checkpointer):
    """Checkpoints by hand: one lets go of all up to `frees`, after `wait`, or raises `error`."""

    def __init__(self, parts: Parts) -> None:  # instead of the parts that a real one needs
        self._parts = parts
        self.replay_floor = 0
        self.sequence = 0
        self.log_position = parts.timeline.log_position
        self.taken = 0
        self.frees = 0
        self.then_frees = 0  # once the next one is taken
        self.keeps = False  # frees nothing, though it would
        self.age = 0.0
        self.unrecorded = False
        self.error: OSError | None = None
        self.wait: asyncio.Event | None = None

    def age_s(self) -> float:
        return self.age

    def would_free(self) -> bool:
        return self.frees > self.replay_floor

    def would_close_regions(self) -> bool:
        return False

    def would_record_images(self) -> bool:
        return self.unrecorded

    async def checkpoint(self) -> None:
        if self.wait is not None:
            await self.wait.wait()
        if self.error is not None:
            raise self.error
        self.taken += 1
        if not self.keeps:
            self.replay_floor = max(self.replay_floor, self.frees)
        self.frees = max(self.frees, self.then_frees)
        self.sequence = self._parts.timeline.written
        self.log_position = self._parts.timeline.log_position


class SpaciousParts(Parts):
    """A journal of one segment, and a write path that asks `space` for room."""

    space: JournalSpace

    def __init__(self) -> None:
        super().__init__(LIMITS, SEGMENT, segments=1)

    def _want_room(self) -> None:
        self.wanted_room += 1
        self.space.want()


class Space:
    """A journal of one live segment that may grow to six, and what keeps room in it."""

    def __init__(self) -> None:
        self.parts = parts = SpaciousParts()
        self.ring = parts.writer.ring
        self.ring.segments_max = SEGMENTS
        self.checkpointer = HandCheckpointer(parts)
        self.workers = InlineWorkers()
        self.space = parts.space = JournalSpace(
            parts.timeline,
            parts.admission,
            self.checkpointer,
            MarkNumbers(parts.timeline, parts.volumes, LegCalls(self.workers), LIMITS),
            self.workers,
            parts.events,
            LIMITS,
        )
        self.floor = NOWHERE
        self.space.followers_floor = lambda: self.floor
        parts.timeline.on_segment = self.space.segment_begun
        parts.timeline.on_no_room = self.space.no_space

    async def fill(self, segments: int) -> int:
        """Write that many segments, with room made meanwhile; the number of the last change."""
        aim = self.ring.live[-1].index + segments
        while self.ring.live[-1].index < aim:
            change = self.parts.send("data", 0, b"x" * 4 * KIB)
            await until(lambda: self.parts.answered(change))  # noqa: B023 - before the next one
        return self.parts.timeline.written

    @property
    def spares(self) -> int:
        return len(self.ring.spares)

    def taken(self) -> int:
        """Checkpoints."""
        return self.checkpointer.taken


@asynccontextmanager
async def keeping() -> AsyncIterator[Space]:
    """It runs, and has made the first room."""
    made = Space()
    made.space.start()
    await until(lambda: made.spares >= LIMITS.spare_segments)
    try:
        yield made
    finally:
        await made.space.stop()


def full() -> tuple[Space, PairChange]:
    """A full journal, not running, and the change that waits for room."""
    made = Space()
    ring, parts = made.ring, made.parts
    while ring.can_grow():
        ring.spares.append(ring.grow())
    change = parts.send("data", 0, b"x" * 4 * KIB)
    while not parts.wanted_room:
        change = parts.send("data", 0, b"x" * 4 * KIB)
    made.checkpointer.log_position = parts.timeline.log_position
    return made, change


# ---------------------------------------------------------------------------------- ahead of need


async def test_spare_segments_are_made_before_they_are_needed() -> None:
    async with keeping() as made:
        await made.fill(2)
        await until(lambda: made.spares == LIMITS.spare_segments)
        assert len(made.ring.live) == 3
        assert not made.taken()


async def test_a_journal_of_full_size_is_recycled_oldest_first() -> None:
    async with keeping() as made:
        await made.fill(3)
        made.checkpointer.replay_floor = made.ring.live[1].first
        await made.fill(2)
        await until(lambda: made.ring.live[0].index == 2)
        await until(lambda: len(made.ring.live) + made.spares == SEGMENTS)


async def test_no_segment_goes_that_a_follower_still_reads() -> None:
    async with keeping() as made:
        made.floor = 0
        made.checkpointer.frees = NOWHERE
        await made.fill(SEGMENTS - 1)
        await turns()
        assert made.ring.oldest == 1
        assert len(made.ring.live) == SEGMENTS


async def test_a_checkpoint_is_taken_if_it_lets_segments_go() -> None:
    made, _ = full()
    made.checkpointer.frees = made.parts.timeline.written
    made.space.start()
    await until(lambda: made.spares >= LIMITS.spare_segments)
    assert made.taken() == 1
    await made.space.stop()


async def test_one_that_would_free_nothing_is_not_taken() -> None:
    made, _ = full()
    made.space.start()
    await turns()
    assert not made.taken()
    await made.space.stop()


# ------------------------------------------------------------------------------------- by the clock


async def test_what_was_written_is_synced_after_an_interval() -> None:
    async with keeping() as made:
        made.parts.send("data", 0, b"x" * 512)
        assert made.parts.writer.synced < made.parts.timeline.written
        await asyncio.sleep(LIMITS.sync_interval_s * 1.5)
        made.parts.workers.finish_all()
        assert made.parts.writer.synced == made.parts.timeline.written


async def test_a_checkpoint_is_taken_after_its_interval_if_anything_was_written() -> None:
    async with keeping() as made:
        made.checkpointer.sequence = made.parts.timeline.written
        made.parts.writer.synced = made.parts.timeline.written
        made.checkpointer.age = LIMITS.checkpoint_interval_s + 1
        await asyncio.sleep(LIMITS.sync_interval_s * 1.5)
        assert not made.taken(), "nothing was written"
        made.parts.send("data", 0, b"x" * 512)
        made.parts.writer.synced = made.parts.timeline.written
        await asyncio.sleep(LIMITS.sync_interval_s * 1.5)
        assert made.taken() == 1


async def test_a_checkpoint_that_would_record_an_image_does_not_wait_for_its_interval() -> None:
    """Once: one that cannot be recorded is tried again after further changes."""
    async with keeping() as made:
        made.checkpointer.unrecorded = True
        made.parts.send("data", 0, b"x" * 512)
        made.parts.writer.synced = made.parts.timeline.written
        await asyncio.sleep(LIMITS.sync_interval_s * 2.5)
        assert made.taken() == 1


async def test_a_checkpoint_is_taken_once_half_of_the_journal_is_used() -> None:
    async with keeping() as made:
        await made.fill(SEGMENTS // 2 - 1)
        await turns()
        assert not made.taken()
        await made.fill(2)
        await until(lambda: made.taken() == 1)


async def test_room_is_made_beside_a_checkpoint_that_takes_long() -> None:
    async with keeping() as made:
        made.checkpointer.wait = asyncio.Event()
        await made.fill(SEGMENTS // 2 + 1)
        assert not made.taken()
        await until(lambda: made.spares == LIMITS.spare_segments or not made.ring.can_grow())
        assert len(made.ring.live) + made.spares == SEGMENTS
        made.checkpointer.wait.set()
        await until(lambda: made.taken() == 1)


async def test_a_checkpoint_that_fails_is_reported_and_tried_again_after_a_while() -> None:
    async with keeping() as made:
        made.checkpointer.error = OSError(errno.ENOSPC, "No space left on device")
        await made.fill(SEGMENTS // 2 + 1)
        await until(lambda: bool(made.parts.named("checkpoint-failed")))
        assert len(made.parts.named("checkpoint-failed")) == 1
        made.checkpointer.error = None
        await turns()
        assert not made.taken(), "not at once"
        await asyncio.sleep(LIMITS.sync_interval_s * 2)
        assert made.taken() == 1


async def test_a_stop_waits_for_no_interval() -> None:
    made = Space()
    made.space.start()
    await turns()
    async with asyncio.timeout(LIMITS.sync_interval_s / 2):
        await made.space.stop()


@pytest.mark.parametrize("recycled", [False, True])
async def test_a_stop_loses_no_segment_that_is_being_made_ready(recycled: bool) -> None:
    """Its file would never be closed."""
    made = full()[0] if recycled else Space()
    made.checkpointer.replay_floor = NOWHERE
    before = len(made.ring.live) + made.spares
    made.workers.held = asyncio.Event()
    made.space.start()
    await turns()
    stopping = asyncio.ensure_future(made.space.stop())
    await turns()
    assert not stopping.done()
    made.workers.held.set()
    await stopping
    assert len(made.ring.live) + made.spares == before + (not recycled)


# ------------------------------------------------------------------------- batches that wait for it


async def test_a_batch_that_waits_goes_on_when_there_is_room() -> None:
    made, change = full()
    assert made.parts.admission.reasons == {NO_ROOM}
    made.checkpointer.frees = made.parts.timeline.written
    made.space.start()
    await until(lambda: made.parts.answered(change))
    assert change.error == 0
    assert made.parts.admission.clear
    await made.space.stop()


async def test_a_batch_waits_for_a_follower_that_will_give_room_up() -> None:
    made, change = full()
    made.floor = 0
    made.checkpointer.replay_floor = made.parts.timeline.written
    made.space.no_space(OSError(errno.ENOSPC, "No space left on device"))
    made.space.start()
    await turns(100)
    assert (made.parts.admission.refusal, made.parts.answered(change)) == (0, False)
    made.floor = made.parts.timeline.written
    made.space.may_be_free()
    await until(lambda: made.parts.answered(change))
    assert change.error == 0
    await made.space.stop()


async def test_how_long_changes_have_waited_for_room_is_known_until_they_go_on() -> None:
    made, change = full()
    loop = asyncio.get_running_loop()
    made.floor = 0
    made.checkpointer.replay_floor = made.parts.timeline.written
    assert made.space.waits_s() == 0.0
    began = loop.time()
    made.space.no_space(OSError(errno.ENOSPC, "No space left on device"))
    made.space.start()
    await turns(100)
    assert 0.0 < made.space.waits_s() <= loop.time() - began
    made.floor = made.parts.timeline.written
    made.space.may_be_free()
    await until(lambda: made.parts.answered(change))
    await until(lambda: made.space.waits_s() == 0.0)
    await made.space.stop()


async def test_a_follower_that_went_on_during_a_checkpoint_is_worth_another_one() -> None:
    """The first one keeps what the follower needed when it began."""
    made, change = full()
    checkpointer, tail = made.checkpointer, made.parts.timeline.written
    made.space.no_space(OSError(errno.ENOSPC, "no spare segment in the journal"))
    checkpointer.frees, checkpointer.then_frees = 1, tail
    made.space.start()
    await until(lambda: made.parts.answered(change))
    assert (change.error, made.parts.named("journal-full")) == (0, [])
    await made.space.stop()


async def test_a_follower_that_ends_while_a_batch_tries_again_is_no_reason_to_refuse_it() -> None:
    made, change = full()
    parts = made.parts
    made.checkpointer.replay_floor, tried = parts.timeline.written, parts.wanted_room
    made.space.followers_floor = lambda: 0 if parts.wanted_room == tried else NOWHERE
    made.space.no_space(OSError(errno.ENOSPC, "no spare segment in the journal"))
    tried = parts.wanted_room
    made.space.start()
    await until(lambda: parts.wanted_room > tried)
    made.space.may_be_free()
    await until(lambda: parts.answered(change))
    assert (change.error, parts.named("journal-full")) == (0, [])
    await made.space.stop()


async def test_a_checkpoint_that_freed_nothing_is_not_taken_again_at_once() -> None:
    made, change = full()
    made.checkpointer.keeps = True
    made.checkpointer.frees = made.parts.timeline.written
    made.space.no_space(OSError(errno.ENOSPC, "no spare segment in the journal"))
    made.space.start()
    await until(lambda: made.parts.answered(change))
    assert (change.error, made.taken()) == (errno.ENOSPC, 1)
    await made.space.stop()


async def test_changes_are_refused_if_nothing_frees_any_until_there_is_room() -> None:
    made, waiting = full()
    made.space.no_space(OSError(errno.ENOSPC, "No space left on device"))
    made.space.start()
    await until(lambda: made.parts.answered(waiting))
    assert waiting.error == made.parts.admission.refusal == errno.ENOSPC
    assert made.parts.named("journal-full")[0]["error"] == "[Errno 28] No space left on device"
    refused = made.parts.send("data", 0, b"x" * 512)
    assert (made.parts.answered(refused), refused.error) == (True, errno.ENOSPC)
    made.checkpointer.frees = made.parts.timeline.written
    await asyncio.sleep(LIMITS.sync_interval_s * 1.5)
    await until(lambda: made.parts.admission.clear)
    assert len(made.parts.named("journal-full")) == len(made.parts.named("journal-has-room")) == 1
    taken = made.parts.send("data", 0, b"x" * 512)
    assert (made.parts.answered(taken), taken.error) == (True, 0)
    await made.space.stop()


async def test_changes_wait_for_a_checkpoint_whose_disk_does_not_answer() -> None:
    made, waiting = full()
    made.checkpointer.frees = made.parts.timeline.written
    made.checkpointer.error = JournalHungError(errno.ETIMEDOUT, "the checkpoint cannot be written")
    made.space.want()
    made.space.start()
    await until(lambda: bool(made.parts.named("checkpoint-failed")))
    await asyncio.sleep(LIMITS.sync_interval_s * 2.5)
    assert not made.parts.answered(waiting)
    assert made.parts.named("journal-full") == []
    made.checkpointer.error = None
    await asyncio.sleep(LIMITS.sync_interval_s * 2.5)
    await until(lambda: made.parts.answered(waiting))
    assert waiting.error == 0
    await made.space.stop()


async def test_a_disk_that_lets_the_journal_grow_again_ends_the_refusal() -> None:
    made = Space()
    made.parts.disk.fail(JOURNAL, errno.EDQUOT, operation="create")
    change = made.parts.send("data", 0, b"x" * 4 * KIB)
    while not made.parts.wanted_room:
        change = made.parts.send("data", 0, b"x" * 4 * KIB)
    made.checkpointer.log_position = made.parts.timeline.log_position
    made.space.start()
    await until(lambda: made.parts.answered(change))
    assert change.error == made.parts.admission.refusal == errno.EDQUOT
    made.parts.disk.heal(JOURNAL)
    await asyncio.sleep(LIMITS.sync_interval_s * 1.5)
    await until(lambda: made.parts.admission.clear)
    await made.space.stop()


async def test_a_disk_that_copies_on_write_and_is_full_is_a_full_journal() -> None:
    """A segment that is there is no promise of room."""
    async with keeping() as made:
        disk, admission = made.parts.disk, made.parts.admission
        made.parts.writer.synced = made.parts.timeline.written  # no sync by the clock
        disk.full(JOURNAL, copies=True)
        refused = made.parts.send("data", 0, b"x" * 4 * KIB)
        assert refused.error == errno.ENOSPC
        await until(lambda: admission.refusal == errno.ENOSPC)
        await asyncio.sleep(LIMITS.sync_interval_s * 2.5)
        assert admission.refusal == errno.ENOSPC, "there is still no room"
        assert not made.parts.timeline.failed
        disk.heal(JOURNAL)
        await asyncio.sleep(LIMITS.sync_interval_s * 1.5)
        await until(lambda: admission.clear)
        taken = made.parts.send("data", 0, b"x" * 4 * KIB)
        assert (made.parts.answered(taken), taken.error) == (True, 0)
        assert (
            len(made.parts.named("journal-full")) == len(made.parts.named("journal-has-room")) == 1
        )
        assert made.spares == LIMITS.spare_segments, "the one that was tried is there"


async def test_a_marker_that_such_a_disk_refuses_is_written_later() -> None:
    async with keeping() as made:
        timeline = made.parts.timeline
        made.parts.disk.full(JOURNAL, copies=True)
        appending = asyncio.ensure_future(timeline.at_rest(lambda: timeline.append(Close())))
        await turns()
        assert not timeline.failed
        assert not appending.done()
        made.parts.disk.heal(JOURNAL)
        assert await appending == timeline.written


async def test_a_quota_is_a_full_disk() -> None:
    async with keeping() as made:
        made.parts.fail_journal("writev", errno.EDQUOT)
        refused = made.parts.send("data", 0, b"x" * 4 * KIB)
        assert refused.error == errno.EDQUOT
        assert not made.parts.timeline.failed
        await until(lambda: made.parts.admission.clear)


async def test_a_segment_that_cannot_be_made_ready_again_gives_its_room_to_others() -> None:
    made, change = full()
    made.checkpointer.frees = made.parts.timeline.written
    made.parts.disk.fail(JOURNAL, errno.ENOSPC, operation="write", times=1)
    made.space.start()
    await until(lambda: made.parts.answered(change))
    assert change.error == 0
    assert not made.parts.timeline.failed
    await made.space.stop()


async def test_an_error_that_nobody_expected_fails_the_controller() -> None:
    """Else changes would wait for room that nobody makes any more."""
    made, change = full()
    made.checkpointer.replay_floor = NOWHERE
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    made.workers.burst = burst = ZeroDivisionError("a defect")
    made.space.start()
    await until(lambda: bool(made.parts.timeline.failed))
    assert "ZeroDivisionError('a defect')" in made.parts.timeline.failed
    await until(lambda: made.parts.answered(change))
    assert change.error == errno.EIO
    assert [context["exception"] for context in reported] == [burst]
    await made.space.stop()


async def test_a_controller_that_failed_refuses_for_that_reason_still() -> None:
    made, _ = full()
    made.space.start()
    await turns()
    made.parts.timeline.fail("the reason")
    await asyncio.sleep(LIMITS.sync_interval_s * 2)
    assert made.parts.admission.refusal == errno.EIO
    await made.space.stop()


# --------------------------------------------------------------------------------- on a controller

WRITTEN = 40  # MiB of 48 that there is room for; a checkpoint is due at 24


async def _write(core: Core) -> None:
    for number in range(WRITTEN):
        assert await core.write("data", number % 4 * MIB, bytes([number]) * MIB) == 0


async def test_changes_have_the_room_of_the_whole_journal_while_a_checkpoint_waits() -> None:
    """A suspend whose secondaries are being synced keeps it from going on."""
    async with running(journal="64MiB") as core, asyncio.timeout(60):
        checkpointer = core.controller.checkpointer
        before = checkpointer.taken
        async with checkpointer.no_syncs():
            await _write(core)
            assert checkpointer.taken == before
        await _write(core)  # more than is left: it needs what the checkpoint frees
        assert checkpointer.taken > before


async def test_a_checkpoint_that_the_disk_refused_is_made_up_for() -> None:
    limits = dataclasses.replace(EngineLimits(), sync_interval_s=0.01)
    async with running(journal="64MiB", limits=limits) as core, asyncio.timeout(60):
        checkpointer = core.controller.checkpointer
        before = checkpointer.taken
        core.disk.fail("/state/checkpoint", errno.ENOSPC, operation="replace_file", times=1)
        await _write(core)
        while checkpointer.taken == before:  # noqa: ASYNC110 - in its own time
            await asyncio.sleep(0.01)
        assert len(core.named("checkpoint-failed")) == 1


async def test_changes_go_on_once_an_async_follower_has_caught_up() -> None:
    """The journal is full of what it had not applied when the last checkpoint was taken."""
    async with running({"data": "async"}, journal="16MiB") as core, asyncio.timeout(60):
        controller = core.controller
        async with controller.followers.stepping:  # the follower waits
            changes = [
                core.send("data", number % 4 * MIB, bytes([number]) * MIB) for number in range(24)
            ]
            await core.turns(3000)
            waiting = [change for change in changes if change not in core.peer.answers]
            assert waiting, "the journal never was full"
            assert controller.checkpointer.replay_floor < controller.timeline.written
            await controller.checkpointer.checkpoint()  # with the follower behind: it frees nothing
        for change in waiting:
            assert await core.answer(change) == 0
        assert not controller.failed


async def test_a_segment_that_cannot_be_made_is_reported_once_until_one_is() -> None:
    made = Space()
    made.parts.disk.fail(JOURNAL, errno.EIO, operation="create")
    made.space.start()
    await asyncio.sleep(LIMITS.sync_interval_s * 2.5)
    reported = made.parts.named("segment-failed")
    assert len(reported) == 1
    assert JOURNAL in reported[0]["error"]
    await made.space.stop()

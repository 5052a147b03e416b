"""What a checkpoint records of the images, and that it is what they hold."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.images.probe import SAMPLE_BYTES, Mark
from duplexd.journal.format import crc32c
from duplexd.runtime.watch import HungError
from tests.support.fault_leg import FaultLeg
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, run, running, settings
from tests.unit.engine.test_recovery_degraded import refusing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.core.image_record import Image
    from duplexd.runtime.stamp import Stamp

BLOCK = 1 * MIB + 3 * SAMPLE_BYTES
ALONE = {"data": "sync"}


def images(core: Core, name: str = "data") -> tuple[Image, Image]:
    record = core.pair(name).record
    assert record.primary_image is not None
    assert record.secondary_image is not None
    return record.primary_image, record.secondary_image


def exact(core: Core, name: str = "data") -> list[int]:
    """Where the images were sampled, each as its image is."""
    for image in images(core, name):
        content = core.disk.content(image.path)
        for offset, crc in image.samples:
            assert crc32c(content[offset : offset + SAMPLE_BYTES]) == crc, (image.path, offset)
    return images(core, name)[0].offsets


async def checkpoint(core: Core) -> None:
    await core.controller.checkpointer.checkpoint()


async def test_each_image_carries_a_mark_with_an_id_of_its_own() -> None:
    async with running(ALONE) as core:
        ours, theirs = images(core)
        found = Mark.unpack(core.pair().primary.read_mark())
        ring = core.controller.timeline.writer.ring
        number = core.controller.checkpointer.sequence
        assert found == Mark(ours.id, ring.controller.hex(), "alpha", "data", 1, number)
        assert ours.id != theirs.id
        assert (ours.path, theirs.path, ours.marked) == ("/a/data.img", "/b/data.img", True)


async def test_the_first_and_the_last_block_are_sampled() -> None:
    async with running(ALONE) as core:
        assert {0, SIZE - SAMPLE_BYTES} <= set(exact(core))


async def test_the_block_that_was_written_last_is_sampled() -> None:
    async with running(ALONE) as core:
        await core.write("data", BLOCK, b"x" * SAMPLE_BYTES)
        await checkpoint(core)
        assert BLOCK in exact(core)


async def test_of_a_long_change_the_first_and_the_last_block_are_sampled() -> None:
    async with running(ALONE) as core:
        await core.write("data", BLOCK - 100, b"x" * (8 * SAMPLE_BYTES))
        await checkpoint(core)
        assert {BLOCK, BLOCK + 6 * SAMPLE_BYTES} <= set(exact(core))


async def test_a_block_that_was_written_in_part_is_not_sampled_from_the_journal() -> None:
    async with running(ALONE) as core:
        await core.write("data", BLOCK, b"x" * SAMPLE_BYTES)
        await core.write("data", BLOCK + 10, b"y")
        await checkpoint(core)
        exact(core)


async def test_zeroes_are_sampled_and_trims_are_not() -> None:
    async with running(ALONE) as core:
        await core.write("data", BLOCK, b"x" * (2 * SAMPLE_BYTES))
        await core.zero("data", BLOCK, SAMPLE_BYTES)
        await core.trim("data", BLOCK + SAMPLE_BYTES, SAMPLE_BYTES)
        await checkpoint(core)
        assert BLOCK in (offsets := exact(core))
        assert BLOCK + SAMPLE_BYTES not in offsets


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_samples_follow_the_images_through_a_cut_and_a_resync(mode: str) -> None:
    async with running({"data": mode}) as core:
        await core.write("data", BLOCK, b"x" * SAMPLE_BYTES)
        await core.controller.suspend(["data"])
        await checkpoint(core)
        before = images(core)[1].samples
        await core.write("data", BLOCK, b"y" * SAMPLE_BYTES)
        await checkpoint(core)
        exact(core)
        assert images(core)[1].samples == before, "nothing was written to it"
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        await checkpoint(core)
        exact(core)


def test_the_samples_of_an_image_are_kept_over_restarts() -> None:
    disk = new_disk()

    async def life(data: bytes) -> set[int]:
        async with running(ALONE, disk=disk) as core:
            if data:
                await core.write("data", BLOCK, data)
                await checkpoint(core)
            return set(exact(core))

    first = run(life(b"x" * SAMPLE_BYTES))
    assert BLOCK in first
    assert run(life(b"")) == first


def test_an_image_keeps_its_id_and_its_mark_says_which_start_used_it_last() -> None:
    disk = new_disk()

    async def life() -> tuple[str, int]:
        async with running(ALONE, disk=disk) as core:
            found = Mark.unpack(core.pair().primary.read_mark())
            assert found is not None
            return images(core)[0].id, found.generation

    first, second = run(life()), run(life())
    assert first[0] == second[0]
    assert (first[1], second[1]) == (1, 2)


class _OfNoTime(FaultLeg):
    """A leg that takes a mark, and then cannot be recorded."""

    def stamp(self) -> Stamp:
        raise OSError(errno.EIO, "no answer", self.path)


async def test_a_new_image_is_marked_again_with_the_same_id() -> None:
    """The first call may have hung, and write its mark after the second one."""
    async with running(ALONE) as core:
        pair, ledger = core.pair(), core.controller.timeline.ledger
        ledger.use_images(pair.record, pair.record.primary_image, None)
        pair.set_legs(pair.primary, _OfNoTime(pair.copy_of), pair.mode)
        ids = set()
        for _ in range(2):
            await checkpoint(core)
            mark = Mark.unpack(pair.copy_of.read_mark())
            assert mark is not None
            assert pair.record.secondary_image is None
            ids.add(mark.id)
        assert len(ids) == 1


async def test_an_image_that_was_not_written_to_is_not_looked_at_again() -> None:
    async with running(ALONE) as core:
        await core.write("data", 0, b"x" * SAMPLE_BYTES)
        await checkpoint(core)
        primary, secondary = core.faulty()
        assert secondary is not None
        before = images(core)
        await checkpoint(core)  # of legs that it has not seen: it marks them
        calls = (primary.calls["read_into"], secondary.calls["read_into"])
        await checkpoint(core)
        assert (primary.calls["read_into"], secondary.calls["read_into"]) == calls
        assert [image.samples for image in images(core)] == [image.samples for image in before]


async def test_an_image_that_cannot_be_read_does_not_keep_the_checkpoint() -> None:
    async with running(ALONE) as core:
        primary, _ = core.faulty()
        await core.write("data", BLOCK, b"x" * SAMPLE_BYTES)
        primary.fail("read_into")
        taken = core.controller.checkpointer.taken
        await checkpoint(core)
        assert core.controller.checkpointer.taken == taken + 1
        primary.heal()
        assert BLOCK in exact(core), "it comes from the journal"


# ------------------------------------------------------------- what changes beside a checkpoint


def _beside(count: int, change: Callable[[Core], Awaitable[object]]) -> list[int]:
    """Write; begin a checkpoint, and after some turns of the loop do something else; take another
    checkpoint. What was sampled then is what the images hold.
    """

    async def scenario() -> list[int]:
        async with running(ALONE, disk=new_disk()) as core:
            await core.write("data", BLOCK, b"x" * SAMPLE_BYTES)
            begun = asyncio.ensure_future(checkpoint(core))
            await core.turns(count)
            await core.write("data", BLOCK, b"y" * SAMPLE_BYTES)
            await change(core)
            await begun
            await checkpoint(core)
            return exact(core)

    return run(scenario())


async def _suspend(core: Core) -> None:
    await core.controller.suspend(["data"])


async def _suspend_and_resync(core: Core) -> None:
    await _suspend(core)
    await core.write("data", BLOCK, b"z" * SAMPLE_BYTES)
    await core.controller.resync(["data"])
    await core.controller.resync_wait(["data"])


async def _swap(core: Core) -> None:
    await core.controller.swap(["data"], False, None, False)


@pytest.mark.parametrize("change", [_suspend, _suspend_and_resync, _swap])
def test_samples_are_exact_after_what_came_beside_a_checkpoint(
    change: Callable[[Core], Awaitable[object]],
) -> None:
    """A suspend syncs the secondary with changes that the checkpoint does not cover."""
    assert all(BLOCK in _beside(count, change) for count in range(0, 30, 3))


@pytest.mark.parametrize("count", range(0, 30, 3))
async def test_changes_given_up_beside_a_checkpoint_are_not_taken_for_those_of_the_new_primary(
    count: int,
) -> None:
    async with running(ALONE) as core:
        await _suspend(core)
        await core.write("data", BLOCK, b"x" * SAMPLE_BYTES)
        begun = asyncio.ensure_future(checkpoint(core))
        await core.turns(count)
        await core.controller.swap(["data"], False, None, True)
        await begun
        await checkpoint(core)
        exact(core)


async def test_samples_are_exact_at_each_of_several_cuts() -> None:
    async with running(ALONE) as core:
        for content in (b"x", b"y"):
            await core.write("data", BLOCK, content * SAMPLE_BYTES)
            await _suspend(core)
            await checkpoint(core)
            await checkpoint(core)
            assert BLOCK in exact(core)
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])


async def test_a_sample_is_of_the_number_of_its_checkpoint_or_cut() -> None:
    async with running(ALONE) as core:
        await core.write("data", BLOCK, b"x" * SAMPLE_BYTES)
        result = await core.controller.suspend(["data"])
        await core.write("data", BLOCK, b"y" * SAMPLE_BYTES)
        await checkpoint(core)
        ours, theirs = images(core)
        assert ours.sampled_at == core.controller.checkpointer.sequence
        assert theirs.sampled_at == result["controllers"]["alpha"]


async def test_of_a_primary_that_fails_after_a_swap_only_what_is_certain_is_recorded() -> None:
    """Nobody notes where it was copied to while it was the secondary."""
    async with running(ALONE) as core:
        await core.controller.suspend(["data"])
        await checkpoint(core)
        assert await core.write("data", 0, b"x" * SAMPLE_BYTES) == 0
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        await core.controller.swap(["data"], False, None, False)
        timeline, failures, pair = core.controller.timeline, core.controller.failures, core.pair()
        core.refuse_swaps()
        gone = OSError(errno.EIO, "gone")
        await timeline.at_rest(lambda: failures.primary_failed(pair, gone))
        await checkpoint(core)
        image = pair.record.primary_image
        assert image is not None
        assert (image.path, image.samples) == ("/b/data.img", ())


async def test_what_was_synced_after_the_number_of_a_checkpoint_is_recorded_by_the_next() -> None:
    async with running(ALONE) as core:
        await core.write("data", BLOCK, b"x" * SAMPLE_BYTES)
        suspends: list[asyncio.Task[object]] = []

        def meanwhile(operation: str, path: str) -> None:
            if (operation, path) == ("sync", "/a/data.img") and not suspends:
                core.send("data", BLOCK, b"y" * SAMPLE_BYTES)
                loop = asyncio.get_running_loop()
                suspends.append(loop.create_task(core.controller.suspend(["data"])))

        core.disk.before = meanwhile
        await checkpoint(core)
        await suspends[0]
        core.disk.before = None
        await checkpoint(core)
        assert BLOCK in exact(core)


async def test_the_time_of_an_image_that_hangs_is_not_held_against_it() -> None:
    """The call that was given up may return after any checkpoint, and set it."""
    async with running(ALONE) as core:
        await core.controller.suspend(["data"])
        await checkpoint(core)
        pair, secondary = core.pair(), core.pair().copy_of
        before = images(core)[1]
        core.controller.failed_legs.found(pair, secondary, HungError(secondary, 5.0))
        await core.until(lambda: pair.secondary is not secondary)
        await checkpoint(core)
        assert images(core)[1] == before._replace(loose=True)


async def test_nobody_noted_where_a_volume_without_a_secondary_was_written() -> None:
    """It gets one, and its primary fails before the next checkpoint."""
    async with running({"data": ""}) as core:
        await checkpoint(core)
        await core.write("data", 0, b"x" * SAMPLE_BYTES)
        core.disk.fail("/a/data.img", errno.EIO, operation="sync", times=1)
        await core.controller.reload(refusing(settings(ALONE)))
        assert core.pair().failed
        image = core.pair().record.primary_image
        assert image is not None
        assert 0 not in image.offsets


def sampled(core: Core) -> list[int]:
    """Where the primary of a volume that has nothing else was sampled."""
    image = core.pair().record.primary_image
    assert image is not None
    return image.offsets


async def test_what_a_start_wrote_to_a_primary_that_it_does_not_serve_is_not_sampled() -> None:
    disk, alone = new_disk(), {"data": "", "apart": "sync"}
    core = await Core.begin(disk, settings(alone))
    await checkpoint(core)
    assert 0 in sampled(core)
    assert await core.write("data", 0, b"x" * SAMPLE_BYTES) == 0
    await core.crash(power=False)
    disk.fail("/a/data.img", errno.EIO, operation="sync", times=1)
    async with running(alone, disk=disk) as core:
        assert core.pair().failed
        await checkpoint(core)
        assert 0 not in sampled(core)


async def test_what_was_written_before_a_sync_that_failed_is_not_sampled_as_it_was() -> None:
    """The next checkpoint is taken without that sync, because the volume is not served any more."""
    async with running({"data": "", "apart": "sync"}) as core:
        await checkpoint(core)
        assert await core.write("data", 0, b"x" * SAMPLE_BYTES) == 0
        core.disk.fail("/a/data.img", errno.EIO, operation="sync", times=1)
        await checkpoint(core)
        assert core.pair().failed
        assert 0 not in sampled(core)

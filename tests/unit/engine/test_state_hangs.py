"""The disk of the state directory does not answer while the daemon runs: a command that reads the
journal or uses a staging log ends within the time-out, and says so. With real threads, because only
these can hang.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.errors import TimedOutError, WrongStateError
from duplexd.replication.leg_calls import JournalHungError
from tests.unit.engine.cores import SIZE, Core, new_disk, run, settings
from tests.unit.engine.test_recovery_hangs import Hanging, started

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.engine.controller import Controller
    from tests.sim.disk import SimDisk

ONE = {"data": "sync"}
JOURNAL, STAGING, CHECKPOINT = "/state/journal/", "/state/staging", "/state/checkpoint"
CHECKPOINT_SECONDS = 0.2  # until one is given up
AFTER_CUT = b"\x77" * SIZE


def suspended(times: int) -> SimDisk:
    """What a daemon left that was killed after the pair was suspended, and then changed."""
    disk = new_disk()

    async def life() -> None:
        core = await Core.begin(disk, settings(ONE))
        await core.controller.suspend(["data"])
        for _ in range(times):
            assert await core.write("data", 0, AFTER_CUT) == 0
        await core.crash(power=False)

    run(life())
    return disk


async def serve_again(controller: Controller) -> object:
    return await controller.resync(["data"])


async def adopt(controller: Controller) -> object:
    return await controller.adopt(["data"])


@pytest.mark.parametrize("command", [serve_again, adopt])
def test_a_volume_that_cannot_be_served_for_the_journal_hangs(
    command: Callable[[Controller], Awaitable[object]],
) -> None:
    disk = suspended(1)
    primary = disk.take("/a/data.img")

    async def scenario() -> None:
        async with started(disk, ONE) as controller:
            pair = controller.volumes.by_name["data"]
            assert pair.failed
            primary.opened = False
            disk.give("/a/data.img", primary)
            hanging = Hanging(disk, JOURNAL, "read")
            with pytest.raises(WrongStateError, match="the journal cannot be read: the disk has"):
                await command(controller)
            assert pair.failed, "what it lacks is not known"
            hanging.release()
            await command(controller)
            assert not pair.failed

    asyncio.run(scenario())


async def suspend(controller: Controller) -> object:
    return await controller.suspend(["data"])


async def swap(controller: Controller) -> object:
    return await controller.swap(["data"], False, None, False)


@pytest.mark.parametrize("command", [suspend, swap])
def test_a_command_that_waits_for_the_journal_ends_and_is_done_when_that_answers(
    command: Callable[[Controller], Awaitable[object]],
) -> None:
    disk = new_disk()

    async def scenario() -> None:
        async with started(disk, ONE) as controller:
            hanging, before = Hanging(disk, JOURNAL, "writev", "sync"), controller.sequence
            async with asyncio.timeout(20):
                with pytest.raises(TimedOutError, match="/state/journal: the disk of the journal"):
                    await command(controller)
            assert hanging.hung
            hanging.release()
            async with asyncio.timeout(10):
                while controller.sequence == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


@pytest.mark.parametrize("command", [serve_again, adopt])
def test_a_volume_is_served_when_the_journal_answers_although_its_command_has_ended(
    command: Callable[[Controller], Awaitable[object]],
) -> None:
    disk = suspended(1)
    primary = disk.take("/a/data.img")

    async def scenario() -> None:
        async with started(disk, ONE) as controller:
            primary.opened = False
            disk.give("/a/data.img", primary)
            hanging = Hanging(disk, JOURNAL, "writev", "sync")
            async with asyncio.timeout(20):
                with pytest.raises(TimedOutError, match="/state/journal"):
                    await command(controller)
            assert controller.volumes.by_name["data"].failed
            hanging.release()
            async with asyncio.timeout(10):
                while controller.volumes.by_name["data"].failed:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


@pytest.mark.parametrize("operation", ["create", "writev", "sync"])
def test_a_resync_ends_at_its_cut_when_the_staging_log_hangs(operation: str) -> None:
    disk = suspended(3)

    async def scenario() -> None:
        async with started(disk, ONE) as controller:
            pair, cut = controller.volumes.by_name["data"], controller.volumes.by_name["data"].cut
            hanging = Hanging(disk, STAGING, operation)
            (report,) = (await controller.resync(["data"]))["volumes"]
            assert report["how"] == "map"
            (ended,) = (await controller.resync_wait(["data"]))["volumes"]
            assert hanging.hung
            assert "the staging log cannot be used: the disk has not answered" in ended["error"]
            assert (pair.state, pair.cut, pair.usable) == (SUSPENDED, cut, True)
            hanging.release()
            await controller.resync(["data"])
            await controller.resync_wait(["data"])
            assert pair.state == DUPLEX

    asyncio.run(scenario())


def test_a_committed_log_that_hangs_costs_its_secondary() -> None:
    disk = suspended(3)

    async def scenario() -> None:
        async with started(disk, ONE) as controller:
            pair, hanging = controller.volumes.by_name["data"], Hanging(disk, STAGING, "read")
            await controller.resync(["data"])
            (ended,) = (await controller.resync_wait(["data"]))["volumes"]
            assert hanging.hung
            assert "the staging log cannot be used" in ended["error"]
            assert (pair.state, pair.usable) == (SUSPENDED, False)
            hanging.release()
            await controller.resync(["data"])
            await controller.resync_wait(["data"])
            assert pair.state == DUPLEX

    asyncio.run(scenario())


def test_a_checkpoint_that_ends_late_does_not_say_that_a_failed_journal_is_whole() -> None:
    disk = suspended(1)

    async def scenario() -> None:
        async with started(disk, ONE) as controller:
            hanging = Hanging(disk, CHECKPOINT, "replace_file")
            with pytest.raises(JournalHungError, match="the checkpoint cannot be written"):
                await controller.checkpointer.checkpoint()
            controller.timeline.fail("the journal could not be synced")
            await asyncio.sleep(3 * CHECKPOINT_SECONDS)
            hanging.release()
            async with asyncio.timeout(10):
                while CheckpointFile(disk, "/state").read()["mount"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())

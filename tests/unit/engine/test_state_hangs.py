"""The disk of the state directory does not answer while the daemon runs: a command that reads the
journal or uses a staging log ends within the time-out, and says so. With real threads, because only
these can hang.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import WRITE, Change
from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.errors import TimedOutError, WrongStateError
from duplexd.replication.leg_calls import JournalHungError
from tests.unit.engine.cores import SIZE, Core, Peer, new_disk, run, settings
from tests.unit.engine.test_recovery_hangs import Hanging, started
from tests.unit.hanging.worlds import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from duplexd.engine.controller import Controller
    from tests.sim.disk import SimDisk

ONE = {"data": "sync"}
JOURNAL, STAGING, CHECKPOINT = "/state/journal/", "/state/staging", "/state/checkpoint"
CHECKPOINT_SECONDS = 0.2  # until one is given up
AFTER_CUT = b"\x77" * SIZE


def suspended(times: int, before: bytes = b"", volumes: Mapping[str, str] | None = None) -> SimDisk:
    """What a daemon left that was killed after the pair was suspended, and then changed; `before`:
    by this, first.
    """
    disk = new_disk()

    async def life() -> None:
        core = await Core.begin(disk, settings(volumes or ONE))
        await core.controller.suspend(["data"])
        if before:
            assert await core.write("data", 0, before) == 0
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


class HangsOnce:
    """One read of the journal hangs, after the first write to the primary."""

    def __init__(self, disk: SimDisk) -> None:
        self._answers = threading.Event()
        self._written = False
        self.hung = threading.Event()
        disk.met = self._look

    def _look(self, operation: str, path: str) -> None:
        if path == "/a/data.img":
            self._written |= operation == "write"
            return
        reads = operation == "read" and path.startswith(JOURNAL)
        if reads and self._written and not self.hung.is_set():
            self.hung.set()
            assert self._answers.wait(60)

    def release(self) -> None:
        self._answers.set()


@asynccontextmanager
async def in_a_replay(
    disk: SimDisk, volumes: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Controller, HangsOnce]]:
    """A resync has begun to apply the journal to a primary that is back, and waits for a read."""
    primary = disk.take("/a/data.img")
    async with started(disk, volumes or ONE, primary_s=60) as controller:
        primary.opened = False
        disk.give("/a/data.img", primary)
        hanging = HangsOnce(disk)
        resync = asyncio.create_task(controller.resync(["data"]))
        try:
            assert await asyncio.to_thread(hanging.hung.wait, 60)
            yield controller, hanging
        finally:
            hanging.release()
            await resync


@pytest.mark.parametrize("command", [serve_again, adopt])
def test_another_command_leaves_the_image_to_the_replay_that_writes_to_it(
    command: Callable[[Controller], Awaitable[object]],
) -> None:
    disk = suspended(1, before=b"\x11" * SIZE)

    async def scenario() -> None:
        async with in_a_replay(disk) as (controller, hanging):
            other = asyncio.ensure_future(command(controller))
            await asyncio.sleep(0.3)
            assert not other.done()
            hanging.release()
            await other
            pair = controller.volumes.by_name["data"]
            assert not pair.failed
            assert disk.content("/a/data.img") == AFTER_CUT, "nothing between two numbers"

    asyncio.run(scenario())


def test_a_volume_whose_primary_is_replayed_says_that_it_is_on_its_way() -> None:
    disk = suspended(1, before=b"\x11" * SIZE)

    async def scenario() -> list[str]:
        async with in_a_replay(disk) as (controller, hanging):
            (before,) = controller.status()["volumes"]
            hanging.release()
            await until(lambda: not controller.volumes.by_name["data"].returning)
            (after,) = controller.status()["volumes"]
            return [before["error"], after["error"]]

    before, after = asyncio.run(scenario())
    assert before.startswith("a command is bringing it back just now; before that: /a/data.img: ")
    assert after == ""


def test_a_volume_whose_primary_is_replayed_is_not_swapped() -> None:
    disk = suspended(1, before=b"\x11" * SIZE)

    async def scenario() -> None:
        async with in_a_replay(disk) as (controller, _):
            with pytest.raises(WrongStateError, match="brings its primary to the last change"):
                await controller.swap(["data"], False, None, True)

    asyncio.run(scenario())
    assert disk.content("/a/data.img") == AFTER_CUT


def test_the_journal_keeps_what_a_replay_still_needs_although_other_volumes_fill_it() -> None:
    """Else the primary would be left with the first of them, older than what it held before."""
    volumes = {**ONE, "apart": ""}
    disk = suspended(1, b"\x11" * SIZE, volumes)

    async def scenario() -> None:
        async with in_a_replay(disk, volumes) as (controller, hanging):
            ring, peer = controller.timeline.writer.ring, Peer()
            oldest, apart = ring.oldest, controller.volumes.by_name["apart"]
            for _ in range(3 * ring.size_bytes // SIZE):
                controller.submit([Change(peer, 0, apart, WRITE, 0, SIZE, bytes(SIZE))])
            for _ in range(1000):
                if not ring.can_grow():
                    break
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            assert ring.oldest == oldest
            hanging.release()
        pair = controller.volumes.by_name["data"]
        assert not pair.failed
        assert disk.content("/a/data.img") == AFTER_CUT

    asyncio.run(scenario())

"""A primary that has failed comes back as another image, or as the same one at a bad moment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import DuplexdError
from duplexd.runtime.watch import HungError
from tests.sim.machine import Died
from tests.sim.test_bad_moments import Failing
from tests.sim.test_damage import Writing

if TYPE_CHECKING:
    from collections.abc import Callable


class Copied(Failing):
    """An older copy of its primary, of between two checkpoints, is in its place."""

    async def copied_between(self) -> None:
        """Of one that lacks the last change that the next checkpoint calls durable."""
        await self.checkpoints(1)
        path = self.pair.primary.path
        await Writing(self.machine).write("data", 8192, b"d" * 4096)
        self._older = self.machine.disk.content(path)
        await Writing(self.machine).write("data", 20480, b"e" * 4096)

    async def refuses_the_copy(self) -> None:
        disk, controller = self.machine.disk, self.machine.controller
        path = self.pair.primary.path
        disk.heal(path)
        right = disk.take(path)
        disk.give(path, right)
        content = bytes(right.current)
        right.write(0, self._older)
        with contextlib.suppress(DuplexdError):
            await controller.resync(["data"])
        assert self.pair.failed or disk.content(path)[20480:24576] == b"e" * 4096
        right.write(0, content)
        with contextlib.suppress(DuplexdError):
            await controller.resync(["data"])
        assert not self.pair.failed, self.pair.failed
        await controller.stop()


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("secondary", [False, True])
def test_a_primary_that_hangs_while_a_checkpoint_is_written_is_told_from_a_copy(
    secondary: bool, is_recorded: bool
) -> None:
    """Its samples were still those of the checkpoint before, and records since then took theirs.
    It gets the journal from the number of this one: what came between was lost.
    """
    failing = Copied(secondary, unmarked=True)

    async def life() -> None:
        await failing.begin()
        await failing.copied_between()
        leg = failing.pair.primary

        async def hangs() -> None:
            await failing.fails(HungError(leg, 30.0))
            leg.close()

        await failing.checkpoint_with(hangs)
        await failing.checkpoints(2 if is_recorded else 0)
        await failing.refuses_the_copy()

    failing.machine.live(life)


@pytest.mark.parametrize("secondary", [False, True])
def test_a_primary_is_judged_by_what_the_checkpoint_under_way_records(secondary: bool) -> None:
    """It was judged by the one before, and got the journal from the number of this one."""
    failing = Copied(secondary, unmarked=True)

    async def life() -> None:
        await failing.begin()
        await failing.copied_between()
        disk = failing.machine.disk
        right = disk.take("/a/data")
        disk.give("/a/data", right)
        content = bytes(right.current)

        async def meanwhile() -> None:
            await failing.fails()
            right.write(0, failing._older)
            with contextlib.suppress(DuplexdError):
                await failing.machine.controller.resync(["data"])

        await failing.checkpoint_with(meanwhile)
        assert failing.pair.failed or disk.content("/a/data")[20480:24576] == b"e" * 4096
        right.write(0, content)
        await failing.is_served()
        await failing.machine.controller.stop()

    failing.machine.live(life)


def test_a_primary_gets_nothing_older_than_a_checkpoint_that_may_be_on_the_disk() -> None:
    """It was replaced, and that was not known: the sync of the directory failed, or hung. The
    primary then got the older changes of a block before the last, from the number of the one
    before. A kill kept the older one, and the next start began after both.
    """
    failing = Failing(secondary=False)
    machine = failing.machine

    async def life() -> None:
        await failing.begin()
        await failing.checkpoints(1)
        writing = Writing(machine)
        await writing.write("data", 16384, b"d" * 4096)
        await writing.write("data", 16384, b"e" * 4096)
        await machine.controller.timeline.durable()
        checkpointer = machine.controller.checkpointer
        put = checkpointer._put

        async def fails(replace: Callable[[], None]) -> None:
            await put(replace)
            raise OSError(errno.EIO, "the sync of the directory failed", "/state")

        checkpointer._put = fails  # type: ignore[method-assign]
        await failing.checkpoints(1)
        checkpointer._put = put  # type: ignore[method-assign]
        await failing.fails()

        def killed(operation: str, path: str) -> None:
            if machine.disk.content("/a/data")[16384:16385] == b"d":
                machine.disk.die()

        machine.disk.before = killed
        await failing.is_served()
        machine.disk.before = None
        await failing.killed()

    async def again() -> None:
        await machine.start()
        assert not failing.pair.failed
        assert machine.disk.content("/a/data")[16384:20480] == b"e" * 4096
        await machine.controller.stop()

    with pytest.raises(Died):
        machine.live(life)
    machine.disk.before = None
    machine.crash(power=False)
    machine.live(again)


@pytest.mark.parametrize("checkpoints", [0, 1, 2])
def test_one_that_took_over_and_fails_before_a_checkpoint_is_told_from_a_copy(
    checkpoints: int,
) -> None:
    """Whole regions took its samples, and the next checkpoint all of them: any device was taken."""
    failing = Copied(secondary=True, unmarked=True)

    async def life() -> None:
        await failing.begin()
        controller, disk = failing.machine.controller, failing.machine.disk
        await controller.resync(["data"])
        await failing.machine.until(lambda: failing.pair.mirrors, "DUPLEX")
        await failing.checkpoints(2)
        writing = Writing(failing.machine)
        await writing.write("data", 8192, b"d" * 4096)
        failing._older = disk.content("/b/data")
        await writing.write("data", 20480, b"e" * 4096)
        await failing.checkpoints(1)
        await writing.write("data", 16384, b"f" * 4096)
        error = OSError(errno.EIO, "bad")
        await controller.timeline.at_rest(
            lambda: controller.failures.primary_failed(failing.pair, error)
        )
        assert failing.pair.primary.path == "/b/data"
        await failing.fails()
        await failing.checkpoints(checkpoints)
        await failing.refuses_the_copy()

    failing.machine.live(life)


@pytest.mark.parametrize("secondary", [False, True])
def test_a_power_cut_takes_no_samples_of_a_primary_that_was_not_served(secondary: bool) -> None:
    """Records may be lost with it, but none of a change of this one: a device that was refused
    before was served after it.
    """
    failing = Copied(secondary, unmarked=True)
    disk = failing.machine.disk

    async def life() -> None:
        await failing.begin()
        await failing.copied_between()
        await Writing(failing.machine).write("data", 16384, b"f" * 4096)
        await failing.checkpoints(1)
        await failing.fails()
        await failing.checkpoints(1)
        await failing.killed()

    async def starts_without() -> None:
        disk.fail("/a/data", errno.EIO, operation="open")
        await failing.machine.start()
        assert failing.pair.failed
        await failing.refuses_the_copy()

    with pytest.raises(Died):
        failing.machine.live(life)
    failing.machine.crash(power=True)
    failing.machine.live(starts_without)


def test_a_checkpoint_follows_a_swap_at_once() -> None:
    """The new primary was recorded as a secondary, where it was on its way or at its cut by no
    sample: if it fails before the next one, nothing tells it from another device.
    """
    failing = Failing(secondary=True)

    async def life() -> None:
        await failing.begin()
        controller = failing.machine.controller
        await controller.resync(["data"])
        await failing.machine.until(lambda: failing.pair.mirrors, "DUPLEX")
        await failing.checkpoints(1)
        error = OSError(errno.EIO, "bad")
        await controller.timeline.at_rest(
            lambda: controller.failures.primary_failed(failing.pair, error)
        )
        assert failing.pair.primary.path == "/b/data"
        taken = controller.checkpointer.taken
        await asyncio.sleep(2.0)  # one comes every 20 s anyway
        assert controller.checkpointer.taken == taken + 1
        await controller.stop()

    failing.machine.live(life)

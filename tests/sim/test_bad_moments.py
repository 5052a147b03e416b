"""Two things at the same time that once did not go together, at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import DuplexdError
from duplexd.runtime.watch import HungError
from duplexd.units import KIB
from tests.sim.image import Image
from tests.sim.machine import Died, Machine, broken_sync
from tests.sim.test_damage import Writing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from duplexd.core.pair import Pair


def gets_a_secondary_during_a_checkpoint(seed: int) -> None:
    """And is killed. `Machine.crash` asks whether a start would recognise the images."""
    machine = Machine(seed)
    machine.add_volume("data", 256 * KIB, False, "sync")

    async def life() -> None:
        await machine.start()
        writing, controller = Writing(machine), machine.controller
        for offset in range(0, 256 * KIB, 32 * KIB):
            await writing.write("data", offset, b"a" * 4096)
        machine.add_volume("data", 256 * KIB, True, "sync")
        reloading = asyncio.ensure_future(controller.reload(machine.config()))
        for _ in range(seed % 40):
            await asyncio.sleep(0)
        await controller.checkpointer.checkpoint()
        await reloading
        machine.disk.die()
        await asyncio.sleep(0)

    try:
        machine.live(life)
    except Died:
        machine.crash(power=False)


def test_a_volume_that_gets_a_secondary_during_a_checkpoint_is_recognised_after_a_kill() -> None:
    for seed in range(60):
        gets_a_secondary_during_a_checkpoint(seed)


def test_a_primary_that_lost_a_change_and_refuses_it_again_is_not_served() -> None:
    """A sync fails, so the page cache shows what the disk never got; the process is killed, and the
    replay's write fails, too. Read back, the change seems to be there.
    """
    machine = Machine(1)
    machine.add_volume("data", 256 * KIB, False, "sync")

    async def loses_a_change() -> None:
        await machine.start()
        writing = Writing(machine)
        await writing.write("data", 8192, b"a" * 4096)
        await machine.controller.checkpointer.checkpoint()
        await writing.write("data", 8192, b"b" * 4096)
        broken_sync(machine, "/a/data")
        with contextlib.suppress(OSError, DuplexdError):
            await machine.controller.checkpointer.checkpoint()
        machine.disk.die()
        await asyncio.sleep(0)

    async def refuses_it() -> None:
        machine.disk.fail("/a/data", errno.EIO, operation="write", times=1)
        await machine.start()
        assert machine.controller.volumes.by_name["data"].failed
        machine.disk.die()
        await asyncio.sleep(0)

    async def takes_it() -> None:
        machine.disk.heal("/a/data")
        await machine.start()
        assert not machine.controller.volumes.by_name["data"].failed
        await machine.controller.stop()

    for life in (loses_a_change, refuses_it):
        with pytest.raises(Died):
            machine.live(life)
        machine.crash(power=False)
        assert machine.disk.content("/a/data")[8192:8193] == b"b"
    machine.live(takes_it)
    machine.crash(power=True)
    assert machine.disk.content("/a/data")[8192:12288] == b"b" * 4096


def test_an_older_primary_that_is_refused_once_is_refused_again() -> None:
    """A block device is known by samples alone. What the journal has for it must not take those of
    other blocks of the region, or the older copy is taken at the second look.
    """
    machine, refused = Machine(1), list[str]()
    machine.disk.unmarked = True
    machine.add_volume("data", 256 * KIB, True, "sync")

    async def is_copied_and_goes_on() -> None:
        await machine.start()
        writing, controller = Writing(machine), machine.controller
        await writing.write("data", 8192, b"a" * 4096)
        await controller.checkpointer.checkpoint()
        await controller.suspend(["data"])
        older.update(machine.disk.copies("/a/data"))
        await writing.write("data", 8192, b"b" * 4096)
        for _ in range(2):  # the second one closes the region
            await controller.checkpointer.checkpoint()
        await writing.write("data", 16384, b"c" * 4096)
        machine.disk.die()
        await asyncio.sleep(0)

    async def starts() -> None:
        await machine.start()
        refused.append(machine.controller.volumes.by_name["data"].failed)
        with pytest.raises(DuplexdError, match="changed or replaced by an older copy"):
            await machine.controller.resync(["data"])
        await machine.controller.stop()

    older: dict[str, Image] = {}
    with pytest.raises(Died):
        machine.live(is_copied_and_goes_on)
    machine.crash(power=False)
    machine.disk.put("/a/data", older)
    for _ in range(3):
        machine.live(starts)
    assert all("older copy" in why for why in refused)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_primary_that_failed_and_was_restored_in_place_is_refused(restarts: bool) -> None:
    """Its time says nothing any more, since a call may have been on its way. What was written since
    the last checkpoint must not take the samples of other blocks of its region.
    """
    machine, older = Machine(1), bytearray()
    machine.add_volume("data", 256 * KIB, True, "sync")

    async def is_refused() -> None:
        assert machine.controller.volumes.by_name["data"].failed
        with pytest.raises(DuplexdError, match="changed or replaced by an older copy"):
            await machine.controller.resync(["data"])

    def restore() -> None:
        machine.disk.heal("/a/data")
        image = machine.disk.take("/a/data")
        machine.disk.give("/a/data", image)
        image.write(0, bytes(older))

    async def fails() -> None:
        await machine.start()
        writing, controller = Writing(machine), machine.controller
        await writing.write("data", 8192, b"a" * 4096)
        await controller.suspend(["data"])
        older[:] = machine.disk.content("/a/data")
        await writing.write("data", 8192, b"b" * 4096)
        for _ in range(2):  # the second one closes the region
            await controller.checkpointer.checkpoint()
        await writing.write("data", 16384, b"c" * 4096)
        machine.disk.fail("/a/data", errno.EIO, operation="sync")
        await controller.checkpointer.checkpoint()
        if not restarts:
            restore()
            await is_refused()
        await controller.stop()

    async def starts() -> None:
        await machine.start()
        await is_refused()
        await machine.controller.stop()

    machine.live(fails)
    if restarts:
        restore()
        machine.live(starts)


class Failing:
    """A volume whose primary fails after some checkpoints; then either it is there again, or an
    older copy of it is. `older`: its content before all of that.
    """

    def __init__(self, secondary: bool = True, unmarked: bool = False) -> None:
        self.machine = Machine(1)
        self.machine.disk.unmarked = unmarked
        self.machine.add_volume("data", 256 * KIB, secondary, "sync")
        self._secondary = secondary
        self._older = b""

    @property
    def pair(self) -> Pair:
        return self.machine.controller.volumes.by_name["data"]

    @property
    def samples(self) -> list[int]:
        image = self.pair.record.primary_image
        return image.offsets if image is not None else []

    async def begin(self, swaps: int = 0) -> None:
        await self.machine.start()
        writing, controller = Writing(self.machine), self.machine.controller
        for _ in range(swaps):
            await controller.swap(["data"], False, None, False)
        await writing.write("data", 8192, b"a" * 4096)
        if self._secondary:
            await self.machine.until(lambda: self.pair.state == "DUPLEX", "DUPLEX")
            await controller.suspend(["data"])
        self._older = self.machine.disk.content("/a/data")
        await writing.write("data", 8192, b"b" * 4096)
        await self.checkpoints(2)  # the second one closes the region
        await writing.write("data", 16384, b"c" * 4096)

    async def checkpoints(self, count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(OSError):
                await self.machine.controller.checkpointer.checkpoint()

    async def killed(self) -> None:
        self.machine.disk.die()
        await asyncio.sleep(0)

    async def fails(self, error: OSError | None = None) -> None:
        failed = error or OSError(errno.EIO, "bad")
        controller = self.machine.controller
        await controller.timeline.at_rest(
            lambda: controller.failures.primary_failed(self.pair, failed)
        )
        assert self.pair.failed

    async def checkpoint_with(self, meanwhile: Callable[[], Coroutine[None, None, None]]) -> None:
        """One that is being put on the disk meanwhile."""
        checkpointer = self.machine.controller.checkpointer
        put = checkpointer._put

        begun: list[asyncio.Future[None]] = []

        async def later(replace: Callable[[], None]) -> None:
            begun.append(asyncio.ensure_future(meanwhile()))
            await asyncio.wait(begun, timeout=1)
            await put(replace)

        checkpointer._put = later  # type: ignore[method-assign]
        await checkpointer.checkpoint()
        checkpointer._put = put  # type: ignore[method-assign]
        await begun[0]

    async def is_served(self) -> None:
        """It is the very same image."""
        self.machine.disk.heal("/a/data")
        with contextlib.suppress(DuplexdError):  # of one without a secondary there is no more to do
            await self.machine.controller.resync(["data"])
        assert not self.pair.failed, self.pair.failed

    async def is_told_from_an_older_copy(self) -> None:
        disk, controller = self.machine.disk, self.machine.controller
        disk.heal("/a/data")
        right = disk.take("/a/data")
        disk.give("/a/data", right)
        content = bytes(right.current)
        right.write(0, self._older)
        with pytest.raises(DuplexdError, match="changed or replaced by an older copy"):
            await controller.resync(["data"])
        right.write(0, content)
        with contextlib.suppress(DuplexdError):  # of one without a secondary there is no more to do
            await controller.resync(["data"])
        assert not self.pair.failed
        await controller.stop()


@pytest.mark.parametrize("unmarked", [False, True])
@pytest.mark.parametrize("secondary", [False, True])
@pytest.mark.parametrize("hangs", [False, True])
def test_a_primary_keeps_its_samples_while_it_is_away(
    hangs: bool, secondary: bool, unmarked: bool
) -> None:
    """The checkpoints after the first one dropped those of whole regions, of a volume without a
    secondary all.
    """
    failing = Failing(secondary, unmarked)

    async def life() -> None:
        await failing.begin()
        leg = failing.pair.primary
        await failing.fails(HungError(leg, 30.0) if hangs else None)
        if hangs:
            leg.close()
        else:
            failing.machine.disk.fail("/a/data", errno.EIO, operation="open")
            with pytest.raises(DuplexdError):
                await failing.machine.controller.resync(["data"])
        await failing.checkpoints(3)
        await failing.is_told_from_an_older_copy()

    failing.machine.live(life)


def test_a_new_secondary_takes_no_samples_of_a_primary_that_failed() -> None:
    failing = Failing()

    async def life() -> None:
        await failing.begin()
        await failing.fails()
        await failing.checkpoints(1)
        failing.machine.disk.take("/b/data")
        failing.machine.disk.give("/b/data", Image(256 * KIB))
        await failing.is_told_from_an_older_copy()

    failing.machine.live(life)


def test_a_first_copy_takes_no_samples_of_a_primary_that_fails_later() -> None:
    failing = Failing()
    failing.machine.disk.make_directory("/a")
    failing.machine.disk.give("/a/data", Image.of(bytes(256 * KIB)))

    async def life() -> None:
        await failing.begin()
        assert failing.pair.record.copies
        await failing.fails()
        await failing.is_told_from_an_older_copy()

    failing.machine.live(life)


def test_a_swap_earlier_in_the_run_takes_no_samples_of_a_primary_that_fails() -> None:
    failing = Failing()

    async def life() -> None:
        await failing.begin(swaps=2)
        assert failing.pair.primary.path == "/a/data"
        await failing.fails()
        await failing.is_told_from_an_older_copy()

    failing.machine.live(life)


@pytest.mark.parametrize("secondary", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_primary_that_fails_while_a_checkpoint_is_written_is_still_the_same(
    again: bool, secondary: bool
) -> None:
    """What that checkpoint recorded is not known of it: samples of blocks that were written to
    before that were said to be untouched after it. `again`: it is served meanwhile, and fails.
    """
    failing = Failing(secondary)

    async def life() -> None:
        await failing.begin()
        await failing.checkpoints(1)
        assert 16384 in failing.samples
        await Writing(failing.machine).write("data", 16384, b"d" * 4096)
        leg = failing.pair.primary

        async def hangs() -> None:
            await failing.fails(HungError(leg, 30.0))
            leg.close()

        if again:
            await failing.fails()
            await failing.checkpoint_with(failing.is_served)
            await failing.fails()
        else:
            await failing.checkpoint_with(hangs)
        await failing.checkpoints(2)
        await failing.is_told_from_an_older_copy()

    failing.machine.live(life)


@pytest.mark.parametrize("secondary", [False, True])
def test_what_a_primary_got_while_a_checkpoint_was_written_is_not_durable(secondary: bool) -> None:
    """A resync served it again meanwhile. That checkpoint was said to have made durable what the
    journal had for it: once its sync failed, it did not get that again.
    """
    failing = Failing(secondary)

    async def life() -> None:
        await failing.begin()
        await failing.fails()
        disk = failing.machine.disk
        await failing.checkpoint_with(failing.is_served)
        image = disk._image("/a/data")
        medium = bytes(image.durable)
        disk.fail("/a/data", errno.EIO, operation="sync")
        await failing.checkpoints(1)
        assert failing.pair.failed
        image.durable[:] = image.current[:] = medium  # what it was given was in the cache only
        await failing.is_served()
        assert bytes(image.current[16384:20480]) == b"c" * 4096
        await failing.machine.controller.stop()

    failing.machine.live(life)


@pytest.mark.parametrize("again", [False, True])
def test_a_primary_that_fails_while_a_checkpoint_is_written_gets_nothing_older(again: bool) -> None:
    """What the file said to be durable it got again, the older changes of a block before the last.
    A power cut kept the older one. `again`: it is served while that checkpoint is written.
    """
    failing = Failing(secondary=False)
    disk = failing.machine.disk

    async def life() -> None:
        await failing.begin()
        await failing.checkpoints(1)
        writing = Writing(failing.machine)
        await writing.write("data", 16384, b"d" * 4096)
        await writing.write("data", 16384, b"e" * 4096)

        async def meanwhile() -> None:
            await failing.fails()
            if again:
                await failing.is_served()

        await failing.checkpoint_with(meanwhile)
        if not again:
            await failing.is_served()
        written = [data[:1] for offset, data in disk._image("/a/data").pending if offset == 16384]
        assert not written
        await failing.machine.controller.stop()

    failing.machine.live(life)


def test_a_primary_that_is_opened_while_a_checkpoint_ends_is_the_same() -> None:
    """What was recorded of it before was judged as if that allowed for all that is on it."""
    for turns in range(0, 60, 2):
        failing = Failing(secondary=False)

        async def life(failing: Failing = failing, turns: int = turns) -> None:
            await failing.begin()
            await failing.checkpoints(1)
            await Writing(failing.machine).write("data", 16384, b"d" * 4096)
            leg = failing.pair.primary
            await failing.fails(HungError(leg, 30.0))
            leg.close()
            checkpoint = asyncio.ensure_future(failing.checkpoints(1))
            for _ in range(turns):
                await asyncio.sleep(0)
            await failing.is_served()
            await checkpoint
            await failing.machine.controller.stop()

        failing.machine.live(life)


def test_a_secondary_that_left_its_cut_and_failed_as_the_primary_is_the_same() -> None:
    """No checkpoint was taken meanwhile: its samples were those of the cut."""
    failing = Failing()

    async def life() -> None:
        await failing.begin()
        await failing.checkpoints(3)
        await failing.machine.controller.resync(["data"])
        await failing.machine.until(lambda: failing.pair.state == "DUPLEX", "DUPLEX")
        await failing.machine.controller.swap(["data"], False, None, False)
        assert failing.pair.primary.path == "/b/data"
        failing.machine.controller.failures.swaps = False
        await failing.fails()
        await failing.is_served()
        await failing.machine.controller.stop()

    failing.machine.live(life)


def test_a_secondary_that_leads_while_a_checkpoint_is_written_gets_nothing_older() -> None:
    """And fails then."""
    failing = Failing()

    async def life() -> None:
        await failing.begin()
        controller = failing.machine.controller
        await controller.resync(["data"])
        await failing.machine.until(lambda: failing.pair.mirrors, "DUPLEX")
        await failing.checkpoints(1)
        writing = Writing(failing.machine)
        await writing.write("data", 16384, b"d" * 4096)
        await writing.write("data", 16384, b"e" * 4096)

        async def leads() -> None:
            error = OSError(errno.EIO, "bad")
            await controller.timeline.at_rest(
                lambda: controller.failures.primary_failed(failing.pair, error)
            )
            assert failing.pair.primary.path == "/b/data"

        await failing.checkpoint_with(leads)
        await failing.fails()
        await failing.is_served()
        image = failing.machine.disk._image("/b/data")
        assert not [data[:1] for offset, data in image.pending if offset == 16384]
        await controller.stop()

    failing.machine.live(life)


@pytest.mark.parametrize("absent", [False, True])
def test_a_primary_whose_replay_failed_in_a_resync_keeps_its_samples(absent: bool) -> None:
    """`absent`: it was not there at the start."""
    failing = Failing()

    async def again() -> None:
        disk = failing.machine.disk
        disk.heal("/a/data")
        disk.fail("/a/data", errno.EIO, operation="write")
        disk.fail("/a/data", errno.EIO, after=len(failing.samples), operation="read")
        with pytest.raises(DuplexdError, match="Input/output error"):
            await failing.machine.controller.resync(["data"])
        await failing.checkpoints(2)
        await failing.is_told_from_an_older_copy()

    async def fails() -> None:
        await failing.begin()
        if absent:
            await failing.killed()
        await failing.fails()
        await failing.checkpoints(1)
        await again()

    async def starts() -> None:
        failing.machine.disk.fail("/a/data", errno.EIO, operation="open")
        await failing.machine.start()
        await failing.checkpoints(2)
        await again()

    _live(failing, [fails, *([starts] if absent else [])])


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("checkpoints", [0, 2])
@pytest.mark.parametrize("unmarked", [False, True])
def test_a_primary_that_fails_in_a_start_keeps_its_samples(
    unmarked: bool, checkpoints: int, after: int
) -> None:
    """Its sync in the replay, or in the checkpoint after it."""
    failing = Failing(unmarked=unmarked)

    async def is_killed() -> None:
        await failing.begin()
        await failing.killed()

    async def starts() -> None:
        failing.machine.disk.fail("/a/data", errno.EIO, after=after, operation="sync")
        await failing.machine.start()
        assert failing.pair.failed
        await failing.checkpoints(checkpoints)
        await failing.is_told_from_an_older_copy()

    _live(failing, [is_killed, starts])


@pytest.mark.parametrize("checkpoints", [0, 1])
@pytest.mark.parametrize("secondary", [False, True])
def test_a_volume_that_one_start_refuses_is_served_by_the_next(
    secondary: bool, checkpoints: int
) -> None:
    """Its size was configured too small after a kill. That start took samples for the present ones
    that the journal had newer content for.
    """
    failing = Failing(secondary)
    machine = failing.machine

    async def is_killed() -> None:
        await failing.begin()
        await failing.checkpoints(1)
        assert 16384 in failing.samples
        await Writing(machine).write("data", 16384, b"d" * 4096)
        await failing.killed()

    async def is_refused() -> None:
        machine.add_volume("data", 128 * KIB, secondary, "sync")
        await machine.start()
        assert "cannot shrink" in failing.pair.failed
        await failing.checkpoints(checkpoints)
        machine.add_volume("data", 256 * KIB, secondary, "sync")
        await failing.killed()

    async def starts() -> None:
        await machine.start()
        assert not failing.pair.failed, failing.pair.failed
        await machine.controller.stop()

    _live(failing, [is_killed, is_refused, starts])


def _live(failing: Failing, lives: list[Callable[[], Awaitable[None]]]) -> None:
    for life in lives[:-1]:
        with pytest.raises(Died):
            failing.machine.live(life)
        failing.machine.crash(power=False)
    failing.machine.live(lives[-1])

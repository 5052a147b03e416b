"""Two things at the same time that once did not go together, at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import DuplexdError
from duplexd.units import KIB
from tests.sim.machine import Died, Machine, broken_sync
from tests.sim.test_damage import Writing

if TYPE_CHECKING:
    from tests.sim.image import Image


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

"""Syncs while a leg hangs: each leg has its own, and one that hangs is given up."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.images.absent import AbsentLeg
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.watch import HungError
from tests.support.hanging_leg import PATIENCE_SECONDS, HangingLeg
from tests.unit.engine.parts import SIZE
from tests.unit.hanging.worlds import LONG, SHORT, hanging, until

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"\x5a" * 4096


async def test_the_sync_of_one_secondary_does_not_wait_for_another_that_hangs() -> None:
    async with hanging() as world:
        world.parts.send("data", 0, DATA)
        world.parts.send("wal", 0, DATA)
        _, secondary = world.legs["data"]
        world.calls.patience = LONG
        secondary.hang("sync")
        checkpoint = asyncio.ensure_future(world.checkpointer.checkpoint())
        await secondary.hung()
        await until(lambda: world.parts.images["wal"][1].syncs == 1)
        world.parts.send("wal", 0, DATA)
        assert await world.checkpointer.sync_secondaries([world.pair("wal")]) == {}
        assert world.parts.images["wal"][1].syncs == 2
        assert not checkpoint.done()
        world.calls.patience = SHORT
        await checkpoint


class StuckPath(HangingLeg):
    """One that was not written to, and whose path hangs when it is looked at."""

    def in_place(self, path: str = "") -> bool:
        self._wait("sync")
        return super().in_place(path)


async def test_a_path_that_hangs_keeps_no_suspend_of_another_secondary_waiting() -> None:
    """A checkpoint looks at both."""
    async with hanging() as world:
        stuck, pair = StuckPath(world.legs["data"][1]), world.pair("data")
        pair.set_legs(pair.primary, stuck, pair.mode)
        world.calls.patience = LONG
        stuck.hang("sync")
        checkpoint = asyncio.ensure_future(world.checkpointer.checkpoint())
        await stuck.hung()
        syncing = asyncio.ensure_future(world.checkpointer.sync_secondaries([world.pair("wal")]))
        await asyncio.wait({syncing}, timeout=PATIENCE_SECONDS)
        ended = syncing.done(), checkpoint.done()
        stuck.release()
        assert ((await syncing), ended) == ({}, (True, False))
        await checkpoint


async def test_a_secondary_that_hangs_in_a_sync_is_suspended_and_nothing_is_known_of_it() -> None:
    async with hanging() as world:
        world.parts.send("data", 0, DATA)
        _, secondary = world.legs["data"]
        secondary.hang("sync")
        await world.checkpointer.checkpoint()
        pair = world.pair()
        assert (pair.state, pair.usable) == (SUSPENDED, False)
        assert pair.changed == pair.record.full_map()
        assert isinstance(pair.secondary, AbsentLeg)
        assert world.checkpointer.taken == 1, "without it"


async def test_a_suspend_waits_for_a_sync_that_was_planned_by_a_checkpoint() -> None:
    """The secondary counts as clean meanwhile, and is not durable."""
    async with hanging() as world:
        world.parts.send("data", 0, DATA)
        _, secondary = world.legs["data"]
        world.calls.patience = LONG
        secondary.hang("sync")
        checkpoint = asyncio.ensure_future(world.checkpointer.checkpoint())
        await secondary.hung()
        sync = asyncio.ensure_future(world.checkpointer.sync_secondaries([world.pair()]))
        await world.workers.of("another").run(lambda: None)
        assert not sync.done()
        secondary.release()
        await asyncio.gather(sync, checkpoint)
        assert world.parts.images["data"][1].syncs == 1
        assert world.pair().state == DUPLEX


async def test_a_primary_that_hangs_in_a_sync_has_failed() -> None:
    async with hanging() as world:
        world.parts.send("data", 0, DATA)
        primary, _ = world.legs["data"]
        primary.hang("sync")
        with pytest.raises(HungError):
            await world.checkpointer.checkpoint()
        ((name, error),) = world.primaries
        assert name == "data"
        assert isinstance(error, HungError)
        assert not world.file.exists()
        assert not world.parts.timeline.failed


async def test_a_leg_that_was_given_up_is_not_closed_while_a_call_is_in_it() -> None:
    async with hanging() as world:
        world.parts.send("data", 0, DATA)
        _, secondary = world.legs["data"]
        secondary.hang("sync")
        await world.checkpointer.checkpoint()
        assert not world.parts.images["data"][1].closed


async def test_an_image_that_hung_can_be_opened_again_once_its_call_has_returned(
    tmp_path: Path,
) -> None:
    """Not before: the thread in it may still write to it."""
    disk, path = RealDisk(), str(tmp_path / "image")
    async with hanging() as world:
        pair = world.pair()
        leg = HangingLeg(disk.create(path, SIZE))
        pair.set_legs(pair.primary, leg, "sync")
        world.parts.send("data", 0, DATA)
        leg.hang("sync")
        await world.checkpointer.checkpoint()
        assert isinstance(pair.secondary, AbsentLeg)
        assert not _opens(disk, path)
        leg.release()
        assert await asyncio.to_thread(leg.left.acquire, timeout=60)
        del leg
        await world.checkpointer.checkpoint()  # the one before recorded its id
        await until(lambda: _opens(disk, path))


def _opens(disk: RealDisk, path: str) -> bool:
    try:
        disk.open(path).close()
    except OSError as error:
        assert error.errno == errno.EBUSY  # noqa: PT017
        return False
    return True

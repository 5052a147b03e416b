"""What a copy has written goes to the disk beside it, and is never far behind."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from duplexd.replication.write_out import WriteOut
from tests.unit.replication.fakes import GRAIN, World, turns

if TYPE_CHECKING:
    from duplexd.core.pair import Pair


def begin() -> tuple[World, Pair, WriteOut]:
    world = World()
    return world, world.pair(), WriteOut(world.calls, 2 * GRAIN)


async def test_what_was_written_is_written_out() -> None:
    world, pair, out = begin()
    async with out:
        await out.add(pair, 0, GRAIN, GRAIN)
        await turns()
    assert world.legs[pair].faults.calls["write_out"] == 1


async def test_a_copy_waits_once_it_is_too_far_ahead() -> None:
    world, pair, out = begin()
    world.workers.held = asyncio.Event()
    async with out:
        await out.add(pair, 0, GRAIN, GRAIN)
        await out.add(pair, GRAIN, 2 * GRAIN, GRAIN)
        waiting = asyncio.ensure_future(out.add(pair, 2 * GRAIN, 3 * GRAIN, GRAIN))
        await turns()
        assert not waiting.done()
        world.workers.held.set()
        await waiting


async def test_what_fails_is_left_to_the_sync() -> None:
    world, pair, out = begin()
    world.legs[pair].faults.fail("write_out", errno.EIO)
    async with out:
        await out.add(pair, 0, GRAIN, GRAIN)
        await turns()
    assert world.legs[pair].faults.calls["write_out"] == 1


async def test_a_copy_does_not_wait_for_a_disk_that_hangs() -> None:
    """It has to follow the journal, and its own calls find that out sooner."""
    world, pair, out = begin()
    world.workers.held = asyncio.Event()
    async with out:
        for at in range(0, 3 * GRAIN, GRAIN):
            await out.add(pair, at, at + GRAIN, GRAIN)
    world.workers.held.set()
    await turns()
    assert world.legs[pair].faults.calls["write_out"] == 1, "the call itself cannot be stopped"

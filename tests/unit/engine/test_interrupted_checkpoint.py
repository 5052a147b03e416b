"""A checkpoint that is given up half-way: what it had not synced yet still counts as not synced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.unit.engine.cores import SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = b"\x5a" * 8192


def _survives(give_up: Callable[[Core], asyncio.Task[None]], turns: int) -> bool:
    """Write, give a checkpoint up after some turns of the loop, stop in order, cut the power: is the data there?"""
    disk = new_disk()

    async def first() -> None:
        async with running(disk=disk) as core:
            assert (
                await core.write("data", len(DATA), DATA) == 0
            )  # the first of its region: that syncs the journal
            assert await core.write("data", 0, DATA) == 0
            task = give_up(core)
            await core.turns(turns)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def second() -> tuple[bytes, bytes]:
        core = Core(disk, settings())
        await core.controller.start()
        images = core.image("data", "a"), core.image("data", "b")
        await core.controller.stop()
        return images

    run(first())
    disk.crash(power=True)
    primary, secondary = run(second())
    return primary[: len(DATA)] == DATA and primary == secondary and len(primary) == SIZE


def test_a_cancelled_checkpoint_does_not_make_legs_clean() -> None:
    lost = [
        turns
        for turns in range(40)
        if not _survives(
            lambda core: asyncio.ensure_future(core.controller.maintenance.checkpoint()), turns
        )
    ]
    assert not lost

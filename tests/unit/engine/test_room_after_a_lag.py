"""A journal that is full of what an async follower had not applied when the last checkpoint was taken."""

from __future__ import annotations

import asyncio

from duplexd.replication.async_follower import Trail
from tests.unit.engine.cores import MIB, run, running


def test_changes_go_on_once_the_follower_has_caught_up() -> None:
    async def scenario() -> None:
        async with running({"data": "async"}, journal="16MiB") as core:
            controller, trail = core.controller, core.controller.jobs.trail
            trail.wake = lambda: None  # type: ignore[method-assign]  # the follower stands
            changes = [
                core.send("data", number % 4 * MIB, bytes([number]) * MIB) for number in range(24)
            ]
            await core.turns(3000)
            waiting = [change for change in changes if change not in core.peer.answers]
            assert waiting, "the journal never was full"
            assert controller.maintenance.replay_floor < controller.writer.written
            await controller.maintenance.checkpoint()  # with the follower behind: it frees nothing
            trail.wake = Trail.wake.__get__(trail)  # type: ignore[method-assign]
            trail.wake()
            for change in waiting:
                assert await core.answer(change) == 0
            assert not controller.failed

    run(asyncio.wait_for(scenario(), 60))

"""The end of a controller, whatever still waits."""

from __future__ import annotations

import asyncio
import errno

from tests.unit.engine.cores import Core, new_disk, run, settings


def test_a_stop_gives_up_changes_that_wait_for_a_follower() -> None:
    """The followers are stopped first, so their reasons to hold batches are not lifted any more."""

    async def life() -> None:
        core = await Core.begin(new_disk(), settings())
        core.controller.admission.hold("a follower is too far behind")
        change = core.send("data", 0, b"x" * 4096)
        assert core.controller.write_path.queued == 1
        stopping = asyncio.ensure_future(core.controller.stop())
        try:
            await core.until(stopping.done)
        finally:
            stopping.cancel()
        assert change not in core.peer.answers, "it was acknowledged"

    run(life())


def test_a_checkpoint_that_fails_at_a_stop_is_named() -> None:
    async def life() -> None:
        core = await Core.begin(new_disk(), settings())
        core.disk.fail("/state/checkpoint", errno.EIO)
        await core.controller.stop()
        assert "/state/checkpoint" in core.named("checkpoint-failed")[0]["error"]

    run(life())

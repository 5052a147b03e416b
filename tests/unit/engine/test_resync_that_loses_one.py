"""A resync by map, one of whose secondaries fails while the staging log is written: the others stand at their cuts again."""

from __future__ import annotations

import asyncio
import errno

from duplexd.core import pair_states as state
from tests.unit.engine.cores import run, running

DATA = b"\x21" * 4096


def test_it_ends_for_all_of_them() -> None:
    async def scenario(lost: str) -> None:
        async with running({"data": "sync", "log": "sync"}) as core:
            cut = await core.controller.suspend(["data", "log"])
            for name in ("data", "log"):
                for _ in range(40):  # the map is shorter than the journal
                    assert await core.write(name, 0, DATA) == 0
            await core.controller.resync(["data", "log"])
            assert [job.how for job in core.controller.jobs.running.values()] == ["map"]
            controller, pair = core.controller, core.pair(lost)
            await controller.step(
                lambda: controller.maintenance._secondaries_failed(
                    [(pair, OSError(errno.EIO, "gone"))]
                )
            )
            await controller.resync_wait(["data", "log"])
            other = core.pair("log" if lost == "data" else "data")
            assert (pair.state, pair.usable) == (state.SUSPENDED, False)
            assert (other.state, other.usable, other.applied) == (
                state.SUSPENDED,
                True,
                cut["controllers"]["alpha"],
            )
            assert other.cut is not None
            assert other.cut.sequence == other.applied

    for lost in ("data", "log"):
        run(asyncio.wait_for(scenario(lost), 20))

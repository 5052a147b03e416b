"""A follower of `async` pairs that can't read the journal."""

from __future__ import annotations

import asyncio
import errno

from duplexd.core import pair_states as state
from tests.unit.engine.cores import run, running

DATA = b"\x33" * 4096


def test_its_pairs_stand_still_and_nothing_waits_for_them() -> None:
    async def scenario() -> None:
        async with running({"data": "async", "log": "async"}, {"db": ["data", "log"]}) as core:
            assert await core.write("data", 0, DATA) == 0
            await core.until(lambda: core.pair().applied == core.controller.sequence)
            stood = core.pair().applied
            core.disk.fail("/state/journal", errno.EIO, operation="read", times=4)
            for at in range(1, 4):
                assert await core.write("data", at * len(DATA), DATA) == 0
            await core.until(
                lambda: core.states() == {"data": state.SUSPENDED, "log": state.SUSPENDED}
            )
            assert [pair.usable for pair in core.controller.pairs.values()] == [True, True]
            assert core.pair().applied == stood
            assert core.pair().cut is core.pair("log").cut
            core.disk.heal("/state/journal")
            await core.controller.resync(["data", "log"])
            await core.controller.resync_wait(["data", "log"])
            assert core.states() == {"data": state.DUPLEX, "log": state.DUPLEX}
            assert await core.write("data", 0, DATA[::-1]) == 0
            await core.until(core.equal)

    run(asyncio.wait_for(scenario(), 20))

"""A resync by map onto a secondary that has no room for what changed: it still stands at its cut, and says why."""

from __future__ import annotations

import asyncio
import errno

from duplexd.core import pair_states as state
from duplexd.replication.resync import MAP
from tests.unit.engine.cores import SIZE, Core, running

JOURNAL = "16MiB"


async def _suspended_beyond_the_journal(core: Core) -> bytes:
    """What the secondary holds at its cut, while more was written than the journal keeps."""
    await core.write("data", 0, b"at the cut" * 100)
    assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"
    held = core.image("data", "b")
    for _ in range(8):
        await core.write("data", 0, b"\x5a" * SIZE)
    await core.zero("data", 0, 65536)
    return held


def test_the_secondary_still_stands_at_its_cut() -> None:
    async def resync() -> None:
        async with running(journal=JOURNAL) as core:
            held, pair = await _suspended_beyond_the_journal(core), core.pair()
            cut, secondary = pair.cut, core.secondary()
            secondary.fail("reserve", errno.ENOSPC)
            report = await core.controller.resync(["data"])
            assert report["volumes"][0]["how"] == MAP
            (told,) = (await core.controller.resync_wait(["data"]))["volumes"]
            assert (told["state"], told["reason"]) == (state.SUSPENDED, state.BY_COMMAND)
            assert told["error"] == "/b/data.img: no room for what changed: No space left on device"
            assert (pair.cut, pair.usable, core.image("data", "b")) == (cut, True, held)
            assert cut is not None
            assert core.controller.cuts.show(cut.id)["verdict"] == "consistent"
            secondary.heal()
            await core.controller.resync(["data"])
            (told,) = (await core.controller.resync_wait(["data"]))["volumes"]
            assert (told["state"], told["error"]) == (state.DUPLEX, None)
            assert core.equal()

    asyncio.run(resync())


def test_a_pair_that_a_failure_suspended_is_still_told_as_such() -> None:
    async def resync() -> None:
        async with running(journal=JOURNAL) as core:
            secondary, pair = core.secondary(), core.pair()
            secondary.fail("write", errno.ENOSPC, times=1)
            await core.write("data", 0, b"no room")
            assert (pair.state, pair.reason, pair.usable) == (state.SUSPENDED, state.BY_ERROR, True)
            for _ in range(8):
                await core.write("data", 0, b"\x5a" * SIZE)
            secondary.fail("reserve", errno.ENOSPC)
            assert (await core.controller.resync(["data"]))["volumes"][0]["how"] == MAP
            (told,) = (await core.controller.resync_wait(["data"]))["volumes"]
            assert (told["state"], told["reason"]) == (state.SUSPENDED, state.BY_ERROR)

    asyncio.run(resync())

"""What recovery, or a freeze, left on a secondary is durable before the journal says that nobody needs the records again."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

from duplexd.core import pair_states as state
from duplexd.engine.recovery import Recovery
from tests.unit.engine.cores import Core, new_disk, run, running, settings

if TYPE_CHECKING:
    import pytest

DATA = b"\x66" * 8192


def test_recovery_syncs_before_it_tells_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, pending = new_disk(), []
    tell: Any = Recovery._tell_journal

    def told(recovery: Recovery, *arguments: Any) -> None:
        pending.append(len(disk._images["/b/data.img"].pending))
        tell(recovery, *arguments)

    async def write() -> None:
        core = Core(disk, settings({"data": "async"}))
        await core.controller.start()
        assert await core.write("data", 0, DATA) == 0
        await core.until(core.equal)

    async def start() -> None:
        core = Core(disk, settings({"data": "async"}))
        await core.controller.start()
        await core.controller.stop()

    run(write())
    assert disk._images["/b/data.img"].pending
    disk.crash(power=False)
    monkeypatch.setattr(Recovery, "_tell_journal", told)
    run(start())
    assert pending == [0]


def test_a_resync_of_pairs_that_a_freeze_left_syncs_them_first() -> None:
    async def scenario() -> None:
        async with running({"data": "sync", "log": "sync"}, {"db": ["data", "log"]}) as core:
            assert await core.write("log", 0, DATA) == 0
            core.secondary("data").fail("write", errno.EIO, times=1)
            assert await core.write("data", 0, DATA) == 0
            assert core.states() == {"data": state.SUSPENDED, "log": state.SUSPENDED}
            image = core.disk._images["/b/log.img"]
            assert image.pending
            await core.controller.resync(["log"])
            assert not image.pending

    run(asyncio.wait_for(scenario(), 20))

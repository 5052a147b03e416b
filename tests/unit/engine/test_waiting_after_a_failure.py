"""Once the controller has failed nothing moves any more: whoever waits for a secondary is told so."""

from __future__ import annotations

import asyncio
import errno

import pytest

from duplexd.core import pair_states as state
from duplexd.errors import DuplexdError
from tests.unit.engine.cores import Core, run, running

DATA = b"\x44" * 4096


async def _suspend_with_a_journal_that_fails(core: Core) -> None:
    assert await core.write("data", 0, DATA) == 0
    assert await core.write("data", 0, DATA) == 0
    core.disk.fail("/state/journal", errno.EIO, operation="sync")
    with pytest.raises(DuplexdError):
        await core.controller.suspend(["data"])
    assert core.controller.failed


def test_a_second_suspend_and_a_resync_are_refused_when_the_first_cut_was_never_settled() -> None:
    async def scenario() -> None:
        async with running() as core:
            await _suspend_with_a_journal_that_fails(core)
            assert core.controller.status()["volumes"][0]["secondary"]["cut"]["verdict"] is None
            with pytest.raises(DuplexdError):
                await core.controller.suspend(["data"])
            with pytest.raises(DuplexdError):
                await core.controller.resync(["data"])

    run(asyncio.wait_for(scenario(), 20))


def test_who_waits_for_a_copy_is_told() -> None:
    async def scenario() -> None:
        async with running() as core:
            core.pair().state = state.PENDING
            waiting = asyncio.ensure_future(core.controller.resync_wait(["data"]))
            await core.turns()
            core.controller.fail("the journal is gone")
            with pytest.raises(DuplexdError, match="the journal is gone"):
                await waiting

    run(asyncio.wait_for(scenario(), 20))


def test_a_suspend_that_was_cancelled_before_its_step_cuts_nothing() -> None:
    async def scenario() -> None:
        async with running() as core:
            core.controller.batches.busy = True
            suspending = asyncio.ensure_future(core.controller.suspend(["data"]))
            await core.turns()
            suspending.cancel()
            await asyncio.gather(suspending, return_exceptions=True)
            core.controller.batches.busy = False
            core.controller.batches._run_steps()
            assert core.states() == {"data": state.DUPLEX}
            await core.controller.suspend(["data"])
            await core.controller.resync(["data"])

    run(asyncio.wait_for(scenario(), 20))

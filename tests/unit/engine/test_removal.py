"""Taking a volume out of the configuration while the daemon runs."""

from __future__ import annotations

import asyncio

import pytest

from duplexd.core import pair_states as state
from duplexd.errors import ConfigurationError
from tests.unit.engine.cores import Core, new_disk, run, running, settings

DATA = b"\x77" * 8192
BOTH = {"data": "sync", "log": "sync"}


async def _write_twice(core: Core, name: str) -> None:
    assert (
        await core.write(name, len(DATA), DATA) == 0
    )  # the first of its region: that syncs the journal
    assert await core.write(name, 0, DATA) == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_no_leg_is_closed_while_it_is_being_synced_or_written(mode: str) -> None:
    async def scenario(turns: int) -> None:
        async with running({"data": mode, "log": mode}, {"db": ["data", "log"]}) as core:
            await _write_twice(core, "log")
            beside = asyncio.ensure_future(core.controller.maintenance.checkpoint())
            await core.turns(turns)
            await core.controller.reload(settings({"data": mode}, {"db": ["data"]}))
            await beside
            assert not core.controller.failed
            assert core.states() == {"data": state.DUPLEX}
            assert await core.write("data", 0, DATA) == 0
            await core.until(core.equal)

    for turns in range(0, 24, 2):
        run(asyncio.wait_for(scenario(turns), 20))


def test_what_was_flushed_to_a_removed_volume_survives_a_power_cut() -> None:
    disk = new_disk()

    async def scenario() -> None:
        core = Core(disk, settings(BOTH))
        await core.controller.start()
        await _write_twice(core, "log")
        assert await core.flush("log") == 0
        await core.controller.reload(settings({"data": "sync"}))

    run(scenario())  # and it is not stopped in order
    disk.crash(power=True)
    assert disk.read_file("/a/log.img")[: 2 * len(DATA)] == 2 * DATA


def test_a_client_that_comes_while_the_legs_are_synced_keeps_its_volume() -> None:
    async def scenario() -> None:
        async with running(BOTH) as core:
            await _write_twice(core, "log")
            reloading = asyncio.ensure_future(core.controller.reload(settings({"data": "sync"})))
            await core.turns(2)
            assert not reloading.done()
            core.pair("log").connections += 1
            with pytest.raises(ConfigurationError, match="can't be removed while clients use it"):
                await reloading
            assert await core.write("log", 0, DATA[::-1]) == 0
            core.pair("log").connections -= 1

    run(asyncio.wait_for(scenario(), 20))


def test_a_secondary_on_its_way_keeps_the_volume() -> None:
    async def scenario() -> None:
        async with running(BOTH) as core:
            core.pair("log").state = state.PENDING
            with pytest.raises(ConfigurationError, match="on its way"):
                await core.controller.reload(settings({"data": "sync"}))
            core.pair("log").state = state.DUPLEX

    run(asyncio.wait_for(scenario(), 20))

"""A copy that has a limit: it waits for time to pass, and follows what is written meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.core import pair_states as state
from duplexd.limits import FOLLOWER_CHUNK_BYTES
from tests.unit.engine.cores import Core, new_disk, run, settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.sim.disk import SimDisk

RATE = 1 << 20
SIZE = 3 * FOLLOWER_CHUNK_BYTES
BLOCK = 4096
CHUNK_SECONDS = FOLLOWER_CHUNK_BYTES / RATE


def _disk() -> SimDisk:
    disk = new_disk()
    file = disk.create("/a/data.img", SIZE)
    file.write(0, bytes(range(1, 251)) * (SIZE // 250))
    file.sync()
    file.close()
    return disk


def _set_rate(core: Core, rate: int | None) -> None:
    config = core.controller.config
    core.controller.config = config.model_copy(
        update={"controller": config.controller.model_copy(update={"copy_rate": rate})}
    )


async def _started(rate: int | None) -> Core:
    core = Core(_disk(), settings(size=SIZE))
    _set_rate(core, rate)
    await core.controller.start()
    return core


async def _until(core: Core, chunks: int) -> None:
    while core.pair().copy_done < chunks * FOLLOWER_CHUNK_BYTES:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.001)


async def _one_chunk_a_time(core: Core) -> None:
    for chunk in (1, 2):
        await _until(core, chunk)
        await asyncio.sleep(0.15)
        assert core.pair().copy_done == chunk * FOLLOWER_CHUNK_BYTES, "no time has passed"
        core.clock.now += CHUNK_SECONDS


async def _what_is_written_meanwhile_is_followed(core: Core) -> None:
    await _until(core, 1)
    for number in range(8):
        assert await core.write("data", number * BLOCK, bytes([number]) * BLOCK) == 0
    while core.controller.jobs.lag_bytes(core.pair()):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert core.pair().copy_done == FOLLOWER_CHUNK_BYTES
    core.clock.now += 2 * CHUNK_SECONDS


async def _without_limit_it_goes_on_at_once(core: Core) -> None:
    await _until(core, 1)
    _set_rate(core, None)


@pytest.mark.parametrize(
    "during",
    [_one_chunk_a_time, _what_is_written_meanwhile_is_followed, _without_limit_it_goes_on_at_once],
)
def test_a_first_copy_takes_its_time(during: Callable[[Core], Awaitable[None]]) -> None:
    async def copy() -> None:
        core = await _started(RATE)
        await during(core)
        while core.pair().state == state.PENDING:
            core.clock.now += CHUNK_SECONDS
            await asyncio.sleep(0.001)
        assert core.pair().state == state.DUPLEX
        assert core.equal()
        await core.controller.stop()

    run(asyncio.wait_for(copy(), 60))


def test_a_controller_stops_while_its_copy_waits() -> None:
    async def stop() -> Core:
        core = await _started(RATE)
        await _until(core, 1)
        await core.controller.stop()
        return core

    async def again(disk: SimDisk) -> None:
        core = Core(disk, settings(size=SIZE))
        await core.controller.start()
        await core.until(lambda: core.pair().state == state.DUPLEX)
        assert core.equal()
        await core.controller.stop()

    core = run(asyncio.wait_for(stop(), 60))
    run(asyncio.wait_for(again(core.disk), 60))

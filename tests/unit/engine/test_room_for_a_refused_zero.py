"""A WRITE_ZEROES that a full primary refuses, longer than the journal has room for."""

from __future__ import annotations

import asyncio
import errno

from tests.unit.engine.cores import MIB, run, running

SIZE = 64 * MIB


def test_it_is_refused_and_nothing_else_is() -> None:
    async def scenario() -> None:
        async with running(size=SIZE, journal="16MiB") as core:
            assert await core.write("data", 5 * MIB, b"\x99" * 4096) == 0
            primary, _ = core.faulty()
            primary.fail("zero", errno.ENOSPC, times=1)
            assert await core.zero("data", 0, SIZE) == errno.ENOSPC
            assert not core.controller.failed
            assert core.equal()
            assert core.image("data", "a")[5 * MIB] == 0x99
            assert await core.write("data", 0, b"\x98" * 4096) == 0

    run(asyncio.wait_for(scenario(), 60))


def test_a_batch_that_ends_in_an_unexpected_way_is_answered() -> None:
    async def scenario() -> None:
        async with running() as core:
            primary, _ = core.faulty()

            def burst(operation: str) -> None:
                if operation == "write":
                    raise MemoryError

            primary.delay = burst
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            assert await core.write("data", 0, bytes(2 * MIB)) == errno.EIO
            assert core.controller.failed
            await core.controller.step(lambda: None)

    run(asyncio.wait_for(scenario(), 20))

"""The simulated workers do what real ones do, in an order that only the seed decides."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.sim.disk import PowerCut, SimDisk
from tests.sim.workers import SimWorkers

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.runtime.threads import Workers


def history(seed: int, count: int, calls: int = 12) -> list[str]:
    """What happens, in order, when `calls` calls are submitted at once."""
    happened: list[str] = []

    def call(number: int) -> Callable[[], int]:
        def run() -> int:
            happened.append(f"call {number}")
            return number

        return run

    async def scenario() -> None:
        all_done = asyncio.Event()

        def done(result: int | None, error: BaseException | None) -> None:
            assert error is None
            happened.append(f"done {result}")
            if len(happened) == 2 * calls:
                all_done.set()

        workers: Workers = SimWorkers(asyncio.get_running_loop(), Random(seed), count)
        for number in range(calls):
            workers.submit(call(number), done)
        assert not happened, "never within submit"
        await asyncio.wait_for(all_done.wait(), 10)

    asyncio.run(scenario())
    return happened


def test_one_worker_does_one_after_the_other() -> None:
    expected = [f"{what} {number}" for number in range(12) for what in ("call", "done")]
    assert all(history(seed, 1) == expected for seed in range(10))


def test_several_workers_overlap_in_an_order_that_the_seed_decides() -> None:
    orders = {tuple(history(seed, 3)) for seed in range(20)}
    assert len(orders) > 10
    assert {tuple(history(seed, 3)) for seed in range(20)} == orders
    calls = [[event for event in order if event.startswith("call")] for order in orders]
    assert any(order != sorted(order, key=lambda event: int(event[5:])) for order in calls)


def test_errors_and_results_come_back() -> None:
    async def scenario() -> None:
        workers = SimWorkers(asyncio.get_running_loop(), Random(1))

        def fails() -> None:
            raise OSError("no")

        with pytest.raises(OSError, match="no"):
            await workers.run(fails)
        assert await workers.run(lambda: 5) == 5
        cancelled = asyncio.ensure_future(workers.run(lambda: 6))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert await workers.run(lambda: 7) == 7

    asyncio.run(scenario())


def test_close_finishes_what_was_submitted() -> None:
    async def scenario() -> None:
        workers = SimWorkers(asyncio.get_running_loop(), Random(1))
        finished: list[int | None] = []
        for number in range(10):
            workers.submit(partial(int, number), lambda result, _error: finished.append(result))
        await asyncio.sleep(0)
        workers.close()
        assert sorted(number for number in finished if number is not None) == list(range(10))
        with pytest.raises(RuntimeError, match="closed"):
            workers.submit(lambda: None, lambda _result, _error: None)

    asyncio.run(scenario())


def test_a_power_cut_in_a_worker_ends_everything() -> None:
    async def scenario() -> None:
        disk = SimDisk(1)
        file = disk.create("/a", 4096)
        workers = SimWorkers(asyncio.get_running_loop(), Random(1), count=1)
        happened: list[BaseException | None] = []
        disk.cut_at(2)
        for _ in range(4):
            workers.submit(
                lambda: file.write(0, b"x"), lambda _result, error: happened.append(error)
            )
        for _ in range(100):
            await asyncio.sleep(0)
        assert happened == [None]
        assert (workers.dead, disk.dead) == (True, True)
        with pytest.raises(PowerCut):
            file.write(0, b"x")

    asyncio.run(scenario())

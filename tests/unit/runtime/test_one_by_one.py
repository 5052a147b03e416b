"""Many small calls in one worker: one that hangs keeps none of the others from being made."""

from __future__ import annotations

import asyncio
import itertools
import threading

from duplexd.runtime.one_by_one import one_by_one
from duplexd.runtime.threads import ThreadWorkers

PATIENCE_SECONDS = 60
SECONDS = 0.05


async def test_what_waits_behind_one_that_hangs_is_looked_at_in_other_workers() -> None:
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    answers, threads = threading.Event(), dict[int, int]()
    found, hung = dict[int, int](), list[int]()

    def call(number: int) -> int:
        threads[number] = threading.get_ident()
        if number in {2, 4}:
            answers.wait(PATIENCE_SECONDS)
        return number * 10

    async with asyncio.timeout(PATIENCE_SECONDS):
        await one_by_one(workers, range(6), call, SECONDS, found.__setitem__, hung.append)
    assert found == {0: 0, 1: 10, 3: 30, 5: 50}
    assert sorted(hung) == [2, 4]
    assert threads[0] == threads[1] == threads[2]
    assert threads[2] not in {threads[3], threads[4], threads[5]}
    assert threads[4] != threads[5], "one that hangs too keeps the next one"
    answers.set()
    workers.close()
    assert found == {0: 0, 1: 10, 3: 30, 5: 50}, "one that was given up has said something"


async def test_what_was_found_before_is_said_while_others_hang_behind() -> None:
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    answers, said = threading.Event(), list[str]()

    def call(name: str) -> None:
        if name != "first":
            answers.wait(PATIENCE_SECONDS)

    async with asyncio.timeout(PATIENCE_SECONDS):
        await one_by_one(
            workers, ("first", "second", "third"), call, SECONDS,
            lambda name, _none: said.append(name), lambda name: said.append(f"{name} hangs"),
        )  # fmt: skip
    assert said == ["second hangs", "first", "third hangs"]
    answers.set()
    workers.close()


async def test_many_results_leave_the_loop_to_others() -> None:
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    found, turns = list[int](), list[int]()

    async def others() -> None:
        while True:
            turns.append(len(found))
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    await one_by_one(
        workers, range(1000), int, PATIENCE_SECONDS, lambda number, _same: found.append(number),
        lambda _number: None,
    )  # fmt: skip
    other.cancel()
    workers.close()
    assert found == list(range(1000))
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 64

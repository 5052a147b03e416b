"""Worker threads: what is submitted is done once, in the loop, whatever the call does."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from duplexd.runtime.threads import ThreadWorkers
from duplexd.runtime.watch import GivenUp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    Run = Callable[[Coroutine[Any, Any, None]], None]

BURST = 2000
PATIENCE_SECONDS = 60.0
_pools = itertools.count()


@asynccontextmanager
async def workers_of(count: int) -> AsyncIterator[ThreadWorkers]:
    workers = ThreadWorkers(asyncio.get_running_loop(), f"pool {next(_pools)}", count)
    try:
        yield workers
    finally:
        workers.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_on_loop(scenario: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(scenario)

    return run_on_loop


@pytest.mark.parametrize("count", [1, 3])
def test_every_call_is_done_once_in_the_loop_with_its_own_result(run: Run, count: int) -> None:
    async def scenario() -> None:
        loop_thread, done, all_done = threading.get_ident(), Counter[int](), asyncio.Event()

        def finished(result: tuple[int, int] | None, error: BaseException | None) -> None:
            assert error is None
            assert result is not None
            assert threading.get_ident() == loop_thread != result[1]
            done[result[0]] += 1
            if done.total() == BURST:
                all_done.set()

        def where(number: int) -> tuple[int, int]:
            return number, threading.get_ident()

        async with workers_of(count) as workers:
            for number in range(BURST):
                workers.submit(partial(where, number), finished)
            assert not done, "never within submit"
            await asyncio.wait_for(all_done.wait(), PATIENCE_SECONDS)
        assert done == Counter(range(BURST))

    run(scenario())


def test_one_worker_keeps_the_order(run: Run) -> None:
    async def scenario() -> None:
        started: list[int] = []
        finished: list[int | None] = []
        async with workers_of(1) as workers:
            for number in range(100):

                def call(number: int = number) -> int:
                    started.append(number)
                    return number

                workers.submit(call, lambda result, _error: finished.append(result))
        assert started == finished == list(range(100))

    run(scenario())


def test_an_error_goes_to_who_submitted_the_call_and_the_worker_lives_on(run: Run) -> None:
    async def scenario() -> None:
        async with workers_of(1) as workers:
            for kind in (OSError, KeyboardInterrupt, SystemExit):
                errors: list[BaseException | None] = []
                arrived = asyncio.Event()

                def fails(kind: type[BaseException] = kind) -> None:
                    raise kind("no")

                def finished(
                    _result: None,
                    error: BaseException | None,
                    errors: Any = errors,
                    arrived: Any = arrived,
                ) -> None:
                    errors.append(error)
                    arrived.set()

                workers.submit(fails, finished)
                await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
                assert [type(error) for error in errors] == [kind]
            assert await workers.run(lambda: 7) == 7
            with pytest.raises(OSError, match="no"):
                await workers.run(lambda: (_ for _ in ()).throw(OSError("no")))

    run(scenario())


def test_a_done_that_raises_is_reported_and_the_others_are_still_called(run: Run) -> None:
    async def scenario() -> None:
        reported: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: reported.append(str(context["exception"]))
        )
        finished: list[int] = []

        def done(number: int, _result: None, _error: BaseException | None) -> None:
            if number % 2:
                raise ValueError(f"done {number}")
            finished.append(number)

        async with workers_of(1) as workers:
            for number in range(6):
                workers.submit(lambda: None, partial(done, number))
            await workers.run(lambda: None)
        assert finished == [0, 2, 4]
        assert reported == ["done 1", "done 3", "done 5"]

    run(scenario())


def test_close_finishes_what_was_submitted(run: Run) -> None:
    async def scenario() -> None:
        finished: list[int | None] = []
        async with workers_of(2) as workers:
            for number in range(20):

                def call(number: int = number) -> int:
                    time.sleep(0.001)
                    return number

                workers.submit(call, lambda result, _error: finished.append(result))
        assert sorted(number for number in finished if number is not None) == list(range(20))
        await no_thread_is_left(workers)
        workers.close()
        with pytest.raises(RuntimeError, match="closed"):
            workers.submit(lambda: None, lambda _result, _error: None)

    run(scenario())


def test_close_after_the_loop_has_gone_still_finishes() -> None:
    loop = asyncio.new_event_loop()
    workers = ThreadWorkers(loop, "disk", 1)
    gate, finished = threading.Event(), []

    def call() -> int:
        gate.wait(PATIENCE_SECONDS)
        return 1

    workers.submit(call, lambda result, _error: finished.append(result))
    loop.close()
    gate.set()
    workers.close()
    assert finished == [1]


def test_a_cancelled_waiter_does_not_disturb(run: Run) -> None:
    async def scenario() -> None:
        gate = threading.Event()
        async with workers_of(1) as workers:
            waiting = asyncio.ensure_future(workers.run(lambda: gate.wait(PATIENCE_SECONDS)))
            await asyncio.sleep(0)
            waiting.cancel()
            gate.set()
            assert await workers.run(lambda: 5) == 5
            assert waiting.cancelled()

    run(scenario())


def waits_of(thread: int) -> int:
    """How often a thread has begun to wait for something."""
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


async def both_idle(workers: ThreadWorkers) -> None:
    """Wait for it: the loop may hear of one call before the thread of the other waits."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(workers._idle) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_a_call_wakes_one_thread_and_no_other(run: Run) -> None:
    async def scenario() -> None:
        async with workers_of(2) as workers:
            together = threading.Barrier(2)

            def met() -> int:
                together.wait()
                return threading.get_native_id()

            threads = await asyncio.gather(workers.run(met), workers.run(met))
            await both_idle(workers)
            before = {thread: waits_of(thread) for thread in threads}
            used = {await workers.run(threading.get_native_id) for _ in range(100)}
            (other,) = set(threads) - used
            # each call would wake it; what is left is the end of its first call
            assert waits_of(other) - before[other] < 50

    run(scenario())


def test_an_idle_worker_keeps_nothing_of_the_last_call(run: Run) -> None:
    class Payload:
        pass

    async def scenario() -> None:
        async with workers_of(1) as workers:
            payload = Payload()
            kept = weakref.ref(payload)

            def call(payload: Payload = payload) -> Payload:
                return payload

            await workers.run(call)
            del call, payload
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (
                kept() is not None and time.monotonic() < deadline
            ):  # the worker lets go when it is scheduled again
                await asyncio.sleep(0.01)
                gc.collect()
            assert kept() is None

    run(scenario())


# ----------------------------------------------------------------------------- a disk that hangs


class Hanging:
    """A disk on which every call hangs until it is released; `began` counts those."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.began = 0
        self._begins = threading.Semaphore(0)

    def call(self) -> None:
        self.began += 1
        self._begins.release()
        self.answers.wait()

    async def begins(self, calls: int = 1) -> None:
        """Wait until so many calls have begun that no other one waited for."""
        for _ in range(calls):
            assert await asyncio.to_thread(self._begins.acquire, timeout=PATIENCE_SECONDS)


def running_threads(workers: ThreadWorkers) -> int:
    """Of this pool: the process has others, of tests before this one."""
    name = f"{workers._name}-"
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


async def no_thread_is_left(workers: ThreadWorkers) -> None:
    """Wait for it: a thread reports that it ends a moment before it has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while running_threads(workers):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.fixture
def hanging() -> Iterator[list[Hanging]]:
    disks = [Hanging() for _ in range(10)]
    yield disks
    for disk in disks:
        disk.answers.set()


def ignored(_result: None, _error: BaseException | None) -> None:
    """Its end is not looked at."""


def test_a_thousand_calls_on_a_disk_that_hangs_neither_stop_others_nor_make_threads(
    run: Run, hanging: list[Hanging]
) -> None:
    disk = hanging[0]

    async def scenario() -> None:
        async with workers_of(2) as workers:
            for _ in range(1000):
                workers.of(disk).submit(disk.call, ignored)
            assert await workers.of("another").run(lambda: 7) == 7
            assert await workers.run(lambda: 8) == 8
            await disk.begins(2)
            assert disk.began == 2
            assert running_threads(workers) <= 2 + 2
            disk.answers.set()
            await workers.of(disk).run(lambda: None)
        assert disk.began == 1000

    run(scenario())


def test_however_many_disks_hang_another_gets_a_thread(run: Run, hanging: list[Hanging]) -> None:
    async def scenario() -> None:
        workers = ThreadWorkers(asyncio.get_running_loop(), "disk", 3, shared=4)
        for disk in hanging:
            for _ in range(3):
                workers.of(disk).submit(disk.call, ignored)
        assert await workers.of("another").run(lambda: 7) == 7
        for disk in hanging:
            await disk.begins()
        assert sum(disk.began for disk in hanging) <= 4 + len(hanging)
        for disk in hanging:
            disk.answers.set()
        workers.close()
        assert [disk.began for disk in hanging] == [3] * len(hanging)

    run(scenario())


def test_calls_of_one_disk_are_begun_in_order_beside_others(run: Run) -> None:
    async def scenario() -> None:
        begun: dict[str, list[int]] = {"a": [], "b": []}
        workers = ThreadWorkers(asyncio.get_running_loop(), "disk", 1, shared=1)
        for number in range(200):
            for name, numbers in begun.items():
                workers.of(name).submit(partial(numbers.append, number), ignored)
        workers.close()
        assert begun == {"a": list(range(200)), "b": list(range(200))}

    run(scenario())


def test_a_call_that_was_given_up_makes_room_for_the_next(run: Run, hanging: list[Hanging]) -> None:
    disk, ended = hanging[0], threading.Event()

    def given_up() -> None:
        try:
            disk.call()
            raise GivenUp
        finally:
            ended.set()

    async def scenario() -> None:
        async with workers_of(1) as workers:
            lane = workers.of(disk)
            lane.submit(given_up, ignored)
            await disk.begins()
            lane.replace()
            assert await lane.run(lambda: 7) == 7
            disk.answers.set()
            assert await asyncio.to_thread(ended.wait, PATIENCE_SECONDS)
            assert await lane.run(lambda: 8) == 8
        await no_thread_is_left(workers)

    run(scenario())


def test_close_does_not_wait_for_ever_for_a_call_that_hangs(
    run: Run, hanging: list[Hanging]
) -> None:
    disk, finished = hanging[0], list[int | None]()

    async def scenario() -> None:
        workers = ThreadWorkers(asyncio.get_running_loop(), "disk", 1, close_seconds_max=2.0)
        workers.of(disk).submit(disk.call, ignored)
        workers.submit(lambda: 7, lambda result, _error: finished.append(result))
        workers.close()
        assert finished == [7]

    run(scenario())


def test_an_operation_costs_far_less_than_an_executors(run: Run) -> None:
    """By the CPU's time, on the same machine at the same moment: a thirtieth is usual."""

    async def ours(workers: ThreadWorkers) -> None:
        left, all_done = 1000, asyncio.Event()

        def finished(_result: None, _error: BaseException | None) -> None:
            nonlocal left
            left -= 1
            if not left:
                all_done.set()

        for _ in range(1000):
            workers.submit(lambda: None, finished)
        await all_done.wait()

    async def theirs(executor: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(executor, lambda: None) for _ in range(1000)))

    async def cost_s(work: Coroutine[Any, Any, None]) -> float:
        began = time.process_time()
        await work
        return time.process_time() - began

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            async with workers_of(1) as workers:
                costs = [
                    (await cost_s(ours(workers)), await cost_s(theirs(executor))) for _ in range(5)
                ]
        assert min(cost for cost, _ in costs) < min(cost for _, cost in costs) / 2, costs

    run(scenario())

"""What a cancelled caller leaves behind, and how much is done at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.tasks import Steps, more_as_they_wait, to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_it_returns_what_the_work_returned() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await to_its_end(work()) == 7


async def test_it_raises_what_the_work_raised() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise OSError(5, "as the test wants it")

    with pytest.raises(OSError, match="as the test wants it"):
        await to_its_end(work())


class Work:
    """Runs until `finish`; `caller` waits for it by way of `to_its_end`."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self._may_end = asyncio.Event()
        self.ended = False
        self.caller = asyncio.create_task(to_its_end(self._run()))

    async def _run(self) -> None:
        await self._may_end.wait()
        self.ended = True
        if self._error is not None:
            raise self._error

    async def cancel(self) -> None:
        self.caller.cancel()
        for _ in range(5):
            await asyncio.sleep(0)

    def finish(self) -> None:
        self._may_end.set()


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_caller_waits_for_the_end_and_is_cancelled_then(times: int) -> None:
    work = Work()
    await asyncio.sleep(0)
    for _ in range(times):
        await work.cancel()
    assert not work.caller.done()
    work.finish()
    with pytest.raises(asyncio.CancelledError):
        await work.caller
    assert work.ended


async def test_an_error_that_a_cancelled_caller_does_not_want_is_dropped_without_a_trace() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    work = Work(OSError(5, "nobody fetches this"))
    await asyncio.sleep(0)
    await work.cancel()
    work.finish()
    with pytest.raises(asyncio.CancelledError):
        await work.caller
    del work
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_time_out_comes_after_the_end_of_the_work() -> None:
    ended = []

    async def work() -> None:
        await asyncio.sleep(0.02)
        ended.append(True)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await to_its_end(work())
    assert ended


async def test_work_that_was_cancelled_itself_cancels_its_caller() -> None:
    never = asyncio.get_running_loop().create_future()
    caller = asyncio.create_task(to_its_end(never))
    await asyncio.sleep(0)
    never.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


# -------------------------------------------------------------------------------- work in steps


async def test_a_cancelled_caller_of_steps_waits_for_none_and_closes_after_the_last() -> None:
    steps, closed = Steps(), list[str]()
    hanging = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            await steps.do(asyncio.sleep(0))
            await steps.do(hanging)
        finally:
            steps.afterwards(lambda: closed.append("closed"))

    caller = asyncio.ensure_future(work())
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not closed
    hanging.set_exception(OSError(5, "too late to be raised"))
    await asyncio.sleep(0.01)
    assert closed == ["closed"]


async def test_steps_that_fail_are_closed_at_once() -> None:
    steps, closed = Steps(), list[str]()
    steps.afterwards(lambda: closed.append("before any"))
    failing = asyncio.get_running_loop().create_future()
    failing.set_exception(OSError(5, "raised"))
    with pytest.raises(OSError, match="raised"):
        await steps.do(failing)
    steps.afterwards(lambda: closed.append("after it"))
    assert closed == ["before any", "after it"]


# ------------------------------------------------------------------- as much at once as waits


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        await asyncio.sleep(0)
    assert true()


class Disks:
    """`work` waits for a disk, by its number. `most`: how many it has waited for at once."""

    def __init__(self, waits: bool) -> None:
        self._waits = waits
        self._now = 0
        self.most = 0
        self.begun = list[int]()
        self.ended = list[int]()
        self.answer = asyncio.Event()

    async def work(self, number: int) -> None:
        self.begun.append(number)
        self._now += 1
        self.most = max(self.most, self._now)
        await (self.answer.wait() if self._waits else asyncio.sleep(0))
        self._now -= 1
        self.ended.append(number)


async def test_what_does_not_wait_is_done_one_after_the_other() -> None:
    disks = Disks(waits=False)
    await more_as_they_wait(range(50), disks.work, seconds=60)
    assert disks.most == 1
    assert disks.ended == list(range(50))


async def test_what_waits_is_done_together_and_all_of_it_ends() -> None:
    disks = Disks(waits=True)
    waiting = asyncio.create_task(more_as_they_wait(range(50), disks.work, seconds=0))
    await until(lambda: disks.most == 50)
    disks.answer.set()
    await waiting
    assert disks.begun == list(range(50))
    assert sorted(disks.ended) == list(range(50))


async def test_there_may_be_a_bound_to_what_is_done_at_once() -> None:
    disks = Disks(waits=True)
    waiting = asyncio.create_task(more_as_they_wait(range(50), disks.work, 7, seconds=0))
    await until(lambda: disks.most == 7)
    disks.answer.set()
    await waiting
    assert (disks.most, sorted(disks.ended)) == (7, list(range(50)))


async def test_one_that_hangs_keeps_no_other() -> None:
    hanging = asyncio.Event()
    ended = list[int]()

    async def work(number: int) -> None:
        if number == 3:
            await hanging.wait()
        ended.append(number)

    waiting = asyncio.create_task(more_as_they_wait(range(9), work, seconds=0))
    await until(lambda: len(ended) == 8)
    assert not waiting.done()
    hanging.set()
    await waiting
    assert ended[-1] == 3


async def test_an_error_is_raised_when_what_was_begun_has_ended() -> None:
    disks = Disks(waits=True)

    async def work(number: int) -> None:
        if number == 1:
            raise OSError(5, "as the test wants it")
        await disks.work(number)

    waiting = asyncio.create_task(more_as_they_wait(range(3), work, seconds=0))
    await until(lambda: len(disks.begun) == 2)
    assert not waiting.done()
    disks.answer.set()
    with pytest.raises(OSError, match="as the test wants it"):
        await waiting
    assert sorted(disks.ended) == [0, 2]


async def test_a_cancelled_caller_begins_no_more() -> None:
    disks = Disks(waits=True)
    waiting = asyncio.create_task(more_as_they_wait(range(9), disks.work, seconds=60))
    await until(lambda: bool(disks.begun))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert disks.begun == [0]
    assert asyncio.all_tasks() == {asyncio.current_task()}

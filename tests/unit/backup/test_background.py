"""What ctrl-C does not wait for, and what it does not keep from being done."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from duplexd.backup.background import despite_an_interrupt, in_background


async def test_a_call_in_the_background_returns_what_it_returns() -> None:
    assert await in_background(lambda: 7) == 7


async def test_a_call_in_the_background_raises_what_it_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_background(lambda: 1 // 0)


async def test_a_cancellation_does_not_wait_for_the_call() -> None:
    began, end = Event(), Event()

    def hang() -> None:
        began.set()
        end.wait()

    task = asyncio.ensure_future(in_background(hang))
    await asyncio.to_thread(began.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end.set()


class Work:
    """It lasts until `go` is set."""

    def __init__(self) -> None:
        self.began, self.go, self.done = asyncio.Event(), asyncio.Event(), False

    async def run(self) -> str:
        self.began.set()
        await self.go.wait()
        self.done = True
        return "done"


async def test_what_has_to_be_done_is_done_although_the_task_is_cancelled() -> None:
    work = Work()
    task = asyncio.ensure_future(despite_an_interrupt(work.run()))
    await work.began.wait()
    task.cancel()
    await asyncio.sleep(0)
    work.go.set()
    assert await task == "done"


async def test_a_second_cancellation_ends_it() -> None:
    work = Work()
    task = asyncio.ensure_future(despite_an_interrupt(work.run()))
    await work.began.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not work.done

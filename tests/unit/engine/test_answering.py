"""Commands that wait for the journal: when their callers get an answer, and what comes of them."""

from __future__ import annotations

import asyncio

import pytest

from duplexd.engine.answering import Answering
from duplexd.errors import TimedOutError


def answering(waits_s: float) -> Answering:
    return Answering("/state/journal", lambda: waits_s, lambda: 30.0)


async def test_a_command_that_takes_long_has_all_the_time_while_the_journal_answers() -> None:
    async def long() -> str:
        await asyncio.sleep(0.6)
        return "done"

    assert await answering(29.0).in_time(long()) == "done"


async def test_what_a_command_raises_its_caller_gets() -> None:
    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await answering(0.0).in_time(fails())


async def test_a_cancelled_caller_waits_until_its_command_is_cancelled() -> None:
    steps: list[str] = []
    begun = asyncio.Event()

    async def command() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("ended")

    caller = asyncio.ensure_future(answering(0.0).in_time(command()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["ended"]


async def test_one_that_was_left_ends_at_a_stop() -> None:
    journal, running = answering(31.0), asyncio.Event()
    ended: list[str] = []

    async def command() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("at a stop")

    with pytest.raises(TimedOutError, match="/state/journal: the disk of the journal"):
        await journal.in_time(command())
    assert (running.is_set(), ended) == (True, [])
    journal.stop()
    await asyncio.sleep(0)
    assert ended == ["at a stop"]

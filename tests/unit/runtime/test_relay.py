"""The loop goes on while a call in its own thread hangs, and nothing is done twice."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.relay import Relay
from duplexd.runtime.turns import TurnLoop
from duplexd.runtime.watch import GivenUp

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


class Image:
    """Something that a call has in hand."""


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """A disk that answers when the event is set, at the latest when the test is over."""
    answers = threading.Event()
    yield answers
    answers.set()


def drive(main: Callable[[Relay], Coroutine[object, object, object]]) -> object:
    loop = TurnLoop()
    relay = Relay(loop)
    try:
        return relay.drive(main(relay))
    finally:
        loop.close()


def test_the_result_of_a_call_comes_back_into_the_loop() -> None:
    async def main(relay: Relay) -> list[object]:
        return [await relay.run(lambda: 7), await relay.run(lambda: "eight")]

    assert drive(main) == [7, "eight"]


def test_the_error_of_a_call_comes_back_into_the_loop() -> None:
    def fail() -> None:
        raise OSError(28, "full")

    async def main(relay: Relay) -> object:
        with pytest.raises(OSError, match="full"):
            await relay.run(fail)
        return "went on"

    assert drive(main) == "went on"


def test_calls_run_in_the_order_in_which_they_were_submitted() -> None:
    order: list[int] = []

    async def main(relay: Relay) -> None:
        await asyncio.gather(*(relay.run(lambda n=n: order.append(n)) for n in range(50)))  # type: ignore[misc]

    drive(main)
    assert order == list(range(50))


def test_a_short_call_changes_no_thread() -> None:
    async def main(relay: Relay) -> set[int]:
        inside = [await relay.run(threading.get_ident) for _ in range(5)]
        return {*inside, threading.get_ident()}

    threads = drive(main)
    assert isinstance(threads, set)
    assert len(threads) == 1


def test_the_loop_goes_on_in_another_thread_while_a_call_hangs(hung: threading.Event) -> None:
    async def main(relay: Relay) -> tuple[bool, object]:
        before = threading.get_ident()
        call = asyncio.ensure_future(relay.run(hung.wait))
        await asyncio.sleep(0.2)
        moved = threading.get_ident() != before
        hung.set()
        return moved, await call

    assert drive(main) == (True, True)


def test_further_calls_run_while_one_hangs(hung: threading.Event) -> None:
    async def main(relay: Relay) -> object:
        call = asyncio.ensure_future(relay.run(hung.wait))
        await asyncio.sleep(0)
        found = [await relay.run(lambda n=n: n) for n in range(3)]  # type: ignore[misc]
        assert not call.done()
        hung.set()
        await call
        return found

    assert drive(main) == [0, 1, 2]


def test_one_hang_after_the_other(hung: threading.Event) -> None:
    async def main(relay: Relay) -> object:
        calls = [asyncio.ensure_future(relay.run(hung.wait)) for _ in range(4)]
        await asyncio.sleep(0.5)
        hung.set()
        return await asyncio.gather(*calls)

    assert drive(main) == [True] * 4


def test_the_end_does_not_wait_for_a_call_that_hangs(hung: threading.Event) -> None:
    async def main(relay: Relay) -> str:
        relay.submit(hung.wait, lambda _result, _error: None)
        await asyncio.sleep(0.2)
        return "ended"

    assert drive(main) == "ended"
    assert not hung.is_set()


def test_a_call_that_was_given_up_reports_nothing(hung: threading.Event) -> None:
    reported: list[object] = []
    ended = threading.Event()

    def call() -> None:
        hung.wait()
        ended.set()
        raise GivenUp

    async def main(relay: Relay) -> None:
        relay.submit(call, lambda result, error: reported.append((result, error)))
        await asyncio.sleep(0.2)
        hung.set()
        await asyncio.to_thread(ended.wait)
        await asyncio.sleep(0.1)

    drive(main)
    assert reported == []


def test_nothing_keeps_what_a_call_that_was_given_up_had_in_hand(hung: threading.Event) -> None:
    """An image is locked until the last reference to it goes; the collector may come much later."""
    begun, gone = threading.Event(), threading.Event()

    def call() -> None:
        leg = Image()
        weakref.finalize(leg, gone.set)
        begun.set()
        hung.wait()
        raise GivenUp

    async def main(relay: Relay) -> bool:
        relay.submit(call, lambda *_: None)
        await asyncio.to_thread(begun.wait)  # another thread drives the loop
        hung.set()
        return await asyncio.to_thread(gone.wait, 60.0)

    gc.disable()
    try:
        assert drive(main)
    finally:
        gc.enable()


def test_the_error_of_the_main_coroutine_is_raised() -> None:
    async def main(_relay: Relay) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        drive(main)

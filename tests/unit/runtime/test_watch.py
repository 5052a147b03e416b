"""A call that hangs is given up: the loop goes on, and its thread does nothing more."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.threads import ThreadWorkers
from duplexd.runtime.watch import GivenUp, HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Disk:
    """Something that a thread can hang in."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def write(self) -> None:
        self.answers.wait()


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.answers.set()


async def test_a_call_that_returns_gives_its_result() -> None:
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    watch: Watch[str] = Watch()

    def call() -> int:
        with watch.at("a"):
            pass
        return 7

    assert await patiently(workers, watch, call, lambda _what: 5.0) == 7
    workers.close()


async def test_a_call_that_hangs_is_given_up_with_what_it_hangs_in(disk: Disk) -> None:
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    watch: Watch[Disk] = Watch()

    def call() -> None:
        with watch.at(disk):
            disk.write()

    with pytest.raises(HungError) as raised:
        await patiently(workers, watch, call, lambda _what: 0.05, 0.01)
    assert raised.value.what is disk
    workers.close()


def test_time_in_which_nobody_looked_is_not_that_of_the_disk() -> None:
    """A guest was paused for a snapshot, or the process was stopped: the disk is not to blame."""
    watch: Watch[str] = Watch()
    watch.enter("a")
    assert [watch.waited_s(now) for now in (100.0, 100.25, 100.75)] == [0.0, 0.25, 0.75]
    assert not watch.waits_longer(5.0, now=3600.0)
    looks = [3600.0 + look / 4 for look in range(1, 15)]
    assert [watch.waits_longer(5.0, now) for now in looks] == [False] * 12 + [True] * 2


def test_the_next_call_is_waited_for_from_its_own_first_look() -> None:
    watch: Watch[str] = Watch()
    for now in (0.0, 4.0):
        with watch.at("a"):
            assert [watch.waited_s(now), watch.waited_s(now + 0.5)] == [0.0, 0.5]
    assert watch.waited_s(5.0) == -1.0


async def test_a_thread_that_was_given_up_does_nothing_after_its_call(disk: Disk) -> None:
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    watch: Watch[Disk] = Watch()
    steps: list[str] = []
    ended = threading.Event()

    def call() -> None:
        try:
            with watch.at(disk):
                disk.write()
                steps.append("returned")
            steps.append("after")
        finally:
            ended.set()

    with pytest.raises(HungError):
        await patiently(workers, watch, call, lambda _what: 0.05, 0.01)
    disk.answers.set()
    assert await asyncio.to_thread(ended.wait, 60)
    assert steps == ["returned"]
    workers.close()


async def test_a_watch_is_not_used_again_while_a_thread_may_still_look_at_it(disk: Disk) -> None:
    """When its call returns, it would take the note of the next call for its own."""
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    watch: Watch[Disk] = Watch()

    def call() -> None:
        with watch.at(disk):
            disk.write()

    with pytest.raises(HungError):
        await patiently(workers, watch, call, lambda _what: 0.05, 0.01)
    with pytest.raises(RuntimeError, match="still uses this watch"):
        await patiently(workers, watch, call, lambda _what: 0.05, 0.01)
    workers.close()


async def test_other_calls_of_the_pool_go_on(disk: Disk) -> None:
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    watch: Watch[Disk] = Watch()

    def call() -> None:
        with watch.at(disk):
            disk.write()

    with pytest.raises(HungError):
        await patiently(workers, watch, call, lambda _what: 0.05, 0.01)
    assert await workers.run(lambda: 3) == 3
    workers.close()


async def test_a_call_that_nobody_waits_for_any_more_is_given_up_as_well(disk: Disk) -> None:
    """Its thread would be missing for as long as the disk hangs."""
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    watch: Watch[Disk] = Watch()

    def call() -> None:
        with watch.at(disk):
            disk.write()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(patiently(workers, watch, call, lambda _what: 0.05, 0.01), 0.02)
    assert await asyncio.wait_for(workers.run(lambda: 3), 60.0) == 3
    workers.close()


async def test_calls_that_follow_each_other_are_not_one_long_call() -> None:
    workers = ThreadWorkers(asyncio.get_running_loop(), "test", 1)
    watch: Watch[str] = Watch()
    pause = threading.Event()

    def call() -> str:
        for _ in range(60):
            with watch.at("a"):
                pause.wait(0.02)  # together they take longer than what is allowed to each
        return "done"

    assert await patiently(workers, watch, call, lambda _what: 1.0, 0.01) == "done"
    workers.close()


def test_an_error_of_a_call_that_was_given_up_is_not_seen() -> None:
    watch: Watch[str] = Watch()
    with pytest.raises(GivenUp):
        _fail(watch, lambda: watch.give_up("a"))


def _fail(watch: Watch[str], meanwhile: Callable[[], object]) -> None:
    with watch.at("a"):
        meanwhile()
        raise OSError


def test_a_call_that_has_returned_cannot_be_given_up() -> None:
    watch: Watch[str] = Watch()
    with watch.at("a"):
        pass
    assert not watch.give_up("a")


def test_only_the_call_that_was_seen_can_be_given_up() -> None:
    watch: Watch[str] = Watch()
    with watch.at("b"):
        assert not watch.give_up("a"), "it has gone on to another"


def test_a_note_cannot_be_moved_once_the_call_was_given_up() -> None:
    watch: Watch[str] = Watch()
    watch.enter("a")
    watch.inside[0] = "b"
    before = watch.given_up
    assert watch.give_up("b")
    assert (before, watch.given_up) == (False, True)
    with pytest.raises(IndexError):
        watch.inside[0] = "c"

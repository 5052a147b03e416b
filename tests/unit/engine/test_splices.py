"""Reads that are not copied: what comes of them, and what ends those that hang."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from duplexd.engine.splices import Splices
from duplexd.runtime.pipes import Pipe
from tests.support.memory_leg import MemoryLeg
from tests.unit.engine.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Pages, Volume
    from tests.support.fault_leg import FaultLeg

DATA = bytes(range(256)) * 16


class Losing(MemoryLeg):
    def has_lost_writes(self) -> bool:
        return True


class Hanging(MemoryLeg):
    """`meanwhile` is called once, in the call that hangs."""

    def __init__(self, size: int, meanwhile: Callable[[], None]) -> None:
        super().__init__(size)
        self.meanwhile = meanwhile
        self.calls = 0

    def put_pages(self, offset: int, length: int, pipe: Pages) -> bool:
        self.calls += 1
        if self.calls == 1:
            self.meanwhile()
        return super().put_pages(offset, length, pipe)


class World:
    """One volume with `DATA` at 4096; `answers` of the read of it that `ask` begins."""

    def __init__(self) -> None:
        self.parts = Parts()
        self.parts.send("data", 4096, DATA)
        self.splices = Splices(self.parts.workers)
        self.answers: list[bool] = []
        self.pipe = Pipe()

    @property
    def primary(self) -> FaultLeg:
        return self.parts.legs["data"][0]

    def ask(self) -> None:
        pair = self.parts.pair()
        self.splices.splice(pair, 4096, len(DATA), self.pipe, self.answers.append)
        assert self.answers == [], "not within the call"


async def test_what_the_page_cache_has_is_put() -> None:
    world = World()
    world.ask()
    world.parts.workers.finish_all()
    assert world.answers == [True]
    assert world.pipe.read() == DATA


async def test_what_cannot_be_read_is_left_to_a_worker() -> None:
    world = World()
    world.primary.fail("read_cached")
    world.ask()
    world.parts.workers.finish_all()
    assert world.answers == [False]


async def test_what_was_put_does_not_count_if_the_disk_has_lost_writes() -> None:
    world = World()
    pair = world.parts.pair()
    pair.set_legs(Losing(4 * len(DATA)), pair.secondary, "sync")
    world.ask()
    world.parts.workers.finish_all()
    assert world.answers == [False]


async def test_a_leg_that_is_no_longer_the_primary_does_not_answer() -> None:
    world = World()
    world.ask()
    pair = world.parts.pair()
    pair.set_legs(pair.copy_of, pair.primary, "sync")
    world.parts.workers.finish_all()
    assert world.answers == [False]


async def test_a_call_that_hangs_is_answered_otherwise_and_once() -> None:
    world = World()
    world.ask()
    world.splices.look()
    assert world.answers == []  # it may have been asked just now
    world.splices.look()
    assert world.answers == [False]
    world.parts.workers.finish_all()
    assert world.answers == [False]


async def test_while_a_call_hangs_no_other_is_made_on_that_image() -> None:
    """Not one that waits for its turn, and none that comes then."""
    world = World()
    pair = world.parts.pair()

    def ask() -> None:
        world.splices.splice(pair, 4096, len(DATA), world.pipe, world.answers.append)

    def meanwhile() -> None:
        world.parts.workers.finish_all()
        ask()

    leg = Hanging(4 * len(DATA), meanwhile)
    pair.set_legs(leg, pair.secondary, "sync")
    ask()
    ask()
    world.parts.workers.finish_all()
    assert leg.calls == 1
    assert world.answers == [False, False, True]
    ask()
    world.parts.workers.finish_all()
    assert leg.calls == 2


async def test_those_behind_one_that_was_answered_wait_two_looks_too() -> None:
    world = World()
    world.ask()
    world.parts.workers.finish_all()
    world.answers.clear()
    world.splices.look()
    world.ask()
    world.splices.look()
    assert world.answers == []
    world.splices.look()
    assert world.answers == [False]


async def test_what_is_no_pair_is_left_to_a_worker() -> None:
    """A point in time: what it reads is put together."""
    world = World()
    point = cast("Volume", SimpleNamespace(name="data@cut", size=1 << 20))
    world.splices.splice(point, 4096, len(DATA), world.pipe, world.answers.append)
    assert world.answers == [False]

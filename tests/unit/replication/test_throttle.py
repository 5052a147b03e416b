"""Gates that close when a follower trails, for as long as what was written takes to be applied."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.replication.throttle import Throttle
from tests.unit.replication.fakes import World

if TYPE_CHECKING:
    from duplexd.core.pair import Pair

LIMIT = 1000


class Throttled:
    """A throttle, the journal's end and the follower's place. `late` counts its calls."""

    def __init__(self, catches_up: bool = False) -> None:
        self.world = World()
        self.pair = self.world.pair()
        self.slow: list[Pair] = [self.pair]
        self.late = 0
        self.throttle = Throttle(
            self.world.gates, LIMIT, lambda: 5.0, self._is_late, catches_up=catches_up
        )
        self.written = self.applied = 0

    def _is_late(self) -> None:
        self.late += 1

    def write(self, size_bytes: int) -> None:
        self.written += size_bytes
        self._look()

    def apply(self, size_bytes: int) -> None:
        self.applied += size_bytes
        self._look()

    def _look(self) -> None:
        self.throttle.look(self.written, self.written - self.applied, lambda: self.slow)

    @property
    def waits(self) -> bool:
        return self.world.gates.closed[self.pair] > 0


async def test_nothing_waits_up_to_half_of_the_limit() -> None:
    throttled = Throttled()
    throttled.write(LIMIT // 2)
    assert not throttled.waits
    throttled.write(1)
    assert throttled.waits


async def test_the_further_behind_the_more_of_what_was_written_has_to_be_applied_first() -> None:
    throttled = Throttled()
    throttled.write(500)
    throttled.write(250)  # at three quarters: half of it
    throttled.apply(124)
    assert throttled.waits
    throttled.apply(1)
    assert not throttled.waits


async def test_a_write_waits_for_what_was_written_before_it_and_not_for_all_of_the_backlog() -> (
    None
):
    throttled = Throttled()
    throttled.write(500)
    throttled.write(400)
    for _ in range(20):  # as much is written as is let in, each time
        applied_before = throttled.applied
        while throttled.waits:
            throttled.apply(10)
        assert throttled.applied - applied_before <= 400
        throttled.write(100)


async def test_a_burst_beyond_the_limit_is_worked_off_to_half_of_it() -> None:
    throttled = Throttled()
    throttled.write(10 * LIMIT)
    throttled.apply(9 * LIMIT + LIMIT // 2 - 1)
    assert throttled.waits
    throttled.apply(1)
    assert not throttled.waits


async def test_beyond_the_limit_nothing_is_let_in_whatever_was_worked_off() -> None:
    throttled = Throttled()
    throttled.write(501)
    throttled.written += 2 * LIMIT  # by other volumes, which do not wait
    throttled.apply(1000)
    assert throttled.waits
    throttled.apply(502)
    assert not throttled.waits


async def test_one_that_catches_up_lets_in_less_than_it_works_off() -> None:
    throttled = Throttled(catches_up=True)
    throttled.write(20 * LIMIT)
    lag = throttled.written - throttled.applied
    for _ in range(10):
        while throttled.waits:
            throttled.apply(50)
        throttled.write(100)
    assert throttled.written - throttled.applied < lag


async def test_it_is_late_when_writes_have_waited_for_its_seconds() -> None:
    throttled = Throttled()
    throttled.write(2 * LIMIT)
    await asyncio.sleep(4.9)
    throttled.apply(1)
    assert throttled.late == 0
    await asyncio.sleep(0.2)
    assert throttled.late == 1


async def test_it_is_not_late_when_the_gates_were_open_in_between() -> None:
    throttled = Throttled()
    throttled.write(600)
    for _ in range(10):
        await asyncio.sleep(1)
        while throttled.waits:
            throttled.apply(10)
        throttled.write(100)
    assert throttled.late == 0


async def test_gates_are_opened_for_those_that_are_not_followed_any_more() -> None:
    throttled = Throttled()
    throttled.write(2 * LIMIT)
    throttled.throttle.keep(())
    assert not throttled.waits
    await asyncio.sleep(10)
    assert throttled.late == 0

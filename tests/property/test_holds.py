"""However leases overlap and follow each other, no write waits longer than one lease may last.

The clock is moved by hand, from deadline to deadline, and leases are taken, renewed and released in
any order: in the same turn of the loop, too, in which the writes of the lease before still wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from duplexd.core import lease as ends
from duplexd.errors import DuplexdError
from tests.unit.engine.parts import NAMES, SMALL, Parts, turns

if TYPE_CHECKING:
    from duplexd.core.pair import PairChange

LONGEST_S = SMALL.hold_seconds_max
SECONDS = st.floats(0.5, LONGEST_S)
VOLUMES = st.sampled_from([(NAMES[0],), (NAMES[1],), NAMES])
STEPS = st.one_of(
    st.tuples(st.just("quiesce"), VOLUMES, SECONDS),
    st.tuples(st.just("renew"), st.integers(0, 3), SECONDS),
    st.tuples(st.just("release"), st.integers(0, 3)),
    st.tuples(st.just("write"), st.sampled_from(NAMES)),
    st.tuples(st.just("pass"), st.floats(0.5, 4.0)),
)


class Day:
    """What happened so far, and how long every write has waited."""

    def __init__(self) -> None:
        self.parts = Parts()
        self.sent: list[tuple[float, PairChange]] = []
        self.longest_s = 0.0

    @property
    def leases(self) -> list[str]:
        return list(self.parts.leases.held)

    def look(self) -> None:
        """Note the waits of writes that are answered now, and of those that are not."""
        now = self.parts.clock.now
        waiting = []
        for at, change in self.sent:
            self.longest_s = max(self.longest_s, now - at)
            if not self.parts.answered(change):
                waiting.append((at, change))
        self.sent = waiting

    async def go(self, seconds: float) -> None:
        """Let time pass; leases end at their deadlines."""
        clock, held = self.parts.clock, self.parts.leases.held
        until = clock.now + seconds
        while True:
            await turns()
            self.look()
            first = min(held.values(), key=lambda each: each.deadline, default=None)
            if first is None or first.deadline > until:
                break
            clock.now = max(clock.now, first.deadline)
            self.parts.leases.end(first, ends.DEADLINE)
        clock.now = until

    async def quiesce(self, names: tuple[str, ...], seconds: float) -> None:
        pairs = [self.parts.pair(name) for name in names]
        await self.parts.leases.quiesce(pairs, seconds, "me")

    def renew(self, which: int, seconds: float) -> None:
        self.parts.leases.renew(self.leases[which], None, seconds)

    def release(self, which: int) -> None:
        self.parts.leases.release(self.leases[which])

    def write(self, name: str) -> None:
        self.sent.append((self.parts.clock.now, self.parts.send(name, 0, b"x")))

    async def step(self, step: tuple[object, ...]) -> None:
        match step:
            case ("quiesce", tuple() as names, float() as seconds):
                await self.quiesce(names, seconds)
            case ("renew", int() as which, float() as seconds):
                self.renew(which, seconds)
            case ("release", int() as which):
                self.release(which)
            case ("write", str() as name):
                self.write(name)
            case ("pass", float() as seconds):
                await self.go(seconds)


async def live(steps: list[tuple[object, ...]]) -> Day:
    day = Day()
    for step in steps:
        with contextlib.suppress(DuplexdError, IndexError):  # refused; no such lease
            await day.step(step)
    await day.go(3 * LONGEST_S)
    return day


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_no_write_waits_longer_than_one_lease_may_last(steps: list[tuple[object, ...]]) -> None:
    day = asyncio.run(live(steps))
    assert not day.sent, "a write was never answered"
    assert day.longest_s <= LONGEST_S + 1e-6

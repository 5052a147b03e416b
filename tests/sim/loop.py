"""An event loop with simulated time, which advances only when nothing else is runnable, so that a
minute of a scenario takes milliseconds.
"""

from __future__ import annotations

import asyncio
import selectors
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.disk import SimDisk


_LIFE_SECONDS = 1e6  # a life begins so long after the one before it began


class HungError(AssertionError):
    """The code under test took more turns than any scenario needs, or waits for something that
    cannot come.
    """


class _Selector(selectors.DefaultSelector):
    """Advances the simulated time instead of waiting for files."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.turns = 0
        self.turns_max = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if self.turns > self.turns_max:
            raise HungError(f"after {self.turns} turns of the loop this has not ended")
        if timeout is None:
            raise HungError("everything waits, and nothing will ever come")
        self.now += max(timeout, 0.0)
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """`limit` allows the code under test that many more turns."""

    def __init__(self) -> None:
        self._simulated = _Selector()
        super().__init__(self._simulated)
        self.troubles: list[str] = []  # exceptions that nobody handled: the first ends the life
        self.set_exception_handler(self._trouble)

    def time(self) -> float:
        return self._simulated.now

    def limit(self, turns: int) -> None:
        self._simulated.turns_max = self._simulated.turns + turns

    def _trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.troubles.append(_describe(context))
        self.stop()


def _describe(context: dict[str, Any]) -> str:
    where = context.get("task") or context.get("handle") or context.get("future")
    error = context.get("exception")
    stack = "".join(traceback.format_exception(error)) if error is not None else ""
    return f"{context.get('message')}: {error!r} in {where}\n{stack}"


class SimClock:
    """See `duplexd.runtime.clock.Clock`."""

    def __init__(self, loop: SimLoop, disk: SimDisk) -> None:
        self.monotonic = loop.time
        self.boot_id = disk.boot_id
        self._lives = disk.lives
        disk.now_ns = lambda: int(self.wall() * 1e9)

    def wall(self) -> float:
        return 1_700_000_000.0 + self._lives * _LIFE_SECONDS + self.monotonic()

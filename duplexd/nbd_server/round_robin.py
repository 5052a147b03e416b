"""Many have more to do than is fair to do at once: each turn of the loop, a few of them do some.

So what all of them do together in a turn has a bound, however many they are, and the requests of
other clients come in between. Those who have little to do share a turn, as long as it takes no more
than `seconds`: a turn of the loop for each of them would cost more than what they do.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Working(Protocol):
    """Who waits for its turn."""

    def turn(self) -> None:
        """Do some of it. To go on, ask again."""


class RoundRobin:
    """`soon` calls back in the next turn of the loop. In one turn of it nobody has two turns."""

    def __init__(
        self,
        soon: Callable[[Callable[[], None]], object],
        seconds: float = 0.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._soon = soon
        self._seconds = seconds
        self._clock = clock
        self._waiting: dict[Working, None] = {}
        self._scheduled = False

    def ask(self, working: Working) -> None:
        """For one turn, behind those who asked before. Harmless if it waits already."""
        self._waiting.setdefault(working)
        self._schedule()

    def withdraw(self, working: Working) -> None:
        """Its turn does not come. Harmless if it does not wait."""
        self._waiting.pop(working, None)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        until = self._clock() + self._seconds
        for _ in range(len(self._waiting)):
            first = next(iter(self._waiting), None)
            if first is None:
                return
            del self._waiting[first]
            if self._waiting:
                self._schedule()
            first.turn()
            if self._clock() >= until:
                return

"""How late the event loop is, and what it has written by when: both are looked at twice a second.

The lateness of the loop is what a request may wait besides its own work. What has been written by
when says how old a secondary is that has not got all of it: records have no time of their own,
since a clock read for each change would be paid by every write.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

from duplexd.runtime.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

_SAMPLES_MAX = 7200  # an hour; what is older is as old as the oldest sample, at least


class LoopLag:
    """How late the event loop runs a timer: what a request may wait besides its own work."""

    def __init__(self, interval_seconds: float = 0.5) -> None:
        self.histogram = Histogram()
        self.last_seconds = 0.0
        self._interval_seconds = interval_seconds
        self._timer: asyncio.TimerHandle | None = None
        self.on_tick: Callable[[], None] = _nothing

    def start(self) -> None:
        """Measure from now on, until `stop`."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._interval_seconds
        self._timer = loop.call_at(due, self._tick, due)

    def _tick(self, due: float) -> None:
        self.last_seconds = max(0.0, asyncio.get_running_loop().time() - due)
        self.histogram.observe(self.last_seconds)
        self.on_tick()
        self.start()

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()


def _nothing() -> None:
    """Nobody looks."""


class WrittenBy:
    """Which number had been written by when: how long what lacks a change has lacked it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque(maxlen=_SAMPLES_MAX)

    def note(self, sequence: int, now: float) -> None:
        """`sequence` is the last number written. Of an idle time the two ends are kept."""
        samples = self._samples
        if len(samples) > 1 and samples[-1][0] == samples[-2][0] == sequence:
            samples.pop()
        samples.append((sequence, now))

    def lag_seconds(self, applied: int, now: float) -> float:
        """How long ago the first change after `applied` was written, at the most."""
        samples = self._samples
        first = bisect_left(samples, (applied + 1, 0.0))
        if first == len(samples):
            return 0.0
        return max(0.0, now - samples[max(0, first - 1)][1])

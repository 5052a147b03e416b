"""A wall clock that a step forward does not take along at once. Pure.

A delayed secondary gets what is older than its delay. If the wall clock is set forward by an hour,
or a virtual machine wakes up, everything seems old at once, and nothing could be gone back to. So
this clock runs at most twice as fast as time passes until it has caught up. A step back is taken
over at once: then the secondary waits for longer, which loses nothing.
"""

from __future__ import annotations

SPEED_MAX = 2.0


class SteadyTime:
    """Begins at `wall`, at a moment `monotonic` of the monotonic clock; seconds."""

    def __init__(self, wall: float, monotonic: float) -> None:
        self._last = wall
        self._at = monotonic

    def now(self, wall: float, monotonic: float) -> float:
        """The time to go by, when the two clocks show these."""
        self._last = min(wall, self._last + (monotonic - self._at) * SPEED_MAX)
        self._at = monotonic
        return self._last

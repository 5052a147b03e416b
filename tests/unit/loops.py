"""An event loop whose time passes only while there is nothing to do: a machine that is slow, or
hangs for a while, changes nothing.
"""

from __future__ import annotations

import asyncio
import selectors

# so that code that polls sees timers fire, after the same number of turns everywhere
TURN_SECONDS = 1e-5


class _Selector(selectors.DefaultSelector):
    """Instead of waiting it lets the time pass. What is written to a Unix socket can be read at
    once, so nothing is missed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += TURN_SECONDS
        found = super().select(0)
        if not found:
            if timeout is None:
                raise AssertionError("everything waits, and nothing will ever come")
            self.now += max(timeout, 0.0)
        return found


class PatientLoop(asyncio.SelectorEventLoop):
    """For tests of one thread, whose sockets are Unix sockets with both ends in this loop."""

    def __init__(self) -> None:
        self._patient = _Selector()
        super().__init__(self._patient)

    def time(self) -> float:
        return self._patient.now

    def let_pass(self, seconds: float) -> None:
        self._patient.now += seconds


def now() -> float:
    """`time.monotonic` of code that runs in such a loop."""
    return asyncio.get_running_loop().time()


def stall(seconds: float) -> None:
    """Let so much time pass at once, as in a loop that was kept from running."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, PatientLoop):
        raise TypeError(f"{loop!r} keeps the time of the machine")
    loop.let_pass(seconds)

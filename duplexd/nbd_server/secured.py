"""What TLS asks of the server around a connection: turns for handshakes, and the end of sessions.

A handshake costs the loop a millisecond or two, and a stranger nothing. So there are so many in a
second; a connection that has to wait for its turn waits within the time limit of its handshake.

A connection does not outlive the certificate that it began with: a mount that was set up a day
before its certificate expires would otherwise stay for ever.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from duplexd.net.certificate_names import ALTERNATIVES, names_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from duplexd.net.allow import Caller
    from duplexd.net.certificate_names import Certificate

LOOK_SECONDS_MAX = 3600.0  # at the clock of the machine, which may be set


class Turns:
    """So many handshakes a second, in the order in which they were asked for. One that is withdrawn
    leaves its turn to the next: else who comes and goes would keep all others out.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, per_second: float) -> None:
        self._loop = loop
        self._interval_s = 1 / per_second
        self._waiting: dict[object, Callable[[], None]] = {}
        self._next = 0.0  # not before this time of the loop
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, who: object, begin: Callable[[], None]) -> None:
        """`begin` is called from the loop, in its turn."""
        self._waiting[who] = begin
        self._schedule()

    def withdraw(self, who: object) -> None:
        """Its turn does not come. Harmless if it does not wait."""
        self._waiting.pop(who, None)

    def _schedule(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_at(max(self._loop.time(), self._next), self._turn)

    def _turn(self) -> None:
        self._timer = None
        if (first := next(iter(self._waiting), None)) is None:
            return
        begin = self._waiting.pop(first)
        self._next = self._loop.time() + self._interval_s
        self._schedule()
        begin()


class Expiry:
    """Calls `end` at `until`, in seconds since 1970."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        until: float,
        end: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._until = until
        self._end = end
        self._now = now
        self._timer = loop.call_soon(self._look)

    def cancel(self) -> None:
        """The connection is over."""
        self._timer.cancel()

    def _look(self) -> None:
        left_s = self._until - self._now()
        if left_s <= 0:
            self._end()
        else:
            self._timer = self._loop.call_later(min(left_s, LOOK_SECONDS_MAX), self._look)


def identified(caller: Caller, certificate: Certificate) -> Caller:
    """The same client, as TLS has shown it."""
    return caller._replace(names=frozenset(names_of(certificate, ALTERNATIVES)))

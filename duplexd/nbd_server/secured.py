"""What TLS asks of the server around a connection: turns for handshakes, and who the client is.

A handshake costs the loop a millisecond or two, and a stranger nothing. So there are so many in a
second; a connection that has to wait for its turn waits within the time limit of its handshake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.net.certificate_names import ALTERNATIVES, names_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from duplexd.net.allow import Caller
    from duplexd.net.certificate_names import Certificate


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


def identified(caller: Caller, certificate: Certificate) -> Caller:
    """The same client, as TLS has shown it."""
    return caller._replace(names=frozenset(names_of(certificate, ALTERNATIVES)))

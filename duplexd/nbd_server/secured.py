"""What TLS asks of the server around a connection: turns for handshakes, and who the client is.

A handshake costs the loop a millisecond or two, and a stranger nothing. So there are so many in a
second; a connection that has to wait for its turn waits within the time limit of its handshake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.net.certificate_names import ALTERNATIVES, names_of

if TYPE_CHECKING:
    from duplexd.net.allow import Caller
    from duplexd.net.certificate_names import Certificate


class Turns:
    """So many handshakes a second, in the order in which they were asked for."""

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1 / per_second
        self._next = 0.0

    def wait_s(self, now: float) -> float:
        """How long the next one has to wait from `now`, a time of the loop."""
        turn = max(now, self._next)
        self._next = turn + self._interval_s
        return turn - now


def identified(caller: Caller, certificate: Certificate) -> Caller:
    """The same client, as TLS has shown it."""
    return caller._replace(names=frozenset(names_of(certificate, ALTERNATIVES)))

"""What TLS asks of the server around a connection: turns for handshakes, who the client is, and
whether that counts after a reload.

A handshake costs the loop a millisecond or two, and a stranger nothing. So there are so many in a
second; a connection that has to wait for its turn waits within the time limit of its handshake.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple

from duplexd.net import tls
from duplexd.net.certificate_names import ALTERNATIVES, names_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from duplexd.nbd_server.peer_places import Peer
    from duplexd.nbd_server.tls_wire import TlsWire
    from duplexd.net.allow import Caller
    from duplexd.net.certificate_names import Certificate


class Turns:
    """So many handshakes a second, in turns by peer: else one that opens connections in a loop
    would keep all others waiting. One that is withdrawn leaves its turn to the next.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, per_second: float) -> None:
        self._loop = loop
        self._interval_s = 1 / per_second
        self._waiting: dict[Peer | None, dict[object, Callable[[], None]]] = {}
        self._next = 0.0  # not before this time of the loop
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, who: object, peer: Peer | None, begin: Callable[[], None]) -> None:
        """`begin` is called from the loop, in the turn of `who`, a connection of `peer`."""
        self._waiting.setdefault(peer, {})[who] = begin
        self._schedule()

    def withdraw(self, who: object, peer: Peer | None) -> None:
        """Its turn does not come. Harmless if it does not wait."""
        theirs = self._waiting.get(peer, {})
        theirs.pop(who, None)
        if not theirs:
            self._waiting.pop(peer, None)

    def _schedule(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_at(max(self._loop.time(), self._next), self._turn)

    def _turn(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        peer, theirs = next(iter(self._waiting.items()))
        del self._waiting[peer]
        begin = theirs.pop(next(iter(theirs)))
        if theirs:
            self._waiting[peer] = theirs  # behind the others
        self._next = self._loop.time() + self._interval_s
        self._schedule()
        begin()


class Trust(NamedTuple):
    """What a reload did to certificates of clients. `removed`: an authority. Python does not say
    which one signed a certificate, so all that were shown before are doubtful then: their clients
    may connect again. `required`: a client must have one now, and did not have to before.
    """

    removed: bool
    required: bool

    @classmethod
    def after(cls, before: ssl.SSLContext | None, now: ssl.SSLContext | None) -> Trust:
        """A change from one context to another."""
        removed = tls.authorities(before) - tls.authorities(now)
        return cls(bool(removed), _asks_all(now) and not _asks_all(before))

    def objection(self, wire: TlsWire) -> str:
        """Why the client at the other end may not stay, or "". A handshake that is not complete
        goes by the rules of its beginning, so it may not go on either.
        """
        if self.removed and (wire.shaking_hands or wire.certificate):
            return "an authority was removed from nbd.tls.client_ca"
        if self.required and (wire.shaking_hands or not wire.certificate):
            return "a certificate is required now"
        return ""


def _asks_all(context: ssl.SSLContext | None) -> bool:
    return context is not None and context.verify_mode == ssl.CERT_REQUIRED


def identified(caller: Caller, certificate: Certificate) -> Caller:
    """The same client, as TLS has shown it."""
    return caller._replace(names=frozenset(names_of(certificate, ALTERNATIVES)))

"""A client from accept until it has chosen its volume: what `nbd/handshake.py` decides, with a
socket and a clock.

A client that nobody knows yet gets little. A few replies are made at once, enough for one that
wants a volume. The rest takes turns with all other negotiations, and waits while the client does
not take what it has got; its input is not read meanwhile. So a thousand LISTs of a thousand volumes
cost the daemon the memory of a few entries, and other clients a fraction of a millisecond.

The time limit counts from the last option that was answered: a client that asks about every volume
in turn is slow and not idle. The handshake as a whole has limits of its own, in time and in
options.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import structlog

from duplexd.nbd.handshake import CLOSED, LIST_PIECE, TRANSMISSION, Handshake
from duplexd.nbd.offers import Offers

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Carrier
    from duplexd.nbd_server.visible_exports import VisibleExports

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")

OFFERS = Offers(structured=True, extended=True, contexts=True)  # what transmission can keep
RECEIVE_BYTES = 16 << 10
REPLIES_AT_ONCE = 8
REPLIES_A_TURN = 32


class Negotiation:
    """Of one connection. `done` is called once, from the loop: the state is TRANSMISSION and all
    replies have gone, or it is CLOSED. Not after `cancel`. `secure` puts TLS onto the wire and
    calls back once it is up.
    """

    __slots__ = (
        "_done", "_due", "_handshake", "_last", "_secure", "_server", "_timer", "_wire", "input",
    )  # fmt: skip

    def __init__(
        self,
        server: Server,
        exports: VisibleExports,
        wire: Carrier,
        done: Callable[[Handshake], None],
        secure: Callable[[Callable[[], None]], Carrier],
    ) -> None:
        limits, now = server.limits, server.loop.time()
        self.input = memoryview(bytearray(RECEIVE_BYTES))
        self._server = server
        self._wire = wire
        self._done = done
        self._secure = secure
        self._handshake = Handshake(
            exports, limits.handshake_options_max, offers=OFFERS, tls=exports.tls
        )
        self._due = now + limits.handshake_seconds_max
        self._last = now + limits.handshake_total_seconds_max
        self._timer = server.loop.call_at(self._due, self._late)
        wire.high_bytes = 0  # `resumed` is called when all replies have gone
        self._acknowledge_at_once()
        wire.write(self._handshake.greeting())

    def received(self, count: int) -> None:
        """The client has sent so many bytes into `input`."""
        self._acknowledge_at_once()
        self._handshake.receive(self.input[:count])
        self._advance(REPLIES_AT_ONCE)

    def resumed(self) -> None:
        """The client has taken its replies."""
        self._server.negotiations.ask(self)

    def turn(self) -> None:
        """See `RoundRobin`."""
        self._advance(REPLIES_A_TURN, in_turn=True)

    def cancel(self) -> None:
        """The connection is over, or has gone on to transmission."""
        self._timer.cancel()
        self._server.negotiations.withdraw(self)

    def _advance(self, replies_max: int, *, in_turn: bool = False) -> None:
        """Answer what is here; entries of a LIST, and options with much data, only in a turn: one
        turn of the loop may bring those of all connections.
        """
        handshake, wire, sent = self._handshake, self._wire, 0
        while not wire.is_closing():
            if handshake.state == CLOSED:
                log.debug("NBD handshake ended", reason=handshake.reason)
                self._done(handshake)
                return
            if wire.unsent_bytes:
                wire.pause_reading()
                return
            long = handshake.takes_long
            if sent >= replies_max or (long and not in_turn):
                wire.pause_reading()
                self._server.negotiations.ask(self)
                return
            looked = LIST_PIECE if long else 1  # hidden volumes, too
            replies = handshake.advance()
            if replies is None:
                break
            for reply in replies:
                wire.write(reply)
            sent += max(looked, len(replies))
            self._due = self._server.loop.time() + self._server.limits.handshake_seconds_max
        if handshake.wants_tls and not wire.is_closing():
            self._wire = self._secure(self._secured)
            return
        wire.resume_reading()
        if handshake.state == TRANSMISSION:
            self._done(handshake)

    def _secured(self) -> None:
        """TLS is up. The client has its time for the next option."""
        self._wire.high_bytes = 0
        self._handshake.secured()
        self._advance(REPLIES_AT_ONCE)

    def _acknowledge_at_once(self) -> None:
        """A client that sends an option in two writes waits for the acknowledgement of the first,
        which the kernel delays by 40 ms: too long for a client that asks about each volume. The
        option lasts until the kernel thinks otherwise, so it is set again and again.
        """
        sock = self._wire.sock
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _late(self) -> None:
        due = min(self._due, self._last)
        if self._server.loop.time() < due:
            self._timer = self._server.loop.call_at(due, self._late)
        else:
            log.debug("NBD handshake ended", reason="no option in time")
            self._wire.abort()

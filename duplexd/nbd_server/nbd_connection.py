"""One NBD connection: handshake, then transmission.

asyncio's streams would copy each payload twice and want a task for each request (9-11 us against
2-2.4 us). Here the socket receives into the parser's own buffer, and one wake-up handles all that
arrived. The price is that flow control is explicit: the socket is read only while everything that
was read has a place to go, see `_adjust`.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import structlog

from duplexd.nbd.constants import FLAG_READ_ONLY
from duplexd.nbd.handshake import TRANSMISSION
from duplexd.nbd.transmission import RECEIVE_BYTES_MIN, Receiver
from duplexd.nbd_server.dispatch import Dispatch
from duplexd.nbd_server.negotiation import Negotiation
from duplexd.nbd_server.reach import Access
from duplexd.nbd_server.receive_buffers import ReceiveBuffers, in_use
from duplexd.nbd_server.secured import Expiry, identified
from duplexd.nbd_server.tls_wire import TlsWire
from duplexd.nbd_server.visible_exports import VisibleExports
from duplexd.net.allow import Caller, caller_of
from duplexd.net.certificate_names import valid_until

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from duplexd.backend import Volume
    from duplexd.nbd.handshake import Handshake
    from duplexd.nbd_server.reach import Listener
    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Carrier, Wire
    from duplexd.net.address import Address

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")

UNIX_SEND_BYTES = 1 << 20


class Connection:
    """A client, from accept to close.

    The socket is not read while a request waits in the backlog, a large payload has no room, or the
    client does not take its replies.
    """

    __slots__ = (
        "_access",
        "_buffers",
        "_dispatch",
        "_expiry",
        "_fd",
        "_negotiation",
        "_receiver",
        "_reserved",
        "_scheduled",
        "_server",
        "_socket",
        "_stopping",
        "_timer",
        "_wire",
        "exports",
        "volume",
    )

    _wire: Carrier  # the socket, or TLS on it
    _socket: Wire

    def __init__(self, server: Server, listener: Listener) -> None:
        self.exports = VisibleExports(server, listener, Caller())
        self.volume: Volume | None = None
        self._access = Access.NO
        self._expiry: Expiry | None = None
        self._server = server
        self._negotiation: Negotiation | None = None  # until the client has chosen its volume
        self._receiver: Receiver | None = None
        self._buffers = ReceiveBuffers(0)
        self._dispatch: Dispatch | None = None
        self._fd = -1
        self._reserved = False  # the large payload that is being received has room
        self._scheduled = False  # `_resume` will run
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None

    # Life

    def connection_made(self, wire: Wire) -> None:
        """Greet, unless there are too many connections."""
        self._wire = self._socket = wire
        server = self._server
        if len(server.connections) >= server.limits.connections_max:
            if not server.connections_refused:
                log.warning(
                    "too many NBD connections, further ones are closed",
                    connections=len(server.connections),
                )
            server.connections_refused += 1
            self._wire.abort()
            return
        self.exports.caller = caller_of(wire.sock)
        if self.exports.is_kept_out():
            log.debug("NBD client is not allowed", caller=str(self.exports.caller))
            self._wire.abort()
            return
        server.connections.add(self)
        self._fd = wire.sock.fileno()
        tune(wire.sock)
        self._negotiation = Negotiation(server, self.exports, wire, self._negotiated, self._secure)

    def eof_received(self) -> None:
        """The client has gone, with or without DISC: close."""
        self._drop()
        self._close()

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is closed."""
        self._drop()
        self._end_negotiation()
        self._receiver = self._dispatch = (
            None  # a cycle; the buffers must not wait for the collector
        )
        if self._timer is not None:
            self._timer.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        self._server.hangups.unwatch(self._fd)
        self._server.disconnected(self)
        if self.volume is not None:
            self.volume.connections -= 1
            log.info(
                "NBD client disconnected",
                volume=self.volume.name,
                connections=self.volume.connections,
            )
            self.volume = None

    def stop(self) -> None:
        """Take no further request; close when what is in flight is answered."""
        self._stopping = True
        if self._dispatch is None:
            self._close()
        else:
            self._dispatch.backlog = []
            self._adjust()

    def admit_again(self, listeners: Mapping[Address, Listener]) -> None:
        """The rules have changed: end if they allow less than when the volume was chosen."""
        exports = self.exports
        exports.listener = listeners.get(exports.listener.address, exports.listener)
        if self.volume is not None and exports.access(self.volume.name) < self._access:
            self._end("the rules allow it no longer")

    def _end(self, why: str) -> None:
        log.info("NBD client is disconnected", caller=str(self.exports.caller), reason=why)
        self.stop()

    def abort(self) -> None:
        """Close now."""
        self._drop()
        self._wire.abort()

    def _drop(self) -> None:
        """Nothing more is read or answered; what has not started is dropped."""
        if self._dispatch is not None:
            self._dispatch.drop()

    def _close(self) -> None:
        """Close once the client has taken its replies, or after a while."""
        self._end_negotiation()
        self._wire.close()
        if self._timer is not None:
            self._timer.cancel()
        server = self._server
        self._timer = server.loop.call_later(server.limits.close_seconds_max, self._wire.abort)

    # Receiving

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the socket puts what it receives."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None:
            assert self._negotiation is not None, "a socket is read by somebody"
            return self._negotiation.input
        if not dispatch.in_flight:
            return receiver.buffer()
        return receiver.behind() or self._exchanged(receiver, dispatch)

    def buffer_updated(self, count: int) -> None:
        """One wake-up."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None:
            if self._negotiation is not None:
                self._negotiation.received(count)
            return
        large = receiver.large
        requests = receiver.received(count)
        if large and not receiver.large:
            self._reserved = False  # the change counts it from now on
        if requests:
            dispatch.serve(requests)
        if (
            dispatch.backlog
            or dispatch.ended
            or receiver.large
            or receiver.broken
            or dispatch.write_paused
        ):
            self._adjust()

    def _exchanged(self, receiver: Receiver, dispatch: Dispatch) -> memoryview:
        """Receive into another buffer if changes use this one, which is full."""
        changes, dispatch.lent = dispatch.lent, []
        if in_use(changes):
            receiver.exchange(self._buffers.lend(receiver.whole, changes))
        return receiver.buffer()

    def _end_negotiation(self) -> None:
        if self._negotiation is not None:
            self._negotiation.cancel()
            self._negotiation = None

    def _secure(self, up: Callable[[], None]) -> Carrier:
        """The client asked for TLS: put it onto the socket, in its turn."""
        server, context = self._server, self._server.policy.context
        assert context is not None, "a listener with TLS has certificates"

        def secured() -> None:
            self._identify(secure)
            up()

        self._socket.pause_reading()
        secure = TlsWire(server.loop, self._socket, context, self, secured)
        self._wire = secure
        self._timer = server.loop.call_later(
            server.tls_turns.wait_s(server.loop.time()), self._socket.resume_reading
        )
        return secure

    def _identify(self, secure: TlsWire) -> None:
        certificate = secure.certificate
        self.exports.caller = identified(self.exports.caller, certificate)
        if (until := valid_until(certificate)) is not None:
            self._expiry = Expiry(
                self._server.loop, until, lambda: self._end("its certificate has expired")
            )

    def _negotiated(self, handshake: Handshake) -> None:
        """The client chose its volume, or there is nothing more to say to it."""
        volume = None
        if handshake.state == TRANSMISSION and handshake.export is not None:
            volume = self._server.backend.volume(handshake.export.name)
        if volume is None or handshake.export is None:  # or it was taken away meanwhile
            self._close()
        else:
            self._begin(volume, handshake.export.flags, handshake.rest())

    def _begin(self, volume: Volume, flags: int, rest: bytes) -> None:
        """The client's first requests may be in `rest`."""
        self._end_negotiation()
        self._access = Access.READ_ONLY if flags & FLAG_READ_ONLY else Access.FULL
        self.volume = volume
        volume.connections += 1
        log.info("NBD client connected", volume=volume.name, connections=volume.connections)
        self._wire.high_bytes = self._server.limits.connection_unsent_bytes_max
        self._dispatch = Dispatch(self._server, volume, self._wire, self._progressed, flags)
        size = max(self._server.limits.connection_receive_bytes, len(rest) + RECEIVE_BYTES_MIN)
        self._receiver = Receiver(size, self._server.payloads.take)
        self._buffers = ReceiveBuffers(size)
        self._receiver.buffer()[: len(rest)] = rest
        self.buffer_updated(len(rest))

    # Stopping and going on

    def pause_writing(self) -> None:
        """The client does not take its replies."""
        if self._dispatch is not None:
            self._dispatch.write_paused = True  # the next wake-up stops reading

    def resume_writing(self) -> None:
        """The client has taken most of its replies."""
        if self._negotiation is not None:
            self._negotiation.resumed()
        elif self._dispatch is not None:
            self._dispatch.write_paused = False
            self._progressed()

    def _progressed(self) -> None:
        """Go on soon; not at once, for this may be called from within the write path."""
        if not self._scheduled:
            self._scheduled = True
            self._server.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._scheduled = False
        dispatch = self._dispatch
        if dispatch is None or dispatch.dropped:
            return
        if dispatch.backlog and self._receiver is not None:
            dispatch.serve(dispatch.backlog)
        self._adjust()

    def _adjust(self) -> None:
        """Read, pause or close, whichever the present state asks for."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None or dispatch.dropped or self._wire.is_closing():
            return
        if receiver.broken:
            log.info(
                "NBD client broke the protocol: bad request magic",
                volume=self.volume and self.volume.name,
            )
            self._drop()
            self._close()
        elif (dispatch.ended or self._stopping) and not dispatch.backlog and not dispatch.in_flight:
            self._close()
        elif (
            self._stopping
            or dispatch.backlog
            or dispatch.write_paused
            or not self._has_room(receiver, dispatch)
        ):
            dispatch.stalled = True
            self._wire.pause_reading()
            self._server.hangups.watch(self._fd, self.abort)
        else:
            dispatch.stalled = dispatch.ended
            self._server.hangups.unwatch(self._fd)
            self._wire.resume_reading()

    def _has_room(self, receiver: Receiver, dispatch: Dispatch) -> bool:
        """For the large payload that is being received, if there is one."""
        if receiver.large and not self._reserved:
            self._reserved = dispatch.reserve(receiver.large)
            if not self._reserved:
                self._server.waiting.wait(dispatch)
            return self._reserved
        return True


def tune(sock: socket.socket) -> None:
    """Replies leave at once, a peer that vanished is noticed. The buffer of a Unix socket is made
    large, because a large reply is sent in pieces of that size; that of TCP grows by itself.
    """
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BYTES)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

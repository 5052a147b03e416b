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

from duplexd.known import known
from duplexd.nbd.handshake import CLOSED, TRANSMISSION, Handshake
from duplexd.nbd.transmission import RECEIVE_BYTES_MIN, Receiver
from duplexd.nbd_server.dispatch import Dispatch
from duplexd.nbd_server.receive_buffers import ReceiveBuffers, in_use
from duplexd.runtime.log import Seldom

if TYPE_CHECKING:
    import asyncio

    from duplexd.backend import Volume
    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Wire

log = Seldom(structlog.get_logger("duplexd.nbd"))

HANDSHAKE_RECEIVE_BYTES = 16 << 10
UNIX_SEND_BYTES = 1 << 20


class Connection:
    """A client, from accept to close.

    The socket is not read while a request waits in the backlog, a large payload has no room, or the
    client does not take its replies.
    """

    __slots__ = (
        "_buffers",
        "_dispatch",
        "_fd",
        "_handshake",
        "_input",
        "_receiver",
        "_reserved",
        "_scheduled",
        "_server",
        "_stopping",
        "_timer",
        "_wire",
        "volume",
    )

    _wire: Wire

    def __init__(self, server: Server) -> None:
        self.volume: Volume | None = None
        self._server = server
        self._handshake: Handshake | None = Handshake(server, server.limits.handshake_options_max)
        self._input = memoryview(bytearray(HANDSHAKE_RECEIVE_BYTES))
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
        self._wire = wire
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
        server.connections.add(self)
        self._fd = wire.sock.fileno()
        tune(wire.sock)
        wire.high_bytes = server.limits.connection_unsent_bytes_max
        self._timer = server.loop.call_later(server.limits.handshake_seconds_max, self._wire.abort)
        self._wire.write(known(self._handshake, "it has not ended").greeting())

    def eof_received(self) -> None:
        """The client has gone, with or without DISC: close."""
        self._drop()
        self._close()

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is closed."""
        self._drop()
        self._handshake = self._receiver = self._dispatch = (
            None  # a cycle; the buffers must not wait for the collector
        )
        if self._timer is not None:
            self._timer.cancel()
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
            return self._input
        if not dispatch.in_flight:
            return receiver.buffer()
        return receiver.behind() or self._exchanged(receiver, dispatch)

    def buffer_updated(self, count: int) -> None:
        """One wake-up."""
        receiver, dispatch = self._receiver, self._dispatch
        if receiver is None or dispatch is None:
            self._negotiate(count)
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

    def _negotiate(self, count: int) -> None:
        handshake = self._handshake
        if handshake is None:
            return
        handshake.receive(self._input[:count])
        while (replies := handshake.advance()) is not None:
            for reply in replies:
                self._wire.write(reply)
        if handshake.state == TRANSMISSION:
            self._begin(handshake)
        elif handshake.state == CLOSED:
            log.debug("NBD handshake ended", reason=handshake.reason)
            self._handshake = None
            self._close()

    def _begin(self, handshake: Handshake) -> None:
        """The client chose its volume; its first requests may be here already."""
        export = known(handshake.export, "the client has chosen one")
        volume = self._server.backend.volume(export.name)
        if volume is None:  # taken away since it was described
            self._close()
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.volume = volume
        volume.connections += 1
        log.info("NBD client connected", volume=volume.name, connections=volume.connections)
        rest = handshake.rest()
        self._handshake, self._input = None, memoryview(b"")
        self._dispatch = Dispatch(self._server, volume, self._wire, self._progressed)
        size = max(self._server.limits.connection_receive_bytes, len(rest) + RECEIVE_BYTES_MIN)
        self._receiver = Receiver(size, self._server.payloads.take)
        self._buffers = ReceiveBuffers(size)
        self._receiver.buffer()[: len(rest)] = rest
        self.buffer_updated(len(rest))

    # Stopping and going on

    def pause_writing(self) -> None:
        """The client does not take its replies."""
        if self._dispatch is None:
            self._wire.pause_reading()
        else:
            self._dispatch.write_paused = True  # the next wake-up stops reading

    def resume_writing(self) -> None:
        """The client has taken most of its replies."""
        if self._dispatch is None:
            self._wire.resume_reading()
        else:
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

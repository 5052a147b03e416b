"""One client of a server: bytes in, requests on the export, replies out, within bounds.

Requests are served at the same time, each in a task, and answered as they end. What bounds a client
is that nothing is read from it: not while it has as many requests or as much content in flight as
it may, and not while it does not take its replies. A payload is not begun to be received before
there is room for it.

A connection that is lost cancels its requests. They were not acknowledged, and the client may send
them again on another connection, where a late one must not overwrite a newer one. So the kernel is
asked whether the client is still there before one is begun: the news that it has gone may come
behind what another client has sent since. One that said DISC at the end sends nothing more either,
and waits for its replies perhaps: all it asked for is done.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, cast

from ..nbd import constants as c
from ..nbd.handshake import CLOSED, TRANSMISSION, Handshake
from ..nbd.offers import Offers
from ..nbd.transmission import Receiver
from ..nbd.typed_request import TypedRequest
from .executing import Executing
from .hangup import asks_whether_gone

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ..nbd.offers import Tls
    from ..nbd.transmission import Request
    from .hangup import HangupWatch
    from .served_export import AnnouncedExports
    from .server_bounds import ServerBounds

log = logging.getLogger(__name__)
_OFFERS = Offers(structured=True, contexts=True)
_RECEIVE_BYTES = 128 << 10


class ServerConnection(asyncio.BufferedProtocol):
    """`gone` is called when the connection and its requests have ended. `tls` without a `context`
    is "off".
    """

    def __init__(
        self,
        exports: AnnouncedExports,
        context: ssl.SSLContext | None,
        tls: Tls,
        bounds: ServerBounds,
        hangups: HangupWatch,
        gone: Callable[[ServerConnection], None],
    ) -> None:
        self._exports = exports
        self._context = context
        self._bounds = bounds
        self._hangups = hangups
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._sock: socket.socket  # of our own: that of the transport may be closed before we hear
        self._gone_now: Callable[[int], list[tuple[int, int]]]
        self._handshake = Handshake(exports, bounds.options_max, offers=_OFFERS, tls=tls)
        self._input = memoryview(bytearray(_RECEIVE_BYTES))
        self._receiver: Receiver | None = None  # from the end of the handshake on
        self._executing: Executing
        self._backlog: deque[TypedRequest] = deque()  # that there is no room for
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0  # content in flight
        self._full = False  # the client does not take its replies
        self._reads = True
        self._ending = False
        self._lost = False
        self._securing: asyncio.Task[None] | None = None
        self._late: asyncio.TimerHandle

    def finish(self) -> None:
        """Answer what was received, and close."""
        self._ending = True
        if self._receiver is None:
            self._transport.close()
        else:
            self._advance()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        self._sock = transport.get_extra_info("socket").dup()
        self._gone_now = asks_whether_gone(self._sock.fileno())
        if self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._late = self._loop.call_later(self._bounds.handshake_seconds_max, self.abort)
        self._transport.write(self._handshake.greeting())

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if exc is not None:
            log.debug("a connection was lost: %s", exc)
        if self._lost:
            return
        self._lost = True
        self._late.cancel()
        self._hangups.unwatch(self._sock.fileno())
        self._sock.close()
        self._backlog.clear()
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            self._gone(self)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._full = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self._full = False
        self._go_on()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """See asyncio."""
        return self._input if self._receiver is None else self._receiver.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        if self._receiver is None:
            self._handshake.receive(self._input[:nbytes])
            self._go_on()
        else:
            self._keep(self._receiver.received(nbytes))
            self._advance()

    def _go_on(self) -> None:
        if self._receiver is None:
            self._negotiate()
        else:
            self._advance()

    def _read_on(self, reads: bool) -> None:
        """Read, or see nothing of the client but that it is gone."""
        if reads and not self._reads:
            self._hangups.unwatch(self._sock.fileno())
            self._transport.resume_reading()
        elif self._reads and not reads:
            self._transport.pause_reading()
            self._hangups.watch(self._sock.fileno(), self.abort)
        self._reads = reads

    # Handshake

    def _negotiate(self) -> None:
        if self._transport.is_closing() or self._securing is not None:
            return
        while not self._full and (replies := self._handshake.advance()) is not None:
            for reply in replies:
                self._transport.write(reply)
        if self._handshake.state == CLOSED:
            self._transport.close()
        elif self._handshake.wants_tls:
            self._read_on(False)
            self._securing = self._loop.create_task(self._secure())
        elif self._handshake.state == TRANSMISSION:
            self._begin()
        else:
            self._read_on(not self._full)

    async def _secure(self) -> None:
        """Begin TLS. The client's first option may be here before `start_tls` returns: it came
        through TLS, as nothing else was read, and waits in the handshake.
        """
        context = self._context
        if context is None:
            return
        self._handshake.secured()
        plain = self._transport
        try:
            transport = await self._loop.start_tls(
                plain,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._bounds.handshake_seconds_max,
            )
        except OSError as error:
            log.info("TLS failed: %s", error)
            plain.abort()
            return
        self._securing = None
        self._hangups.unwatch(self._sock.fileno())
        if transport is None or transport.is_closing():
            self.connection_lost(None)
            return
        self._transport = transport
        self._reads = True
        self._negotiate()

    def _begin(self) -> None:
        announced = self._handshake.export
        export = None if announced is None else self._exports.served(announced.name)
        if announced is None or export is None:
            self._transport.abort()
            return
        self._late.cancel()
        self._executing = Executing(
            export, announced, self._handshake.negotiated, self._bounds.extents_max
        )
        self._input = memoryview(b"")
        self._receiver = receiver = Receiver(_RECEIVE_BYTES)
        rest = memoryview(self._handshake.rest())
        while rest:
            buffer = receiver.buffer()
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            rest = rest[count:]
            self._keep(receiver.received(count))
            while receiver.more:
                self._keep(receiver.received(0))
        self._advance()

    # Transmission

    def _keep(self, requests: list[Request]) -> None:
        """With payloads of their own: the buffer is used again. DISC has no reply."""
        for flags, command, cookie, offset, length, payload in requests:
            if command == c.CMD_DISC:
                continue
            kept = bytes(payload) if isinstance(payload, memoryview) else payload
            self._backlog.append(TypedRequest(flags, command, cookie, offset, length, kept))

    def _fits(self, length: int) -> bool:
        bounds = self._bounds
        return not self._tasks or (
            len(self._tasks) < bounds.requests_max and self._bytes + length <= bounds.bytes_max
        )

    def _advance(self) -> None:
        """Start what there is room for; read on when nothing waits."""
        receiver, backlog = self._receiver, self._backlog
        if receiver is None or self._transport.is_closing():
            return
        if not receiver.ended and (backlog or receiver.more) and self._gone_now(0):
            self._look_for_goodbye(receiver)
            if not receiver.ended:
                return
        while True:
            while backlog and not self._full and self._fits(backlog[0].content_bytes):
                self._start(backlog.popleft())
            if backlog or not receiver.more:
                break
            self._keep(receiver.received(0))
        if receiver.broken and not self._ending:
            log.info("a client broke the protocol: %s", receiver.broken)
            self._ending = True
        large = receiver.large if receiver.wants_memory else 0
        room = not (backlog or self._full) and (not large or self._fits(large))
        if not (self._ending or receiver.ended):
            self._read_on(room)
        elif backlog or self._tasks:  # a client that has said goodbye may be gone already
            self._transport.pause_reading()
            self._hangups.unwatch(self._sock.fileno())
        else:
            self._transport.close()

    def _look_for_goodbye(self, receiver: Receiver) -> None:
        """The client sends nothing more. What it has sent is here or in the kernel's buffer, which
        is bounded: so nothing is begun, and all is read, until DISC comes or the end.
        """
        while receiver.more:
            self._keep(receiver.received(0))
        if receiver.ended:
            return
        if receiver.broken or (receiver.wants_memory and not self._fits(receiver.large)):
            self.abort()
        else:
            self._read_on(True)

    def _start(self, request: TypedRequest) -> None:
        self._bytes += request.content_bytes
        task = self._loop.create_task(self._serve(request))
        self._tasks.add(task)

    async def _serve(self, request: TypedRequest) -> None:
        try:
            self._transport.writelines(await self._executing.reply(request))
        finally:
            self._bytes -= request.content_bytes
            task = asyncio.current_task()
            if task is not None:
                self._tasks.discard(task)
            if self._lost and not self._tasks:
                self._gone(self)
        self._advance()

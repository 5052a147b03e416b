"""The clients of one program become those of the next one: `leaving` in the one that ends, `adopt`
in the one that begins.

A client sees a pause. Requests that were taken are answered by the program that took them; what
comes later waits in the client's socket, and in the listening one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from duplexd.nbd.exports import Export
from duplexd.nbd_server.nbd_connection import Connection
from duplexd.nbd_server.sockets import Wire

if TYPE_CHECKING:
    import socket

    from duplexd.nbd_server.budget import Budget
    from duplexd.nbd_server.handed import Handed
    from duplexd.nbd_server.reach import Listener
    from duplexd.nbd_server.round_robin import RoundRobin
    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Receiving

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")

_ASK_SECONDS = 0.001


async def leaving(server: Server, seconds: float) -> list[Handed]:
    """All clients whose requests are answered within `seconds`; the others stay connected here.
    What came before a DISC is waited for, too: nobody would send it again.
    """
    found: list[Handed] = []
    until = server.loop.time() + seconds
    while True:
        found += filter(None, [connection.leave() for connection in list(server.connections)])
        waits = any(each.may_leave or each.is_ending for each in server.connections)
        if not waits or server.loop.time() >= until:
            return found
        await asyncio.sleep(_ASK_SECONDS)


class Resumed(Wire):
    """The socket of a client, in front of which is what another program had received already: that
    comes first, as from the socket, as fast as the connection takes it.
    """

    __slots__ = ("_before",)

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connection: Receiving,
        budget: Budget,
        sends: RoundRobin,
        before: bytes,
    ) -> None:
        super().__init__(loop, sock, connection, budget, sends)
        self._before = memoryview(before)

    def received_before(self) -> bytes:
        return bytes(self._before)

    def unread(self) -> bytes:
        return bytes(self._before) + super().unread()

    def take_unread(self, count: int) -> None:
        super().take_unread(count - len(self._before[:count]))
        self._before = self._before[count:]

    def resume_reading(self) -> None:
        if self._reading:
            return
        super().resume_reading()
        if self._before:
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        if not self._reading:
            return  # paused since it was asked for
        if not self._before:
            super()._readable()
            return
        try:
            buffer = self._connection.get_buffer(-1)
            count = min(len(buffer), len(self._before))
            buffer[:count] = self._before[:count]
            self._before = self._before[count:]
            self._connection.buffer_updated(count)
        except Exception as error:  # as of what comes from the socket
            log.exception("unexpected error in an NBD connection, which is closed")
            self._lose(error)
            return
        if self._before and self._reading:
            self._loop.call_soon(self._readable)


class Adopted(Connection):
    """The connection of a client that another program has served until now."""

    __slots__ = ("_handed",)

    def __init__(self, server: Server, listener: Listener, handed: Handed) -> None:
        super().__init__(server, listener)
        self._handed = handed

    def _greet(self, wire: Wire) -> None:
        handed = self._handed
        export = Export(handed.volume, handed.size, handed.flags)
        # it has no TLS, or it could not have been handed over
        may = self.exports.tls != "required" and self._still(export)
        volume = self._server.backend.volume(export.name) if may else None
        if volume is None:
            self._server.log.warning(
                "NBD client is disconnected",
                caller=str(self.exports.caller),
                volume=handed.volume,
                reason="after the restart it may not use the volume as before",
            )
            wire.write(handed.unsent)
            self._close()
            return
        self._begin(volume, export, handed.negotiated, b"")
        # Nothing comes before it, and a client that does not take it is not read
        wire.write(handed.unsent)


def adopt(server: Server, listener: Listener, handed: Handed) -> bool:
    """Go on with a client; false if it is disconnected, because the rules, or the volume, are not
    as before.
    """
    connection = Adopted(server, listener, handed)
    loop, sock = server.loop, handed.sock
    Resumed(loop, sock, connection, server.reading, server.sends, handed.unread).start()
    return connection.volume is not None

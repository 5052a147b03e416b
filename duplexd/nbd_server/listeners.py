"""The sockets on which NBD clients arrive, and the end of their connections when the daemon stops."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from duplexd.nbd_server.connection import Connection
from duplexd.nbd_server.server import Server
from duplexd.net import sockets
from duplexd.net.addresses import TcpAddress, UnixAddress, parse_address

if TYPE_CHECKING:
    import socket

    from duplexd.backend import Backend

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")

STOP_SECONDS_DEFAULT = 5.0


@dataclass
class Endpoint:
    """One listening socket."""

    address: UnixAddress | TcpAddress
    inode: tuple[int, int]
    acceptor: asyncio.AbstractServer


class Listeners:
    """Unix and TCP listeners of one backend. `start` before anything else; all methods belong to the loop.

    `listen` has addresses as the configuration writes them; `update` changes them while connections go on.
    """

    def __init__(self, backend: Backend, listen: list[str]) -> None:
        self._backend = backend
        self._listen = list(dict.fromkeys(listen))
        self._endpoints: dict[str, list[Endpoint]] = {}  # by the text of the configuration
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """Counters, budgets and connections."""
        assert self._server is not None, "start comes first"
        return self._server

    @property
    def addresses(self) -> list[str]:
        """What was bound, with the real port where the configuration says 0."""
        return [
            str(endpoint.address)
            for endpoints in self._endpoints.values()
            for endpoint in endpoints
        ]

    async def start(self) -> None:
        """Bind and serve. Raises ConfigurationError, and then listens nowhere."""
        self._server = Server(self._backend, asyncio.get_running_loop())
        try:
            await self.update(self._listen)
        except BaseException:
            self._server.close()
            raise

    async def update(self, listen: list[str]) -> None:
        """Listen on these addresses and no others; connections stay. Raises ConfigurationError, and then nothing has changed."""
        addresses = {text: parse_address(text) for text in listen}
        bound: dict[str, list[socket.socket]] = {}
        try:
            for text, address in addresses.items():
                if text not in self._endpoints:
                    bound[text] = sockets.bind(address)
        except BaseException:
            for sock in (sock for group in bound.values() for sock in group):
                _discard(sock)
            raise
        for text, group in bound.items():
            self._endpoints[text] = [await self._serve(sock) for sock in group]
        for text in self._endpoints.keys() - addresses.keys():
            self._close(self._endpoints.pop(text))

    async def stop(self, seconds: float = STOP_SECONDS_DEFAULT) -> None:
        """Accept nobody, answer what is in flight for up to `seconds`, close all connections.

        Changes without a reply by then are dropped. Cancelling it closes them at once.
        """
        for endpoints in self._endpoints.values():
            self._close(endpoints)
        self._endpoints.clear()
        server = self.server
        try:
            for connection in list(server.connections):
                connection.stop()
            with contextlib.suppress(TimeoutError):
                await self._all_gone(seconds)
        finally:
            left = list(server.connections)
            for connection in left:
                connection.abort()
        if left:
            log.warning("NBD clients were cut off", connections=len(left))
            await self._all_gone(None)  # an abort takes a turn of the loop, however long that is
        server.close()

    async def _all_gone(self, seconds: float | None) -> None:
        server = self.server
        async with asyncio.timeout(seconds):
            while server.connections:
                server.idle.clear()
                await server.idle.wait()

    async def _serve(self, sock: socket.socket) -> Endpoint:
        server = self.server
        address, inode = sockets.address_of(sock), sockets.inode_of(sock)

        def connect() -> Connection:
            return Connection(server)

        if isinstance(address, UnixAddress):
            acceptor = await server.loop.create_unix_server(
                connect, sock=sock, backlog=sockets.LISTEN_BACKLOG
            )
        else:
            acceptor = await server.loop.create_server(
                connect, sock=sock, backlog=sockets.LISTEN_BACKLOG
            )
        log.info("listening for NBD clients", address=str(address))
        return Endpoint(address, inode, acceptor)

    def _close(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            endpoint.acceptor.close()
            sockets.remove_own(endpoint.address, endpoint.inode)
            log.info("no longer listening", address=str(endpoint.address))


def _discard(sock: socket.socket) -> None:
    address, inode = sockets.address_of(sock), sockets.inode_of(sock)
    sock.close()
    sockets.remove_own(address, inode)

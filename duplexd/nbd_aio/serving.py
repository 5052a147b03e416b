"""What listens: sockets, the exports by name, the connections, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from ..nbd.uri import NbdUri, parse_uri
from .hangup import HangupWatch
from .served_export import AnnouncedExports
from .server_bounds import ServerBounds
from .server_connection import ServerConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator, Mapping
    from typing import Self

    from ..nbd.offers import Tls
    from .served_export import Export

_BOUNDS = ServerBounds()


def serve(
    exports: Mapping[str, Export],
    uri: str | NbdUri,
    *,
    tls: ssl.SSLContext | None = None,
    bounds: ServerBounds = _BOUNDS,
) -> Starting:
    """Serve exports by name, of which "" is the default one.

        async with serve({"": export}, "nbd://127.0.0.1:10809") as server: ...

    `exports` is looked at for each client, so it may change; a client that is connected keeps what
    it has. The address is that of `connect`, without a name: a Unix socket, or a host and a port,
    of which 0 is any free one. `tls` is the server's context: with `nbds` clients must use TLS,
    with `nbd` they may. A Unix socket that a server left behind is replaced, nothing else is.

    Raises OSError where it cannot listen, ValueError for a bad address.
    """
    where = parse_uri(uri) if isinstance(uri, str) else uri
    if where.tls and tls is None:
        raise ValueError(f"{where}: nbds needs tls, the server's ssl.SSLContext")
    return Starting(Server(exports, where, tls, bounds))


class Starting:
    """A server that is started when it is awaited, or entered."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __await__(self) -> Generator[None, None, Server]:
        return self._server.start().__await__()

    async def __aenter__(self) -> Server:
        return await self._server.start()

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


class Server:
    """Listens from `start` to `close`. `uri` has the port that 0 became."""

    def __init__(
        self,
        exports: Mapping[str, Export],
        uri: NbdUri,
        context: ssl.SSLContext | None,
        bounds: ServerBounds,
    ) -> None:
        self.uri = uri
        self._exports = AnnouncedExports(exports)
        self._context = context
        self._tls: Tls = "off" if context is None else "required" if uri.tls else "optional"
        self._bounds = bounds
        self._connections: set[ServerConnection] = set()
        self._all_gone = asyncio.Event()
        self._file: tuple[int, int] | None = None  # which one our Unix socket is
        self._hangups: HangupWatch
        self._undo = contextlib.ExitStack()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> Self:
        """Listen."""
        self._hangups = HangupWatch(asyncio.get_running_loop())
        self._undo.callback(self._hangups.close)
        try:
            await self._listen()
        except BaseException:
            self._undo.close()
            raise
        return self

    async def _listen(self) -> None:
        loop, uri = asyncio.get_running_loop(), self.uri
        if uri.socket:
            sock = _bound(uri.socket)
            self._file = _identity(uri.socket)
            self._server = await loop.create_unix_server(self._accepted, sock=sock)
        else:
            self._server = await loop.create_server(self._accepted, uri.host, uri.port)
            port = self._server.sockets[0].getsockname()[1]
            self.uri = NbdUri(uri.export, host=uri.host, port=port, tls=uri.tls)

    async def serve_forever(self) -> None:
        """Wait until cancelled."""
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Listen no more; return when requests that were received are answered and all connections
        have ended. After `close_seconds_max` what is left is dropped.
        """
        self._server.close()
        self._remove_file()
        for connection in list(self._connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.close_seconds_max):
                await self._gone_all()
        for connection in list(self._connections):
            connection.abort()
        await self._gone_all()
        self._undo.close()

    async def _gone_all(self) -> None:
        while self._connections:
            self._all_gone.clear()
            await self._all_gone.wait()

    def _accepted(self) -> asyncio.BaseProtocol:
        if len(self._connections) >= self._bounds.connections_max:
            return _Closing()
        connection = ServerConnection(
            self._exports, self._context, self._tls, self._bounds, self._hangups, self._gone
        )
        self._connections.add(connection)
        return connection

    def _gone(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def _remove_file(self) -> None:
        """Unless another server has put its own there."""
        with contextlib.suppress(OSError):
            if self._file is not None and _identity(self.uri.socket) == self._file:
                os.unlink(self.uri.socket)
        self._file = None


class _Closing(asyncio.Protocol):
    """Of a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        transport.close()


def _bound(path: str) -> socket.socket:
    """A socket with this path, which must not be anything but what a server left behind."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode) or _answers(path):
            raise OSError(errno.EADDRINUSE, f"{path!r} is in use, or no socket; use another path")
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


def _answers(path: str) -> bool:
    """Whether a server may be listening: anything but a refused connection counts."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino

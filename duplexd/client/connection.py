"""One HTTP/1.1 connection of a client: bytes by hand, answers parsed by httptools.

A request is a few bytes that are put together here, and its answer needs no headers but those that
httptools understands. A library's client would do more, and cost more: its import a large part of
duplexctl's start, and each request some of the pause, for gates are closed while a coordinator
writes and parses. httptools is also what the daemon parses requests with.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from typing import TYPE_CHECKING

import httptools

from duplexd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.json_object import Json

    Connect = Callable[
        [Callable[[], asyncio.Protocol]], Awaitable[tuple[asyncio.Transport, asyncio.Protocol]]
    ]

_RECEIVE_BYTES = 1 << 16
_RETRY_AFTER = b"retry-after"
_NBD_GREETING = b"NBDMAGIC"  # the first bytes that an NBD server sends


class NbdError(Exception):
    """The other side speaks NBD."""


class _Ends(asyncio.StreamReaderProtocol):
    """An error that ends a connection goes to who reads, and nowhere else: asyncio would also keep
    it for `wait_closed`, and print it where nobody asks.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._to = reader

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._to.set_exception(exc)
        super().connection_lost(None)


async def opened(connect: Connect, host: str, head_bytes_max: int) -> Connection:
    """`connect`: the loop's method that makes the connection, with all it needs but the protocol.
    `host` is what requests name. Raises OSError.
    """
    reader, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    ends = _Ends(reader)
    transport, _ = await connect(lambda: ends)
    writer = asyncio.StreamWriter(transport, ends, reader, loop)
    return Connection(reader, writer, host, head_bytes_max)


class Connection:
    """One connection: a request, its whole answer, then the next.

    Raises what the socket and httptools raise, and UsageError before anything was sent.
    """

    __slots__ = (
        "_complete",
        "_head_bytes",
        "_head_bytes_max",
        "_head_done",
        "_host",
        "_keep",
        "_parser",
        "_parts",
        "_reader",
        "_writer",
        "retry_s",
    )

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: str,
        head_bytes_max: int,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host
        self._head_bytes_max = head_bytes_max
        self._complete = self._keep = True
        self._head_done = False
        self._head_bytes = 0
        self._parts: deque[bytes] = deque()
        self.retry_s: float | None = None  # what the latest answer says of asking again
        self._parser = httptools.HttpResponseParser(self)
        sock: socket.socket = writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(self, method: str, path: str, body: Json | None) -> int:
        """The status of the answer, whose parts are read next. `path` is quoted already."""
        if not path.isascii() or not path.isprintable() or " " in path:
            raise UsageError(f"{path!r} cannot be asked for: it is not quoted")
        data = b"" if body is None else json.dumps(body).encode()
        kind = "Content-Type: application/json\r\n" if data else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n"
            f"{kind}Content-Length: {len(data)}\r\n\r\n"
        )
        self._complete = self._keep = self._head_done = False
        self._head_bytes = 0
        self.retry_s = None
        self._parts.clear()
        self._parser = httptools.HttpResponseParser(self)
        self._writer.write(head.encode("ascii") + data)
        await self._writer.drain()
        while not self._head_done:
            self._head_bytes += await self._more()
        return self._parser.get_status_code()

    async def part(self) -> bytes:
        """The next part of the answer's body; empty at its end."""
        while not self._parts and not self._complete:
            await self._more()
        return self._parts.popleft() if self._parts else b""

    async def _more(self) -> int:
        if self._head_bytes > self._head_bytes_max:
            raise httptools.HttpParserError("the head of the answer has no end")
        data = await self._reader.read(_RECEIVE_BYTES)
        if not data:
            raise EOFError("the connection was closed")
        if data.startswith(_NBD_GREETING):
            raise NbdError
        self._parser.feed_data(data)
        return len(data)

    def on_message_begin(self) -> None:
        """See httptools."""
        if self._complete:
            raise httptools.HttpParserError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        if name.lower() == _RETRY_AFTER and value.isdigit():
            self.retry_s = float(value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._complete, self._keep = True, self._parser.should_keep_alive()

    def free(self) -> bool:
        """Whether it is ready for the next request."""
        return (
            self._complete
            and self._keep
            and not self._reader.at_eof()
            and not self._writer.is_closing()
        )

    def close(self) -> None:
        """Drop it, and what is still to come on it."""
        self._writer.transport.abort()

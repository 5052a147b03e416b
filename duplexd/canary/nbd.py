"""An NBD client for asyncio: Unix or TCP, any number of requests in flight on one connection.

    async with await NbdConnection.open("nbd+unix:///data?socket=/run/nbd.sock") as nbd:
        await nbd.write(0, block)
        await nbd.flush()

The rules of the protocol are in `nbd/client.py`; here are only the socket and who waits for which
reply. A request that the server refuses, or does not offer, raises OSError with its errno. A lost
connection raises ConnectionError in every request that waits and in all later ones. A cancelled
request was sent and may still be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, TypeVar, cast

from duplexd.nbd.client import NbdClient, RefusedError, Reply
from duplexd.nbd.messages import ProtocolError
from duplexd.nbd.uri import NbdUri, parse_uri

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")
CONNECT_SECONDS_MAX = 10.0


class NbdConnection(asyncio.Protocol):
    """One connection to one export. `size` is in bytes."""

    def __init__(self, export: str) -> None:
        self._client = NbdClient(export)
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def open(cls, address: str | NbdUri) -> Self:
        """Connect and negotiate.

        Raises OSError; ConnectionError if the server refuses the export.
        """
        uri = parse_uri(address) if isinstance(address, str) else address
        if uri.tls:
            raise ValueError(f"{uri}: TLS is not supported")
        loop = asyncio.get_running_loop()
        self = cls(uri.export)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                if uri.socket:
                    await loop.create_unix_connection(lambda: self, uri.socket)
                else:
                    await loop.create_connection(lambda: self, uri.host, uri.port)
                await self._ready
        except BaseException as error:
            self.abort()
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"{uri}: no answer within {CONNECT_SECONDS_MAX:.0f} s") from None
            raise
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def size(self) -> int:
        """Of the export."""
        return self._client.size

    @property
    def flags(self) -> int:
        """Transmission flags of the export."""
        return self._client.flags

    async def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range."""
        return await self._send(self._client.read(offset, length))

    async def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        """Return when the write is acknowledged; with `fua`, when it survives a power cut."""
        flush = fua and not self._client.can_fua
        await self._send(self._client.write(offset, data, fua=fua and not flush))
        if flush:
            await self.flush()

    async def write_zeroes(
        self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False
    ) -> None:
        """As `write`, with zeroes that are not sent."""
        await self._send(self._client.write_zeroes(offset, length, fua=fua, no_hole=no_hole))

    async def trim(self, offset: int, length: int) -> None:
        """Discard a range; its content is undefined afterwards."""
        await self._send(self._client.trim(offset, length))

    async def flush(self) -> None:
        """Return when everything acknowledged before survives a power cut. A server without FLUSH
        has nothing to flush.
        """
        if self._client.can_flush:
            await self._send(self._client.flush())

    async def close(self) -> None:
        """Disconnect; return when what is in flight was answered and the connection has ended."""
        transport = self._transport
        if transport is None or self._gone.done():
            return
        self._client.disconnect()
        transport.write(self._client.data_to_send())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._gone), CONNECT_SECONDS_MAX)
        transport.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _send(self, cookie: int) -> bytes:
        if self._transport is None or self._gone.done():
            self._client.data_to_send()
            raise ConnectionError("the NBD connection is lost")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[cookie] = future
        self._transport.write(self._client.data_to_send())
        return await future

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        transport = self._transport
        if transport is None:
            return
        try:
            replies = self._client.receive(data)
        except (ProtocolError, RefusedError) as error:
            self._end(ConnectionError(f"export {self._client.export!r}: {error}"))
            transport.write(self._client.data_to_send())
            transport.close()
            return
        if output := self._client.data_to_send():
            transport.write(output)
        if self._client.ready and not self._ready.done():
            self._ready.set_result(None)
        for reply in replies:
            self._replied(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._end(ConnectionError(f"the NBD connection is lost: {exc or 'closed by the server'}"))
        if not self._gone.done():
            self._gone.set_result(None)

    def _replied(self, reply: Reply) -> None:
        future = self._waiting.pop(reply.cookie, None)
        if future is None or future.done():
            return
        if reply.error:
            future.set_exception(OSError(reply.error, os.strerror(reply.error)))
        else:
            future.set_result(reply.data)

    def _end(self, error: ConnectionError) -> None:
        waiting, self._waiting = self._waiting, {}
        _fail(self._ready, error)
        for future in waiting.values():
            _fail(future, error)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as retrieved: asyncio warns if nobody awaits it

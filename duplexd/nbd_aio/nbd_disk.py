"""The client's connection to one export: any number of requests in flight.

The rules of the protocol are in `nbd/client.py`; here are only the socket and who waits for which
reply. Requests wait for their turn while the server does not take what was sent before, so a client
that asks faster than the server reads keeps no more than the payloads of those who wait.

A cancelled request was sent, unless it was waiting for its turn, and may still be done. A lost
connection ends every request that waits, and all later ones, with ConnectionError.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar, cast

from ..nbd import constants as c
from ..nbd.client import NbdClient, RefusedError
from ..nbd.messages import ProtocolError
from .request_error import ExportRefusedError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ..nbd.client_replies import Reply
    from ..nbd.extents import Status

T = TypeVar("T")
Asked = tuple[int, int, int]  # command, offset, length
CLOSE_SECONDS_MAX = 10.0
_STATUS_BYTES_MAX = 0xFFFFFFFF  # of one BLOCK_STATUS


class Disk(asyncio.Protocol):
    """One connection to one export; made by `connect`. `size` is in bytes, `flags` are its
    transmission flags, `block_sizes` minimum, preferred and maximum payload, `contexts` the
    metadata contexts that `extents` can be asked for.

    Requests raise RequestError, NotOfferedError for what the server does not offer, and ValueError
    for what does not fit `block_sizes`; the connection goes on after any of these.
    """

    def __init__(self, client: NbdClient) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, tuple[asyncio.Future[Reply], Asked]] = {}
        self._turn = asyncio.Lock()  # who may send next, in the order of their calls
        self._room = asyncio.Event()  # the server takes what is sent
        self._room.set()
        loop = asyncio.get_running_loop()
        self.haggled: asyncio.Future[None] = loop.create_future()  # TLS is to begin, or all is done
        self._gone: asyncio.Future[None] = loop.create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def size(self) -> int:
        return self._client.size

    @property
    def flags(self) -> int:
        return self._client.flags

    @property
    def read_only(self) -> bool:
        return bool(self._client.flags & c.FLAG_READ_ONLY)

    @property
    def block_sizes(self) -> tuple[int, int, int]:
        return self._client.block_sizes

    @property
    def contexts(self) -> list[str]:
        return self._client.contexts

    async def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range."""
        asked = c.CMD_READ, offset, length
        return (await self._ask(asked, lambda: self._client.read(offset, length))).data

    async def write(
        self, offset: int, data: bytes | bytearray | memoryview, *, fua: bool = False
    ) -> None:
        """Return when the write is acknowledged; with `fua`, when it survives a power cut. `data`
        must not change until then.
        """
        flush = fua and not self._client.can_fua
        own = fua and not flush
        if isinstance(data, memoryview):
            data = data.cast("B")  # its length is to be in bytes
        asked = c.CMD_WRITE, offset, len(data)
        await self._ask(asked, lambda: self._client.write(offset, data, fua=own))
        if flush:
            await self.flush()

    async def write_zeroes(
        self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False
    ) -> None:
        """As `write`, with zeroes that are not sent; with `no_hole` the range stays allocated."""
        flush = fua and not self._client.can_fua
        own = fua and not flush
        await self._ask(
            (c.CMD_WRITE_ZEROES, offset, length),
            lambda: self._client.write_zeroes(offset, length, fua=own, no_hole=no_hole),
        )
        if flush:
            await self.flush()

    async def trim(self, offset: int, length: int) -> None:
        """Discard a range; its content is undefined afterwards."""
        asked = c.CMD_TRIM, offset, length
        await self._ask(asked, lambda: self._client.trim(offset, length))

    async def flush(self) -> None:
        """Return when everything acknowledged before survives a power cut. A server without FLUSH
        has nothing to flush.
        """
        if self._client.can_flush:
            await self._ask((c.CMD_FLUSH, 0, 0), self._client.flush)

    async def extents(
        self, offset: int, length: int, context: str = c.CONTEXT_ALLOCATION
    ) -> list[Status]:
        """Length and state of each extent of a range, in order, in one of `contexts`: STATE_HOLE
        and STATE_ZERO of base:allocation. Neighbours may have the same state. Of a server that
        does not know base:allocation, all is data.
        """
        if context == c.CONTEXT_ALLOCATION and context not in self._client.contexts:
            return [(length, 0)]
        if context not in self._client.contexts:
            raise ValueError(f"{context!r} is none of this export's contexts: {self.contexts}")
        found: list[Status] = []
        end = offset + length
        while offset < end:
            part = min(end - offset, _STATUS_BYTES_MAX // self.block_sizes[0] * self.block_sizes[0])
            for extent, state in await self._status(offset, part, context):
                inside = min(extent, end - offset)  # the last one may go further
                found.append((inside, state))
                offset += inside
        return found

    async def _status(self, offset: int, length: int, context: str) -> list[Status]:
        asked = c.CMD_BLOCK_STATUS, offset, length
        reply = await self._ask(asked, lambda: self._client.block_status(offset, length))
        return reply.statuses[context]

    async def close(self) -> None:
        """Disconnect; return when what is in flight was answered and the connection has ended."""
        transport = self._transport
        if transport is None or self._gone.done():
            return
        self._client.disconnect()
        transport.write(self._client.data_to_send())
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._gone), CLOSE_SECONDS_MAX)
        finally:
            transport.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _ask(self, asked: Asked, request: Callable[[], int]) -> Reply:
        async with self._turn:
            await self._room.wait()
            if self._transport is None or self._gone.done():
                raise ConnectionError("the NBD connection is lost")
            if not self._client.ready:
                raise ConnectionError("the NBD connection is closed")
            cookie = request()
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._waiting[cookie] = future, asked
            self._transport.write(self._client.data_to_send())
        return await future

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._room.clear()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._room.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        transport = self._transport
        if transport is None:
            return
        client = self._client
        try:
            replies = client.receive(data)
        except RefusedError as error:
            self._end(ExportRefusedError(client.export, error.code, str(error)))
            transport.write(client.data_to_send())
            transport.close()
            return
        except ProtocolError as error:
            self._end(ConnectionError(f"export {client.export!r}: {error}"))
            transport.close()
            return
        if output := client.data_to_send():
            transport.write(output)
        if (client.ready or client.wants_tls or client.closed) and not self.haggled.done():
            self.haggled.set_result(None)
        for reply in replies:
            self._replied(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._end(ConnectionError(f"the NBD connection is lost: {exc or 'closed by the server'}"))
        if not self._gone.done():
            self._gone.set_result(None)
        self.resume_writing()

    def secured(self, transport: asyncio.Transport) -> None:
        """TLS is up; `haggled` is for the rest of the handshake from now on."""
        self._transport = transport
        self.haggled = asyncio.get_running_loop().create_future()
        self._client.secured()
        transport.write(self._client.data_to_send())

    def _replied(self, reply: Reply) -> None:
        future, asked = self._waiting.pop(reply.cookie)
        if future.done():
            return
        if reply.error:
            future.set_exception(RequestError(reply.error, *asked, self._client.export, reply.text))
        else:
            future.set_result(reply)

    def _end(self, error: ConnectionError) -> None:
        waiting, self._waiting = self._waiting, {}
        _fail(self.haggled, error)
        for future, _ in waiting.values():
            _fail(future, error)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as retrieved: asyncio warns if nobody awaits it

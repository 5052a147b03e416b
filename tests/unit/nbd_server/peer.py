"""An NBD client for tests: the project's own client half on a plain socket, in the test's loop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from duplexd.nbd.client import NbdClient
from duplexd.net.address import UnixAddress

if TYPE_CHECKING:
    from duplexd.nbd.client_replies import Reply
    from duplexd.net.address import Address

PATIENCE_SECONDS = 60.0


class Peer:
    """One connection to `address`."""

    def __init__(self, address: Address) -> None:
        self.nbd = NbdClient()
        self._address = address
        self._sock = socket.socket(
            socket.AF_UNIX if isinstance(self._address, UnixAddress) else socket.AF_INET
        )
        self._sock.setblocking(False)

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def is_local(self) -> bool:
        """Over a Unix socket."""
        return isinstance(self._address, UnixAddress)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def open(self) -> None:
        where = (
            self._address.path
            if isinstance(self._address, UnixAddress)
            else (self._address.host, self._address.port)
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._loop.sock_connect(self._sock, where)

    async def go(self, export: str) -> None:
        """Haggle until requests may be sent. Raises ConnectionError if the server closes."""
        self.nbd = NbdClient(export)
        while not self.nbd.ready:
            data = await self.receive()
            if not data:
                raise ConnectionResetError
            self.nbd.receive(data)
            await self.send()

    async def send(self, data: bytes = b"") -> None:
        """Send what the client's half has queued, then `data`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._loop.sock_sendall(self._sock, self.nbd.data_to_send() + data)

    async def receive(self, count: int = 1 << 20) -> bytes:
        """Some bytes; b"" when the server closed."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await self._loop.sock_recv(self._sock, count)
            except ConnectionError:
                return b""

    async def replies(self, count: int) -> dict[int, Reply]:
        """Send what is queued; the next `count` replies (or more) by cookie."""
        await self.send()
        found: dict[int, Reply] = {}
        while len(found) < count:
            data = await self.receive()
            assert data, "the server closed the connection"
            found.update({reply.cookie: reply for reply in self.nbd.receive(data)})
        return found

    async def reply(self, cookie: int) -> Reply:
        """Send what is queued; the reply to `cookie`, which must be the next."""
        return (await self.replies(1))[cookie]

    async def silent(self, seconds: float = 0.05) -> bool:
        """Nothing comes for a while."""
        try:
            async with asyncio.timeout(seconds):
                return not await self._loop.sock_recv(self._sock, 1)
        except TimeoutError:
            return True

    async def closed(self) -> bool:
        """The server closes; what it still sends is dropped."""
        while await self.receive():
            pass
        return True

    def half_close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()


async def eventually(condition: object, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `condition()` is true."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

"""In which order clients over TLS begin their handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from duplexd.api.lobby import Lobby
from duplexd.api.remote import Remote
from duplexd.limits import ApiLimits
from duplexd.net import tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CROWD, OTHER = "192.0.2.1", "192.0.2.9"
LIMITS = replace(ApiLimits(), silent_max=4, handshake_seconds_max=60.0)


class World:
    """A lobby, and the far ends of its clients by host and port."""

    def __init__(self) -> None:
        self.lobby = Lobby(LIMITS)
        self.far: dict[tuple[str, int], socket.socket] = {}

    def come(self, host: str, port: int, says: bytes = b"") -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        self.far[host, port] = far
        self.lobby.add(near, (host, port))
        far.sendall(says)

    async def order(self, count: int) -> list[tuple[str, int]]:
        await asyncio.sleep(0.01)  # until the loop has seen what they sent
        found = []
        for _ in range(count):
            guest = await self.lobby.next()
            guest.sock.close()
            found.append(guest.address)
        return found


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.lobby.close()
        for far in made.far.values():
            far.close()


async def test_the_silent_wait_and_the_newest_that_spoke_is_first() -> None:
    async with world() as here:
        here.come(CROWD, 1, b"hello")
        here.come(CROWD, 2)
        here.come(CROWD, 3, b"hello")
        assert await here.order(2) == [(CROWD, 3), (CROWD, 1)]
        assert len(here.lobby) == 1
        here.far[CROWD, 2].sendall(b"hello")
        assert await here.order(1) == [(CROWD, 2)]


async def test_hosts_take_turns() -> None:
    async with world() as here:
        for port in range(3):
            here.come(CROWD, port, b"hello")
        here.come(OTHER, 9, b"hello")
        assert await here.order(3) == [(CROWD, 2), (OTHER, 9), (CROWD, 1)]


async def test_a_crowd_loses_its_own_oldest() -> None:
    async with world() as here:
        here.come(OTHER, 9)
        for port in range(5):
            here.come(CROWD, port)
        for port in range(2):
            assert here.far[CROWD, port].recv(1) == b""
        here.far[OTHER, 9].sendall(b"hello")
        assert await here.order(1) == [(OTHER, 9)]


async def test_all_addresses_of_an_ipv6_network_are_one_crowd() -> None:
    """One client may use as many of them as it likes."""
    async with world() as here:
        here.come("2001:db8::9", 9)
        for port in range(5):
            here.come(f"2001:db8:0:1:{port}::1", port)
        here.far["2001:db8::9", 9].sendall(b"hello")
        assert await here.order(1) == [("2001:db8::9", 9)]
        for port in range(2, 5):
            here.far[f"2001:db8:0:1:{port}::1", port].sendall(b"hello")
        here.come(OTHER, 9, b"hello")
        assert OTHER in [host for host, _ in await here.order(2)]


async def test_who_leaves_before_it_says_anything_is_forgotten() -> None:
    async with world() as here:
        here.come(CROWD, 1)
        here.far[CROWD, 1].shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0.01)
        assert len(here.lobby) == 0


class Unwatched(socket.socket):
    """As where the system has no room to watch one more."""

    def fileno(self) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Spoilt(socket.socket):
    """Its first client is one that the loop cannot watch."""

    spoilt = True

    def accept(self) -> tuple[socket.socket, object]:
        client, address = super().accept()
        if self.spoilt:
            self.spoilt = False
            client = Unwatched(client.family, client.type, client.proto, client.detach())
        return client, address


async def test_a_client_that_cannot_be_watched_keeps_no_other_out() -> None:
    with Spoilt() as sock, capture_logs() as logs:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        remote = Remote([sock], tls.bare_context(), asyncio.Protocol, ApiLimits())
        remote.start()
        async with asyncio.timeout(60):
            for answers in (False, True):
                reader, writer = await asyncio.open_connection(*sock.getsockname())
                writer.write(b"GET / HTTP/1.1\r\n\r\n" if answers else b"")
                with contextlib.suppress(ConnectionError):
                    while await reader.read(1 << 16):  # an alert, then the end
                        pass
                writer.close()
        await remote.close()
    assert "unexpected error of a new control connection" in logs[0]["event"]

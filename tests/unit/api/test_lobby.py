"""In which order clients over TLS begin their handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from duplexd.api.lobby import Lobby
from duplexd.limits import ApiLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
        here.come("crowd", 1, b"hello")
        here.come("crowd", 2)
        here.come("crowd", 3, b"hello")
        assert await here.order(2) == [("crowd", 3), ("crowd", 1)]
        assert len(here.lobby) == 1
        here.far["crowd", 2].sendall(b"hello")
        assert await here.order(1) == [("crowd", 2)]


async def test_hosts_take_turns() -> None:
    async with world() as here:
        for port in range(3):
            here.come("crowd", port, b"hello")
        here.come("other", 9, b"hello")
        assert await here.order(3) == [("crowd", 2), ("other", 9), ("crowd", 1)]


async def test_a_crowd_loses_its_own_oldest() -> None:
    async with world() as here:
        here.come("other", 9)
        for port in range(5):
            here.come("crowd", port)
        for port in range(2):
            assert here.far["crowd", port].recv(1) == b""
        here.far["other", 9].sendall(b"hello")
        assert await here.order(1) == [("other", 9)]


async def test_who_leaves_before_it_says_anything_is_forgotten() -> None:
    async with world() as here:
        here.come("crowd", 1)
        here.far["crowd", 1].shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0.01)
        assert len(here.lobby) == 0

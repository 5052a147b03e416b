"""A server in the test's own loop, on a backend in memory, with clients over real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from duplexd.limits import NbdLimits
from duplexd.nbd_server.listeners import Listeners
from duplexd.nbd_server.peer_places import Shares
from duplexd.nbd_server.reach import Policy
from duplexd.net.address import TcpAddress, UnixAddress
from duplexd.runtime.turns import TurnLoop
from tests.unit.nbd_server.memory_backend import MemoryBackend
from tests.unit.nbd_server.peer import PATIENCE_SECONDS, Peer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

VOLUME_BYTES = 64 << 20


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the daemon runs on."""
    return {"turns": TurnLoop}


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({"data": VOLUME_BYTES, "wal": 1 << 20})


@pytest.fixture
def limits() -> NbdLimits:
    """Every byte of a payload is counted, and nothing else is. A test that wants other limits
    overrides this by `parametrize`.
    """
    return NbdLimits(connection_share_bytes=0, request_bytes=0, connection_receive_bytes=16 << 10)


@pytest.fixture
def shares() -> Shares:
    return Shares()


@pytest_asyncio.fixture
async def listeners(
    backend: MemoryBackend, limits: NbdLimits, shares: Shares, tmp_path: Path
) -> AsyncIterator[Listeners]:
    listeners = Listeners(
        backend,
        [UnixAddress(f"{tmp_path}/nbd.sock"), TcpAddress("127.0.0.1", 0)],
        limits,
        Policy(shares=shares),
    )
    await listeners.start()
    yield listeners
    await listeners.stop(PATIENCE_SECONDS)
    assert [volume.connections for volume in backend.volumes.values()] == [0, 0]
    assert listeners.server.waiting.used == 0
    assert listeners.server.reading.used == 0


@pytest_asyncio.fixture(params=["unix", "tcp"])
async def connect(
    request: pytest.FixtureRequest, listeners: Listeners
) -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """Connects a client; every test runs over Unix and TCP."""
    (address,) = [
        address for address in listeners.addresses if str(address).startswith(request.param)
    ]
    peers: list[Peer] = []

    async def connect_one(export: str | None = "data") -> Peer:
        peer = Peer(address)
        peers.append(peer)
        await peer.open()
        if export is not None:
            await peer.go(export)
        return peer

    yield connect_one
    for peer in peers:
        peer.close()

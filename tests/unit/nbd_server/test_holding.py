"""Held changes, connections that end, and the limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.nbd_server.listeners import Listeners
    from tests.unit.nbd_server.memory_backend import MemoryBackend
    from tests.unit.nbd_server.peer import Peer

    Connect = Callable[..., Awaitable[Peer]]

MIB = 1 << 20


async def test_reads_and_flushes_go_on_while_changes_are_held(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    backend.holding = True
    held = peer.nbd.write(0, b"x" * 4096)
    for _ in range(100):
        read = peer.nbd.read(0, 4096)
        assert (await peer.reply(read)).data == bytes(4096)
    assert (await peer.reply(peer.nbd.flush())).error == 0
    assert listeners.server.waiting.used == 4096
    backend.release()
    assert (await peer.reply(held)).error == 0
    assert listeners.server.waiting.used == 0


async def test_held_payload_survives_later_traffic(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.holding = True
    for index in range(100):
        peer.nbd.write(index * 8192, bytes([index]) * 8192)
    await peer.send()
    await eventually(lambda: len(backend.held) == 100)
    backend.release()
    await peer.replies(100)
    assert [backend.volumes["data"].data[index * 8192 + 8191] for index in range(100)] == list(
        range(100)
    )


async def test_held_changes_die_with_their_connection(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer, other = await connect(), await connect()
    backend.holding = True
    peer.nbd.write(0, b"stale")
    other.nbd.write(100, b"fresh")
    await peer.send()
    await other.send()
    await eventually(lambda: len(backend.held) == 2)
    peer.close()
    await eventually(lambda: len(backend.held) == 1)
    assert len(backend.gone) == 1
    assert listeners.server.waiting.used == 5
    backend.release()
    await other.replies(1)
    assert backend.volumes["data"].data[:5] == bytes(5)
    assert bytes(backend.volumes["data"].data[100:105]) == b"fresh"


async def test_half_closed_connection_is_gone(connect: Connect, backend: MemoryBackend) -> None:
    peer = await connect()
    backend.holding = True
    peer.nbd.write(0, b"stale")
    await peer.send()
    await eventually(lambda: backend.held)
    peer.half_close()
    assert await peer.closed()
    assert backend.held == []


async def test_change_that_had_started_may_finish_after_its_client_has_gone(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    backend.holding = True
    peer.nbd.write(0, b"begun")
    await peer.send()
    await eventually(lambda: backend.held)
    begun = backend.held
    peer.close()
    await eventually(lambda: backend.gone)
    backend.held = begun
    backend.release()
    assert listeners.server.waiting.used == 0


async def test_read_may_finish_after_its_client_has_gone(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    backend.volumes["data"].cold = backend.reads_wait = True
    peer.nbd.read(0, 1000)
    await peer.send()
    await eventually(lambda: backend.reads)
    assert listeners.server.reading.used == 1000
    peer.close()
    await eventually(lambda: backend.gone)
    backend.finish_reads()
    assert listeners.server.reading.used == 0


async def test_disc_answers_what_is_in_flight_then_closes(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.holding = True
    held = peer.nbd.write(0, b"held")
    peer.nbd.disconnect()
    await peer.send(b"\xff" * 100)
    await eventually(lambda: backend.held)
    assert await peer.silent()
    backend.release()
    assert (await peer.reply(held)).error == 0
    assert await peer.closed()
    assert bytes(backend.volumes["data"].data[:4]) == b"held"


async def test_disc_with_nothing_in_flight_closes(connect: Connect) -> None:
    peer = await connect()
    cookie = peer.nbd.read(0, 4)
    peer.nbd.disconnect()
    assert (await peer.reply(cookie)).data == bytes(4)
    assert await peer.closed()


@pytest.mark.parametrize("limits", [NbdLimits(connection_in_flight_bytes_max=MIB)])
async def test_no_more_writes_are_taken_beyond_the_connections_bytes(
    connect: Connect, backend: MemoryBackend, listeners: Listeners, limits: NbdLimits
) -> None:
    peer, other = await connect(), await connect()
    backend.holding = True
    for index in range(250):
        peer.nbd.write(index * 131_072, bytes([index]) * 131_072)
    sending = asyncio.create_task(peer.send())
    await eventually(lambda: listeners.server.waiting.used >= MIB)
    await asyncio.sleep(0.1)
    assert listeners.server.waiting.used <= MIB + limits.connection_receive_bytes
    assert not sending.done()
    assert (await other.reply(other.nbd.read(0, 4))).data == bytes(4)
    backend.release()
    await sending
    assert len(await peer.replies(250)) == 250
    assert [backend.volumes["data"].data[index * 131_072] for index in range(250)] == list(
        range(250)
    )


@pytest.mark.parametrize("limits", [NbdLimits(queued_bytes_max=MIB)])
async def test_no_more_writes_are_taken_beyond_the_bytes_of_all_connections(
    connect: Connect, backend: MemoryBackend, listeners: Listeners, limits: NbdLimits
) -> None:
    peers = [await connect() for _ in range(6)]
    backend.holding = True
    for index, peer in enumerate(peers):
        for turn in range(4):
            peer.nbd.write((index * 4 + turn) * 262_144, bytes([1 + index]) * 262_144)
    tasks = [asyncio.create_task(peer.replies(4)) for peer in peers]
    await eventually(lambda: listeners.server.waiting.used >= MIB)
    await asyncio.sleep(0.1)
    assert listeners.server.waiting.used <= MIB + limits.connection_receive_bytes
    reader = await connect()
    assert (await reader.reply(reader.nbd.read(0, 4))).data == bytes(4)
    backend.release()
    for replies in await asyncio.gather(*tasks):
        assert [reply.error for reply in replies.values()] == [0, 0, 0, 0]
    assert [backend.volumes["data"].data[(index + 1) * MIB - 1] for index in range(6)] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


@pytest.mark.parametrize(
    "limits",
    [
        NbdLimits(
            connection_in_flight_bytes_max=MIB,
            connection_read_bytes_max=MIB,
            queued_bytes_max=MIB,
            read_bytes_max=MIB,
        )
    ],
)
async def test_request_larger_than_every_limit_passes(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    cookies = [peer.nbd.write(0, b"a" * (8 * MIB)), peer.nbd.write(8 * MIB, b"b" * (8 * MIB))]
    replies = await peer.replies(2)
    assert [replies[cookie].error for cookie in cookies] == [0, 0]
    reads = [peer.nbd.read(0, 8 * MIB), peer.nbd.read(8 * MIB, 8 * MIB)]
    replies = await peer.replies(2)
    assert [replies[cookie].data[-1:] for cookie in reads] == [b"a", b"b"]


@pytest.mark.parametrize(
    "limits",
    [NbdLimits(connection_read_bytes_max=4 * MIB, read_bytes_max=6 * MIB, request_bytes=0)],
)
async def test_reads_in_threads_are_bounded(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    backend.volumes["data"].cold = backend.reads_wait = True
    peers = [await connect(), await connect()]
    for peer in peers:
        for _ in range(8):
            peer.nbd.read(0, MIB)
        await peer.send()
    await eventually(lambda: listeners.server.reading.used == 6 * MIB)
    await asyncio.sleep(0.05)
    assert listeners.server.reading.used == 6 * MIB
    backend.reads_wait = False
    backend.finish_reads()
    for peer in peers:
        assert {len(reply.data) for reply in (await peer.replies(8)).values()} == {MIB}


@pytest.mark.parametrize("limits", [NbdLimits(connection_in_flight_requests_max=10)])
async def test_no_more_requests_are_taken_beyond_their_number(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.holding = True
    for _ in range(3):
        for _ in range(10):
            peer.nbd.trim(0, 512)
        await peer.send()
        await eventually(lambda: len(backend.held) >= 10)
        await asyncio.sleep(0.02)
    assert len(backend.held) == 10
    backend.release()
    await peer.replies(30)


@pytest.mark.parametrize("limits", [NbdLimits(connection_in_flight_bytes_max=1000)])
async def test_client_that_vanishes_while_it_is_not_read_is_noticed(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.holding = True
    peer.nbd.write(0, b"x" * 1000)
    await peer.send()
    await eventually(lambda: backend.held)
    peer.nbd.write(0, b"y" * 1000)
    await peer.send()
    await asyncio.sleep(0.05)
    assert len(backend.held) == 1
    peer.close()
    await eventually(lambda: not backend.held)
    assert len(backend.gone) == 1


@pytest.mark.parametrize("limits", [NbdLimits(connection_unsent_bytes_max=MIB)])
async def test_client_that_takes_no_replies_stops_only_itself(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer, other = await connect(), await connect()
    requests = b"".join(m.request(0, c.CMD_READ, cookie, 0, 65_536) for cookie in range(2000))
    await peer.send(requests)
    await asyncio.sleep(0.1)
    served = listeners.server.traffic["data"].requests[c.CMD_READ]
    assert served * 65_536 < 20 * MIB
    assert (await other.reply(other.nbd.read(0, 4))).data == bytes(4)
    taken = 0
    while taken < 2000 * (65_536 + 16):
        data = await peer.receive()
        assert data
        taken += len(data)
    assert taken == 2000 * (65_536 + 16)

"""WRITEs that are taken in pieces, because their payload is long or there is no room for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
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
EXACT = NbdLimits(connection_share_bytes=0, request_bytes=0, connection_receive_bytes=16 << 10)


@pytest.fixture
def limits() -> NbdLimits:
    """Payloads are all that counts."""
    return EXACT


def content(nbytes: int) -> bytes:
    return bytes(range(251)) * (nbytes // 251 + 1)


async def test_a_long_write_is_applied_in_pieces_and_answered_once(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    payload = content(5 * MIB + 4096)[: 5 * MIB + 4096]
    cookies = [peer.nbd.write(512, payload), peer.nbd.read(0, 512)]
    replies = await peer.replies(2)
    assert [replies[cookie].error for cookie in cookies] == [0, 0]
    assert bytes(backend.volumes["data"].data[512 : 512 + len(payload)]) == payload
    assert max(change.length for batch in backend.batches for change in batch) <= MIB
    assert listeners.server.traffic["data"].requests[c.CMD_WRITE] == 1
    assert listeners.server.traffic["data"].byte_counts[c.CMD_WRITE] == len(payload)
    assert listeners.server.waiting.used == 0


async def test_a_header_alone_takes_no_memory(connect: Connect, listeners: Listeners) -> None:
    peer = await connect()
    await peer.send(m.request(0, c.CMD_WRITE, 1, 0, 64 * MIB))
    (other,) = [await connect()]
    assert (await other.reply(other.nbd.write(0, b"x"))).error == 0
    assert listeners.server.waiting.used == 0


async def test_a_held_long_write_takes_what_a_connection_may_have(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer, other = await connect(), await connect()
    backend.holding = True
    payload = content(16 * MIB)[: 16 * MIB]
    cookie = peer.nbd.write(0, payload)
    sending = asyncio.create_task(peer.send())
    limit = listeners.server.limits.connection_in_flight_bytes_max
    await eventually(lambda: sum(change.length for change in backend.held) >= limit)
    assert (await other.reply(other.nbd.read(0, 4))).data == bytes(4)
    assert listeners.server.waiting.used <= limit + MIB
    assert not sending.done()
    backend.release()
    await sending
    assert (await peer.reply(cookie)).error == 0
    assert bytes(backend.volumes["data"].data[: 16 * MIB]) == payload


@pytest.mark.parametrize("limits", [replace(EXACT, queued_bytes_max=1, piece_bytes_min=8192)])
async def test_without_room_pieces_are_small(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer, other = await connect(), await connect()
    await peer.send(m.request(0, c.CMD_WRITE, 1, 0, MIB) + bytes(100_000))
    await eventually(lambda: listeners.server.waiting.used >= MIB)
    payload = content(MIB)[:MIB]
    assert (await other.reply(other.nbd.write(MIB, payload))).error == 0
    assert bytes(backend.volumes["data"].data[MIB : 2 * MIB]) == payload
    assert max(change.length for batch in backend.batches for change in batch) < MIB


@pytest.mark.parametrize(("offset", "error"), [(64 * MIB - MIB, c.ENOSPC), (1 << 63, c.ENOSPC)])
async def test_of_a_refused_long_write_nothing_is_applied(
    connect: Connect, backend: MemoryBackend, listeners: Listeners, offset: int, error: int
) -> None:
    peer = await connect()
    cookie, after = peer.nbd.write(offset, b"x" * (3 * MIB)), peer.nbd.write(0, b"y")
    replies = await peer.replies(2)
    assert (replies[cookie].error, replies[after].error) == (error, 0)
    assert [change.length for batch in backend.batches for change in batch] == [1]
    assert listeners.server.waiting.used == 0


async def test_with_fua_every_piece_has_it(connect: Connect, backend: MemoryBackend) -> None:
    peer = await connect()
    await peer.send(m.request(c.CMD_FLAG_FUA, c.CMD_WRITE, 1, 0, 3 * MIB) + bytes(3 * MIB))
    await eventually(lambda: sum(map(len, backend.batches)) == 3)
    assert all(change.fua for batch in backend.batches for change in batch)


async def test_an_error_of_one_piece_is_that_of_the_write(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.holding = True
    cookie = peer.nbd.write(0, bytes(2 * MIB))
    await peer.send()
    await eventually(lambda: len(backend.held) == 2)
    kept = backend.held.pop()
    backend.error = 28
    backend.release()
    backend.error, backend.held = 0, [kept]
    backend.release()
    assert (await peer.reply(cookie)).error == c.ENOSPC


async def test_disc_behind_a_long_write_that_is_held(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.holding = True
    cookie = peer.nbd.write(0, b"z" * (3 * MIB // 2))
    peer.nbd.disconnect()
    await peer.send()
    peer.half_close()
    await eventually(lambda: len(backend.held) == 2)
    backend.release()
    (reply,) = peer.nbd.receive(await peer.receive())
    assert (reply.cookie, reply.error) == (cookie, 0)
    assert await peer.closed()
    assert backend.volumes["data"].data[3 * MIB // 2 - 1] == ord("z")


async def test_held_pieces_die_with_their_connection(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    backend.holding = True
    await peer.send(m.request(0, c.CMD_WRITE, 1, 0, 8 * MIB) + bytes(3 * MIB // 2))
    await eventually(lambda: backend.held)
    peer.close()
    await eventually(lambda: not listeners.server.connections)
    assert backend.held == []
    assert listeners.server.waiting.used == 0


async def test_more_requests_than_are_parsed_at_once_are_all_answered(connect: Connect) -> None:
    peer = await connect()
    count = 5000
    requests = b"".join(m.request(0, c.CMD_TRIM, cookie, 0, 512) for cookie in range(count))
    sending = asyncio.create_task(peer.send(requests + m.request(0, c.CMD_DISC, 0, 0, 0)))
    taken = 0
    while data := await peer.receive():
        taken += len(data)
    await sending
    assert taken == 16 * count

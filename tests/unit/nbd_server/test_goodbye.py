"""Clients that say goodbye: what came before DISC is done, whatever they do next. And a server that
stops: what it still refuses, and what it leaves without an answer.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd_server.goodbye import unread_of
from duplexd.nbd_server.handing_over import leaving
from tests.unit.nbd_server.peer import PATIENCE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.nbd_server.listeners import Listeners
    from tests.unit.nbd_server.memory_backend import MemoryBackend
    from tests.unit.nbd_server.peer import Peer

    Connect = Callable[..., Awaitable[Peer]]

KIB = 1 << 10
# Two WRITEs fit, and the third is not read before there is room.
NARROW = pytest.mark.parametrize(
    "limits",
    [NbdLimits(connection_share_bytes=0, request_bytes=0, connection_in_flight_bytes_max=2 * KIB)],
)


def half_close(peer: Peer) -> None:
    peer.half_close()


def vanish(peer: Peer) -> None:
    peer.close()


LEAVE = pytest.mark.parametrize("leave", [half_close, vanish])


async def say_goodbye(peer: Peer, writes: int, leave: Callable[[Peer], None]) -> None:
    """WRITEs of 1 KiB, then DISC, then the client does that."""
    for index in range(writes):
        peer.nbd.write(index * KIB, bytes([index + 1]) * KIB)
    peer.nbd.disconnect()
    await peer.send()
    leave(peer)


def done(backend: MemoryBackend) -> list[int]:
    """The first byte of each KiB that was written."""
    return [int(byte) for byte in backend.volumes["data"].data[: 64 * KIB : KIB] if byte]


@LEAVE
async def test_held_changes_are_done_after_a_goodbye(
    connect: Connect, backend: MemoryBackend, leave: Callable[[Peer], None]
) -> None:
    peer, other = await connect(), await connect()
    backend.holding = True
    await say_goodbye(peer, 5, leave)
    await eventually(lambda: len(backend.held) == 5)
    assert (await other.reply(other.nbd.read(0, 4))).data == bytes(4)  # some turns of the loop
    assert backend.gone == []
    backend.release()
    assert done(backend) == [1, 2, 3, 4, 5]
    await eventually(lambda: backend.volumes["data"].connections == 1)


async def not_read(peer: Peer, backend: MemoryBackend) -> None:
    """What this client sends from now on is not received while changes are held."""
    backend.holding = True
    peer.nbd.write(63 * KIB, b"\x99" * 2 * KIB)
    await peer.send()
    await eventually(lambda: backend.held)
    peer.nbd.write(62 * KIB, b"\x98" * KIB)  # it waits, and the socket is not read
    await peer.send()
    await asyncio.sleep(0.05)


@NARROW
@LEAVE
async def test_changes_that_were_not_received_are_done_after_a_goodbye(
    connect: Connect, backend: MemoryBackend, leave: Callable[[Peer], None]
) -> None:
    """The server reads no further, so DISC is still in the kernel when the client goes."""
    peer = await connect()
    await not_read(peer, backend)
    await say_goodbye(peer, 20, leave)
    await asyncio.sleep(0.05)
    assert len(backend.held) == 1
    backend.release()
    await eventually(lambda: backend.volumes["data"].connections == 0)
    assert done(backend) == [*range(1, 21), 0x98, 0x99]


@NARROW
async def test_changes_die_with_a_client_that_goes_without_a_goodbye(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.holding = True
    for index in range(20):
        peer.nbd.write(index * KIB, b"x" * KIB)
    await peer.send()
    await eventually(lambda: backend.held)
    peer.close()
    await eventually(lambda: backend.volumes["data"].connections == 0)
    backend.release()
    assert done(backend) == []


@NARROW
@LEAVE
async def test_a_payload_that_ends_like_a_goodbye_is_none(
    connect: Connect, backend: MemoryBackend, leave: Callable[[Peer], None]
) -> None:
    """It is seen to be none once it is received; nothing of it is done."""
    peer = await connect()
    backend.holding = True
    peer.nbd.write(63 * KIB, b"\x99" * 2 * KIB)
    await peer.send()
    await eventually(lambda: backend.held)
    peer.nbd.write(0, b"x" * KIB)
    await peer.send()
    await asyncio.sleep(0.05)
    disc = m.request(0, c.CMD_DISC, 0, 0, 0)
    await peer.send(m.request(0, c.CMD_WRITE, 9, 0, 100) + bytes(50) + disc)
    leave(peer)
    await asyncio.sleep(0.05)
    backend.release()
    await eventually(lambda: backend.volumes["data"].connections == 0)
    assert done(backend) == [ord("x"), 0x99]


async def test_changes_behind_a_reply_that_found_nobody_are_done_after_a_goodbye(
    connect: Connect, backend: MemoryBackend
) -> None:
    """The client has sent more than is received at once, and has gone before anything is. The first
    reply loses the socket, while nothing keeps the server from reading.
    """
    peer = await connect()
    for index in range(60):
        peer.nbd.write(index * KIB, bytes([index + 1]) * KIB)
    peer.nbd.disconnect()
    await peer.send()
    peer.close()  # in the same turn of the loop
    await eventually(lambda: backend.volumes["data"].connections == 0)
    assert done(backend) == list(range(1, 61))


async def test_the_replies_to_a_client_that_half_closes_arrive(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.holding = True
    cookies = [peer.nbd.write(index * KIB, b"x" * KIB) for index in range(5)]
    peer.nbd.disconnect()
    await peer.send()
    peer.half_close()
    await eventually(lambda: len(backend.held) == 5)
    backend.release()
    answer = b""
    while data := await peer.receive():
        answer += data
    assert answer == b"".join(m.simple_reply(0, cookie) for cookie in cookies)


async def test_a_stop_waits_for_changes_of_a_client_that_said_goodbye(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    backend.holding = True
    await say_goodbye(peer, 3, vanish)
    await eventually(lambda: len(backend.held) == 3)
    stopping = asyncio.create_task(listeners.stop(PATIENCE_SECONDS))
    await asyncio.sleep(0.02)
    assert not stopping.done()
    backend.release()
    await stopping
    assert done(backend) == [1, 2, 3]
    await listeners.start()  # so that the fixture finds a started server


@NARROW
@LEAVE
async def test_a_stop_waits_also_for_what_was_not_received(
    connect: Connect,
    backend: MemoryBackend,
    listeners: Listeners,
    leave: Callable[[Peer], None],
) -> None:
    """Nobody would send it again."""
    peer = await connect()
    backend.holding = True
    await say_goodbye(peer, 20, leave)
    await eventually(lambda: backend.held)
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(listeners.stop(PATIENCE_SECONDS))
    await asyncio.sleep(0.02)
    backend.release()
    await stopping
    assert done(backend) == list(range(1, 21))
    await listeners.start()


@NARROW
@pytest.mark.parametrize("received", [True, False])
async def test_a_restart_in_place_waits_for_changes_of_a_client_that_said_goodbye(
    connect: Connect, backend: MemoryBackend, listeners: Listeners, received: bool
) -> None:
    """It has gone, so the next program could not go on with it."""
    peer = await connect()
    backend.holding = True
    if not received:
        await not_read(peer, backend)
    await say_goodbye(peer, 3, vanish)
    await eventually(lambda: len(backend.held) == (3 if received else 1))
    await asyncio.sleep(0.05)
    handing = asyncio.create_task(leaving(listeners.server, PATIENCE_SECONDS))
    await asyncio.sleep(0.02)
    backend.release()
    assert await handing == []
    assert done(backend) == [1, 2, 3, *([] if received else [0x98, 0x99])]
    assert not listeners.server.connections, "it would be counted as lost"


@pytest.mark.parametrize("seconds", [0.0, 0.05])
async def test_a_stop_does_not_wait_for_them_for_ever(
    connect: Connect, backend: MemoryBackend, listeners: Listeners, seconds: float
) -> None:
    peer = await connect()
    backend.holding = True
    await say_goodbye(peer, 3, vanish)
    await eventually(lambda: len(backend.held) == 3)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await listeners.stop(seconds)
    assert backend.held == []
    await listeners.start()


@NARROW
async def test_what_was_not_received_counts_until_it_is_done(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    waiting = listeners.server.waiting
    peer = await connect()
    before = waiting.used
    await not_read(peer, backend)
    held = waiting.used
    await say_goodbye(peer, 3, vanish)
    await eventually(lambda: waiting.used >= held + 3 * KIB)
    backend.release()
    await eventually(lambda: not listeners.server.connections)
    assert done(backend) == [1, 2, 3, 0x98, 0x99]
    assert waiting.used <= before


@NARROW
async def test_without_room_for_what_was_not_received_the_client_has_vanished(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    """Each client may leave as much as its socket's buffer holds, for as long as a hold lasts."""
    waiting = listeners.server.waiting
    peer = await connect()
    await not_read(peer, backend)
    waiting.add(waiting.limit_bytes)
    await say_goodbye(peer, 3, vanish)
    await eventually(lambda: not listeners.server.connections)
    waiting.add(-waiting.limit_bytes)
    backend.release()
    assert not set(done(backend)) & {1, 2, 3}


def test_what_was_not_received_is_looked_at_and_left() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert unread_of(other) == b""
        one.sendall(b"abc")
        one.sendall(b"def")
        assert [unread_of(other), unread_of(other)] == [b"abcdef", b"abcdef"]
        one.close()
        assert unread_of(other) == b"abcdef"


# While the server stops


async def stopping_with_a_change_held(
    peer: Peer, backend: MemoryBackend, listeners: Listeners
) -> tuple[asyncio.Task[None], int]:
    backend.holding = True
    cookie = peer.nbd.write(0, b"x")
    await peer.send()
    await eventually(lambda: backend.held)
    stopping = asyncio.create_task(listeners.stop(PATIENCE_SECONDS))
    await asyncio.sleep(0.02)
    return stopping, cookie


@pytest.mark.parametrize(
    "request_bytes",
    [
        m.request(0, c.CMD_READ, 99, 0, 4),
        m.request(0, c.CMD_WRITE, 99, 0, 4) + b"late",
        m.request(0, c.CMD_WRITE, 99, 0, 300_000) + bytes(300_000),
        m.request(0, c.CMD_FLUSH, 99, 0, 0),
        m.request(0, c.CMD_TRIM, 99, 0, 4),
    ],
    ids=["read", "write", "large write", "flush", "trim"],
)
async def test_what_comes_after_a_stop_began_is_refused(
    connect: Connect, backend: MemoryBackend, listeners: Listeners, request_bytes: bytes
) -> None:
    peer = await connect()
    stopping, cookie = await stopping_with_a_change_held(peer, backend, listeners)
    await peer.send(request_bytes)
    assert await peer.receive() == m.simple_reply(c.ESHUTDOWN, 99)
    backend.release()
    assert await peer.receive() == m.simple_reply(0, cookie)
    assert await peer.closed()
    await stopping
    assert bytes(backend.volumes["data"].data[:4]) == b"x\0\0\0"
    await listeners.start()


async def test_disc_is_taken_while_the_server_stops(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    stopping, cookie = await stopping_with_a_change_held(peer, backend, listeners)
    peer.nbd.disconnect()
    await peer.send()
    backend.release()
    assert (await peer.reply(cookie)).error == 0
    assert await peer.closed()
    await stopping
    await listeners.start()


@NARROW
async def test_what_had_come_before_a_stop_and_waited_gets_no_answer(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    """An error would end in a file system; a client that reconnects sends it again."""
    peer = await connect()
    backend.holding = True
    cookies = [peer.nbd.write(index * KIB, b"x" * KIB) for index in range(20)]
    await peer.send()
    await eventually(lambda: len(backend.held) >= 2)
    held = len(backend.held)
    stopping = asyncio.create_task(listeners.stop(PATIENCE_SECONDS))
    await asyncio.sleep(0.02)
    backend.release()
    replies = await peer.replies(held)
    assert {cookie: reply.error for cookie, reply in replies.items()} == dict.fromkeys(
        cookies[:held], 0
    )
    await stopping
    await listeners.start()


@pytest.mark.parametrize("limits", [NbdLimits(connection_in_flight_requests_max=1)])
async def test_what_is_left_of_a_client_does_not_hide_that_another_one_goes(
    connect: Connect, backend: MemoryBackend
) -> None:
    """Its descriptor is that of the other one by then."""
    peer = await connect()
    backend.holding = True
    await say_goodbye(peer, 3, vanish)
    await eventually(lambda: len(backend.held) == 3)
    first, second, third = backend.held
    backend.answer(first)  # nobody takes the reply: the socket is closed
    await asyncio.sleep(0.05)
    other = await connect()
    for index in range(2):  # one is held, the other waits: the socket is not read
        other.nbd.write(index, b"x")
        await other.send()
        await asyncio.sleep(0.05)
    backend.answer(second)
    await asyncio.sleep(0.05)
    other.close()
    await eventually(lambda: len(backend.gone) == 1)
    backend.answer(third)

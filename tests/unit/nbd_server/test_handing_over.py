"""A client that goes on with another program: what that one received before comes first, and no
faster than the connection takes it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd.messages import EXTENDED_REQUEST, REQUEST, SIMPLE_REPLY
from duplexd.nbd.negotiated import Negotiated
from duplexd.nbd.replies import EXTENDED
from duplexd.nbd_server.handed import Handed
from duplexd.nbd_server.handing_over import leaving
from duplexd.nbd_server.nbd_connection import Connection
from duplexd.net.address import UnixAddress
from tests.unit.nbd_server.conftest import VOLUME_BYTES
from tests.unit.nbd_server.peer import PATIENCE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.nbd_server.listeners import Listeners
    from tests.unit.nbd_server.memory_backend import MemoryBackend

KIB, MIB = 1 << 10, 1 << 20
NOTHING = Negotiated()


def write(index: int) -> bytes:
    header = REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_WRITE, index, index * KIB, KIB)
    return header + bytes([index + 1]) * KIB


def address_of(listeners: Listeners) -> UnixAddress:
    return next(each for each in listeners.addresses if isinstance(each, UnixAddress))


def adopt(
    listeners: Listeners,
    unread: bytes,
    negotiated: Negotiated = NOTHING,
    unsent: bytes = b"",
    ends: tuple[socket.socket, socket.socket] | None = None,
) -> socket.socket:
    """The client's end of a connection that is adopted."""
    ours, theirs = ends or socket.socketpair()
    ours.setblocking(False)
    flags = c.FLAG_HAS_FLAGS | c.FLAG_SEND_FLUSH | c.FLAG_SEND_FUA | c.FLAG_SEND_TRIM
    flags |= c.FLAG_SEND_WRITE_ZEROES | c.FLAG_CAN_MULTI_CONN | c.FLAG_SEND_CACHE
    flags |= c.FLAG_SEND_FAST_ZERO | c.FLAG_SEND_DF
    listener = address_of(listeners)
    handed = Handed(ours, listener, "data", VOLUME_BYTES, flags, negotiated, unread, unsent)
    listeners.adopt([handed])
    return theirs


def done(backend: MemoryBackend) -> list[int]:
    return [int(byte) for byte in backend.volumes["data"].data[: 64 * KIB : KIB] if byte]


@pytest.mark.parametrize(
    "limits",
    [NbdLimits(connection_share_bytes=0, request_bytes=0, connection_in_flight_bytes_max=2 * KIB)],
)
async def test_what_came_before_is_done_first_also_after_a_goodbye(
    listeners: Listeners, backend: MemoryBackend
) -> None:
    """Its rest is in another place than what the kernel has, and that is looked at first."""
    backend.holding = True
    sent = b"".join(map(write, range(60)))
    middle = len(sent) - 5 * KIB - 100  # in the middle of a payload
    with adopt(listeners, sent[:middle]) as theirs:
        theirs.sendall(sent[middle:] + REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_DISC, 99, 0, 0))
        theirs.shutdown(socket.SHUT_WR)
        await eventually(lambda: len(backend.held) >= 2)
        await asyncio.sleep(0.05)  # until it is known that the client has gone
        backend.holding = False
        backend.release()
        await eventually(lambda: not backend.volumes["data"].connections)
    assert done(backend) == list(range(1, 61))


def over_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        return server.accept()[0], theirs


@pytest.mark.parametrize("before", [0, 5 * KIB])
@pytest.mark.parametrize("ends", [socket.socketpair, over_tcp])
async def test_who_said_goodbye_during_a_restart_finds_all_done(
    listeners: Listeners,
    backend: MemoryBackend,
    ends: Callable[[], tuple[socket.socket, socket.socket]],
    before: int,
) -> None:
    """More than is received at once; and it has closed its half when the next program begins."""
    sent = b"".join(map(write, range(60)))
    sent += REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_DISC, 99, 0, 0)
    ours, theirs = ends()
    theirs.sendall(sent[before:])
    theirs.shutdown(socket.SHUT_WR)
    with adopt(listeners, sent[:before], ends=(ours, theirs)):
        await eventually(lambda: not backend.volumes["data"].connections)
        assert len(theirs.recv(1 << 16, socket.MSG_WAITALL)) == 60 * SIMPLE_REPLY.size
    assert done(backend) == list(range(1, 61))


@pytest.mark.parametrize("ends", [socket.socketpair, over_tcp])
async def test_reads_of_one_that_closed_its_half_during_a_restart_are_answered(
    listeners: Listeners, ends: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    """The program before has received some of what it sent, up to the middle of a request."""
    sent = b"".join(
        REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_READ, index, 0, 512) for index in range(20)
    )
    ours, theirs = ends()
    theirs.sendall(sent[100:])
    theirs.shutdown(socket.SHUT_WR)
    with adopt(listeners, sent[:100], ends=(ours, theirs)):
        await eventually(lambda: not listeners.server.connections)
        assert len(theirs.recv(1 << 16, socket.MSG_WAITALL)) == 20 * (SIMPLE_REPLY.size + 512)


@pytest.mark.parametrize("offset", [0, VOLUME_BYTES])
async def test_a_stop_goes_on_behind_a_client_that_was_cut_off(
    listeners: Listeners, offset: int
) -> None:
    """In the middle of a WRITE in pieces, which may be one that is refused."""
    header = REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_WRITE, 0, offset, 4 * MIB)
    with adopt(listeners, header + bytes(2 * MIB)) as theirs, adopt(listeners, b"") as other:
        theirs.sendall(b"x")  # memory is taken for what comes
        await eventually(lambda: listeners.server.waiting.used >= MIB)
        await asyncio.sleep(0.05)
        for connection in list(listeners.server.connections):
            connection.abort()
            connection.stop()  # before its socket is closed
        async with asyncio.timeout(PATIENCE_SECONDS):
            other.setblocking(False)
            assert not await asyncio.get_running_loop().sock_recv(other, 1)


async def test_a_long_write_is_not_taken_apart_where_its_reply_repeats_its_offset(
    listeners: Listeners, backend: MemoryBackend
) -> None:
    loop, payload = asyncio.get_running_loop(), b"x" * 4 * MIB
    flags = c.CMD_FLAG_PAYLOAD_LEN
    header = EXTENDED_REQUEST.pack(
        c.EXTENDED_REQUEST_MAGIC, flags, c.CMD_WRITE, 7, KIB, len(payload)
    )
    with adopt(listeners, b"", Negotiated(structured=True, extended=True)) as theirs:
        theirs.setblocking(False)
        await loop.sock_sendall(theirs, header + payload[: 2 * MIB])
        await eventually(lambda: done(backend))  # a piece of it
        handing = asyncio.create_task(leaving(listeners.server, PATIENCE_SECONDS))
        await asyncio.sleep(0.05)
        assert not handing.done()
        await loop.sock_sendall(theirs, payload[2 * MIB :])
        (handed,) = await handing
        handed.sock.close()
        assert await loop.sock_recv(theirs, KIB) == EXTENDED.none(7, KIB)
    assert handed.unread == b""
    assert backend.volumes["data"].data[KIB : KIB + len(payload)] == payload


async def test_a_paused_connection_receives_nothing(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call to go on was on its way, and by then the connection may use its buffer, or be gone."""
    spoiled: list[object] = []
    get_buffer = Connection.get_buffer

    def watched(connection: Connection, hint: int) -> memoryview:
        if not connection._socket._reading:
            spoiled.append(connection)
        return get_buffer(connection, hint)

    monkeypatch.setattr(Connection, "get_buffer", watched)
    reads = [REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_READ, n, 0, 1) for n in range(500)]
    sent = b"".join([*map(write, range(16)), *reads])  # what fills a buffer; more than are taken
    with adopt(listeners, sent[:-2000]) as theirs:
        theirs.sendall(sent[-2000:])
        theirs.setblocking(False)
        left = 16 * 16 + 500 * 17
        async with asyncio.timeout(PATIENCE_SECONDS):
            while left:
                left -= len(await asyncio.get_running_loop().sock_recv(theirs, left))
    assert not spoiled


async def test_a_client_that_took_no_replies_is_not_read_either(listeners: Listeners) -> None:
    """As before: else what it asks for would have no bound."""
    loop, unsent = asyncio.get_running_loop(), bytes(range(256)) * (6 * MIB // 256)
    reads = [REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_READ, n, 0, 64 * KIB) for n in range(200)]
    left = len(unsent) + len(reads) * (16 + 64 * KIB)
    with adopt(listeners, b"".join(reads), unsent=unsent) as theirs:
        await asyncio.sleep(0.1)
        assert MIB < listeners.server.reading.used < len(unsent)
        theirs.setblocking(False)
        received = b""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(received) < left:
                received += await loop.sock_recv(theirs, MIB)
    assert received[: len(unsent)] == unsent

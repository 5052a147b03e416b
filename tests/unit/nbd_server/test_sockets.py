"""The socket of a client: what it does not take waits in order, and its end is reported once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest_asyncio

from duplexd.nbd_server.budget import Budget
from duplexd.nbd_server.round_robin import RoundRobin
from duplexd.nbd_server.sockets import Acceptor, Wire
from duplexd.runtime.pipes import Pipe
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE = 4 << 20


def no_limit() -> Budget:
    return Budget(1 << 40, asyncio.get_running_loop().call_soon)


def turns() -> RoundRobin:
    return RoundRobin(asyncio.get_running_loop().call_soon)


class Seen:
    """A connection that notes its calls."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.received = bytearray()
        self.events: list[str] = []
        self.fails = False
        self._buffer = memoryview(bytearray(1 << 16))

    def connection_made(self, wire: Wire) -> None:
        self.wire = wire

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        if self.fails:
            raise ValueError("nobody expected this")
        self.received += self._buffer[:count]

    def eof_received(self) -> None:
        self.events.append("eof")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.events.append(f"lost {type(error).__name__}" if error else "lost")


class Wired(NamedTuple):
    wire: Wire
    seen: Seen
    client: socket.socket


@pytest_asyncio.fixture
async def wired() -> AsyncIterator[Wired]:
    """A wire, its connection, and the client's end, which does not block."""
    ours, client = socket.socketpair()
    ours.setblocking(False)
    client.setblocking(False)
    seen = Seen()
    wire = Wire(asyncio.get_running_loop(), ours, seen, no_limit(), turns())
    wire.start()
    with client:
        yield Wired(wire, seen, client)
        wire.abort()
        await eventually(lambda: ours.fileno() < 0)


async def take(client: socket.socket, length: int) -> bytes:
    loop, found = asyncio.get_running_loop(), bytearray()
    while len(found) < length:
        piece = await loop.sock_recv(client, length - len(found))
        if not piece:
            break
        found += piece
    return bytes(found)


async def test_what_the_socket_takes_is_sent_at_once(wired: Wired) -> None:
    wire, _seen, client = wired
    assert wire.write(b"reply")
    assert client.recv(100) == b"reply"


async def test_what_it_does_not_take_follows_in_order(wired: Wired) -> None:
    wire, _seen, client = wired
    pieces = [bytes([number]) * (LARGE // 8 + number) for number in range(8)]
    assert not all([wire.write(piece) for piece in pieces])  # noqa: C419  each is written
    whole = b"".join(pieces)
    assert await take(client, len(whole)) == whole
    await eventually(lambda: wire.unsent_bytes == 0)
    assert wire.write(b"later")
    assert await take(client, 5) == b"later"


async def test_pipes_follow_in_order_with_what_is_between_them(wired: Wired) -> None:
    wire, _seen, client = wired
    whole = b""
    for number in range(8):
        head, content, pipe = b"head%d" % number, bytes([number]) * (300_000 + number), Pipe()
        assert pipe.put(content)
        wire.pass_on(head, pipe)
        whole += head + content
    assert wire.unsent_bytes
    assert await take(client, len(whole)) == whole
    await eventually(lambda: wire.unsent_bytes == 0)


async def test_the_connection_is_paused_while_much_is_unsent(wired: Wired) -> None:
    wire, seen, client = wired
    wire.high_bytes = 1 << 20
    wire.write(bytes(LARGE))
    wire.write(bytes(LARGE))
    assert seen.events == ["pause"], "once"
    await take(client, 2 * LARGE)
    await eventually(lambda: seen.events == ["pause", "resume"])


async def test_close_waits_for_the_client_to_take_its_replies(wired: Wired) -> None:
    wire, seen, client = wired
    wire.high_bytes = LARGE
    wire.write(bytes(LARGE))
    wire.close()
    await asyncio.sleep(0)
    assert seen.events == []
    assert len(await take(client, LARGE + 1)) == LARGE, "and then it ends"
    await eventually(lambda: seen.events == ["lost"])


async def test_abort_waits_for_nothing_but_a_turn_of_the_loop(wired: Wired) -> None:
    wire, seen, client = wired
    wire.high_bytes = 2 * LARGE
    wire.write(bytes(LARGE))
    wire.abort()
    wire.abort()
    assert seen.events == [], "not from within the call"
    await eventually(lambda: seen.events == ["lost"])
    assert wire.write(b"to nobody")
    assert len(await take(client, LARGE)) < LARGE


async def test_nothing_is_received_while_reading_is_paused(wired: Wired) -> None:
    wire, seen, client = wired
    wire.pause_reading()
    client.send(b"hello")
    await asyncio.sleep(0.01)
    before = bytes(seen.received)
    wire.resume_reading()
    await eventually(lambda: seen.received == b"hello")
    assert before == b""


async def test_the_end_of_the_stream_is_reported_once(wired: Wired) -> None:
    wire, seen, client = wired
    client.shutdown(socket.SHUT_WR)
    await eventually(lambda: seen.events)
    await asyncio.sleep(0.01)
    assert seen.events == ["eof"]
    wire.write(b"last words")
    assert client.recv(100) == b"last words"


async def test_a_client_that_has_gone_costs_its_connection_alone(wired: Wired) -> None:
    wire, seen, client = wired
    client.close()
    wire.write(b"to nobody")
    await eventually(lambda: "lost BrokenPipeError" in seen.events)


async def test_an_error_that_nobody_expected_closes_the_connection(wired: Wired) -> None:
    _wire, seen, client = wired
    seen.fails = True
    client.send(b"x")
    await eventually(lambda: seen.events == ["lost ValueError"])
    assert await take(client, 1) == b""


class Full:
    """A listening socket of a process that has no descriptors left, until it has."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.full = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def accept(self) -> tuple[socket.socket, object]:
        if self.full:
            self.full = False
            raise OSError(errno.EMFILE, "no descriptors")
        return self._sock.accept()


async def test_clients_wait_while_there_are_no_descriptors() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    seen = Seen()
    full = cast("socket.socket", Full(listening))
    acceptor = Acceptor(asyncio.get_running_loop(), full, lambda: seen, no_limit(), turns())
    with socket.create_connection(listening.getsockname()) as client:
        client.send(b"patient")
        await eventually(lambda: seen.received == b"patient")
        acceptor.close()
        assert seen.wire is not None
        seen.wire.abort()


async def test_what_is_queued_is_sent_in_order_and_in_turns(wired: Wired) -> None:
    parts = [bytes([number]) * (1 << 20) for number in range(4)]
    wired.wire.write(b"first")
    wired.wire.queue(parts)
    received = bytearray()
    await eventually(lambda: len(wired.client.recv(1, socket.MSG_PEEK)) > 0)
    while len(received) < 5 + LARGE:
        await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            received += wired.client.recv(LARGE)
    assert received == b"first" + b"".join(parts)
    assert wired.wire.unsent_bytes == 0


async def test_what_is_queued_is_forgotten_with_the_socket(wired: Wired) -> None:
    wired.wire.queue([bytes(1 << 20)] * 4)
    wired.wire.abort()
    await eventually(lambda: wired.seen.events[-1:] == ["lost"])
    assert wired.wire.unsent_bytes == 0
    assert wired.wire.budget.used == 0

"""The handshake over a socket: its time limits, its pace, and what a client gets that does not
read. Time is that of `PatientLoop`: it passes only while nothing happens.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import handshake
from duplexd.nbd import messages as m
from duplexd.nbd.handshake import LIST_PIECE
from duplexd.nbd.option_data import ContextQueries, parse_queries
from duplexd.nbd_server.nbd_connection import Connection
from duplexd.nbd_server.negotiation import REPLIES_A_TURN
from duplexd.nbd_server.reach import NO_POLICY, NOBODY, Listener, Policy
from duplexd.nbd_server.shared import Server
from duplexd.nbd_server.sockets import Wire
from duplexd.net.address import UnixAddress
from tests.unit.loops import PatientLoop, now
from tests.unit.nbd_server.memory_backend import MemoryBackend
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    import pytest

    from duplexd.backend import Volume

OPTION_SECONDS, TOTAL_SECONDS = 10.0, 60.0
LIMITS = NbdLimits(handshake_seconds_max=OPTION_SECONDS, handshake_total_seconds_max=TOTAL_SECONDS)
LISTENER = Listener(UnixAddress("/nowhere"))
START = m.CLIENT_FLAGS.pack(3)
LIST, UNKNOWN = m.option(c.OPT_LIST), m.option(99)
GO = m.option(c.OPT_GO, m.go_data("v0", []))


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        runner.run(main)


class Guest:
    """A client, and the connection that the server has for it."""

    def __init__(self, server: Server, wire: Wire, sock: socket.socket) -> None:
        self.server = server
        self.wire = wire
        self.sock = sock
        self.got = bytearray()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read(self, count: int) -> bytes:
        """Exactly so many bytes."""
        while len(self.got) < count:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            assert data, "the server closed the connection"
            self.got += data
        taken = bytes(self.got[:count])
        del self.got[:count]
        return taken

    async def closed(self) -> float:
        """When the server closed the connection."""
        while await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16):
            pass
        return now()


@asynccontextmanager
async def guest(volumes: int = 1) -> AsyncIterator[Guest]:
    async with served(*socket.socketpair(), volumes) as client:
        yield client


@asynccontextmanager
async def served(
    ours: socket.socket, theirs: socket.socket, volumes: int = 1
) -> AsyncIterator[Guest]:
    """A client that was greeted, on one end of a connection."""
    backend = MemoryBackend({f"v{number}": 4096 for number in range(volumes)})
    server = Server(backend, asyncio.get_running_loop(), LIMITS, NO_POLICY)
    with theirs:
        yield await arrive(server, ours, theirs)
        for connection in list(server.connections):
            connection.abort()
        while server.connections:
            server.idle.clear()
            await server.idle.wait()
    server.close()


async def arrive(server: Server, ours: socket.socket, theirs: socket.socket) -> Guest:
    ours.setblocking(False)
    theirs.setblocking(False)
    wire = Wire(server.loop, ours, Connection(server, LISTENER), server.reading, server.sends)
    wire.start()
    client = Guest(server, wire, theirs)
    assert await client.read(18) == m.greeting(3)
    return client


# ------------------------------------------------------------------------------------- time


def test_a_client_that_sends_no_option_is_closed() -> None:
    async def main() -> None:
        async with guest() as client:
            began = now()
            await client.send(START)
            assert OPTION_SECONDS <= await client.closed() - began < OPTION_SECONDS + 1

    run(main())


def test_the_time_limit_counts_from_the_last_option() -> None:
    async def main() -> None:
        async with guest() as client:
            began = now()
            await client.send(START)
            for _ in range(3):
                await asyncio.sleep(OPTION_SECONDS - 1)
                await client.send(UNKNOWN)
                assert (await client.read(20))[12:16] == m.U32.pack(c.REP_ERR_UNSUP)
                await client.read(len(m.option_error(99, 1, "option 99 is not supported")) - 20)
            assert now() - began > 2 * OPTION_SECONDS
            last = now()
            assert OPTION_SECONDS <= await client.closed() - last < OPTION_SECONDS + 1

    run(main())


def test_pieces_of_an_option_do_not_extend_the_time_limit() -> None:
    async def main() -> None:
        async with guest() as client:
            await client.send(START)
            began = now()
            closed = asyncio.ensure_future(client.closed())
            for byte in m.option(99, bytes(100)):
                if closed.done():
                    break
                await client.send(bytes([byte]))
                await asyncio.sleep(1)
            assert OPTION_SECONDS <= await closed - began < OPTION_SECONDS + 1

    run(main())


def test_the_handshake_as_a_whole_has_a_time_limit() -> None:
    async def main() -> None:
        async with guest() as client:
            began = now()
            await client.send(START)
            closed = asyncio.ensure_future(client.closed())
            while not closed.done():
                await client.send(UNKNOWN)
                await asyncio.sleep(OPTION_SECONDS / 2)
            assert TOTAL_SECONDS <= await closed - began < TOTAL_SECONDS + 1

    run(main())


def test_transmission_has_no_time_limit() -> None:
    async def main() -> None:
        async with guest() as client:
            await client.send(START + GO)
            await client.read(len(m.option_reply(7, 3, bytes(12))) + len(m.option_reply(7, 1)))
            await asyncio.sleep(10 * TOTAL_SECONDS)
            await client.send(m.request(0, c.CMD_FLUSH, 5, 0, 0))
            assert await client.read(16) == m.simple_reply(0, 5)

    run(main())


# ------------------------------------------------------------------------------------- pace

ENTRY_BYTES_MAX = len(m.list_entry("v9999", "duplexd volume v9999"))
MANY = 20 * REPLIES_A_TURN


def list_bytes(volumes: int) -> int:
    """Of the answer to LIST."""
    entries = (m.list_entry(f"v{n}", f"duplexd volume v{n}") for n in range(volumes))
    return sum(map(len, entries)) + len(m.option_reply(c.OPT_LIST, c.REP_ACK))


def pending(sock: socket.socket) -> int:
    """Bytes that wait to be received."""
    try:
        return len(sock.recv(1 << 22, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


def test_of_a_list_a_turn_of_the_loop_sends_a_few_entries() -> None:
    async def main() -> None:
        volumes = 4 * REPLIES_A_TURN
        async with guest(volumes) as client:
            await client.send(START + LIST)
            arrived = [0]
            while arrived[-1] < list_bytes(volumes):
                await asyncio.sleep(0)
                arrived.append(pending(client.sock))
            grown = [after - before for before, after in itertools.pairwise(arrived)]
            assert max(grown) <= REPLIES_A_TURN * ENTRY_BYTES_MAX

    run(main())


async def join(server: Server, stack: AsyncExitStack) -> Guest:
    """One more client of that server."""
    ours, theirs = socket.socketpair()
    stack.enter_context(theirs)
    return await arrive(server, ours, theirs)


def test_many_lists_at_once_send_no_more_in_a_turn_and_all_go_on() -> None:
    async def main() -> None:
        volumes = 4 * REPLIES_A_TURN
        async with guest(volumes) as first, AsyncExitStack() as stack:
            guests = [first, *[await join(first.server, stack) for _ in range(9)]]
            for client in guests:
                await client.send(START + LIST)
            arrived = [[0]]
            while sum(arrived[-1]) < len(guests) * list_bytes(volumes):
                await asyncio.sleep(0)
                arrived.append([pending(client.sock) for client in guests])
            arrived = [counts for counts in arrived if all(counts)]  # all have begun
            grown = [sum(after) - sum(before) for before, after in itertools.pairwise(arrived)]
            assert max(grown) <= REPLIES_A_TURN * ENTRY_BYTES_MAX
            halfway = arrived[len(arrived) // 2]
            assert min(halfway) > max(halfway) // 3, "nobody is served before the others"

    run(main())


class Looked(MemoryBackend):
    """Counts how often a volume was looked at."""

    looks = 0

    def volume(self, name: str) -> Volume | None:
        self.looks += 1
        return super().volume(name)


def test_lists_that_come_at_once_are_not_begun_at_once() -> None:
    """One turn of the loop may receive those of all connections."""

    async def main() -> None:
        backend = Looked({f"v{number}": 4096 for number in range(100)})
        async with guest() as first, AsyncExitStack() as stack:
            first.server.backend = backend
            guests = [first, *[await join(first.server, stack) for _ in range(49)]]
            for client in guests:
                await client.send(START + LIST)
            looks = [0]
            while sum(pending(client.sock) for client in guests) < len(guests) * list_bytes(100):
                await asyncio.sleep(0)
                looks.append(backend.looks)
            grown = [after - before for before, after in itertools.pairwise(looks)]
            assert max(grown) <= REPLIES_A_TURN + LIST_PIECE

    run(main())


def test_a_turn_looks_at_no_more_volumes_where_all_are_hidden() -> None:
    async def main() -> None:
        volumes = 40 * REPLIES_A_TURN
        names = [f"v{number}" for number in range(volumes)]
        backend = Looked(dict.fromkeys(names, 4096))
        async with guest() as client:
            client.server.backend = backend
            client.server.policy = Policy(dict.fromkeys(names, NOBODY))
            await client.send(START + LIST)
            looks = [0]
            while not pending(client.sock):
                await asyncio.sleep(0)
                looks.append(backend.looks)
            assert await client.read(list_bytes(0)) == m.option_reply(c.OPT_LIST, c.REP_ACK)
            grown = [after - before for before, after in itertools.pairwise(looks)]
            assert max(grown) <= REPLIES_A_TURN + LIST_PIECE

    run(main())


def test_options_with_many_queries_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one connection take a few milliseconds, and anybody may have hundreds."""
    parsed = 0

    def counted(data: bytes) -> ContextQueries | None:
        nonlocal parsed
        parsed += 1
        return parse_queries(data)

    async def main() -> None:
        queries = m.option(c.OPT_SET_META_CONTEXT, m.context_data("data", [""] * 1024))
        async with guest() as first, AsyncExitStack() as stack:
            guests = [first, *[await join(first.server, stack) for _ in range(9)]]
            for client in guests:
                await client.send(START + m.option(c.OPT_STRUCTURED_REPLY) + 3 * queries)
            most = before = 0
            while parsed < 3 * len(guests):
                await asyncio.sleep(0)
                most, before = max(most, parsed - before), parsed
            assert most <= 2

    monkeypatch.setattr(handshake, "parse_queries", counted)
    run(main())


def test_a_client_that_wants_a_volume_does_not_wait_for_those_that_list() -> None:
    async def main() -> None:
        async with guest(MANY) as first, AsyncExitStack() as stack:
            listers = [first, *[await join(first.server, stack) for _ in range(9)]]
            client = await join(first.server, stack)
            for lister in listers:
                await lister.send(START + LIST)
            before = 0
            while before < len(listers) * REPLIES_A_TURN:
                await asyncio.sleep(0)
                before = sum(pending(lister.sock) for lister in listers)
            await client.send(START + GO + m.request(0, c.CMD_FLUSH, 5, 0, 0))
            while not client.got.endswith(m.simple_reply(0, 5)):
                client.got += await first.server.loop.sock_recv(client.sock, 1 << 16)
            meanwhile = sum(pending(lister.sock) for lister in listers) - before
            assert meanwhile < len(listers) // 2 * REPLIES_A_TURN * ENTRY_BYTES_MAX

    run(main())


def test_a_client_that_does_not_read_its_lists_costs_a_few_entries_and_is_closed() -> None:
    async def main() -> None:
        async with guest(MANY) as client:
            began = now()
            await client.send(START + 20 * LIST)
            await eventually(lambda: client.wire.unsent_bytes)
            most = 0
            while client.server.connections:
                most = max(most, client.wire.unsent_bytes)
                await asyncio.sleep(OPTION_SECONDS / 10)
            assert most <= REPLIES_A_TURN * ENTRY_BYTES_MAX
            assert OPTION_SECONDS <= now() - began < 2 * OPTION_SECONDS

    run(main())


def test_a_client_that_reads_slowly_gets_all_and_may_go_on() -> None:
    async def main() -> None:
        async with guest(MANY) as client:
            await client.send(START + 20 * LIST + GO + m.request(0, c.CMD_FLUSH, 5, 0, 0))
            for _ in range(20):
                await client.read(list_bytes(MANY))
                await asyncio.sleep(1)
            await client.read(len(m.option_reply(7, 3, bytes(12))) + len(m.option_reply(7, 1)))
            assert await client.read(16) == m.simple_reply(0, 5)
            await client.send(m.request(0, c.CMD_FLUSH, 6, 0, 0))
            assert await client.read(16) == m.simple_reply(0, 6)

    run(main())


class NotingSocket(socket.socket):
    """Notes how often its peer was to be acknowledged at once."""

    quick = 0

    def setsockopt(self, *arguments: Any) -> None:
        self.quick += arguments == (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        super().setsockopt(*arguments)


def test_over_tcp_pieces_of_options_are_acknowledged_at_once_until_transmission() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours = NotingSocket(fileno=listening.accept()[0].detach())
        async with served(ours, theirs) as client:
            assert ours.quick == 1
            for count, piece in enumerate([START, UNKNOWN[:9], UNKNOWN[9:]], 2):
                await client.send(piece)
                await eventually(lambda count=count: ours.quick >= count)
            await client.send(GO)
            while client.got[-20:] != m.option_reply(7, 1):
                client.got += await asyncio.get_running_loop().sock_recv(theirs, 1 << 16)
            at_transmission = ours.quick
            client.got.clear()
            await client.send(m.request(0, c.CMD_FLUSH, 5, 0, 0))
            assert await client.read(16) == m.simple_reply(0, 5)
            assert ours.quick == at_transmission

    asyncio.run(main())  # TCP takes real time

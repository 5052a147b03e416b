"""The asyncio server with the asyncio client, and with clients that behave badly."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NotOfferedError
from duplexd.nbd_aio.connecting import connect, list_exports
from duplexd.nbd_aio.request_error import ExportRefusedError, RequestError
from duplexd.nbd_aio.served_export import Export
from duplexd.nbd_aio.server_bounds import ServerBounds
from duplexd.nbd_aio.serving import Server, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from duplexd.nbd.extents import Extent
    from duplexd.nbd_aio.nbd_disk import Disk

SECONDS_MAX = 60
SIZE = 1 << 20


class Ram(Export):
    """Bytes in memory, and what was asked."""

    size = SIZE
    description = "memory"

    def __init__(self) -> None:
        self.content = bytearray(self.size)
        self.asked: list[str] = []

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        return memoryview(self.content)[offset : offset + length]

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.asked.append("write")
        self.content[offset : offset + len(data)] = data

    async def flush(self) -> None:
        self.asked.append("flush")

    async def extents(self, offset: int, length: int) -> Sequence[Extent]:
        return [(offset, 4096, True), (offset + 4096, length, False)]


class Held(Ram):
    """Requests begin and wait until `gate` is set."""

    size = 64 << 20

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.running = self.most = self.cancelled = self.begun = 0

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        await super().write(offset, data)


async def until(condition: str, held: Held) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not eval(condition, {"held": held}):  # noqa: S307, ASYNC110 - conditions of ours
            await asyncio.sleep(0.01)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"nbd+unix:///?socket={tmp_path}/nbd"


@asynccontextmanager
async def served(
    export: Export, address: str, bounds: ServerBounds | None = None
) -> AsyncIterator[tuple[Server, Disk]]:
    async with (
        serve({"": export}, address, bounds=bounds or ServerBounds()) as server,
        connect(server.uri) as disk,
    ):
        yield server, disk


async def test_what_is_written_is_read_also_in_many_requests_at_once(address: str) -> None:
    async with served(Ram(), address) as (_, disk):
        places = range(0, SIZE, 4096)
        await asyncio.gather(*(disk.write(at, bytes([at >> 12]) * 4096) for at in places))
        blocks = await asyncio.gather(*(disk.read(at, 4096) for at in places))
        assert blocks == [bytes([at >> 12]) * 4096 for at in places]
        assert await disk.read(0, 0) == b""


@pytest.mark.parametrize("structured", [True, False])
async def test_refusals_have_fields_and_the_connection_goes_on(
    address: str, structured: bool
) -> None:
    class Full(Ram):
        async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
            if offset:
                raise OSError(errno.ENOSPC, "full")
            await super().write(offset, data)

    async with (
        serve({"": Full()}, address),
        connect(address, structured=structured) as disk,
    ):
        with pytest.raises(RequestError) as caught:
            await disk.write(4096, b"x" * 512)
        error = caught.value
        assert (error.errno, error.name, error.command) == (errno.ENOSPC, "ENOSPC", "WRITE")
        assert (error.offset, error.length, error.export) == (4096, 512, "")
        assert ("storage is full" in error.text) == structured
        with pytest.raises(RequestError) as caught:
            await disk.read(SIZE, 1)
        assert caught.value.errno == errno.EINVAL
        await disk.write(0, b"x")
        assert await disk.read(0, 1) == b"x"


async def test_a_mistake_of_an_export_is_eio_and_is_logged(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Ram):
        async def read(self, offset: int, length: int) -> bytes:
            return bytes(length - 1)

        async def extents(self, offset: int, length: int) -> Sequence[Extent]:
            return [(offset, 1, True), (offset + 2, length, True)]

    async with served(Wrong(), address) as (_, disk):
        for work in (disk.read(0, 10), disk.extents(0, 10)):
            with pytest.raises(RequestError) as caught:
                await work
            assert caught.value.errno == errno.EIO
    assert "read returned 9 of 10 bytes" in caplog.text
    assert "a gap" in caplog.text


async def test_what_an_export_does_not_define_is_not_offered(address: str) -> None:
    class OnlyRead(Export):
        size = SIZE

        async def read(self, offset: int, length: int) -> bytes:
            return bytes(length)

    async with served(OnlyRead(), address) as (_, disk):
        assert disk.read_only
        assert not disk.flags & (c.FLAG_SEND_FLUSH | c.FLAG_SEND_TRIM | c.FLAG_SEND_WRITE_ZEROES)
        with pytest.raises(NotOfferedError):
            await disk.write(0, b"x")
        assert await disk.extents(0, SIZE) == [(SIZE, 0)]
        # a client that asks all the same
        disk._client.flags |= c.FLAG_SEND_TRIM | c.FLAG_SEND_FLUSH
        disk._client.flags &= ~c.FLAG_READ_ONLY
        for work in (disk.flush(), disk.trim(0, 4096), disk.write(0, b"x")):
            with pytest.raises(RequestError):
                await work


async def test_fua_is_a_write_and_then_a_flush_and_zeroes_are_written(address: str) -> None:
    ram = Ram()
    async with served(ram, address) as (_, disk):
        await disk.write(0, b"x" * SIZE)
        await disk.write_zeroes(1, SIZE - 2, fua=True)
        assert ram.content == b"x" + bytes(SIZE - 2) + b"x"
        await disk.write(0, b"y", fua=True)
    assert ram.asked == ["write", "write", "flush", "write", "flush"]


async def test_block_status_says_what_the_export_says(address: str) -> None:
    async with served(Ram(), address) as (_, disk):
        assert await disk.extents(0, SIZE) == [(4096, 0), (SIZE - 4096, 3)]
        assert await disk.extents(8192, 8192) == [(4096, 0), (4096, 3)]
        with pytest.raises(ValueError, match="none of this export's contexts"):
            await disk.extents(0, SIZE, "qemu:dirty-bitmap:x")


async def test_requests_that_do_not_fit_the_block_size_are_refused(address: str) -> None:
    class Sectors(Ram):
        block_sizes = 512, 4096, 1 << 20

    async with served(Sectors(), address) as (_, disk):
        assert disk.block_sizes == (512, 4096, 1 << 20)
        disk._client.block_sizes = 1, 1, 1 << 20
        with pytest.raises(RequestError):
            await disk.read(1, 512)
        assert await disk.read(512, 512) == bytes(512)


async def test_several_exports_are_listed_and_found_by_name(address: str, tmp_path: Path) -> None:
    exports: dict[str, Export] = {"one": Ram()}
    async with serve(exports, address):
        with pytest.raises(ExportRefusedError, match="no export is the default one") as caught:
            await connect(address)
        assert (caught.value.name, caught.value.export) == ("REP_ERR_UNKNOWN", "")
        exports["zwei & 2"] = Ram()
        assert await list_exports(address) == ["one", "zwei & 2"]
        uri = f"nbd+unix:///zwei%20%26%202?socket={tmp_path}/nbd"
        async with connect(uri) as disk:
            await disk.write(0, b"x")


# ------------------------------------------------------------------------------------- bounds


async def test_a_client_has_no_more_requests_in_flight_than_it_may(address: str) -> None:
    held = Held()
    async with served(held, address, ServerBounds(requests_max=3)) as (_, disk):
        writes = [asyncio.create_task(disk.write(n * 512, b"x" * 512)) for n in range(20)]
        await until("held.running == 3", held)
        held.gate.set()
        await asyncio.gather(*writes)
    assert held.most == 3


async def test_a_client_has_no_more_bytes_in_flight_than_it_may(address: str) -> None:
    held = Held()
    async with served(held, address, ServerBounds(bytes_max=1 << 20)) as (_, disk):
        writes = [asyncio.create_task(disk.write(0, bytes(400 << 10))) for _ in range(8)]
        long = asyncio.create_task(disk.write(0, bytes(4 << 20)))  # alone is allowed
        await until("held.running == 2", held)
        held.gate.set()
        await asyncio.gather(*writes, long)
    assert held.most == 2


async def test_the_client_waits_while_the_server_takes_nothing(address: str) -> None:
    held = Held()
    async with served(held, address, ServerBounds(requests_max=1)) as (_, disk):
        writes = [asyncio.create_task(disk.write(0, bytes(1 << 20))) for _ in range(16)]
        await until("held.running == 1", held)
        transport = disk._transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 4 << 20
        waits = writes[-1]
        waits.cancel()  # for its turn: never sent
        held.gate.set()
        await asyncio.gather(*writes, return_exceptions=True)
        assert waits.cancelled()
        assert await disk.read(0, 1) == b"\0"
    assert held.begun == 15


async def test_a_client_that_takes_no_replies_is_not_read_from(
    address: str, tmp_path: Path
) -> None:
    held = Held()
    held.gate.set()
    async with serve({"": held}, address):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "nbd")
        go = m.option(c.OPT_GO, m.go_data("", []))
        writer.write(m.CLIENT_FLAGS.pack(3) + go)
        reads = b"".join(m.request(0, c.CMD_READ, n, 0, 1 << 20) for n in range(64))
        write = m.request(0, c.CMD_WRITE, 99, 0, 1) + b"x"
        writer.write(reads + write)
        async with connect(address) as other:  # which is served meanwhile
            await other.write(1, b"y")
        assert held.begun == 1
        wanted = 64 * (16 + (1 << 20)) + 16
        greeting_and_go = 18 + 20 + 12 + 20
        async with asyncio.timeout(SECONDS_MAX):
            await reader.readexactly(greeting_and_go + wanted)
        assert held.begun == 2
        writer.close()


async def test_a_connection_too_many_is_closed_and_the_others_go_on(address: str) -> None:
    async with served(Ram(), address, ServerBounds(connections_max=1)) as (_, disk):
        with pytest.raises(ConnectionError):
            await connect(address)
        assert await disk.read(0, 1) == b"\0"
    # and its place is free again
    async with served(Ram(), address, ServerBounds(connections_max=1)) as (_, disk):
        await disk.close()
        await _connected_some_time(address)


async def _connected_some_time(address: str) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            try:
                async with connect(address):
                    return
            except ConnectionError:
                await asyncio.sleep(0.01)


async def test_a_handshake_ends_in_time(address: str, tmp_path: Path) -> None:
    async with serve({}, address, bounds=ServerBounds(handshake_seconds_max=0.1)):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "nbd")
        async with asyncio.timeout(SECONDS_MAX):
            assert len(await reader.read()) == m.GREETING.size
        writer.close()


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64])
async def test_a_peer_that_speaks_something_else_is_closed(
    address: str, tmp_path: Path, junk: bytes
) -> None:
    async with serve({"": Ram()}, address):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "nbd")
        writer.write(m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_GO, m.go_data("", [])) + junk * 2)
        async with asyncio.timeout(SECONDS_MAX):
            await reader.read()
        writer.close()


# --------------------------------------------------------------------------------- ends


async def test_a_cancelled_request_leaves_the_connection_in_step(address: str) -> None:
    held = Held()
    async with served(held, address) as (_, disk):
        write = asyncio.create_task(disk.write(0, b"x"))
        await until("held.running == 1", held)
        write.cancel()
        assert await disk.read(0, 1) == b"\0"
        held.gate.set()
        await disk.flush()
        async with asyncio.timeout(SECONDS_MAX):
            while await disk.read(0, 1) != b"x":  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_a_lost_client_cancels_its_requests_also_those_not_begun(address: str) -> None:
    held = Held()
    bounds = ServerBounds(requests_max=2)
    async with served(held, address, bounds) as (_, disk):
        writes = [asyncio.create_task(disk.write(0, b"x")) for _ in range(5)]
        await until("held.running == 2", held)
        disk.abort()
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(result, ConnectionError) for result in results)
        await until("held.cancelled == 2", held)
        held.gate.set()
    assert (held.begun, held.content[0]) == (2, 0)


async def test_a_client_that_has_gone_overtakes_nobody(address: str, tmp_path: Path) -> None:
    """Another one sees it go, and writes. The loop comes to that one first: it had sent something
    before.
    """
    ram, old, new = Ram(), b"o" * 512, b"n" * 512
    async with serve({"": ram}, address):
        gone, other = [await _raw(tmp_path / "nbd") for _ in range(2)]
        # without an `await` until all is sent: the server sees it at once
        other.send(m.request(0, c.CMD_WRITE, 1, 512, 512) + old)
        gone.send(m.request(0, c.CMD_WRITE, 2, 0, 512) + old)
        gone.close()
        other.send(m.request(0, c.CMD_WRITE, 3, 0, 512) + new)
        with other:
            await _received(other, 2 * m.SIMPLE_REPLY.size)
            other.send(m.request(0, c.CMD_READ, 4, 0, 512))
            await _received(other, m.SIMPLE_REPLY.size + 512)
    assert bytes(ram.content[:1024]) == new + old


@pytest.mark.parametrize("length", [512, 32 << 10], ids=["at once", "in several pieces"])
async def test_a_client_that_said_goodbye_and_sends_no_more_gets_its_replies(
    address: str, tmp_path: Path, length: int
) -> None:
    """Whatever waits for room, and although the kernel says that it has closed its half."""
    ram, count = Ram(), 16
    content = b"x" * length
    asked = [m.request(0, c.CMD_WRITE, at, at * length, length) + content for at in range(count)]
    async with serve({"": ram}, address, bounds=ServerBounds(requests_max=2)):
        client = await _raw(tmp_path / "nbd")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        goodbye = m.request(0, c.CMD_DISC, count, 0, 0)
        # without an `await`: the server sees all of it at once, and the end
        sent = b"".join(asked) + goodbye
        with client:
            assert client.send(sent) == len(sent)
            client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(SECONDS_MAX):
                await _received(client, count * m.SIMPLE_REPLY.size)
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    assert bytes(ram.content[: count * length]) == content * count


async def _raw(path: Path) -> socket.socket:
    """A client after its handshake."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await loop.sock_connect(sock, str(path))
    go = m.option(c.OPT_GO, m.go_data("", []))
    await loop.sock_sendall(sock, m.CLIENT_FLAGS.pack(3) + go)
    await _received(sock, 18 + 20 + 12 + 20)  # the greeting and the answer to GO
    return sock


async def _received(sock: socket.socket, count: int) -> None:
    while count:
        received = await asyncio.get_running_loop().sock_recv(sock, count)
        assert received, f"it ended {count} bytes too early"
        count -= len(received)


async def test_a_goodbye_is_not_answered(address: str, tmp_path: Path) -> None:
    async with serve({"": Ram()}, address), asyncio.timeout(SECONDS_MAX):
        with await _raw(tmp_path / "nbd") as client:
            client.send(m.request(0, c.CMD_FLUSH, 1, 0, 0) + m.request(0, c.CMD_DISC, 2, 0, 0))
            await _received(client, m.SIMPLE_REPLY.size)
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


async def test_disconnecting_answers_what_is_in_flight(address: str) -> None:
    held = Held()
    async with serve({"": held}, address):
        disk = await connect(address)
        write = asyncio.create_task(disk.write(0, b"x"))
        await until("held.running == 1", held)
        closing = asyncio.create_task(disk.close())
        await asyncio.sleep(0)
        held.gate.set()
        await write
        await closing
        with pytest.raises(ConnectionError):
            await disk.read(0, 1)
    assert held.content[0] == ord("x")


async def test_closing_the_server_answers_what_was_received(address: str) -> None:
    held = Held()
    async with serve({"": held}, address) as server:
        disk = await connect(address)
        write = asyncio.create_task(disk.write(0, b"x"))
        await until("held.running == 1", held)
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        held.gate.set()
        await write
        async with asyncio.timeout(SECONDS_MAX):
            await closing
        with pytest.raises(ConnectionError):
            await disk.read(0, 1)
        with pytest.raises(OSError, match="No such file"):
            await connect(address)


async def test_closing_the_server_cancels_what_does_not_end_in_time(address: str) -> None:
    held = Held()
    bounds = ServerBounds(close_seconds_max=0.05)
    async with serve({"": held}, address, bounds=bounds) as server:
        disk = await connect(address)
        write = asyncio.create_task(disk.write(0, b"x"))
        await until("held.running == 1", held)
        async with asyncio.timeout(SECONDS_MAX):
            await server.close()
        assert (held.running, held.cancelled) == (0, 1)  # nothing runs any more
        with pytest.raises(ConnectionError):
            await write


async def test_closing_the_server_waits_for_methods_that_end_late(address: str) -> None:
    class Late(Held):
        ended = False

        async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
            try:
                await super().write(offset, data)
            finally:
                await asyncio.sleep(0.1)  # as for a thread that cannot be cancelled
                self.ended = True

    late = Late()
    async with serve({"": late}, address, bounds=ServerBounds(close_seconds_max=0)) as server:
        disk = await connect(address)
        write = asyncio.create_task(disk.write(0, b"x"))
        await until("held.running == 1", late)
        await server.close()
        assert late.ended
        with pytest.raises(ConnectionError):
            await write


# ------------------------------------------------------------------------- sockets and TLS


async def test_a_socket_that_was_left_behind_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "nbd"
    address = f"nbd+unix:///?socket={path}"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serve({"": Ram()}, address):
        with pytest.raises(OSError, match="in use"):
            await serve({}, address)
        async with connect(address) as disk:
            await disk.write(0, b"x")
        path.unlink()
        path.write_text("of somebody else")
    assert path.read_text() == "of somebody else"
    with pytest.raises(OSError, match="in use"):
        await serve({}, address)
    assert path.read_text() == "of somebody else"


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server and of a client that verifies it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_carries_long_and_many_requests(
    contexts: Contexts, version: ssl.TLSVersion
) -> None:
    server_context, client_context = contexts
    client_context.maximum_version = version
    held = Held()
    held.gate.set()
    async with (
        serve({"": held}, "nbds://localhost:0", tls=server_context) as server,
        connect(server.uri, tls=client_context) as disk,
    ):
        content = os.urandom(8 << 20)
        await disk.write(1 << 20, content)
        assert await disk.read(1 << 20, len(content)) == content
        places = range(0, 1 << 20, 4096)
        await asyncio.gather(*(disk.write(at, bytes([at >> 12]) * 4096) for at in places))
        assert {(await disk.read(at, 4096))[5] for at in places} == {at >> 12 for at in places}
        assert await list_exports(server.uri, tls=client_context) == [""]


async def test_who_must_and_who_may_use_tls(contexts: Contexts, tmp_path: Path) -> None:
    server_context, client_context = contexts
    path = f"unix:///?socket={tmp_path}/nbd"
    more = {"tls": client_context, "server_hostname": "localhost"}
    async with serve({"": Ram()}, f"nbds+{path}", tls=server_context):
        with pytest.raises(ExportRefusedError, match="TLS is required") as caught:
            await connect(f"nbd+{path}")
        assert caught.value.code == c.REP_ERR_TLS_REQD
        async with connect(f"nbds+{path}", **more) as disk:  # type: ignore[arg-type]
            await disk.write(0, b"x")
    async with serve({"": Ram()}, f"nbd+{path}", tls=server_context):
        async with connect(f"nbd+{path}") as disk:
            await disk.write(0, b"x")
        async with connect(f"nbds+{path}", **more) as disk:  # type: ignore[arg-type]
            await disk.write(0, b"x")
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(f"nbds+{path}")
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname"):
            await connect(f"nbds+{path}", tls=client_context, server_hostname="other")
    async with serve({"": Ram()}, f"nbd+{path}"):
        with pytest.raises(ExportRefusedError, match="TLS is not configured"):
            await connect(f"nbds+{path}", **more)  # type: ignore[arg-type]


async def test_a_tls_handshake_that_fails_leaves_no_connection(
    contexts: Contexts, tmp_path: Path
) -> None:
    path = f"unix:///?socket={tmp_path}/nbd"
    bounds = ServerBounds(handshake_seconds_max=0.5)
    async with serve({"": Ram()}, f"nbd+{path}", tls=contexts[0], bounds=bounds) as server:
        for how in ("junk", "end of file", "silence", "gone"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "nbd")
            writer.write(m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_STARTTLS))
            await reader.readexactly(m.GREETING.size + m.OPTION_REPLY.size)
            if how == "junk":
                writer.write(b"no TLS at all" * 9)
            elif how == "end of file":
                writer.write_eof()
            elif how == "gone":
                writer.transport.abort()
            async with asyncio.timeout(SECONDS_MAX):
                while server._connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            writer.close()


def test_bad_addresses_and_missing_contexts_are_said_at_once() -> None:
    with pytest.raises(ValueError, match="not an NBD address"):
        connect("http://localhost")
    with pytest.raises(ValueError, match="begins with nbds"):
        connect("nbd://localhost", tls=ssl.create_default_context())
    with pytest.raises(ValueError, match="needs tls"):
        serve({}, "nbds://localhost")

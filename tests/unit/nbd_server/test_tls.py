"""TLS on NBD connections: forced or optional, with or without certificates of clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
import trustme

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NbdClient, RefusedError
from duplexd.nbd.transmission import REQUESTS_MAX
from duplexd.nbd_server import tls_wire
from duplexd.nbd_server.budget import Budget
from duplexd.nbd_server.listeners import Listeners
from duplexd.nbd_server.reach import Door, Listener, Policy
from duplexd.nbd_server.round_robin import RoundRobin
from duplexd.nbd_server.secured import Turns
from duplexd.nbd_server.sockets import Wire
from duplexd.nbd_server.tls_records import Ciphertext
from duplexd.nbd_server.tls_wire import ENCRYPTED_BYTES, RECORDS_MAX, TlsWire
from duplexd.net import tls
from duplexd.net.address import TcpAddress
from duplexd.net.allow import Allow
from duplexd.net.expiry import Expiry
from tests.support.certificates import HOST, Certificates
from tests.support.tls13 import Records
from tests.unit.nbd_server.peer import PATIENCE_SECONDS, Peer, eventually
from tests.unit.nbd_server.test_sockets import Seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from duplexd.nbd.client_replies import Reply
    from duplexd.nbd.offers import Tls
    from tests.unit.nbd_server.memory_backend import MemoryBackend

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
STARTTLS = m.OPTION.pack(c.OPTION_MAGIC, c.OPT_STARTTLS, 0)


class Secure:
    """A client that begins TLS, then speaks NBD in it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.nbd = NbdClient()
        self.greeting = b""

    @classmethod
    async def open(cls, address: TcpAddress, context: ssl.SSLContext) -> Secure:
        self = cls(*await asyncio.open_connection(address.host, address.port))
        self.greeting = await self.reader.readexactly(len(m.greeting(0)))
        self.writer.write(m.CLIENT_FLAGS.pack(3) + STARTTLS)
        ack = m.option_reply(c.OPT_STARTTLS, c.REP_ACK)
        assert await self.reader.readexactly(len(ack)) == ack
        await self.writer.start_tls(context, server_hostname="localhost")
        return self

    async def go(self, export: str) -> None:
        self.nbd = NbdClient(export)
        self.nbd.receive(self.greeting)
        self.writer.write(self.nbd.data_to_send()[m.CLIENT_FLAGS.size :])
        while not self.nbd.ready:
            self.nbd.receive(await self._some())
            self.writer.write(self.nbd.data_to_send())

    async def replies(self, count: int) -> dict[int, Reply]:
        self.writer.write(self.nbd.data_to_send())
        found: dict[int, Reply] = {}
        while len(found) < count:
            found.update({reply.cookie: reply for reply in self.nbd.receive(await self._some())})
        return found

    async def closed(self) -> bool:
        """The server closes, with close_notify: anything else is an error here."""
        while await self.reader.read(1 << 20):
            pass
        return True

    async def _some(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            data = await self.reader.read(1 << 20)
        if not data:
            raise ConnectionResetError
        return data

    def close(self) -> None:
        self.writer.transport.abort()


class Serving:
    """A listener with TLS, and clients of it."""

    def __init__(self, backend: MemoryBackend, certificates: Certificates) -> None:
        self.certificates = certificates
        self._backend = backend
        self._opened: list[Secure] = []
        self.limits = NbdLimits()
        self.listeners: Listeners | None = None

    async def start(
        self, mode: Tls = "required", clients: str = tls.REQUIRED, allow: Allow | None = None
    ) -> None:
        context = tls.server_context(self.certificates, "nbd.tls", clients)
        listener = Listener(TcpAddress(HOST, 0), tls=mode)
        policy = Policy({"data": Door(allow)}, context=context)
        self.listeners = Listeners(self._backend, [listener], self.limits, policy)
        await self.listeners.start()

    @property
    def address(self) -> TcpAddress:
        assert self.listeners is not None
        (address,) = self.listeners.addresses
        assert isinstance(address, TcpAddress)
        return address

    async def client(
        self,
        name: str | None = "backup",
        expires: datetime | None = None,
        version: ssl.TLSVersion | None = None,
    ) -> Secure:
        path = self.certificates.client(name, expires=expires) if name is not None else None
        context = self.certificates.context(path)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        secure = await Secure.open(self.address, context)
        self._opened.append(secure)
        return secure

    async def stop(self) -> None:
        for secure in self._opened:
            secure.close()
        if self.listeners is not None:
            await self.listeners.stop(PATIENCE_SECONDS)


@pytest.fixture
async def serving(backend: MemoryBackend, tmp_path: Path) -> AsyncIterator[Serving]:
    serving = Serving(backend, Certificates(tmp_path))
    yield serving
    await serving.stop()


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_written_is_read_back(serving: Serving, version: ssl.TLSVersion) -> None:
    await serving.start()
    secure = await serving.client(version=version)
    await secure.go("data")
    data = os.urandom(3 << 20)
    written = secure.nbd.write(4096, data)
    assert (await secure.replies(1))[written].error == 0
    read = secure.nbd.read(4096, len(data))
    assert (await secure.replies(1))[read].data == data


async def test_large_replies_reach_a_slow_client_whole(serving: Serving) -> None:
    await serving.start()
    secure = await serving.client()
    await secure.go("data")
    reads = [secure.nbd.read(0, 4 << 20) for _ in range(8)]
    secure.writer.write(secure.nbd.data_to_send())
    await asyncio.sleep(0.1)  # a client that is not in a hurry: the socket is full meanwhile
    replies = await secure.replies(len(reads))
    assert [len(replies[cookie].data) for cookie in reads] == [4 << 20] * 8


class Ends:
    """Both ends of a connection with TLS; what is sent takes turns in `sends`."""

    def __init__(self, context: ssl.SSLContext, sends: RoundRobin) -> None:
        loop = asyncio.get_running_loop()
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.up = asyncio.Event()
        budget = Budget(1 << 40, loop.call_soon)
        self.seen = Seen()
        wire = Wire(loop, ours, self.seen, budget, sends)
        wire.start()
        self.wire = TlsWire(loop, wire, context, self.seen, self.up.set)

    async def shake_hands(self, context: ssl.SSLContext) -> asyncio.StreamReader:
        reader, self.writer = await asyncio.open_connection(
            sock=self.theirs, ssl=context, server_hostname="localhost"
        )
        await self.up.wait()
        return reader

    def close(self) -> None:
        self.writer.transport.abort()
        self.wire.abort()


async def test_long_replies_are_encrypted_in_turns(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    context = tls.server_context(certificates, "nbd.tls", tls.OPTIONAL)
    asked: list[Callable[[], None]] = []
    sends = RoundRobin(asked.append)
    both = [Ends(context, sends) for _ in range(2)]
    readers = [await ends.shake_hands(certificates.context(None)) for ends in both]
    long = os.urandom(4 * ENCRYPTED_BYTES)
    for ends in both:
        ends.wire.queue([long[:1000], long[1000:]])
    assert [ends.wire.unsent_bytes for ends in both] == [len(long)] * 2
    asked.pop()()
    assert [ends.wire.unsent_bytes for ends in both] == [len(long) - ENCRYPTED_BYTES, len(long)]
    asked.pop()()
    assert [ends.wire.unsent_bytes for ends in both] == [len(long) - ENCRYPTED_BYTES] * 2
    assert not both[0].wire.write(b"behind it")
    received = [asyncio.create_task(each.readexactly(len(long))) for each in readers]
    while not all(task.done() for task in received):
        while asked:
            asked.pop()()
        await asyncio.sleep(0)
    assert [task.result() for task in received] == [long, long]
    assert await readers[0].readexactly(9) == b"behind it"
    for ends in both:
        ends.close()


async def test_many_records_are_decrypted_in_turns(tmp_path: Path) -> None:
    """A buffer of them would take the loop 20 ms, for each connection."""
    certificates = Certificates(tmp_path)
    context = tls.server_context(certificates, "nbd.tls", tls.OPTIONAL)
    asked: list[Callable[[], None]] = []
    ends = Ends(context, RoundRobin(asked.append))
    await ends.shake_hands(certificates.context(None))
    sent = os.urandom(5 * RECORDS_MAX)
    for byte in sent:
        ends.writer.write(bytes([byte]))
    ends.writer.close()
    seen = ends.seen
    await eventually(lambda: asked)
    assert len(seen.received) <= RECORDS_MAX
    while not seen.events:
        had = len(seen.received)
        if asked:
            asked.pop()()
        assert len(seen.received) <= had + RECORDS_MAX
        await asyncio.sleep(0)
    assert seen.received == sent, "the end comes behind what was sent before it"
    ends.close()


async def test_records_without_data_are_decrypted_in_turns(tmp_path: Path) -> None:
    """Of updates of the key OpenSSL works through as many as it has, in one call."""
    certificates = Certificates(tmp_path)
    asked: list[Callable[[], None]] = []
    ends = Ends(tls.server_context(certificates, "nbd.tls", tls.OPTIONAL), RoundRobin(asked.append))
    context = certificates.context(None)
    context.keylog_filename = str(tmp_path / "secrets")
    await ends.shake_hands(context)
    records, turns = Records(context), 0
    ends.theirs.send(records.data(b"before "))
    for _ in range(5):
        ends.theirs.send(b"".join(records.key_update() for _ in range(RECORDS_MAX)))
    ends.theirs.send(records.data(b"behind"))
    while len(ends.seen.received) < len(b"before behind"):
        if asked:
            asked.pop()()
            turns += 1
        await asyncio.sleep(0)
    assert ends.seen.received == b"before behind"
    assert turns >= 5
    ends.close()


async def test_a_handshake_in_many_records_takes_turns(tmp_path: Path) -> None:
    """A hello in pieces of one byte: OpenSSL puts up with that."""
    certificates = Certificates(tmp_path)
    asked: list[Callable[[], None]] = []
    ends = Ends(tls.server_context(certificates, "nbd.tls", tls.OPTIONAL), RoundRobin(asked.append))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.context(None).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    kind, content = hello[:3], hello[5:]
    ends.theirs.send(b"".join(kind + b"\x00\x01" + bytes([byte]) for byte in content))
    ends.theirs.setblocking(False)
    turns = 0
    while not incoming.pending:
        if asked:
            asked.pop()()
            turns += 1
        await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            incoming.write(ends.theirs.recv(1 << 16))
    assert turns >= len(content) // RECORDS_MAX - 1, "the first came with what was received"
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    assert client.version()
    ends.theirs.send(outgoing.read())
    while not ends.up.is_set():
        if asked:
            asked.pop()()
        await asyncio.sleep(0)
    ends.wire.abort()
    ends.theirs.close()


@pytest.mark.parametrize("size", [1, 4, 5, 6, 100, 16384])
def test_ciphertext_is_passed_on_by_records_however_it_comes(size: int) -> None:
    records = [b"\x17\x03\x03" + len(body).to_bytes(2) + body for body in (b"", b"a", b"b" * 5000)]
    stream, passed = b"".join(records * 3), list[bytes]()
    tls_input = ssl.MemoryBIO()
    ciphertext, buffer = Ciphertext(tls_input), memoryview(bytearray(16384))
    for start in range(0, len(stream), size):
        piece = stream[start : start + size]
        buffer[: len(piece)] = piece
        ciphertext.came(buffer[: len(piece)])
        while ciphertext.pass_on():
            passed.append(tls_input.read())
    assert b"".join(passed) == stream
    if size >= len(stream):
        assert passed == [records[0], records[1] + records[2]] * 3, "long ones come with others"


@pytest.mark.parametrize("records", [7, 8])
async def test_what_was_left_in_very_many_records_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """It would be in one turn of the loop, and a MiB of them takes 100 ms."""
    monkeypatch.setattr(tls_wire, "UNREAD_RECORDS_MAX", 8)
    certificates = Certificates(tmp_path)
    context = tls.server_context(certificates, "nbd.tls", tls.OPTIONAL)
    ends = Ends(context, RoundRobin(asyncio.get_running_loop().call_soon))
    await ends.shake_hands(certificates.context(None))
    ends.wire.pause_reading()
    for _ in range(records):
        ends.writer.write(b"x")
    await asyncio.sleep(0.05)
    assert ends.wire.unread() == (b"x" * records if records < 8 else b"")
    ends.wire.resume_reading()
    await eventually(lambda: ends.seen.received == b"x" * records)  # it was only looked at
    ends.close()


async def test_a_name_in_the_certificate_opens_a_volume(serving: Serving) -> None:
    await serving.start(allow=Allow(names=frozenset({"writer"})))
    with pytest.raises(RefusedError, match="no export"):
        await (await serving.client("backup")).go("data")
    await (await serving.client("writer")).go("data")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_without_a_certificate_is_refused_where_it_needs_one(
    serving: Serving, version: ssl.TLSVersion
) -> None:
    await serving.start()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await (await serving.client(None, version=version)).go("data")


async def test_a_client_without_a_certificate_is_served_where_it_needs_none(
    serving: Serving,
) -> None:
    await serving.start(clients=tls.OPTIONAL)
    await (await serving.client(None)).go("data")


async def _plain(serving: Serving) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, serving.address.port)
    info = m.U32.pack(4) + b"data" + m.U16.pack(0)
    writer.write(m.CLIENT_FLAGS.pack(3) + m.OPTION.pack(c.OPTION_MAGIC, c.OPT_INFO, len(info)))
    writer.write(info + m.OPTION.pack(c.OPTION_MAGIC, c.OPT_ABORT, 0))
    received = await reader.read()
    writer.close()
    return received


@pytest.mark.parametrize(("mode", "refused"), [("required", True), ("optional", False)])
async def test_plain_text_is_refused_only_where_tls_is_required(
    serving: Serving, mode: Tls, refused: bool
) -> None:
    await serving.start(mode)
    assert (m.U32.pack(c.REP_ERR_TLS_REQD) in await _plain(serving)) == refused


@pytest.mark.parametrize("export", ["data", None])
async def test_plain_text_ends_once_tls_is_required(serving: Serving, export: str | None) -> None:
    await serving.start("optional")
    plain, secure = Peer(serving.address), await serving.client()
    await plain.open()
    if export is not None:
        await plain.go(export)
    await secure.go("data")
    assert serving.listeners is not None
    await serving.listeners.update([Listener(TcpAddress(HOST, 0), tls="required")])
    assert await plain.closed()
    plain.close()
    read = secure.nbd.read(0, 16)
    assert (await secure.replies(1))[read].error == 0


async def reload(serving: Serving, clients: str) -> None:
    assert serving.listeners is not None
    context = tls.server_context(serving.certificates, "nbd.tls", clients)
    policy = Policy(context=context)
    await serving.listeners.update([Listener(TcpAddress(HOST, 0), tls="required")], policy)


async def test_clients_end_with_an_authority_that_is_removed(serving: Serving) -> None:
    await serving.start(clients=tls.OPTIONAL)
    certified, without = await serving.client(), await serving.client(None)
    await certified.go("data")
    await without.go("data")
    trustme.CA().cert_pem.write_to_path(str(serving.certificates.client_ca))
    await reload(serving, tls.OPTIONAL)
    assert await certified.closed()
    read = without.nbd.read(0, 16)
    assert (await without.replies(1))[read].error == 0


async def test_a_handshake_with_an_authority_that_is_removed_is_broken_off(
    serving: Serving,
) -> None:
    await serving.start()
    reader, writer = await asyncio.open_connection(HOST, serving.address.port)
    writer.write(m.CLIENT_FLAGS.pack(3) + STARTTLS)
    await reader.readexactly(len(m.greeting(0)) + len(m.option_reply(c.OPT_STARTTLS, c.REP_ACK)))
    trustme.CA().cert_pem.write_to_path(str(serving.certificates.client_ca))
    await reload(serving, tls.REQUIRED)
    assert await reader.read() == b""
    writer.close()


async def test_clients_stay_when_an_authority_is_added(serving: Serving) -> None:
    await serving.start()
    secure = await serving.client()
    await secure.go("data")
    with serving.certificates.client_ca.open("ab") as file:
        file.write(trustme.CA().cert_pem.bytes())
    await reload(serving, tls.REQUIRED)
    read = secure.nbd.read(0, 16)
    assert (await secure.replies(1))[read].error == 0


async def test_clients_without_a_certificate_end_once_it_is_required(serving: Serving) -> None:
    await serving.start(clients=tls.OPTIONAL)
    certified, without = await serving.client(), await serving.client(None)
    await certified.go("data")
    await without.go("data")
    await reload(serving, tls.REQUIRED)
    assert await without.closed()
    read = certified.nbd.read(0, 16)
    assert (await certified.replies(1))[read].error == 0


async def test_a_handshake_from_before_a_certificate_was_required_is_broken_off(
    serving: Serving,
) -> None:
    await serving.start(clients=tls.OPTIONAL)
    reader, writer = await asyncio.open_connection(HOST, serving.address.port)
    writer.write(m.CLIENT_FLAGS.pack(3) + STARTTLS)
    await reader.readexactly(len(m.greeting(0)) + len(m.option_reply(c.OPT_STARTTLS, c.REP_ACK)))
    await reload(serving, tls.REQUIRED)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await reader.read() == b""
    writer.close()


async def test_a_handshake_goes_on_when_nothing_else_is_required(serving: Serving) -> None:
    await serving.start()
    secure = Secure(*await asyncio.open_connection(HOST, serving.address.port))
    secure.greeting = await secure.reader.readexactly(len(m.greeting(0)))
    secure.writer.write(m.CLIENT_FLAGS.pack(3) + STARTTLS)
    ack = m.option_reply(c.OPT_STARTTLS, c.REP_ACK)
    assert await secure.reader.readexactly(len(ack)) == ack
    await reload(serving, tls.REQUIRED)
    context = serving.certificates.context(serving.certificates.client("writer"))
    await secure.writer.start_tls(context, server_hostname="localhost")
    await secure.go("data")


async def test_disconnecting_says_goodbye_in_tls(serving: Serving) -> None:
    await serving.start()
    secure = await serving.client()
    await secure.go("data")
    secure.nbd.disconnect()
    secure.writer.write(secure.nbd.data_to_send())
    assert await secure.closed()


@pytest.mark.parametrize("version", VERSIONS)
async def test_changes_that_were_not_received_are_done_after_a_goodbye_in_tls(
    serving: Serving, backend: MemoryBackend, version: ssl.TLSVersion
) -> None:
    serving.limits = NbdLimits(
        connection_share_bytes=0, request_bytes=0, connection_in_flight_bytes_max=2
    )
    await serving.start()
    secure = await serving.client(version=version)
    await secure.go("data")
    backend.holding = True
    secure.nbd.write(0, b"\1" * 4096)
    secure.writer.write(secure.nbd.data_to_send())
    await eventually(lambda: backend.held)
    for index in range(1, 10):  # the first of them waits, and the socket is not read
        secure.nbd.write(index * 4096, bytes([index + 1]) * 4096)
        secure.writer.write(secure.nbd.data_to_send())
        await asyncio.sleep(0.001)
    secure.nbd.disconnect()
    secure.writer.write(secure.nbd.data_to_send())
    secure.close()
    await asyncio.sleep(0.05)
    assert len(backend.held) == 1
    backend.release()
    await eventually(lambda: backend.volumes["data"].connections == 0)
    assert bytes(backend.volumes["data"].data[: 10 * 4096 : 4096]) == bytes(range(1, 11))


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_end_of_tls_comes_behind_all_that_was_received_before_it(
    serving: Serving, backend: MemoryBackend, version: ssl.TLSVersion
) -> None:
    """Requests that are short are received with DISC and close_notify, and taken in several turns:
    the end may not be heard of before the last of them.
    """
    await serving.start()
    secure = await serving.client(version=version)
    await secure.go("data")
    backend.volumes["data"].data[:] = b"x" * len(backend.volumes["data"].data)
    for index in range(2 * REQUESTS_MAX):
        secure.nbd.write_zeroes(4 * index, 4)
    secure.nbd.disconnect()
    secure.writer.write(secure.nbd.data_to_send())
    secure.writer.close()
    await eventually(lambda: backend.volumes["data"].connections == 0)
    assert bytes(backend.volumes["data"].data[: 8 * REQUESTS_MAX]) == bytes(8 * REQUESTS_MAX)


GARBAGE = b"\x17\x03\x03\x00\x20" + b"x" * 32  # an encrypted record, but not of this session


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_breaks_tls_does_not_disturb_the_write_path(
    serving: Serving, backend: MemoryBackend, version: ssl.TLSVersion
) -> None:
    await serving.start()
    secure = await serving.client(version=version)
    await secure.go("data")
    backend.holding = True
    secure.nbd.write(0, b"x" * 4096)
    secure.nbd.disconnect()
    secure.writer.write(secure.nbd.data_to_send())
    with secure.writer.get_extra_info("socket").dup() as sock:
        sock.send(GARBAGE)
    await eventually(lambda: backend.held)
    backend.release()
    await eventually(lambda: backend.volumes["data"].connections == 0)
    assert backend.volumes["data"].data[:4096] == b"x" * 4096


async def test_garbage_instead_of_tls_closes_the_connection(serving: Serving) -> None:
    await serving.start()
    reader, writer = await asyncio.open_connection(HOST, serving.address.port)
    writer.write(m.CLIENT_FLAGS.pack(3) + STARTTLS)
    await reader.readexactly(len(m.greeting(0)) + len(m.option_reply(c.OPT_STARTTLS, c.REP_ACK)))
    writer.write(b"\x00" * 100)
    await reader.read()
    writer.close()


async def test_a_connection_ends_with_its_certificate(
    serving: Serving, backend: MemoryBackend
) -> None:
    await serving.start()
    soon = datetime.now(UTC) + timedelta(seconds=2)
    secure = await serving.client(expires=soon)
    await secure.go("data")
    assert await secure.closed()
    assert datetime.now(UTC) >= soon.replace(microsecond=0)
    await eventually(lambda: backend.volumes["data"].connections == 0)


async def test_a_clock_that_is_set_is_noticed() -> None:
    clock, ended = [100.0], asyncio.Event()
    expiry = Expiry(asyncio.get_running_loop(), 100.02, ended.set, lambda: clock[0])
    await asyncio.sleep(0)
    assert not ended.is_set()
    clock[0] = 200.0
    async with asyncio.timeout(PATIENCE_SECONDS):
        await ended.wait()
    expiry.cancel()


class Timers:
    """Of a loop whose time is set by hand."""

    def __init__(self) -> None:
        self.now = 5.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> object:
        self.due.append((when, call))
        return object()

    def go_on(self) -> None:
        """To the next timer, and call it."""
        when, call = self.due.pop(0)
        self.now = max(self.now, when)
        call()


@pytest.fixture
def timers() -> Timers:
    return Timers()


def test_handshakes_take_turns(timers: Timers) -> None:
    turns, begun = Turns(cast("asyncio.AbstractEventLoop", timers), 10), list[float]()
    for who in "abc":
        turns.ask(who, 1, lambda: begun.append(timers.now))
    while timers.due:
        timers.go_on()
    assert begun == pytest.approx([5.0, 5.1, 5.2])
    timers.now = 60.0
    turns.ask("d", 1, lambda: begun.append(timers.now))
    timers.go_on()
    assert begun[-1] == 60.0


def test_handshakes_of_one_peer_do_not_come_before_those_of_others(timers: Timers) -> None:
    turns, begun = Turns(cast("asyncio.AbstractEventLoop", timers), 10), list[str]()
    for who, peer in (("a", 1), ("b", 1), ("c", 1), ("d", 2), ("e", 2)):
        turns.ask(who, peer, partial(begun.append, who))
    while timers.due:
        timers.go_on()
    assert "".join(begun) == "adbec"


def test_who_has_gone_takes_no_turn(timers: Timers) -> None:
    turns, begun = Turns(cast("asyncio.AbstractEventLoop", timers), 10), list[str]()
    for who in range(1000):
        turns.ask(who, 1, lambda: begun.append("gone"))
        turns.withdraw(who, 1)
    turns.ask("here", 2, lambda: begun.append("here"))
    while timers.due:
        timers.go_on()
    assert begun == ["here"]
    assert timers.now == 5.0

"""The HTTP client: connections are used again, limits hold, every failure names the controller."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.client import ControllerEntry
from duplexd.client.connection import opened
from duplexd.client.http import Http
from duplexd.errors import (
    ConfigurationError,
    DuplexdError,
    NotFoundError,
    TimedOutError,
    UnreachableError,
)
from duplexd.limits import ClientLimits
from tests.support.certificates import Certificates
from tests.support.fake_member import HANG_UP, SILENT, FakeMember, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[FakeMember]:
    found = await FakeMember("alpha", tmp_path / "alpha.sock").start()
    yield found
    await found.stop()


@pytest.fixture
async def link(member: FakeMember) -> AsyncIterator[Http]:
    found = Http("alpha", ControllerEntry(socket=member.path))
    yield found
    found.close()


async def test_one_connection_serves_one_request_after_the_other(
    member: FakeMember, link: Http
) -> None:
    for _ in range(3):
        assert (await link.call("GET", "/healthz"))["status"] == "ok"
    assert member.connections == 1
    await asyncio.gather(*(link.call("GET", "/healthz") for _ in range(3)))
    assert member.connections == 3


async def test_a_connection_that_was_closed_meanwhile_is_not_used_again(
    member: FakeMember, link: Http
) -> None:
    await link.call("GET", "/healthz")
    await member.stop()
    await asyncio.sleep(0.01)
    member.path.unlink(missing_ok=True)
    await member.start()
    assert (await link.call("GET", "/healthz"))["status"] == "ok"


async def test_what_ends_a_connection_goes_to_who_reads_and_nowhere_else() -> None:
    """Streams of asyncio keep it for `wait_closed`, too, and print it if nobody calls that."""
    ours, theirs = socket.socketpair()
    made: list[asyncio.StreamReaderProtocol] = []

    async def connect(
        protocol: Callable[[], asyncio.Protocol],
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        found = await asyncio.get_running_loop().create_unix_connection(protocol, sock=ours)
        assert isinstance(found[1], asyncio.StreamReaderProtocol)
        made.append(found[1])
        return found

    connection = await opened(connect, "localhost", 1 << 16)
    sent = asyncio.create_task(connection.send("GET", "/healthz", None))
    await asyncio.sleep(0.01)
    theirs.close()  # with bytes that nobody has read: a reset
    with pytest.raises(ConnectionResetError):
        await sent
    assert await made[0]._get_close_waiter(connection._writer) is None  # type: ignore[attr-defined]


async def test_a_problem_is_its_error(member: FakeMember, link: Http) -> None:
    member.plant["status"] = problem(404, 3, "no such thing; look elsewhere")
    with pytest.raises(NotFoundError, match=r"^alpha: no such thing; look elsewhere$"):
        await link.call("GET", "/v1/status")
    assert (await link.call("GET", "/healthz"))["status"] == "ok"
    assert member.connections == 1


@pytest.mark.parametrize(
    ("planted", "kind", "text"),
    [
        (HANG_UP, UnreachableError, "broke off"),
        ((200, b"no"), UnreachableError, "no JSON object"),
        ((200, b"[]"), UnreachableError, "no JSON object"),
        ((200, b"[" * 100_000), UnreachableError, "no JSON object"),
        ((502, b"<html>"), UnreachableError, "status 502 and no reason"),
        ((404, {"detail": "x", "exit_code": 99}), DuplexdError, "x"),
        ((404, {"exit_code": []}), DuplexdError, "no reason"),
    ],
)
async def test_rubbish_is_an_error_that_names_the_controller(
    member: FakeMember, link: Http, planted: Any, kind: type, text: str
) -> None:
    member.plant["status"] = planted
    with pytest.raises(kind, match=f"^alpha: .*{text}"):
        await link.call("GET", "/v1/status")


async def test_silence_ends_with_its_time(member: FakeMember, link: Http) -> None:
    member.plant["status"] = member.plant["resync"] = SILENT
    with pytest.raises(TimedOutError, match=r"alpha: no answer within 0\.05 s at [^;]*$"):
        await link.call("GET", "/v1/status", timeout_s=0.05)
    with pytest.raises(
        TimedOutError, match=r"alpha: no answer within 0\.05 s at .*; it may still be done$"
    ):
        await link.call("POST", "/v1/resync", timeout_s=0.05)


BUSY = (*problem(429, 1, "others ask so much"), ("retry-after", "1"))


async def test_a_busy_controller_is_asked_again_within_the_time_of_the_request(
    member: FakeMember, link: Http
) -> None:
    async def first() -> tuple[object, ...]:
        member.plant.pop("status")
        return (*problem(429, 1, "others ask so much"), ("retry-after", "0"))

    member.plant["status"] = first
    assert (await link.call("GET", "/v1/status", timeout_s=10.0))["controller"]["name"] == "alpha"
    assert member.asked == ["status", "status"]


@pytest.mark.parametrize("timeout_s", [0.4, None])
async def test_a_controller_that_stays_busy_is_said_to_be(
    member: FakeMember, link: Http, timeout_s: float | None
) -> None:
    link.limits = replace(link.limits, answer_seconds_max=0.4)
    member.plant["status"] = BUSY
    with pytest.raises(TimedOutError, match=r"^alpha: busy: .* no time .* within 0\.4 s"):
        await link.call("GET", "/v1/status", timeout_s=timeout_s)
    assert 2 <= member.asked.count("status") < 10
    assert not link.silent


async def test_a_command_that_met_a_limit_is_not_sent_again(member: FakeMember, link: Http) -> None:
    member.plant["suspend"] = BUSY
    with pytest.raises(DuplexdError, match="others ask so much"):
        await link.call("POST", "/v1/suspend", {}, 5.0)
    member.plant["status"] = problem(429, 1, "a limit of another kind")
    with pytest.raises(DuplexdError, match="another kind"):
        await link.call("GET", "/v1/status", timeout_s=5.0)
    assert member.asked == ["suspend", "status"]


async def test_a_long_answer_is_waited_for_as_long_as_there_are_signs_of_life(
    member: FakeMember, link: Http
) -> None:
    link.limits = replace(link.limits, answer_seconds_max=0.1)

    async def slow() -> None:
        await asyncio.sleep(0.3)

    member.plant["status"] = slow
    assert (await link.call_patiently("GET", "/v1/status"))["controller"]["name"] == "alpha"
    assert member.asked.count("healthz") > 2
    member.plant |= {"status": SILENT, "healthz": SILENT}
    with pytest.raises(TimedOutError, match=r"alpha: no answer within 0\.1 s at [^;]*$"):
        await link.call_patiently("GET", "/v1/status")
    member.plant["resync"] = SILENT
    with pytest.raises(
        TimedOutError, match=r"alpha: no answer within 0\.1 s at .*; it may still be done$"
    ):
        await link.call_patiently("POST", "/v1/resync")


async def test_a_stream_may_pause_as_long_as_there_are_signs_of_life(
    member: FakeMember, link: Http
) -> None:
    link.limits = replace(link.limits, answer_seconds_max=0.1)

    async def slow() -> tuple[int, bytes]:
        await asyncio.sleep(0.3)
        return 200, b'{"event":"a"}\n{"event":"b"}\n'

    member.plant["verify"] = slow
    assert [line["event"] async for line in link.lines_patiently("POST", "/v1/verify")] == [
        "a",
        "b",
    ]
    assert member.asked.count("healthz") > 2
    member.plant |= {"verify": SILENT, "healthz": SILENT}
    with pytest.raises(TimedOutError, match=r"alpha: no answer within 0\.1 s"):
        await anext(link.lines_patiently("POST", "/v1/verify"))


async def test_an_answer_without_end_is_cut_off(member: FakeMember, link: Http) -> None:
    link.limits = replace(link.limits, body_bytes_max=1000)
    member.plant["status"] = (200, b"x" * 1001)
    with pytest.raises(UnreachableError, match=r"more than 1000 bytes \(body_bytes_max\)"):
        await link.call("GET", "/v1/status")
    with pytest.raises(UnreachableError, match="a line without an end"):
        await anext(link.lines("GET", "/v1/status"))


async def test_what_is_not_http_is_an_error(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await reader.read()
        writer.close()
        done.set()

    server = await asyncio.start_unix_server(rubbish, tmp_path / "r.sock")
    link = Http("alpha", ControllerEntry(socket=tmp_path / "r.sock"))
    with pytest.raises(UnreachableError, match=r"^alpha: broke off"):
        await link.call("GET", "/v1/status")
    await done.wait()
    server.close()


async def test_lines_come_as_they_are_sent_and_closing_ends_the_connection(
    member: FakeMember, link: Http
) -> None:
    lines = link.lines("POST", "/v1/quiesce", {"targets": ["data"]})
    assert (await anext(lines))["event"] == "held"
    assert member.held
    await lines.aclose()
    assert member.lease is not None
    assert await member.lease == "owner gone"


async def test_a_line_that_failed_is_its_error(member: FakeMember, link: Http) -> None:
    member.plant["status"] = (
        200,
        b'{"event":"started"}\n{"event":"failed","problem":{"exit_code":3,"detail":"gone"}}\n',
    )
    lines = link.lines("GET", "/v1/status")
    assert await anext(lines) == {"event": "started"}
    with pytest.raises(NotFoundError, match="alpha: gone"):
        await anext(lines)


async def test_connections_are_opened_beforehand(member: FakeMember, link: Http) -> None:
    await link.warm(2)
    await link.warm(2)
    await asyncio.gather(link.call("GET", "/healthz"), link.call("GET", "/healthz"))
    assert member.connections == 2


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
_LINE = b'12\r\n{"event": "other"}\r\n'
_ENDS = {
    "before the head": b"",
    "within the head": _HEAD[:20],
    "after the head": _HEAD,
    "within a line": _HEAD + _LINE[:9],
    "after a line": _HEAD + _LINE,
    "rubbish for a head": b"\x00\xff\x00\xff\r\n\r\n",
    "rubbish for a part": _HEAD + b"zz\r\n",
}


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("sent", _ENDS.values(), ids=_ENDS)
async def test_wherever_a_connection_ends_it_is_said_plainly_and_nothing_else_is(
    tmp_path: Path, sent: bytes, reset: bool
) -> None:
    """As when the daemon is killed. What was not read of the request makes it a reset."""
    path, complaints = tmp_path / "ends.sock", list[object]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, about: complaints.append(about))

    async def end_each(listening: socket.socket) -> None:
        while True:
            client, _ = await loop.sock_accept(listening)
            with client:
                await loop.sock_recv(client, 1 if reset else 1 << 16)
                await loop.sock_sendall(client, sent)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.setblocking(False)
        serving = asyncio.ensure_future(end_each(listening))
        link = Http("alpha", ControllerEntry(socket=path))

        async def lines() -> None:
            async with aclosing(link.lines_patiently("GET", "/v1/events", {})) as found:
                async for _line in found:
                    pass

        for asked in (
            lambda: link.call("GET", "/v1/status", {}),
            lambda: link.call_patiently("GET", "/v1/status", {}),
            lines,
        ):
            with pytest.raises(UnreachableError, match=r"^alpha: ") as raised:
                await asked()
            assert raised.value.exit_code == 7
            if reset and b"zz" not in sent and not sent.startswith(b"\x00"):
                assert "reset by peer" in str(raised.value)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    gc.collect()
    assert not complaints


async def test_no_daemon_listens(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"alpha: no daemon answers at .*none\.sock"):
        await Http("alpha", ControllerEntry(socket=tmp_path / "none.sock")).call(
            "GET", "/v1/status"
        )
    with socket.socket() as deaf:  # the port is taken, so that nobody else listens there
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="alpha: no daemon answers at http://127"):
            await Http("alpha", ControllerEntry(url=url)).call("GET", "/v1/status")


# -------------------------------------------------------------------------------------------- TLS


PATIENCE_SECONDS = 60.0


class TlsMember(FakeMember):
    """The same over TLS, for clients of `certificates` only."""

    def __init__(self, certificates: Certificates, path: Path) -> None:
        super().__init__("alpha", path)
        self.certificates = certificates
        self.port = 0

    async def start(self) -> FakeMember:
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=self.certificates.client_ca
        )
        context.load_cert_chain(self.certificates.certificate, self.certificates.key)
        context.verify_mode = ssl.CERT_REQUIRED
        server = await asyncio.get_running_loop().create_server(
            self._connect,
            "127.0.0.1",
            0,
            ssl=context,
            ssl_handshake_timeout=PATIENCE_SECONDS,
        )
        self._server = server
        self.port = server.sockets[0].getsockname()[1]
        return self

    def entry(self, **fields: Any) -> ControllerEntry:
        client = self.certificates.client("backup")
        return ControllerEntry(
            **{
                "url": f"https://localhost:{self.port}",
                "certificate": client,
                "ca": self.certificates.client_ca,
            }
            | fields
        )


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[TlsMember]:
    found = TlsMember(Certificates(tmp_path), tmp_path / "unused")
    await found.start()
    yield found
    await found.stop()


async def ask(entry: ControllerEntry) -> dict[str, Any]:
    link = Http("alpha", entry, limits=ClientLimits(connect_seconds_max=PATIENCE_SECONDS))
    try:
        return await link.call("GET", "/healthz", timeout_s=PATIENCE_SECONDS)
    finally:
        link.close()


async def test_over_tls_with_a_client_certificate(tls: TlsMember) -> None:
    assert (await ask(tls.entry()))["status"] == "ok"


async def test_a_server_that_another_authority_vouches_for_is_not_trusted(
    tls: TlsMember, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    with pytest.raises(
        UnreachableError,
        match=r"alpha: no daemon answers .*no TLS connection: .* not trusted .*; ca must name",
    ):
        await ask(tls.entry(ca=other.client_ca))


async def test_a_client_that_another_authority_vouches_for_is_refused(
    tls: TlsMember, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UnreachableError, match=r"^alpha: "):
        await ask(tls.entry(certificate=Certificates(tmp_path / "other").client("backup")))


async def test_a_server_of_another_name_is_not_trusted(tls: TlsMember) -> None:
    await tls.stop()
    tls.certificates.renew_server("elsewhere.example")
    await tls.start()
    with pytest.raises(
        UnreachableError,
        match=r"no TLS connection: .* is for another name \(.*localhost.*\); write url",
    ):
        await ask(tls.entry())


async def test_files_that_are_not_certificates_are_named(tls: TlsMember, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for path in (tmp_path / "empty.pem", tmp_path / "none.pem"):
        with pytest.raises(
            ConfigurationError, match=rf"^controllers\.alpha\.certificate: .*{path.name}"
        ):
            await ask(tls.entry(certificate=path))

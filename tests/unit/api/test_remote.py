"""The TLS listener: who gets in, what strangers may cost, what happens when a peer goes."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from duplexd.api import remote
from duplexd.api.server import Admission
from duplexd.limits import ApiLimits
from duplexd.net import tls
from tests.support.certificates import HOST, Certificates, ask, open_answer
from tests.support.control_plane import ControlPlane
from tests.support.daemon import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BACKUP, MONITOR = "backup.example", "monitor.example"
TCP_OPTIONS = ("NODELAY", "USER_TIMEOUT", "KEEPIDLE", "KEEPCNT", "KEEPINTVL")
QUIESCE = ("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": 10.0})
PATIENCE_SECONDS = 60.0
NEVER_SECONDS = 1e6


class Remote:
    """A control plane with a TLS listener, and what its clients need."""

    def __init__(self, directory: Path, limits: ApiLimits) -> None:
        self.port = free_port()
        self.certificates = Certificates(directory)
        self.tls = self.certificates.settings(self.port, operate=(BACKUP,), observe=(MONITOR,))
        self.plane = ControlPlane(directory / "c.sock", limits=limits, tls=self.tls)
        self.backup = self.certificates.context(self.certificates.client(BACKUP))

    def ask(
        self, method: str, path: str, body: object = None, context: ssl.SSLContext | None = None
    ) -> tuple[int, object]:
        return ask(self.port, context or self.backup, method, path, body)

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), PATIENCE_SECONDS)

    def connect_tls(self) -> ssl.SSLSocket:
        return self.backup.wrap_socket(self.connect(), server_hostname=HOST)

    def keep_open(self) -> contextlib.closing[http.client.HTTPSConnection]:
        return contextlib.closing(
            http.client.HTTPSConnection(
                HOST, self.port, timeout=PATIENCE_SECONDS, context=self.backup
            )
        )

    def admit(self, **changed: object) -> None:
        settings = type(self.plane.settings)(socket=self.plane.path, tls={**self.tls, **changed})
        self.plane.call(lambda: self.plane.server.admit(Admission.of(settings)))

    def wait_for_connections(self, count: int) -> None:
        """Until the server knows of so many."""
        eventually(lambda: len(self.plane.server.connections) == count)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Remote]]:
    """Starts a control plane with a TLS listener; keywords are fields of ApiLimits."""
    started: list[Remote] = []

    def start(**limits: float) -> Remote:
        wanted = {"handshake_seconds_max": PATIENCE_SECONDS, **limits}
        started.append(Remote(tmp_path, ApiLimits(**wanted)))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.plane.stop()


@pytest.fixture
def there(serve: Callable[..., Remote]) -> Remote:
    return serve()


def client_hello() -> bytes:
    """The first bytes of a client that will say no more."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(sock: socket.socket) -> bool:
    """Whether the other side closed it without a byte of HTTP."""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        return sock.recv(1) == b""
    return True


# ------------------------------------------------------------------------------------ who gets in


def test_a_client_with_a_certificate_and_a_name_gets_in(there: Remote) -> None:
    assert there.ask("GET", "/readyz") == (200, {"status": "ready", "degraded": []})


def test_one_connection_serves_many_requests(there: Remote) -> None:
    with there.keep_open() as client:
        client.connect()
        sock = client.sock
        for _ in range(3):
            client.request("GET", "/v1/status")
            assert client.getresponse().read()
        assert client.sock is sock


def refused(there: Remote, client: Path | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The reason in the log; the client is cut off without an answer."""
    logged: list[dict[str, str]] = []
    monkeypatch.setattr(
        remote,
        "log",
        SimpleNamespace(info=lambda event, **fields: logged.append({"event": event, **fields})),
    )
    with pytest.raises(OSError):
        there.ask("GET", "/healthz", context=there.certificates.context(client))
    eventually(lambda: bool(logged))
    (line,) = logged
    assert line["event"] == "control client refused"
    assert line["address"].startswith(f"{HOST} port ")
    return line["reason"]


def test_a_client_without_a_certificate_is_refused(
    there: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(there, None, monkeypatch) == "peer did not return a certificate"


def test_a_certificate_of_another_authority_is_refused(
    there: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = there.certificates.client(BACKUP, trustme.CA())
    assert refused(there, client, monkeypatch) == "unable to get local issuer certificate"


def test_an_expired_certificate_is_refused(there: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert (
        refused(there, there.certificates.client(BACKUP, expires=yesterday), monkeypatch)
        == "certificate has expired"
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_served(there: Remote, version: ssl.TLSVersion) -> None:
    context = there.certificates.context(there.certificates.client(MONITOR))
    context.minimum_version = context.maximum_version = version
    assert there.ask("GET", "/v1/status", context=context)[0] == 200


def test_nothing_older_is_served(there: Remote) -> None:
    assert there.plane.settings.tls
    assert tls.server_context(there.plane.settings.tls).minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_name_in_neither_list_has_no_role(there: Remote) -> None:
    context = there.certificates.context(there.certificates.client("stranger.example"))
    assert there.ask("GET", "/healthz", context=context)[0] == 200
    status, problem = there.ask("GET", "/v1/status", context=context)
    assert status == 403
    assert "client certificate 'stranger.example' has no role here" in str(problem)


def test_the_alternative_name_of_a_certificate_counts_too(there: Remote) -> None:
    context = there.certificates.context(there.certificates.client("A person", alternative=BACKUP))
    assert there.ask("POST", "/v1/suspend", {"targets": ["db"]}, context)[0] == 200


def test_a_client_finds_out_a_server_of_another_name(there: Remote) -> None:
    there.certificates.renew_server("elsewhere.example")
    there.admit()
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        there.ask("GET", "/healthz")


def test_plain_http_is_closed_without_an_answer(there: Remote) -> None:
    with there.connect() as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended(sock)
    assert there.ask("GET", "/healthz")[0] == 200


# ------------------------------------------------------------------------------- what it may cost


def test_a_slow_handshake_is_broken_off(serve: Callable[..., Remote]) -> None:
    there = serve(handshake_seconds_max=0.2)
    with there.connect() as silent, there.connect() as half:
        with contextlib.suppress(ConnectionError):  # it may be broken off already
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert ended(silent)
        assert ended(half)


def test_strangers_wait_for_places_and_take_none_from_the_unix_socket(
    serve: Callable[..., Remote],
) -> None:
    there = serve(handshakes_max=2, connections_max=2, local_connections_min=0)
    strangers = [there.connect() for _ in range(6)]
    assert there.plane.ask("GET", "/healthz")[0] == 200
    for stranger in strangers:
        stranger.close()
    assert there.ask("GET", "/healthz")[0] == 200  # the places are free again


def test_handshakes_are_begun_so_often_and_no_more(serve: Callable[..., Remote]) -> None:
    there = serve(handshakes_per_second_max=20)
    begun = time.monotonic()
    for _ in range(6):
        assert there.ask("GET", "/healthz")[0] == 200
    assert time.monotonic() - begun >= 5 / 20 - 0.005  # timers count milliseconds


def test_silent_strangers_take_no_place_of_a_handshake(serve: Callable[..., Remote]) -> None:
    there = serve(handshakes_max=1)
    strangers = [there.connect() for _ in range(20)]
    assert there.ask("GET", "/healthz")[0] == 200
    for stranger in strangers:
        stranger.close()


def test_of_too_many_silent_strangers_the_oldest_are_dropped(serve: Callable[..., Remote]) -> None:
    there = serve(silent_max=3)
    strangers = [there.connect() for _ in range(4)]
    assert ended(strangers[0])
    strangers[0].close()
    for stranger in strangers[1:]:
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(1)
        stranger.close()


def test_a_handshake_that_does_not_go_on_gives_way(serve: Callable[..., Remote]) -> None:
    there = serve(handshakes_max=2, handshake_seconds_min=0.1)
    hello = client_hello()
    strangers = [there.connect() for _ in range(2)]
    for stranger in strangers:
        stranger.sendall(hello)
        assert stranger.recv(1), "the server has answered: it has begun"
    assert there.ask("GET", "/healthz")[0] == 200
    for stranger in strangers:
        stranger.close()


def test_connections_beyond_the_limit_are_refused(serve: Callable[..., Remote]) -> None:
    there = serve(connections_max=2, local_connections_min=0)
    with there.plane.connect(), there.connect_tls():
        there.wait_for_connections(2)
        with there.connect_tls() as one_more:
            assert one_more.recv(100).startswith(b"HTTP/1.1 503")
    there.wait_for_connections(0)
    assert there.ask("GET", "/healthz")[0] == 200


def test_clients_over_tls_leave_room_for_the_unix_socket(serve: Callable[..., Remote]) -> None:
    there = serve(connections_max=3, local_connections_min=1)
    with there.connect_tls(), there.connect_tls():
        there.wait_for_connections(2)
        with there.connect_tls() as one_more:
            assert one_more.recv(100).startswith(b"HTTP/1.1 503")
        there.wait_for_connections(2)
        assert there.plane.ask("GET", "/healthz")[0] == 200


def test_a_connection_that_sends_no_request_is_dropped(serve: Callable[..., Remote]) -> None:
    there = serve(request_seconds_max=0.2)
    with there.connect_tls() as sock:
        assert ended(sock)


def test_a_silent_machine_is_noticed_by_the_kernel() -> None:
    with socket.socket() as sock:
        remote.watch_for_silence(sock, 10)
        tcp = {
            name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
            for name in TCP_OPTIONS
        }
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert tcp["NODELAY"]
    assert tcp["USER_TIMEOUT"] == 10_000
    assert tcp["KEEPIDLE"] + tcp["KEEPCNT"] * tcp["KEEPINTVL"] <= 10


def test_little_is_received_at_once_so_that_little_is_decrypted_at_once(there: Remote) -> None:
    with there.connect_tls():
        there.wait_for_connections(1)
        (connection,) = there.plane.server.connections
        sock = connection._transport.get_extra_info("socket")
        received = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert received <= 2 * remote.RECEIVE_BYTES, "the kernel doubles it for its own use"


# -------------------------------------------------------------------------------- holds and peers


def test_closing_the_connection_ends_the_hold(there: Remote) -> None:
    there.plane.controller.hold_scale = 1000.0
    with open_answer(there.port, there.backup, *QUIESCE) as answer:
        lease = json.loads(answer.readline())["lease"]["id"]
        assert there.plane.controller.leases[lease].owner == f"certificate {BACKUP}"
        held = there.plane.controller.leases[lease]
    eventually(held.ended.done)
    assert held.ended.result() == "owner gone"


def test_a_connection_and_its_hold_end_with_their_certificate(there: Remote) -> None:
    there.plane.controller.hold_scale = 1000.0
    soon = datetime.now(UTC) + timedelta(seconds=5)
    context = there.certificates.context(there.certificates.client(BACKUP, expires=soon))
    with (
        there.keep_open() as another,
        open_answer(there.port, context, *QUIESCE) as answer,
    ):
        another.request("GET", "/v1/status")
        another.getresponse().read()
        lease = json.loads(answer.readline())["lease"]["id"]
        held = there.plane.controller.leases[lease]
        eventually(held.ended.done)
        assert held.ended.result() == "owner gone"
        assert datetime.now(UTC) >= soon.replace(microsecond=0)
        there.wait_for_connections(1)
        another.request("GET", "/v1/status")
        assert another.getresponse().status == 200


def test_a_peer_that_reads_nothing_keeps_no_hold_beyond_its_deadline(there: Remote) -> None:
    with there.connect_tls() as sock:
        body = json.dumps({"targets": ["db"], "hold_s": 0.3})
        head = f"POST /v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall((head + body).encode())
        eventually(lambda: bool(there.plane.controller.leases))
        (held,) = there.plane.controller.leases.values()
        eventually(held.ended.done)
        assert held.ended.result() == "deadline"


def test_stopping_ends_connections_and_handshakes(there: Remote) -> None:
    with there.connect() as stranger, there.connect_tls() as client:
        there.plane.stop()
        assert ended(stranger)
        assert ended(client)
    with pytest.raises(ConnectionRefusedError):
        there.connect()


# ---------------------------------------------------------------------------------------- renewal


def test_a_renewed_certificate_is_shown_from_then_on(there: Remote) -> None:
    def shown() -> bytes | None:
        with there.connect_tls() as sock:
            return sock.getpeercert(binary_form=True)

    before = shown()
    there.certificates.renew_server()
    assert shown() == before
    there.admit()
    assert shown() != before


def test_a_name_that_lost_its_role_loses_its_connection(serve: Callable[..., Remote]) -> None:
    there = serve(request_seconds_max=NEVER_SECONDS)
    with there.keep_open() as client:
        client.request("GET", "/v1/status")
        assert client.getresponse().read()
        there.admit(operate=["else.example"])
        assert ended(client.sock)
    assert there.ask("POST", "/v1/suspend", {"targets": ["db"]})[0] == 403


def test_a_name_that_may_do_more_connects_anew(serve: Callable[..., Remote]) -> None:
    there = serve(request_seconds_max=NEVER_SECONDS)
    there.admit(operate=["else.example"], observe=[BACKUP])
    with there.keep_open() as client:
        client.request("GET", "/v1/status")
        assert client.getresponse().read()
        there.admit()
        assert ended(client.sock)


def test_a_name_that_lost_its_role_during_the_handshake_does_not_get_it(there: Remote) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = there.backup.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with there.connect() as sock:

        def receive() -> None:
            sock.sendall(outgoing.read())
            data = sock.recv(1 << 16)
            assert data
            incoming.write(data)

        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        receive()  # the server has begun, and waits for the certificate
        there.admit(operate=["else.example"])
        insist(client.do_handshake, receive)
        client.write(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 403 " in insist(client.read, receive).splitlines()[0]


def insist(step: Callable[[], Any], receive: Callable[[], None]) -> Any:
    """Do it, with as much more from the other side as it takes."""
    while True:
        with contextlib.suppress(ssl.SSLWantReadError):
            return step()
        receive()


@pytest.mark.parametrize("trusted", ["another", "both"])
def test_an_authority_that_is_removed_takes_the_connections_with_it(
    serve: Callable[..., Remote], tmp_path: Path, trusted: str
) -> None:
    there = serve(request_seconds_max=NEVER_SECONDS)
    path, other = tmp_path / "others.pem", trustme.CA().cert_pem.bytes()
    both = there.certificates.client_ca.read_bytes() + other
    path.write_bytes(both if trusted == "both" else other)
    with there.keep_open() as client:
        client.request("GET", "/v1/status")
        assert client.getresponse().read()
        there.admit(client_ca=path)
        if trusted == "another":
            assert ended(client.sock)
        else:
            client.request("GET", "/v1/status")
            assert client.getresponse().status == 200


def test_an_authority_that_is_removed_during_the_handshake_lets_nobody_in(there: Remote) -> None:
    other = there.certificates.directory / "other.pem"
    other.write_bytes(trustme.CA().cert_pem.bytes())
    with there.connect() as sock:
        sock.sendall(client_hello())
        assert sock.recv(1)  # the server has begun
        there.admit(client_ca=other)
        while sock.recv(1 << 16):  # it ends, long before the time for a handshake does
            pass
    assert len(there.plane.server.connections) == 0


def test_a_name_that_keeps_its_role_keeps_its_connection(there: Remote) -> None:
    there.plane.controller.hold_scale = 1000.0
    with open_answer(there.port, there.backup, *QUIESCE) as answer:
        lease = json.loads(answer.readline())["lease"]["id"]
        there.admit(observe=["else.example"])
        there.plane.ask("DELETE", f"/v1/leases/{lease}")
        assert json.loads(answer.readlines()[-1])["reason"] == "released"

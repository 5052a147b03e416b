"""What the connections of the HTTP API may cost: each limit is met."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.support.control_plane import ControlPlane

    Serve = Callable[..., ControlPlane]

PATIENCE_SECONDS = 60.0
PERIOD_SECONDS = 0.2
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def read_all(sock: socket.socket) -> bytes:
    """To the end, which is a reset where something was sent that nobody read."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(65536):
            data += more
    return data


def send(sock: socket.socket, data: bytes) -> None:
    """The server may close before the end."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(data)


def refused(plane: ControlPlane, sent: bytes) -> tuple[int, int]:
    """Status and exit code of the answer, after which the connection is closed."""
    with plane.connect() as sock:
        send(sock, sent)
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    return int(head.split()[1]), json.loads(body)["exit_code"]


def wait_for_connections(plane: ControlPlane, count: int) -> None:
    """Until the server knows of so many."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(plane.server.connections) != count:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_connections_beyond_the_limit_are_refused(serve: Serve) -> None:
    plane = serve(connections_max=4, request_seconds_max=PATIENCE_SECONDS)
    crowd = [plane.connect() for _ in range(4)]
    assert refused(plane, b"") == (503, 7)
    for sock in crowd:
        sock.close()
    wait_for_connections(plane, 0)
    assert plane.ask("GET", "/healthz")[0] == 200


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", HEALTH])
def test_a_connection_without_a_request_is_dropped(serve: Serve, sent: bytes) -> None:
    plane = serve(request_seconds_max=PERIOD_SECONDS)
    with plane.connect() as sock:
        send(sock, sent)
        answers = read_all(sock)
    assert answers.count(b"HTTP/1.1") == bool(sent.strip())
    wait_for_connections(plane, 0)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HT",
        b"POST /v1/suspend HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
        b"POST /v1/suspend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
def test_a_request_that_is_not_complete_in_time_is_refused(serve: Serve, sent: bytes) -> None:
    assert refused(serve(request_seconds_max=PERIOD_SECONDS), sent) == (408, 8)


def test_the_second_half_of_a_pipelined_request_has_its_time_too(serve: Serve) -> None:
    plane = serve(request_seconds_max=PERIOD_SECONDS)
    with plane.connect() as sock:
        send(sock, HEALTH + HEALTH[:20])
        data = read_all(sock)
    assert [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]] == [b"200", b"408"]


def test_a_request_that_trickles_in_has_no_more_time_than_another(serve: Serve) -> None:
    plane = serve(request_seconds_max=PERIOD_SECONDS)
    with plane.connect() as sock:
        began = time.monotonic()
        sock.settimeout(0.01)
        data = b""
        while not data and time.monotonic() < began + PATIENCE_SECONDS:
            send(sock, b"X")
            with contextlib.suppress(TimeoutError):
                data = sock.recv(65536)
    assert data.startswith(b"HTTP/1.1 4")


def test_a_hold_does_not_count_as_idle(serve: Serve) -> None:
    plane = serve(request_seconds_max=0.05, heartbeat_seconds=0.05)
    plane.controller.hold_scale = 1000.0
    lines = plane.lines("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": 10})
    lease = next(lines)["lease"]["id"]
    for _ in range(5):
        assert next(lines)["event"] == "holding"
    plane.ask("DELETE", f"/v1/leases/{lease}")
    assert list(lines)[-1]["reason"] == "released"


def test_a_slow_reader_of_a_long_answer_is_not_idle(serve: Serve) -> None:
    """It reads a little again and again, much sooner than it must, and all of it takes longer."""
    plane = serve(request_seconds_max=4 * PERIOD_SECONDS)
    plane.controller.cuts.states["0" * 16] = "ready"
    with plane.connect() as sock:
        path = f"/v1/cuts/{'0' * 16}/volumes/data?length={1 << 20}"
        send(sock, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        size = 0
        while size < 1 << 20 and (piece := sock.recv(128 << 10)):
            size += len(piece)
            time.sleep(PERIOD_SECONDS)
    assert size >= 1 << 20


def test_a_reader_that_takes_nothing_of_its_answer_is_dropped(serve: Serve) -> None:
    plane = serve(request_seconds_max=PERIOD_SECONDS)
    plane.controller.cuts.states["0" * 16] = "ready"
    with plane.connect() as sock:
        path = f"/v1/cuts/{'0' * 16}/volumes/data?length={1 << 20}"
        send(sock, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(1)
        wait_for_connections(plane, 0)


@pytest.mark.parametrize("size", [70_000, 1_000_000])
def test_a_head_beyond_the_limit_is_refused(plane: ControlPlane, size: int) -> None:
    sent = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * size
    assert refused(plane, sent) == (400, 2)


def test_a_body_without_end_is_cut_off(serve: Serve) -> None:
    plane = serve(body_bytes_max=1000, drain_bytes_max=100_000, header_bytes_max=1000)
    head = b"POST /v1/suspend HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
    assert refused(plane, head + b"x" * 200_000) == (413, 2)


def test_requests_ahead_of_their_answers_are_bounded(serve: Serve) -> None:
    plane = serve(pipelined_requests_max=4)
    with plane.connect() as sock:
        send(sock, HEALTH * 100)
        answers = [part[:3] for part in read_all(sock).split(b"HTTP/1.1 ")[1:]]
    assert answers == [b"200"] * 4 + [b"400"]


def test_a_stream_whose_reader_takes_nothing_is_cut_off(serve: Serve) -> None:
    plane = serve(unread_seconds_max=PERIOD_SECONDS, events_queued_max=1 << 20)
    with plane.connect() as sock:
        send(sock, b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1)

        def much() -> None:
            for _ in range(2000):
                plane.controller.emit("something", detail="x" * 1000)

        plane.call(much)
        wait_for_connections(plane, 0)


def test_who_asks_too_much_is_answered_429_and_when_to_come_again(serve: Serve) -> None:
    plane = serve(look_seconds_max=PERIOD_SECONDS, look_share=1e-6, operator_credit_seconds=0.0)
    assert plane.ask("GET", "/healthz")[0] == 200
    with plane.connect() as sock:
        send(sock, HEALTH.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 1" in head
    assert "look_seconds_max" in json.loads(body)["detail"]
    assert plane.ask("DELETE", "/v1/leases/none")[0] == 404, "a command waits for no turn"

"""What the connections of the control socket may cost."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.api import connection, requests

if TYPE_CHECKING:
    import socket

    from tests.support.control_plane import ControlPlane

PATIENCE_SECONDS = 60.0


def read_all(sock: socket.socket) -> bytes:
    """To the end, which is a reset where something was sent that nobody read."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(65536):
            data += more
    return data


def wait_for_connections(plane: ControlPlane, count: int) -> None:
    """Until the server knows of so many."""
    assert plane.server._server is not None
    state = plane.server._server.server_state
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(state.connections) != count:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_connections_beyond_the_limit_are_told_so(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONTROL_CONNECTIONS_MAX", 4)
    monkeypatch.setattr(connection, "CONTROL_REQUEST_SECONDS_MAX", PATIENCE_SECONDS)
    crowd = [plane.connect() for _ in range(4)]
    with plane.connect() as one_more:
        head, _, body = read_all(one_more).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert json.loads(body)["exit_code"] == 7
    for sock in crowd:
        sock.close()
    wait_for_connections(plane, 0)
    assert plane.ask("GET", "/healthz")[0] == 200


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea"]
)
def test_a_connection_that_sends_no_whole_request_is_dropped(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "CONTROL_REQUEST_SECONDS_MAX", 0.2)
    with plane.connect() as sock:
        with contextlib.suppress(BrokenPipeError):  # it may be dropped already
            sock.sendall(sent)
        read_all(sock)
    wait_for_connections(plane, 0)


def test_a_body_that_does_not_come_is_a_time_out(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "CONTROL_REQUEST_SECONDS_MAX", 0.2)
    with plane.connect() as sock:
        sock.sendall(b"POST /v1/suspend HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body)["exit_code"] == 8


def test_a_hold_does_not_count_as_idle(plane: ControlPlane) -> None:
    plane.controller.hold_scale = 1000.0
    lines = plane.lines("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": 10})
    lease = next(lines)["lease"]["id"]
    assert plane.server._server is not None
    (held,) = plane.server._server.server_state.connections
    assert isinstance(held, connection.ControlProtocol)

    def a_period_is_over() -> None:
        assert held._timer is not None
        held._timer.cancel()
        held._check_idle()

    for _ in range(3):
        plane.call(a_period_is_over)
    plane.ask("DELETE", f"/v1/leases/{lease}")
    assert list(lines)[-1]["reason"] == "released"


def test_a_header_beyond_the_limit_is_refused(plane: ControlPlane) -> None:
    with plane.connect() as sock:
        with contextlib.suppress(BrokenPipeError):  # it may know enough before the end
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000)
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["exit_code"] == 2

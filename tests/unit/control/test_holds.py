"""A hold lasts as long as its connection, and no longer."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.control.models.lines import Held, HoldEnded, Holding

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable

    from tests.support.control_plane import ControlPlane

RELEASE_SECONDS_MAX = 0.1


def hold(plane: ControlPlane, hold_s: float = 10.0) -> tuple[http.client.HTTPResponse, str]:
    answer = plane.open("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": hold_s})
    assert answer.status == 200
    return answer, Held.model_validate_json(answer.readline()).lease.id


def wait_for(condition: Callable[[], object], seconds: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_hold_has_heartbeats_and_ends_void_at_its_deadline(plane: ControlPlane) -> None:
    lines = list(plane.lines("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": 0.6}))
    assert [line["event"] for line in lines] == ["held", "holding", "holding", "ended"]
    assert Holding.model_validate(lines[1]).remaining_s == pytest.approx(0.35, abs=0.1)
    ended = HoldEnded.model_validate(lines[-1])
    assert (ended.reason, ended.verdict) == ("deadline", "void")


def test_a_released_hold_ends_at_once_and_not_void(plane: ControlPlane) -> None:
    answer, lease = hold(plane)
    assert plane.ask("DELETE", f"/v1/leases/{lease}") == (200, {"lease": lease, "released": True})
    last = json.loads(answer.read().splitlines()[-1])
    assert (last["reason"], last["verdict"]) == ("released", "consistent")
    assert plane.ask("DELETE", f"/v1/leases/{lease}") == (200, {"lease": lease, "released": False})


def test_a_suspend_by_the_lease_ends_the_hold_and_not_void(plane: ControlPlane) -> None:
    answer, lease = hold(plane)
    assert plane.ask("POST", "/v1/suspend", {"targets": ["db"], "lease": lease})[0] == 200
    last = json.loads(answer.read().splitlines()[-1])
    assert (last["reason"], last["verdict"]) == ("suspended", "consistent")


def test_closing_the_connection_releases_at_once_and_loses_the_lease(plane: ControlPlane) -> None:
    answer, lease = hold(plane)
    closed_at = time.monotonic()
    answer.close()
    wait_for(lambda: lease in plane.controller.released_at)
    assert plane.controller.released_at[lease] - closed_at < RELEASE_SECONDS_MAX
    assert plane.controller.leases[lease].ended.result() == "owner gone"
    assert plane.controller.leases[lease].lost
    assert plane.ask("POST", "/v1/suspend", {"targets": ["db"], "lease": lease})[0] == 410


@pytest.mark.parametrize("extra", [b"x", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100_000])
def test_an_owner_that_sends_more_and_dies_is_noticed_as_well(plane: ControlPlane, extra: bytes) -> None:
    sock = plane.connect()
    body = json.dumps({"targets": ["db"], "hold_s": 10}).encode()
    sock.sendall(b"POST /v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert b"held" in sock.recv(4096)
    with contextlib.suppress(BrokenPipeError):  # it is cut off on the first bytes
        sock.sendall(extra)
    sent_at = time.monotonic()
    sock.close()
    wait_for(lambda: "L1" in plane.controller.released_at)
    assert plane.controller.released_at["L1"] - sent_at < RELEASE_SECONDS_MAX


def test_a_pipelined_request_behind_a_hold_does_not_hide_that_the_owner_died(plane: ControlPlane) -> None:
    sock = plane.connect()
    body = json.dumps({"targets": ["db"], "hold_s": 10}).encode()
    request = b"POST /v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    sock.sendall(request + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")  # in one piece: both are read at once
    wait_for(lambda: bool(plane.controller.leases), 5.0)
    died_at = time.monotonic()
    sock.close()
    wait_for(lambda: not plane.server.actions.holds)
    for released_at in plane.controller.released_at.values():
        assert released_at - died_at < RELEASE_SECONDS_MAX
    assert plane.ask("GET", "/v1/status")[1]["leases"] == []


def test_an_owner_that_goes_while_writes_drain_holds_nothing(plane: ControlPlane) -> None:
    plane.controller.drain_s = 5.0
    sock = plane.connect()
    body = json.dumps({"targets": ["db"], "hold_s": 10}).encode()
    sock.sendall(b"POST /v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    time.sleep(0.1)
    sock.close()
    wait_for(lambda: plane.controller.cancelled == ["quiesce"], 0.5)
    assert plane.ask("GET", "/v1/status")[1]["leases"] == []


def test_a_hold_that_the_controller_refuses_is_a_problem_and_not_a_stream(plane: ControlPlane) -> None:
    _answer, lease = hold(plane)
    status, problem = plane.ask("POST", "/v1/quiesce", {"targets": ["data"]})
    assert (status, problem["exit_code"]) == (409, 5)
    assert lease in problem["detail"]
    _answer.close()


def test_stopping_releases_every_hold_and_says_so(plane: ControlPlane) -> None:
    answer, lease = hold(plane)
    events = plane.open("GET", "/v1/events")
    begun = time.monotonic()
    plane.stop()
    assert time.monotonic() - begun < 1.5
    last: Any = json.loads(answer.read().splitlines()[-1])
    assert (last["reason"], last["verdict"]) == ("stopping", "void")
    assert plane.controller.leases[lease].lost
    assert b"hold ended" in events.read()
    assert not plane.path.exists()


def test_stopping_does_not_wait_for_a_resync_or_a_verify(plane: ControlPlane) -> None:
    plane.controller.resync_s = 30.0
    plane.controller.verify_steps = 3000
    resync = plane.open("POST", "/v1/resync", {"targets": ["db"], "wait": True})
    verify = plane.open("POST", "/v1/verify", {"targets": ["db"], "progress": True})
    begun = time.monotonic()
    plane.stop()
    assert time.monotonic() - begun < 3
    assert set(plane.controller.cancelled) == {"resync_wait", "verify"}
    resync.close()
    verify.close()


def test_a_verify_whose_reader_went_away_is_stopped(plane: ControlPlane) -> None:
    plane.controller.verify_steps = 3000
    for progress in (True, False):
        plane.controller.cancelled.clear()
        sock = plane.connect()
        body = json.dumps({"targets": ["db"], "progress": progress}).encode()
        sock.sendall(b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.05)
        sock.close()
        wait_for(lambda: plane.controller.cancelled == ["verify"])


def test_a_reader_of_events_that_cannot_keep_up_is_disconnected(plane: ControlPlane) -> None:
    sock = plane.connect()
    sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(0.05)
    assert len(plane.server.actions.hub.listeners) == 1

    def flood() -> None:
        for _ in range(50):
            plane.controller.emit("noise", text="x" * 1000)

    deadline = time.monotonic() + 10
    while plane.server.actions.hub.listeners and time.monotonic() < deadline:
        plane.call(flood)
    assert plane.server.actions.hub.overflows == 1
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            received += data
    sock.close()
    assert not received.endswith(b"0\r\n\r\n")  # not the end of a whole answer
    numbers = [
        json.loads(line)["sequence"] for line in received.split(b"\r\n") if line.startswith(b'{"event":"noise"') and line.endswith(b"}\n")
    ]
    assert numbers == list(range(1, len(numbers) + 1))  # what it got has no gap
    assert plane.ask("GET", "/healthz")[0] == 200

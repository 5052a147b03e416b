"""A hold lasts as long as its connection, and no longer."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.api.models.line_model import Held, HoldEnded, Holding

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable

    from tests.support.control_plane import ControlPlane

PATIENCE_SECONDS = 60.0
NEVER_SECONDS = 3600.0
ENDLESS_STEPS = 1_000_000


@pytest.fixture
def unhurried(serve: Callable[..., ControlPlane]) -> ControlPlane:
    """Nothing ends by itself, and no line is due that would show that its reader is gone.

    So what is noticed is noticed at once.
    """
    plane = serve(heartbeat_seconds=NEVER_SECONDS, stop_seconds_max=NEVER_SECONDS)
    plane.controller.hold_scale = NEVER_SECONDS
    return plane


def hold(plane: ControlPlane, hold_s: float = 10.0) -> tuple[http.client.HTTPResponse, str]:
    answer = plane.open("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": hold_s})
    assert answer.status == 200
    return answer, Held.model_validate_json(answer.readline()).lease.id


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_hold_ends_void_at_its_deadline(plane: ControlPlane) -> None:
    first, *_, last = plane.lines("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": 0.3})
    assert first["event"] == "held"
    ended = HoldEnded.model_validate(last)
    assert (ended.reason, ended.verdict) == ("deadline", "void")


def test_a_hold_has_heartbeats_that_say_how_long_it_lasts(
    serve: Callable[..., ControlPlane],
) -> None:
    plane = serve(heartbeat_seconds=0.02)
    plane.controller.hold_scale = NEVER_SECONDS
    heard = plane.lines("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": 10})
    lease = next(heard)["lease"]["id"]
    said = [Holding.model_validate(next(heard)).remaining_s for _ in range(3)]
    left = plane.controller.leases[lease].deadline - time.monotonic()
    assert 10 >= said[0] >= said[1] >= said[2] >= left - 0.01
    plane.ask("DELETE", f"/v1/leases/{lease}")
    assert [line["event"] for line in heard][-1] == "ended"


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


def test_closing_the_connection_releases_at_once_and_loses_the_lease(
    unhurried: ControlPlane,
) -> None:
    plane = unhurried
    answer, lease = hold(plane)
    answer.close()
    wait_for(lambda: lease in plane.controller.released_at)
    assert plane.controller.leases[lease].ended.result() == "owner gone"
    assert plane.controller.leases[lease].lost
    assert plane.ask("POST", "/v1/suspend", {"targets": ["db"], "lease": lease})[0] == 410


@pytest.mark.parametrize(
    "extra", [b"x", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100_000]
)
def test_an_owner_that_sends_more_and_dies_is_noticed_as_well(
    unhurried: ControlPlane, extra: bytes
) -> None:
    plane = unhurried
    sock = plane.connect()
    body = json.dumps({"targets": ["db"], "hold_s": 10}).encode()
    sock.sendall(
        b"POST /v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    assert b"held" in sock.recv(4096)
    with contextlib.suppress(BrokenPipeError):  # it is cut off on the first bytes
        sock.sendall(extra)
    sock.close()
    wait_for(lambda: "L1" in plane.controller.released_at)
    assert plane.controller.leases["L1"].ended.result() == "owner gone"


def test_a_pipelined_request_behind_a_hold_does_not_hide_that_the_owner_died(
    unhurried: ControlPlane,
) -> None:
    plane = unhurried
    sock = plane.connect()
    body = json.dumps({"targets": ["db"], "hold_s": 10}).encode()
    request = (
        b"POST /v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    sock.sendall(
        request + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    )  # in one piece: both are read at once
    wait_for(lambda: plane.controller.leases)
    sock.close()
    wait_for(lambda: not plane.server.actions.holds)
    assert [lease.ended.result() for lease in plane.controller.leases.values()] == ["owner gone"]
    assert plane.ask("GET", "/v1/status")[1]["leases"] == []


def test_an_owner_that_goes_while_writes_drain_holds_nothing(plane: ControlPlane) -> None:
    plane.controller.drain_s = NEVER_SECONDS
    sock = plane.connect()
    body = json.dumps({"targets": ["db"], "hold_s": 10}).encode()
    sock.sendall(
        b"POST /v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    wait_for(lambda: plane.controller.draining)
    sock.close()
    wait_for(lambda: plane.controller.cancelled == ["quiesce"])
    assert plane.ask("GET", "/v1/status")[1]["leases"] == []


def test_a_hold_that_the_controller_refuses_is_a_problem_and_not_a_stream(
    unhurried: ControlPlane,
) -> None:
    plane = unhurried
    _answer, lease = hold(plane)
    status, problem = plane.ask("POST", "/v1/quiesce", {"targets": ["data"]})
    assert (status, problem["exit_code"]) == (409, 5)
    assert lease in problem["detail"]
    _answer.close()


def test_stopping_releases_every_hold_and_says_so(unhurried: ControlPlane) -> None:
    plane = unhurried
    answer, lease = hold(plane)
    events = plane.open("GET", "/v1/events")
    plane.stop()  # which waits for all answers, and these end
    last: Any = json.loads(answer.read().splitlines()[-1])
    assert (last["reason"], last["verdict"]) == ("stopping", "void")
    assert plane.controller.leases[lease].lost
    assert b"hold ended" in events.read()
    assert not plane.path.exists()


def test_stopping_does_not_wait_for_a_resync_or_a_verify(plane: ControlPlane) -> None:
    plane.controller.resync_s = NEVER_SECONDS
    plane.controller.verify_steps = ENDLESS_STEPS
    resync = plane.open("POST", "/v1/resync", {"targets": ["db"], "wait": True})
    verify = plane.open("POST", "/v1/verify", {"targets": ["db"], "progress": True})
    plane.stop()
    assert set(plane.controller.cancelled) == {"resync_wait", "verify"}
    resync.close()
    verify.close()


def test_a_verify_whose_reader_went_away_is_stopped(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.controller.verify_steps = ENDLESS_STEPS
    verify, begun = plane.controller.verify, threading.Event()

    async def noted(*arguments: Any) -> dict[str, Any]:
        begun.set()
        return await verify(*arguments)

    monkeypatch.setattr(plane.controller, "verify", noted)
    for progress in (True, False):
        plane.controller.cancelled.clear()
        sock = plane.connect()
        body = json.dumps({"targets": ["db"], "progress": progress}).encode()
        sock.sendall(
            b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert begun.wait(PATIENCE_SECONDS)
        begun.clear()
        sock.close()
        wait_for(lambda: plane.controller.cancelled == ["verify"])


def test_a_reader_of_events_that_cannot_keep_up_is_disconnected(plane: ControlPlane) -> None:
    sock = plane.connect()
    sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_for(lambda: len(plane.server.actions.hub.listeners) == 1)

    def flood() -> None:
        for _ in range(50):
            plane.controller.emit("noise", text="x" * 1000)

    deadline = time.monotonic() + PATIENCE_SECONDS
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
        json.loads(line)["sequence"]
        for line in received.split(b"\r\n")
        if line.startswith(b'{"event":"noise"') and line.endswith(b"}\n")
    ]
    assert numbers == list(range(1, len(numbers) + 1))  # what it got has no gap
    assert plane.ask("GET", "/healthz")[0] == 200

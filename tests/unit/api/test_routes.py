"""Every route over a live socket, and every error as a problem."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from duplexd.api.models.base import Problem
from duplexd.api.models.cut_model import Suspended
from duplexd.api.models.line_model import (
    Event,
    ResyncDone,
    ResyncProgress,
    ResyncStarted,
    Verified,
    VerifyProgress,
)
from duplexd.api.models.status_model import Status
from duplexd.api.routes import ROUTES
from duplexd.limits import ApiLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control_plane import ControlPlane


def check_problem(answer: tuple[int, Any], status: int, exit_code: int, text: str) -> None:
    assert answer[0] == status
    problem = Problem.model_validate(answer[1])
    assert (problem.status, problem.exit_code) == (status, exit_code)
    assert text in problem.detail
    assert "\n" not in problem.detail


def test_status_fits_its_model(plane: ControlPlane) -> None:
    plane.controller.volumes |= {"alone": "SIMPLEX", "new": "PENDING"}
    code, body = plane.ask("GET", "/v1/status")
    status = Status.model_validate(body)
    assert code == 200
    assert [volume.name for volume in status.volumes] == ["data", "wal", "other", "alone", "new"]
    assert status.volumes[3].secondary is None
    copy = status.volumes[4].copy_
    assert copy is not None
    assert copy.total_bytes == 2


def test_status_of_targets_has_their_volumes_and_groups_only(plane: ControlPlane) -> None:
    assert [
        v["name"] for v in plane.ask("GET", "/v1/status?target=db&target=data")[1]["volumes"]
    ] == ["data", "wal"]
    other = plane.ask("GET", "/v1/status?target=other")[1]
    assert [v["name"] for v in other["volumes"]] == ["other"]
    assert other["groups"] == []


def test_suspend_twice_is_the_wrong_state(plane: ControlPlane) -> None:
    plane.ask("POST", "/v1/suspend", {"targets": ["db"]})
    status, problem = plane.ask("POST", "/v1/suspend", {"targets": ["db"]})
    assert (status, problem["title"]) == (409, "wrong state")


def test_suspend_twice_says_already_where_that_is_allowed(plane: ControlPlane) -> None:
    first = Suspended.model_validate(
        plane.ask("POST", "/v1/suspend", {"targets": ["db"], "tag": "x"})[1]
    )
    body = {"targets": ["db"], "allow_existing": True}
    second = Suspended.model_validate(plane.ask("POST", "/v1/suspend", body)[1])
    assert (first.already, first.tag, first.verdict) == (False, "x", "consistent")
    assert second.already


def test_resync_starts_and_returns(plane: ControlPlane) -> None:
    plane.ask("POST", "/v1/suspend", {"targets": ["data"]})
    answer = ResyncStarted.model_validate(plane.ask("POST", "/v1/resync", {"targets": ["db"]})[1])
    assert {volume.name: volume.how for volume in answer.volumes} == {
        "data": "journal",
        "wal": "already",
    }


def test_resync_with_wait_streams_until_done(
    serve: Callable[..., ControlPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = serve(progress_seconds=0.02)
    copied, resync_wait = asyncio.Event(), plane.controller.resync_wait

    async def copying(names: list[str]) -> dict[str, Any]:
        await copied.wait()
        return await resync_wait(names)

    monkeypatch.setattr(plane.controller, "resync_wait", copying)
    plane.ask("POST", "/v1/suspend", {"targets": ["db"]})
    lines = plane.lines("POST", "/v1/resync", {"targets": ["db"], "wait": True})
    ResyncStarted.model_validate(next(lines))
    assert ResyncProgress.model_validate(next(lines)).volumes[0].total_bytes == 2
    plane.call(copied.set)
    progress, done = lines
    assert (progress["event"], progress["volumes"][0]["state"]) == ("progress", "DUPLEX")
    assert (done["event"], ResyncDone.model_validate(done).ok) == ("done", True)


def test_a_resync_that_left_one_out_is_not_ok(plane: ControlPlane) -> None:
    plane.controller.volumes |= {"data": "SUSPENDED", "wal": "SIMPLEX"}
    body = {"targets": ["db"], "wait": True, "partial": True}
    done = list(plane.lines("POST", "/v1/resync", body))[-1]
    assert (done["event"], done["ok"]) == ("done", False)
    assert [each["name"] for each in done["volumes"]] == ["data"]
    assert [each["name"] for each in done["refused"]] == ["wal"]


def test_a_resync_that_fails_ends_with_done_and_not_ok(plane: ControlPlane) -> None:
    plane.controller.broken = {"wal"}
    plane.ask("POST", "/v1/suspend", {"targets": ["db"]})
    done = ResyncDone.model_validate(
        list(plane.lines("POST", "/v1/resync", {"targets": ["db"], "wait": True}))[-1]
    )
    assert not done.ok
    assert done.volumes[1].reason == "secondary error"


def test_verify_as_an_object_and_as_lines(plane: ControlPlane) -> None:
    plane.controller.differs = {"wal"}
    whole = Verified.model_validate(plane.ask("POST", "/v1/verify", {"targets": ["db"]})[1])
    lines = list(plane.lines("POST", "/v1/verify", {"targets": ["db"], "progress": True}))
    assert Verified.model_validate(lines[-1]).volumes == whole.volumes
    assert not whole.equal
    assert whole.volumes[1].first_difference == 7
    assert {VerifyProgress.model_validate(line).name for line in lines[:-1]} == {"data"}


def test_events_are_the_state_then_synced_then_changes(plane: ControlPlane) -> None:
    lines = plane.lines("GET", "/v1/events")
    state = Event.model_validate(next(lines))
    assert state.event == "state"
    assert state.status is not None
    assert next(lines) == {"event": "synced"}
    plane.ask("POST", "/v1/suspend", {"targets": ["db"]})
    assert Event.model_validate(next(lines)).volumes == ["data", "wal"]


def test_events_without_follow_end_after_synced(plane: ControlPlane) -> None:
    assert [line["event"] for line in plane.lines("GET", "/v1/events?follow=false")] == [
        "state",
        "synced",
    ]


def test_health_and_readiness(plane: ControlPlane) -> None:
    assert plane.ask("GET", "/healthz") == (200, {"status": "ok", "controller": "fake"})
    assert plane.ask("GET", "/readyz") == (200, {"status": "ready", "degraded": []})


def test_errors_of_the_controller_are_problems(plane: ControlPlane) -> None:
    check_problem(plane.ask("GET", "/v1/status?target=nope"), 404, 3, "nope")
    check_problem(plane.ask("DELETE", "/v1/leases/nope"), 404, 3, "nope")
    check_problem(plane.ask("POST", "/v1/suspend", {"targets": ["nope"]}), 404, 3, "nope")
    check_problem(plane.ask("POST", "/v1/quiesce", {"targets": ["nope"]}), 404, 3, "nope")
    check_problem(
        plane.ask("POST", "/v1/suspend", {"targets": ["db"], "lease": "L9"}), 410, 9, "L9"
    )
    plane.controller.volumes["data"] = "SIMPLEX"
    check_problem(plane.ask("POST", "/v1/suspend", {"targets": ["db"]}), 409, 5, "resync")
    check_problem(
        plane.ask("POST", "/v1/resync", {"targets": ["db"], "wait": True}), 409, 5, "SIMPLEX"
    )


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"nul\0", b"\xff\xfe", b"1", b'{"targets":["db"],"x":1}', b"[" * 10_000],
)
@pytest.mark.parametrize("path", ["/v1/suspend", "/v1/quiesce", "/v1/resync", "/v1/verify"])
def test_a_body_that_does_not_fit_is_a_problem(plane: ControlPlane, path: str, raw: bytes) -> None:
    check_problem(plane.ask("POST", path, raw=raw), 400, 2, "")


def test_unknown_paths_and_methods_are_problems(plane: ControlPlane) -> None:
    for path in ("/", "/v1", "/v1/status/", "/v1/leases/", "/v2/status"):
        check_problem(plane.ask("GET", path), 404, 3, path)
    for method, path in (("PUT", "/v1/status"), ("GET", "/v1/suspend"), ("POST", "/v1/leases/L1")):
        check_problem(plane.ask(method, path), 405, 2, path)
    with plane.open("GET", "/v1/suspend") as answer:
        assert answer.headers["allow"] == "POST"
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_beyond_the_limit_is_refused_and_one_at_the_limit_is_read(
    plane: ControlPlane,
) -> None:
    check_problem(
        plane.ask("POST", "/v1/suspend", raw=b" " * (ApiLimits().body_bytes_max + 1)),
        413,
        2,
        "body_bytes_max",
    )
    check_problem(
        plane.ask("POST", "/v1/suspend", raw=b" " * ApiLimits().body_bytes_max), 400, 2, "JSON"
    )


def test_query_parameters_are_checked(plane: ControlPlane) -> None:
    check_problem(plane.ask("GET", "/v1/events?follow=perhaps"), 400, 2, "follow")


def test_a_bug_is_a_problem_and_the_daemon_goes_on(
    plane: ControlPlane,
) -> None:
    plane.controller.bug = True
    with capture_logs() as logs:
        check_problem(plane.ask("GET", "/v1/status"), 500, 1, "RuntimeError")
    plane.controller.bug = False
    assert plane.ask("GET", "/v1/status")[0] == 200
    assert [(line["log_level"], str(line["exc_info"])) for line in logs] == [("error", "planted")]


def test_openapi_lists_exactly_the_routes(plane: ControlPlane) -> None:
    document = plane.ask("GET", "/openapi.json")[1]
    listed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert listed == {(entry.method, entry.path) for entry in ROUTES}
    assert document["openapi"].startswith("3.1")


def test_every_reference_of_the_openapi_document_leads_somewhere(plane: ControlPlane) -> None:
    with plane.open("GET", "/openapi.json") as answer:
        text = answer.read().decode()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert {"Status", "QuiesceRequest", "Held", "Problem", "VolumeStatus"} <= names
    assert names <= set(plane.ask("GET", "/openapi.json")[1]["components"]["schemas"])


def test_commands_are_logged_with_the_peer_and_reading_is_not(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    plane.ask("GET", "/v1/status")
    assert capsys.readouterr().out == ""
    plane.ask("POST", "/v1/suspend", {"targets": ["db"]})
    plane.call(lambda: None)  # the line is written behind the answer
    text = capsys.readouterr().out
    assert "suspend" in text
    assert "uid" in text
    assert "pid" in text


def test_requests_may_follow_a_stream_on_the_same_connection_at_once(plane: ControlPlane) -> None:
    with plane.connect() as sock:
        for _ in range(50):
            sock.sendall(
                b"GET /v1/events?follow=false HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
            )
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                more = sock.recv(65536)
                assert more, data
                data += more


class Counted(dict[str, list[str]]):
    """Groups that count how often one is looked up."""

    looked_up = 0

    def __getitem__(self, name: str) -> list[str]:
        self.looked_up += 1
        return super().__getitem__(name)


def test_a_group_that_is_named_many_times_is_looked_up_once(plane: ControlPlane) -> None:
    plane.controller.groups = groups = Counted(plane.controller.groups)
    code, answer = plane.ask("GET", "/v1/status?" + "&".join(["target=db"] * 1000))
    assert (code, len(answer["volumes"])) == (200, 2)
    assert groups.looked_up < 10


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_number_that_nothing_can_be_is_a_mistake(plane: ControlPlane, digits: int) -> None:
    check_problem(plane.ask("DELETE", f"/v1/leases/x?fence={'9' * digits}"), 400, 2, "fence")

"""What /healthz and /readyz answer: alive, ready, and which volumes have a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from duplexd.api.models.base import PairState
from duplexd.api.models.health_model import Health

if TYPE_CHECKING:
    from tests.support.control_plane import ControlPlane


def readiness(plane: ControlPlane) -> tuple[int, Health]:
    code, body = plane.ask("GET", "/readyz")
    return code, Health.model_validate(body)


@pytest.mark.parametrize("state", get_args(PairState))
def test_no_state_of_a_pair_is_a_fault_by_itself(plane: ControlPlane, state: PairState) -> None:
    plane.controller.volumes["data"] = state
    code, health = readiness(plane)
    assert (code, health.status, health.degraded) == (200, "ready", [])


def test_a_volume_that_is_not_served_is_named_and_the_daemon_is_ready(plane: ControlPlane) -> None:
    plane.controller.refused["wal"] = "/a/wal.img: no such file"
    plane.controller.leg_errors["data", "secondary"] = "/b/data.img: no such file"
    code, health = readiness(plane)
    assert (code, health.status) == (200, "ready")
    assert health.degraded is not None
    assert [(each.name, each.served, each.why) for each in health.degraded] == [
        ("data", True, "secondary: /b/data.img: no such file"),
        ("wal", False, "not served: /a/wal.img: no such file"),
    ]


def test_of_a_volume_with_two_faults_the_worse_is_named(plane: ControlPlane) -> None:
    plane.controller.leg_errors["data", "primary"] = "input/output error"
    plane.controller.leg_errors["data", "secondary"] = "no space left on device"
    (volume,) = readiness(plane)[1].degraded or []
    assert volume.why == "primary: input/output error"


def test_a_volume_whose_requests_fail_is_named(plane: ControlPlane) -> None:
    plane.controller.failing["data"] = {"read": "Input/output error"}
    (volume,) = readiness(plane)[1].degraded or []
    assert (volume.name, volume.served) == ("data", True)
    assert volume.why == "the last read of a client failed: Input/output error"


def test_a_controller_that_refuses_changes_for_now_is_not_ready(plane: ControlPlane) -> None:
    plane.controller.refusal = "No space left on device"
    code, problem = plane.ask("GET", "/readyz")
    assert (code, "refuses changes for now: No space left" in problem["detail"]) == (503, True)


@pytest.mark.parametrize(("waits_s", "expected"), [(0.0, 200), (2.9, 200), (3.0, 503)])
def test_a_journal_that_does_not_answer_is_not_ready(
    plane: ControlPlane, waits_s: float, expected: int
) -> None:
    plane.controller.journal_waits_s = waits_s
    code, answer = plane.ask("GET", "/readyz")
    assert code == expected
    assert plane.ask("GET", "/healthz")[0] == 200
    if code == 503:
        assert "the disk of the journal has not answered for 3 s" in answer["detail"]


def test_a_controller_that_takes_no_changes_is_alive_and_not_ready(plane: ControlPlane) -> None:
    plane.controller.failed = "the journal could not be synced"
    code, problem = plane.ask("GET", "/readyz")
    assert (code, "the journal could not be synced" in problem["detail"]) == (503, True)
    assert plane.ask("GET", "/healthz") == (200, {"status": "ok", "controller": "fake"})


def test_a_daemon_that_stops_is_alive_and_not_ready(plane: ControlPlane) -> None:
    plane.call(plane.server.actions.stop)
    assert plane.ask("GET", "/healthz")[0] == 200
    code, problem = plane.ask("GET", "/readyz")
    assert (code, problem["exit_code"]) == (503, 7)
    assert "starting or stopping" in problem["detail"]

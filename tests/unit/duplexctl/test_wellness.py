"""duplexctl health: exit code 0, 1 or 7, and a line for each thing that is not well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from duplexd.duplexctl.cli import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.control_plane import ControlPlane


def test_a_controller_without_a_fault_is_well(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--socket", str(plane.path), "health"]) == 0
    assert capsys.readouterr().out == "well: 3 volumes\n"


def test_each_fault_has_a_line_and_the_exit_code_is_1(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    plane.controller.leg_errors["wal", "secondary"] = "Input/output error"
    plane.controller.refused["data"] = "no good image"
    assert run(["--socket", str(plane.path), "health"]) == 1
    shown = capsys.readouterr()
    errors, warnings = shown.out.splitlines()
    assert errors == "ERROR: data: not served: no good image"
    assert warnings.startswith("WARNING: wal: secondary ")
    assert "not well: 1 error, 1 warning" in shown.err


def test_with_service_a_warning_is_not_shown(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    plane.controller.leg_errors["wal", "secondary"] = "Input/output error"
    assert run(["--socket", str(plane.path), "health", "--service"]) == 0
    plane.controller.failed = "the journal could not be synced"
    assert run(["--socket", str(plane.path), "health", "--service"]) == 1


def test_a_target_is_not_blamed_for_another(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    plane.controller.leg_errors["wal", "secondary"] = "Input/output error"
    assert run(["--socket", str(plane.path), "health", "data"]) == 0
    assert run(["--socket", str(plane.path), "health", "wal"]) == 1
    assert run(["--socket", str(plane.path), "health", "nosuch"]) == 3


def test_json_has_every_finding(plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> None:
    plane.controller.refusal = "No space left on device"
    assert run(["--socket", str(plane.path), "--json", "health"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["well"], [each["kind"] for each in found["findings"]]) == (
        False,
        ["changes-refused"],
    )
    assert found["findings"][0]["controller"] == plane.controller.name


def test_without_a_daemon_the_exit_code_is_7(tmp_path: Path) -> None:
    assert run(["--socket", str(tmp_path / "none.sock"), "health"]) == 7

"""POST /v1/repair over a live socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from duplexd.api.models.repair_model import Repaired

if TYPE_CHECKING:
    from tests.support.control_plane import ControlPlane


def test_a_repair_says_the_places(plane: ControlPlane) -> None:
    plane.controller.differs = {"data"}
    code, answer = plane.ask("POST", "/v1/repair", {"targets": ["data"], "from": "primary"})
    assert code == 200
    (row,) = Repaired.model_validate(answer).volumes
    assert (row.name, row.from_, row.ranges) == ("data", "primary", [[4096, 4096], [65536, 8192]])


def test_where_nothing_is_recorded_it_is_a_conflict(plane: ControlPlane) -> None:
    code, problem = plane.ask("POST", "/v1/repair", {"targets": ["data"], "from": "primary"})
    assert (code, problem["exit_code"]) == (409, 5)


@pytest.mark.parametrize("body", [{}, {"from": "both"}, {"source": "primary"}])
def test_the_right_image_has_to_be_named(plane: ControlPlane, body: dict[str, str]) -> None:
    plane.controller.differs = {"data"}
    code, _ = plane.ask("POST", "/v1/repair", {"targets": ["data"], **body})
    assert code == 400
    assert plane.controller.differs == {"data"}


def test_who_asked_for_it_is_logged(plane: ControlPlane) -> None:
    plane.controller.differs = {"data"}
    with capture_logs() as logged:
        plane.ask("POST", "/v1/repair", {"targets": ["data"], "from": "secondary"})
        plane.ask("GET", "/v1/status")
    (line,) = [each for each in logged if each.get("command") == "repair"]
    assert (line["source"], line["dry_run"]) == ("secondary", False)

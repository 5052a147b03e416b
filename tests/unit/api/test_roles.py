"""POST /v1/swap and /v1/adopt over a live socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from duplexd.api.models.roles_model import Roles

if TYPE_CHECKING:
    from tests.support.control_plane import ControlPlane


def roles(answer: tuple[int, Any]) -> Roles:
    assert answer[0] == 200, answer
    return Roles.model_validate(answer[1])


def test_a_swap_says_which_image_clients_use(plane: ControlPlane) -> None:
    first, second = roles(plane.ask("POST", "/v1/swap", {"targets": ["db"]})).volumes
    assert (first.name, first.primary, first.secondary) == ("data", "/b/data.img", "/a/data.img")
    assert (first.swapped, second.swapped, second.lost) == (True, True, None)
    (volume,) = plane.ask("GET", "/v1/status?target=data")[1]["volumes"]
    assert (volume["swapped"], volume["primary"]["path"]) == (True, "/b/data.img")


def test_a_swap_of_a_suspended_pair_needs_to_be_told_what_of_its_changes(
    plane: ControlPlane,
) -> None:
    plane.controller.volumes["data"] = "SUSPENDED"
    code, problem = plane.ask("POST", "/v1/swap", {"targets": ["data"]})
    assert (code, problem["exit_code"]) == (409, 5)
    (volume,) = roles(
        plane.ask("POST", "/v1/swap", {"targets": ["data"], "lose_changes": True})
    ).volumes
    assert volume.lost is not None
    assert volume.lost.first == 8


def test_the_image_of_the_cut_is_kept_where_it_was_asked_for(plane: ControlPlane) -> None:
    plane.controller.volumes["data"] = "SUSPENDED"
    body = {"targets": ["data"], "roll_forward": True, "keep_to": "/srv/kept.img"}
    roles(plane.ask("POST", "/v1/swap", body))
    assert plane.controller.kept_to == ["/srv/kept.img"]


@pytest.mark.parametrize(
    "options",
    [
        {"roll_forward": True, "lose_changes": True},
        {"keep_to": "/srv/kept.img"},
        {"keep_to": "/srv/kept.img", "lose_changes": True},
        {"roll_forward": True, "keep_to": ""},
        {"roll_forward": "later"},
    ],
)
def test_options_that_contradict_each_other_change_nothing(
    plane: ControlPlane, options: dict[str, object]
) -> None:
    code, problem = plane.ask("POST", "/v1/swap", {"targets": ["data"], **options})
    assert (code, problem["exit_code"]) == (400, 2)
    assert plane.controller.swapped == set()


def test_an_adopt_serves_the_volume_and_says_already_the_second_time(plane: ControlPlane) -> None:
    plane.controller.refused["data"] = "/a/data.img: this is another image"
    first = roles(plane.ask("POST", "/v1/adopt", {"targets": ["data"]}))
    second = roles(plane.ask("POST", "/v1/adopt", {"targets": ["data"]}))
    assert [answer.volumes[0].already for answer in (first, second)] == [False, True]


@pytest.mark.parametrize("path", ["/v1/swap", "/v1/adopt"])
def test_a_target_that_is_unknown_is_404(plane: ControlPlane, path: str) -> None:
    code, problem = plane.ask("POST", path, {"targets": ["data", "none"]})
    assert (code, problem["exit_code"], "'none'" in problem["detail"]) == (404, 3, True)


def test_both_are_logged_with_who_asked(plane: ControlPlane) -> None:
    with capture_logs() as logs:
        plane.ask("POST", "/v1/swap", {"targets": ["data"]})
        plane.ask("POST", "/v1/adopt", {"targets": ["data"]})
        plane.ask("GET", "/healthz")
    commands = [line for line in logs if line["event"] == "command"]
    assert [line["command"] for line in commands] == ["swap", "adopt"]
    assert all("uid" in line for line in commands)

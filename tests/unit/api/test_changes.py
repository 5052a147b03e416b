"""GET /v1/changes: what changed between two cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.api.models.change_model import Changes
from tests.support.fake_changes import GRAIN

if TYPE_CHECKING:
    from tests.support.control_plane import ControlPlane

PATH = "/v1/changes?target=db&since=monday"


def test_the_answer_fits_its_model(plane: ControlPlane) -> None:
    code, body = plane.ask("GET", PATH + "&until=tuesday")
    changes = Changes.model_validate(body)
    assert code == 200
    assert [volume.name for volume in changes.volumes] == ["data", "wal"]
    assert (changes.volumes[0].since.tag, changes.volumes[0].until.tag) == ("monday", "tuesday")
    assert len(changes.volumes[0].extents) == 3


def test_it_goes_on_at_an_offset_with_so_many_extents(plane: ControlPlane) -> None:
    _, body = plane.ask("GET", f"/v1/changes?target=data&since=monday&offset={GRAIN}&extents=1")
    (volume,) = Changes.model_validate(body).volumes
    assert [extent.offset for extent in volume.extents] == [4 * GRAIN]
    assert volume.next_offset == 9 * GRAIN


def test_a_cut_that_is_not_remembered_is_not_found(plane: ControlPlane) -> None:
    code, problem = plane.ask("GET", "/v1/changes?target=data&since=sunday")
    assert (code, problem["exit_code"]) == (404, 3)


@pytest.mark.parametrize(
    "query", ["target=data", "since=monday", "target=data&since=a&since=b", ""]
)
def test_without_a_target_and_one_since_it_is_a_bad_request(
    plane: ControlPlane, query: str
) -> None:
    code, problem = plane.ask("GET", f"/v1/changes?{query}")
    assert (code, problem["exit_code"]) == (400, 2)
    assert "name a target, one since" in problem["detail"]

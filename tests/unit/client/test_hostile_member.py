"""A member is another machine: what it answers may be anything. It costs its own part of a group,
by an error that names it, and no other member is asked for what it made up.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexd.api.routes import ROUTES
from duplexd.client import answers
from duplexd.client.shapes import ShapeError
from duplexd.errors import UndecidedError, UnreachableError
from tests.unit.client.members import CUT, members, phases

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.json_object import Json

EVIL_IDS = ["../leases/x", "c HTTP/1.1\r\nX: y", "", "c" * 17, 5, None, ["c" * 16]]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
PATHS = sorted({*answers.ANSWERS, *answers.LINES})


def at_a_cut(status: Json, cut_id: object) -> Json:
    """That status with a secondary at a cut of two members that nobody has decided."""
    cut = {"id": cut_id, "sequence": 1, "time": 1.0, "verdict": None, "members": ["alpha", "beta"]}
    volume = status["volumes"][0] | {"state": "SUSPENDED"}
    volume["secondary"] = (volume.get("secondary") or {}) | {"usable": True, "cut": cut}
    return status | {"volumes": [volume]}


@pytest.mark.parametrize("cut_id", EVIL_IDS)
async def test_no_member_is_asked_for_a_path_that_another_made_up(
    tmp_path: Path, cut_id: object
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant["status"] = 200, at_a_cut(beta.engine.status(), cut_id)
        with pytest.raises(UnreachableError, match=r"beta: .*volumes\.0\.secondary\.cut\.id is "):
            await client.settle("db")
        assert not phases(alpha)
        assert set(alpha.asked) <= {"status", "healthz"}


@pytest.mark.parametrize("cut_id", EVIL_IDS)
async def test_no_cut_is_released_that_a_lease_made_up(tmp_path: Path, cut_id: object) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        lease = {"id": "1", "volumes": ["data"], "hold_s": 2.0, "cut": cut_id}
        beta.plant["status"] = 200, beta.engine.status() | {"leases": [lease]}
        if cut_id is None:  # a hold of its own, for no cut
            await client.release("db")
        else:
            with pytest.raises(UnreachableError, match=r"beta: .*leases\.0\.cut is "):
                await client.release("db")
        assert "release" not in alpha.asked


async def test_a_vote_for_another_cut_is_no_vote(tmp_path: Path) -> None:
    vote = {
        "id": CUT,
        "controller": "beta",
        "state": "ready",
        "verdict": None,
        "sequence": 3,
        "time": 1.0,
        "volumes": ["data"],
    }
    async with members(tmp_path, "alpha", "beta") as (client, (_alpha, beta)):
        for request in ("open", "abort", "refuse", "agree", "show"):
            beta.plant[request] = 200, vote
        try:
            assert (await client.suspend("db")).verdict == "void"
        except UndecidedError as error:
            assert f"beta: answers for cut '{CUT}'" in str(error)  # noqa: PT017


@given(st.sampled_from(PATHS), JSON.filter(lambda value: isinstance(value, dict)))
def test_whatever_is_answered_is_accepted_or_refused_with_its_place(
    route: tuple[str, str], value: Any
) -> None:
    for check in (answers.check_answer, answers.check_line):
        with contextlib.suppress(ShapeError):
            check(*route, value)


@given(st.data())
def test_one_wrong_value_in_a_status_is_found_or_used_by_nobody(data: st.DataObject) -> None:
    status = copy.deepcopy(STATUS)
    place: Any = data.draw(st.sampled_from([status["controller"], status["volumes"][0]]))
    place[data.draw(st.sampled_from(sorted(place)))] = [{"no": "such"}]
    with pytest.raises(ShapeError, match="expected"):
        answers.check_answer("GET", "/v1/status?target=data", status)


STATUS: Json = {
    "controller": {"name": "beta", "sequence": 1, "failed": "", "version": "1", "nbd": ["x"]},
    "volumes": [
        {
            "name": "data",
            "state": "DUPLEX",
            "size": 4096,
            "secondary": {"usable": True},
            "copy": None,
            "failing": {},
        }
    ],
}


def test_the_status_of_that_test_is_right() -> None:
    answers.check_answer("GET", "/v1/status", STATUS)


def test_every_route_that_answers_with_an_object_has_its_shape() -> None:
    for entry in ROUTES:
        if entry.path in {"/readyz", "/openapi.json"}:
            continue
        route = entry.method, answers.pattern(entry.path)
        if entry.answers:
            assert route in answers.ANSWERS, route
        if entry.lines:
            assert route in answers.LINES, route


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1 << 70, True, "1"])
def test_figures_that_cannot_be_computed_with_are_refused(value: object) -> None:
    hold = {"seconds_max": value, "writes_held": 1}
    with pytest.raises(ShapeError, match="seconds_max"):
        answers.HOLD(hold, "")
    with pytest.raises(ShapeError, match="buckets"):
        answers.HOLD({"seconds_max": 1.0, "writes_held": 1, "buckets": [[value, 1]]}, "")

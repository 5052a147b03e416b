"""A member is another machine: what it answers may be anything. It costs its own part of a group,
by an error that names it, and no other member is asked for what it made up.
"""

from __future__ import annotations

import contextlib
import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexd.api.routes import ROUTES
from duplexd.client import answers
from duplexd.client.shapes import ShapeError
from duplexd.errors import DuplexdError, UndecidedError, UnreachableError
from tests.support.fake_member import problem
from tests.unit.client.members import CUT, after, members, phases

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.client import Client
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


EVIL = "\x1b[2J\nduplexctl: all is well\u202e"


async def refused(client: Client, command: str) -> str:
    """The error that a command of the group ends with."""
    with pytest.raises(DuplexdError) as raised:
        await getattr(client, command)("db")
    return str(raised.value)


@pytest.mark.parametrize(
    ("controller", "volume"),
    [
        ({"starting": {"text": EVIL, "fraction": 0.5}}, {}),
        ({"version": EVIL, "group_protocol": 0}, {}),
        ({"failed": EVIL}, {}),
        ({"name": EVIL}, {}),
        ({}, {"state": EVIL}),
        ({}, {"state": "SUSPENDED", "reason": EVIL}),
        ({}, {"failing": {EVIL: 5}}),
        ({}, {"state": "SUSPENDED", "secondary": None}),
    ],
)
async def test_no_text_of_a_member_writes_a_line_of_its_own_into_an_error(
    tmp_path: Path, controller: Json, volume: Json
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_alpha, beta)):
        beta.controller |= controller
        status = beta.status()
        status["volumes"][0] |= volume
        beta.plant["status"] = 200, status
        text = await refused(client, "suspend")
        assert "beta" in text
        assert text.isprintable()


@pytest.mark.parametrize("request_of", ["quiesce", "open"])
async def test_no_reason_of_a_member_does(tmp_path: Path, request_of: str) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_alpha, beta)):
        if request_of == "quiesce":
            lease = {"id": "1", "volumes": ["data"], "hold_s": 2.0, "fence": 7}
            ended = {"event": "ended", "reason": EVIL, "verdict": "void"}
            lines = [{"event": "held", "lease": lease}, ended]
            beta.plant["quiesce"] = 200, b"".join(json.dumps(x).encode() + b"\n" for x in lines)
        else:
            beta.plant["open"] = after(lambda: beta.end("deadline"))
            beta.plant["refuse"] = beta.plant["abort"] = problem(409, 5, EVIL)
        try:
            result = await client.suspend("db")
            text = result.why
        except DuplexdError as error:
            text = str(error)
        assert text
        assert text.isprintable()


async def test_a_cut_of_members_with_such_names_is_not_known_by_them(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_alpha, beta)):
        status = at_a_cut(beta.engine.status(), CUT)
        status["volumes"][0]["secondary"]["cut"]["members"] = ["beta", EVIL]
        beta.plant["status"] = 200, status
        text = await refused(client, "settle")
        assert "which the groups file does not know" in text
        assert text.isprintable()


@pytest.mark.parametrize("missing", ["id", "volumes", "hold_s", "fence"])
async def test_a_hold_that_cannot_be_named_is_no_hold(tmp_path: Path, missing: str) -> None:
    lease = {"id": "1", "volumes": ["data"], "hold_s": 2.0, "fence": 7}
    del lease[missing]
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant["quiesce"] = 200, json.dumps({"event": "held", "lease": lease}).encode() + b"\n"
        assert f"beta: {beta.path} gave an answer that cannot be used: lease.{missing}" in (
            await refused(client, "suspend")
        )
        assert not alpha.held


async def test_lines_that_a_later_version_has_are_left_alone(tmp_path: Path) -> None:
    later: Json = {"event": "later"}
    done = {"event": "done", "ok": True, "equal": True, "volumes": []}
    started = {"event": "started", "job": "1", "volumes": []}
    lines = b"".join(json.dumps(each).encode() + b"\n" for each in (started, later, done))
    async with members(tmp_path, "alpha", "beta") as (client, both):
        for member in both:
            member.plant["resync"] = member.plant["verify"] = 200, lines
        seen: list[Json] = []
        await client.resync("db", wait=True, progress=lambda _name, line: seen.append(line))
        assert {line["event"] for line in seen} == {"started", "done"}
        assert (await client.verify("db", progress=lambda _n, line: seen.append(line))).equal


async def test_a_progress_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    row = {"name": "data", "state": "PENDING"}
    line = json.dumps({"event": "progress", "volumes": [row]}).encode() + b"\n"
    async with members(tmp_path, "alpha", "beta") as (client, (_alpha, beta)):
        beta.plant["resync"] = 200, line
        with pytest.raises(UnreachableError, match=r"beta: .*volumes\.0\.done_bytes"):
            await client.resync("db", wait=True)


async def test_all_that_answer_release_although_one_does_not(tmp_path: Path) -> None:
    leases = [
        {"id": cut[0], "volumes": ["data"], "hold_s": 2.0, "cut": cut} for cut in (CUT, "d" * 16)
    ]
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        alpha.plant["status"] = 200, alpha.status() | {"leases": leases}
        beta.plant["release"] = problem(503, 7, "it is not there")
        assert "it is not there" in await refused(client, "release")
        assert alpha.asked.count("release") == len(leases)


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
    "controller": {
        "name": "beta",
        "sequence": 1,
        "failed": "",
        "version": "1",
        "nbd": ["x"],
        "journal": {"used_bytes": 1, "size_bytes": 1, "oldest_sequence": 1},
    },
    "groups": [{"name": "g", "volumes": ["data"]}],
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

"""Which mark several controllers are to go to, and whether they can go on with a cut."""

from __future__ import annotations

from typing import Any

import pytest

from duplexd.client.past_cut import can_go_on, choose, in_reach
from duplexd.client.results import Cut, KeptPoint
from duplexd.config.groups import Group
from duplexd.core.cut_states import CONSISTENT, NONE, READY, VOID
from duplexd.core.past_point import PastPoint
from duplexd.errors import NotFoundError, WrongStateError

BOTH = ("alpha", "beta")
GROUP = Group("db", {"alpha": ("data",), "beta": ("wal",)})


def point(name: str, time: float, **more: Any) -> KeptPoint:
    fields: dict[str, Any] = {
        "cut": name, "verdict": "consistent", "tag": "", "group": "db", "time": time,
        "controllers": dict.fromkeys(BOTH, 1), "states": {}, "members": list(BOTH),
        "kind": "mark", "within_reach": True,
    }  # fmt: skip
    return KeptPoint(**(fields | more))


MARKS = [
    point("m1", 10.0, tag="hourly"),
    point("m2", 20.0, tag="hourly"),
    point("m3", 30.0, verdict="void", tag="bad"),
    point("m4", 31.0, whole=False),
    point("m5", 32.0, members=["alpha"]),
    point("c6", 33.0, kind="cut"),
    point("m7", 40.0, within_reach=False),
]


@pytest.mark.parametrize(
    ("at", "mark"),
    [
        (PastPoint(time=10.0), "m1"),
        (PastPoint(time=39.9), "m2"),  # those between are void, cuts, or not of all of it
        (PastPoint(time=99.0), "m7"),
        (PastPoint(mark="m1"), "m1"),
        (PastPoint(mark="hourly"), "m2"),
    ],
)
def test_the_newest_that_is_consistent_and_of_all_of_it(at: PastPoint, mark: str) -> None:
    assert choose(MARKS, GROUP, at).cut == mark


@pytest.mark.parametrize(
    ("at", "mark"),
    [
        (PastPoint(time=15.0), "m1"),  # m3 has what m2 has, which is of after that time
        (PastPoint(time=20.0), "m3"),
        (PastPoint(mark="hourly"), "m3"),
    ],
)
def test_where_the_clock_was_set_back_marks_are_as_new_as_their_order_says(
    at: PastPoint, mark: str
) -> None:
    marks = [point("m1", 10.0), point("m2", 20.0, tag="hourly"), point("m3", 12.0, tag="hourly")]
    assert choose(marks, GROUP, at).cut == mark


@pytest.mark.parametrize(
    ("at", "error", "said"),
    [
        (PastPoint(time=9.9), WrongStateError, "no consistent mark of db is at or before"),
        (PastPoint(mark="m9"), NotFoundError, "no such mark"),
        (PastPoint(mark="c6"), NotFoundError, "no such mark"),
        (PastPoint(mark="bad"), WrongStateError, "is void"),
        (PastPoint(mark="m4"), WrongStateError, "is of other volumes or controllers"),
        (PastPoint(mark="m5"), WrongStateError, "is of other volumes or controllers"),
        (PastPoint(sequence=7), WrongStateError, "no numbers in common"),
    ],
)
def test_what_is_no_mark_of_the_group(at: PastPoint, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        choose(MARKS, GROUP, at)


def test_errors_say_which_marks_are_within_reach() -> None:
    assert in_reach([]) == "; no mark is within reach"
    assert in_reach(MARKS[:1]).startswith("; within reach is mark m1 of 1970-")
    assert "3 marks, from m1 of" in in_reach([MARKS[1], MARKS[0], MARKS[2], MARKS[6]])


def status(cut: str) -> dict[str, Any]:
    return {"volumes": [{"secondary": {"cut": {"id": cut} if cut else None}}]}


@pytest.mark.parametrize(
    ("states", "at", "possible"),
    [
        ({"alpha": READY, "beta": NONE}, ("x", ""), True),
        ({"alpha": READY, "beta": READY}, ("x", "x"), True),
        ({"alpha": READY, "beta": READY}, ("x", ""), False),  # it has left it
        ({"alpha": READY, "beta": VOID}, ("x", "x"), False),
        ({"alpha": READY, "beta": None}, ("x", ""), False),
        ({"alpha": CONSISTENT, "beta": NONE}, ("x", "y"), True),
    ],
)
def test_a_cut_that_was_begun_is_gone_on_with_where_nobody_gave_it_up(
    states: dict[str, str | None], at: tuple[str, str], possible: bool
) -> None:
    cut = Cut("x", None, "", "db", 1.0, {}, states, list(BOTH))
    assert can_go_on(cut, dict(zip(BOTH, map(status, at), strict=True))) == possible
    assert not can_go_on(cut, {"alpha": status("x")})

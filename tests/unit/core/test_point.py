"""Names of points, and which cut they mean."""

from __future__ import annotations

import pytest

from duplexd.core import point
from duplexd.core.cut import Cut
from duplexd.core.cut_states import CONSISTENT, VOID

CUT = "00000000000000aa"


@pytest.mark.parametrize(
    ("name", "volume", "rest"),
    [
        ("data@latest", "data", "latest"),
        (f"data@{CUT}", "data", CUT),
        ("data@a tag @ night", "data", "a tag @ night"),
    ],
)
def test_the_first_at_sign_ends_the_name_of_the_volume(name: str, volume: str, rest: str) -> None:
    assert point.parse(name) == (volume, rest)


@pytest.mark.parametrize("name", ["data", "", "@", "@latest", "data@"])
def test_a_name_that_lacks_a_part_is_that_of_no_point(name: str) -> None:
    assert point.parse(name) is None


def cut(tag: str = "nightly", state: str = CONSISTENT) -> Cut:
    return Cut(CUT, 7, 0, tag, state)


@pytest.mark.parametrize("name", [CUT, "nightly", "latest"])
def test_a_consistent_cut_is_meant_by_its_id_its_tag_and_latest(name: str) -> None:
    assert point.PointName("data", name).means(cut(), consistent=True)


def test_a_cut_that_is_not_consistent_is_meant_by_its_id_alone() -> None:
    void = cut(state=VOID)
    meant = [
        name
        for name in (CUT, "nightly", "latest")
        if point.PointName("data", name).means(void, consistent=False)
    ]
    assert meant == [CUT]


def test_a_cut_without_a_tag_is_not_meant_by_nothing() -> None:
    assert not point.PointName("data", "other").means(cut(tag=""), consistent=True)

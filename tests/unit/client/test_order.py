"""The order of cuts: by number on each controller, by time where numbers say nothing."""

from __future__ import annotations

import pytest

from duplexd.client.outcomes import in_order
from duplexd.client.results import Cut


def cut(name: str, time: float, **controllers: int) -> Cut:
    return Cut(name, "consistent", "", "", time, dict(controllers), {}, list(controllers))


@pytest.mark.parametrize(
    ("cuts", "order"),
    [
        ([], ""),
        ([cut("b", 1.0, alpha=9), cut("a", 2.0, alpha=7)], "ab"),
        ([cut("b", 2.0, alpha=1), cut("a", 1.0, beta=9)], "ab"),
        (  # beta's clock was set back, alpha's was not: a is before b on alpha
            [cut("c", 1.0, beta=3), cut("b", 5.0, alpha=2, beta=2), cut("a", 9.0, alpha=1)],
            "abc",
        ),
        (  # no order fits both controllers: none is lost
            [cut("b", 2.0, alpha=1, beta=2), cut("a", 1.0, alpha=2, beta=1)],
            "ab",
        ),
    ],
)
def test_cuts_are_ordered(cuts: list[Cut], order: str) -> None:
    assert "".join(each.cut for each in in_order(cuts)) == order
    assert "".join(each.cut for each in in_order(cuts[::-1])) == order

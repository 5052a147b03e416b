"""What the coordinator answers: its page, and how figures of several controllers become one."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from duplexd.backup.restore import Restored
from duplexd.client import results
from duplexd.client.status import group_state
from duplexd.config.groups import Group
from duplexd.core.waits import Waits

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "duplexctl-json.md").read_text()
GROUP = Group("db", {})
CLASSES = [
    each
    for each in (*vars(results).values(), Restored)
    if dataclasses.is_dataclass(each) and isinstance(each, type) and dataclasses.fields(each)
]


@pytest.mark.parametrize("each", CLASSES, ids=lambda each: each.__name__)
def test_the_page_names_every_field_in_order(each: type[Any]) -> None:
    section = PAGE.partition(f"\n## {each.__name__}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        field.name for field in dataclasses.fields(each)
    ]


def figures(*seconds: float, within: bool = True) -> dict[str, Any]:
    waits = Waits()
    for each in seconds:
        waits.add(each)
    return {
        "seconds_max": waits.max_s,
        "writes_held": waits.count,
        "held_s": 0.5,
        "within_limit": within,
        "buckets": waits.pack(),
        "phases": {"cut": {"seconds": waits.max_s, "writes": waits.count}},
        "volumes": [{"name": "data", "count": waits.count}],
    }


def test_holds_of_several_controllers_in_one() -> None:
    hold = results.merge_holds(
        GROUP, {"alpha": figures(0.001, 0.001, 0.001), "beta": figures(0.1), "gamma": None}, 2.0
    )
    assert (hold.seconds_max, hold.writes_held, hold.held_s) == (0.1, 4, 0.5)
    assert hold.p50_s == pytest.approx(0.001, rel=0.05)
    assert hold.p99_s == pytest.approx(0.1, rel=0.05)
    none = {"seconds": 0.0, "writes": 0}
    assert hold.phases == {"draining": none, "held": none, "cut": {"seconds": 0.1, "writes": 4}}
    assert hold.volumes == [{"name": "alpha:data", "count": 3}, {"name": "beta:data", "count": 1}]
    assert hold.within_limit
    assert json.loads(json.dumps(hold.json()))["writes_held"] == 4


def test_one_controller_over_its_limit_is_the_group_over_its_limit() -> None:
    assert not results.merge_holds(
        GROUP, {"alpha": figures(0.1), "beta": figures(0.1, within=False)}, 2.0
    ).within_limit
    assert not results.merge_holds(GROUP, {"alpha": figures(0.1)}, 0.05).within_limit
    assert results.merge_holds(GROUP, {}, 2.0).within_limit


CUT = {"id": "c1", "verdict": "consistent"}


def volume(
    name: str, state: str = "SUSPENDED", cut: dict[str, Any] | None = CUT, usable: bool = True
) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "secondary": None if state == "SIMPLEX" else {"usable": usable, "cut": cut},
    }


@pytest.mark.parametrize(
    ("alpha", "beta", "state", "cut", "verdict"),
    [
        (volume("a"), volume("b"), "SUSPENDED", "c1", "consistent"),
        (volume("a"), volume("b", cut=CUT | {"verdict": "void"}), "SUSPENDED", "c1", "void"),
        (volume("a"), volume("b", cut=CUT | {"verdict": None}), "SUSPENDED", "c1", None),
        (volume("a"), volume("b", usable=False), "SUSPENDED", "c1", "void"),
        (volume("a"), volume("b", cut=CUT | {"id": "c2"}), "MIXED", None, "void"),
        (volume("a"), volume("b", cut=None), "MIXED", None, "void"),
        (volume("a", "DUPLEX", None), volume("b", "DUPLEX", None), "DUPLEX", None, None),
        (volume("a"), volume("b", "DUPLEX", None), "MIXED", None, None),
        (volume("a"), volume("b", "SIMPLEX", None), "MIXED", None, None),
        (volume("a"), None, "UNKNOWN", None, None),
    ],
)
def test_a_group_is_consistent_only_if_all_of_it_stands_at_one_cut_that_is(
    alpha: dict[str, Any],
    beta: dict[str, Any] | None,
    state: str,
    cut: str | None,
    verdict: str | None,
) -> None:
    statuses = {
        name: {"volumes": [each], "groups": []}
        for name, each in (("alpha", alpha), ("beta", beta))
        if each
    }
    found = group_state(Group("db", {"alpha": ("a",), "beta": ("b",)}), statuses)
    assert (found.state, found.cut, found.verdict) == (state, cut, verdict)
    assert found.members == ["alpha:a", "beta:b"]


def test_a_group_of_a_controller_stands_for_its_volumes() -> None:
    statuses = {
        "alpha": {
            "volumes": [volume("a"), volume("x", "DUPLEX", None)],
            "groups": [{"name": "here", "volumes": ["a"]}],
        },
        "beta": {"volumes": [volume("b")], "groups": []},
    }
    assert (
        group_state(Group("db", {"alpha": ("here",), "beta": ("b",)}), statuses).verdict
        == "consistent"
    )


def test_a_group_with_a_member_that_its_controller_does_not_have_is_unknown() -> None:
    statuses = {"alpha": {"volumes": [volume("a")], "groups": []}}
    found = group_state(Group("db", {"alpha": ("a", "b")}), statuses)
    assert (found.state, found.cut, found.verdict, found.missing) == (
        "UNKNOWN",
        None,
        None,
        ["alpha:b"],
    )

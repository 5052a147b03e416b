"""What this run knows of cuts beside the journal: figures, announcements, what is unsettled."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from duplexd.core import cut_states
from duplexd.core.markers import Agreed, MakeCut, Marker, Ready, Stood, Void
from duplexd.errors import NotFoundError
from tests.unit.engine.cores import running
from tests.unit.engine.parts import NAMES, SMALL, Parts

if TYPE_CHECKING:
    from duplexd.core.cut import Cut

CUT = "00000000000000aa"
MEMBERS = ["alpha", "beta"]
HOLD = {"writes_held": 1, "buckets": [[1, 1]]}


def group_cut(parts: Parts, cut_id: str = CUT, volumes: tuple[int, ...] = (1, 2)) -> Cut:
    return after(parts, MakeCut(cut_id, "nightly", list(volumes), "db", MEMBERS), cut_id)


def after(parts: Parts, marker: Marker, cut_id: str = CUT) -> Cut:
    """The cut, once that marker is written."""
    parts.timeline.append(marker)
    return parts.archive.find(cut_id)


# ------------------------------------------------------------------------------ what is shown


def test_a_cut_is_consistent_only_once_it_is_settled() -> None:
    parts = Parts()
    after(parts, MakeCut(CUT, "", [1, 2]))
    parts.archive.unsettled.add(CUT)
    cut = after(parts, Stood(CUT))
    assert (cut.verdict, parts.archive.verdict(cut)) == ("consistent", None)
    pair = parts.archive.of_pair(parts.pair())
    assert pair is not None
    assert pair["verdict"] is None
    parts.archive.unsettled.discard(CUT)
    assert parts.archive.verdict(cut) == "consistent"


def test_a_void_cut_is_void_at_once() -> None:
    parts = Parts()
    after(parts, MakeCut(CUT, "", [1, 2]))
    parts.archive.unsettled.add(CUT)
    assert parts.archive.verdict(after(parts, Void(CUT))) == "void"


def test_a_vote_is_shown_only_once_it_is_settled() -> None:
    parts = Parts()
    group_cut(parts)
    parts.archive.unsettled.add(CUT)
    cut = after(parts, Ready(CUT))
    assert (cut.state, parts.archive.state(cut)) == (cut_states.READY, cut_states.CUT)
    parts.archive.unsettled.discard(CUT)
    assert parts.archive.state(cut) == cut_states.READY


def test_a_cut_is_shown_with_the_volumes_that_are_suspended_at_it() -> None:
    parts = Parts()
    cut = group_cut(parts, volumes=(2,))
    shown = parts.archive.show(cut)
    assert (shown["id"], shown["controller"], shown["tag"]) == (CUT, "alpha", "nightly")
    assert (shown["group"], shown["members"], shown["volumes"]) == ("db", MEMBERS, ["wal"])
    assert parts.archive.of_pair(parts.pair("data")) is None


def test_cuts_in_doubt_are_listed() -> None:
    parts = Parts()
    group_cut(parts, volumes=(1,))
    after(parts, MakeCut("own", "", [2]), "own")
    assert [cut["id"] for cut in parts.archive.undecided()] == [CUT]
    assert [cut["id"] for cut in parts.archive.remembered()] == [CUT, "own"]
    after(parts, Void(CUT))
    assert parts.archive.undecided() == []


def test_a_cut_that_is_not_remembered_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="no such cut"):
        Parts().archive.find(CUT)


# -------------------------------------------------------------------------------- figures


def test_how_long_writes_waited_is_kept_of_the_latest_cuts_only() -> None:
    parts = Parts(dataclasses.replace(SMALL, cut_figures_kept_max=2))
    cuts = [after(parts, Void(str(number)), str(number)) for number in range(4)]
    for cut in cuts:
        parts.archive.keep_figures(cut, HOLD, ["data"])
    assert [parts.archive.hold_of(cut) is not None for cut in cuts] == [False, False, True, True]


def test_figures_that_are_kept_again_are_the_latest() -> None:
    parts = Parts(dataclasses.replace(SMALL, cut_figures_kept_max=2))
    first, second, third = (after(parts, Void(name), name) for name in "abc")
    for cut in (first, second, first, third):
        parts.archive.keep_figures(cut, HOLD, ["data"])
    assert [parts.archive.hold_of(cut) is not None for cut in (first, second, third)] == [
        True,
        False,
        True,
    ]


async def test_a_suspend_keeps_its_figures() -> None:
    async with running() as core:
        result = await core.controller.suspend(["data"])
        (cut,) = core.controller.cuts.all()["cuts"]
        assert (cut["id"], cut["hold"]) == (result["cut"], result["hold"])


# ---------------------------------------------------------------------------- remembering


def test_the_latest_cuts_are_remembered_and_those_in_doubt() -> None:
    parts = Parts(dataclasses.replace(SMALL, cuts_kept_max=4, void_cuts_kept_max=3))
    group_cut(parts)
    for number in range(10):
        parts.timeline.append(Void(str(number)))
    assert list(parts.ledger.cuts) == [CUT, "7", "8", "9"]


def test_a_cut_that_is_aborted_is_remembered_even_if_all_others_are_in_doubt() -> None:
    """Or a late command would find nothing, and make it."""
    parts = Parts(dataclasses.replace(SMALL, cuts_kept_max=2))
    group_cut(parts, "1", (1,))
    group_cut(parts, "2", (2,))
    parts.leases.participant.abort("3")
    assert parts.ledger.state_of("3") == cut_states.VOID
    assert list(parts.ledger.cuts) == ["1", "2", "3"]


# ------------------------------------------------------------------------------- announcing


def test_the_verdict_of_a_groups_cut_is_announced_once_and_when_it_changes() -> None:
    parts = Parts()
    parts.archive.announce(group_cut(parts))
    assert parts.named("suspended") == [], "it has none yet"
    after(parts, Ready(CUT))
    cut = after(parts, Agreed(CUT))
    for _ in range(2):
        parts.archive.announce(cut)
    after(parts, Void(CUT))
    parts.archive.announce(cut)
    assert [event["verdict"] for event in parts.named("suspended")] == ["consistent", "void"]


def test_an_announcement_has_the_volumes_of_the_cut_and_no_buckets() -> None:
    parts = Parts()
    cut = group_cut(parts)
    parts.archive.keep_figures(cut, HOLD, list(NAMES))
    after(parts, Void(CUT))
    parts.archive.announce(cut)
    (event,) = parts.named("suspended")
    assert (event["volumes"], event["hold"]) == (list(NAMES), {"writes_held": 1})
    assert (event["group"], event["members"]) == ("db", MEMBERS)


def test_a_cut_that_only_its_pairs_remember_is_not_announced_again() -> None:
    parts = Parts(dataclasses.replace(SMALL, cuts_kept_max=1))
    group_cut(parts, volumes=(1,))
    after(parts, Ready(CUT))
    cut = after(parts, Agreed(CUT))
    parts.archive.announce(cut)
    group_cut(parts, "b", (2,))
    parts.archive.announce(after(parts, Void("b"), "b"))
    assert CUT not in parts.ledger.cuts
    parts.archive.announce(cut)
    assert [event["cut"] for event in parts.named("suspended")] == [CUT, "b"]

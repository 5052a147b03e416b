"""What is true of every pair after every marker, and that the ledger finds it when it is not."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import pytest

from duplexd.core import invariants, pair_states
from duplexd.core.cut import Cut
from duplexd.core.cut_states import CONSISTENT
from duplexd.core.invariants import broken
from duplexd.core.ledger import Ledger
from duplexd.core.markers import (
    JOURNAL,
    MAP,
    Abandon,
    Attach,
    Commit,
    Copy,
    Detach,
    Equal,
    Fail,
    MakeCut,
    Onward,
    Resync,
    Swap,
)
from duplexd.core.pair_states import (
    ABANDON,
    ATTACH,
    COPY,
    DETACH,
    DUPLEX,
    EQUAL,
    EVENTS,
    FAIL,
    ONWARD,
    PENDING,
    RESYNC,
    SIMPLEX,
    STATES,
    SUSPEND,
    SUSPENDED,
    SWAP,
    TRANSITIONS,
)
from duplexd.errors import DamageError, WrongStateError
from tests.unit.core.ledgers import Story, changed, empty_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.core.ledger import Place
    from duplexd.core.markers import Marker
    from duplexd.core.pair import PairRecord

MARKERS: dict[str, Marker] = {
    ATTACH: Attach([1]),
    COPY: Copy({1: changed(0)}, pair_states.FIRST_COPY),
    SUSPEND: MakeCut("c1", "", [1]),
    ONWARD: Onward("c2", "", [1], 1 << 40, 0),
    FAIL: Fail("f1", 1, [1], [1], [], "I/O error", {1: changed(2)}),
    RESYNC: Resync("j", MAP, [1]),
    ABANDON: Abandon("j", [1], {}),
    EQUAL: Equal([1]),
    DETACH: Detach([1]),
    SWAP: Swap([1]),
}
# Every way into a state, as the events that lead there
WAYS = {
    SIMPLEX: [[], [ATTACH, DETACH], [ATTACH, SUSPEND, DETACH], [COPY, DETACH]],
    PENDING: [[COPY], [ATTACH, COPY], [ATTACH, SUSPEND, RESYNC], [ATTACH, FAIL, RESYNC]],
    DUPLEX: [[ATTACH], [COPY, EQUAL], [ATTACH, SUSPEND, RESYNC, EQUAL]],
    SUSPENDED: [[ATTACH, SUSPEND], [ATTACH, FAIL], [COPY, FAIL], [ATTACH, SUSPEND, FAIL]],
}
EVERYTHING = [(state, way, event) for state in STATES for way in WAYS[state] for event in EVENTS]


def arrived(way: list[str]) -> Story:
    story = Story()
    for event in way:
        story.mark(MARKERS[event])
    return story


# what the ledger makes of markers


@pytest.mark.parametrize(("state", "way", "event"), EVERYTHING)
def test_every_transition_keeps_all_of_them(state: str, way: list[str], event: str) -> None:
    story = arrived(way)
    assert story.pair().state == state
    after = TRANSITIONS.get((state, event))
    if after is None:
        with pytest.raises(WrongStateError, match=f"data is {state}: {event} is not possible"):
            story.ledger.check(MARKERS[event])
        with pytest.raises(DamageError, match=f"{event} of data, which is {state}"):
            story.mark(MARKERS[event])
    elif (event, story.pair().cut) == (ABANDON, None):  # of a copy, which no writer abandons
        with pytest.raises(DamageError, match="is at no cut"):
            story.mark(MARKERS[event])
    else:
        story.mark(MARKERS[event])
        assert story.pair().state == after
        assert broken(story.ledger.pairs.values()) == ""


def test_every_state_is_left_by_every_event_that_the_table_has() -> None:
    tried = {(state, event) for state, _, event in EVERYTHING}
    assert tried == set(itertools.product(STATES, EVENTS))
    assert set(TRANSITIONS) <= tried


def test_a_resync_of_a_secondary_that_holds_no_state_without_a_map_is_damage() -> None:
    story = arrived([ATTACH])
    story.mark(Fail("f1", 1, [1], [1], [1], "I/O error", {}))
    with pytest.raises(DamageError, match="data is PENDING, but is unusable without a map"):
        story.mark(Resync("j", JOURNAL, [1]))


def test_a_resync_that_is_abandoned_after_its_commit_is_damage() -> None:
    """Its secondary has left the cut: its content is no longer a copy of the cut."""
    story = arrived([ATTACH, SUSPEND, RESYNC])
    story.mark(Commit("j", story.sequence, 1, [1]))
    with pytest.raises(DamageError, match="its secondary holds changes from after the cut"):
        story.mark(Abandon("j", [1], {}))


def test_the_error_names_the_record_and_the_marker() -> None:
    story = arrived([ATTACH, SUSPEND, RESYNC])
    story.mark(Commit("j", story.sequence, 1, [1]))
    with pytest.raises(DamageError, match=r"journal record 6: data is .*, after Abandon\(job='j'"):
        story.mark(Abandon("j", [1], {}))


# each rule, broken by a ledger that leaves one field wrong


def unusable(pair: PairRecord) -> None:
    pair.usable = False


def usable(pair: PairRecord) -> None:
    pair.usable = True


def at_a_cut(pair: PairRecord) -> None:
    pair.cut = Cut("c9", 1, 0, "", CONSISTENT)


def with_a_map(pair: PairRecord) -> None:
    pair.changed = empty_map()


def with_a_staging_log(pair: PairRecord) -> None:
    pair.staging = "j"


def at_no_cut(pair: PairRecord) -> None:
    pair.cut = None


def beyond_its_cut(pair: PairRecord) -> None:
    assert pair.cut is not None
    pair.applied = pair.cut.sequence + 1


def unusable_without_a_map(pair: PairRecord) -> None:
    pair.usable, pair.changed = False, None


class Defect(NamedTuple):
    """After these events, a ledger leaves a field wrong; what is found."""

    way: list[str]
    spoil: Callable[[PairRecord], None]
    what: str


DEFECTS = [
    Defect([ATTACH, DETACH], usable, "has a secondary that counts as usable"),
    Defect([ATTACH, DETACH], at_a_cut, "is at a cut, or has a change map"),
    Defect([ATTACH, DETACH], with_a_map, "is at a cut, or has a change map"),
    Defect([ATTACH], at_a_cut, "is at a cut, or has a change map"),
    Defect([ATTACH], with_a_map, "is at a cut, or has a change map"),
    Defect([ATTACH, DETACH], with_a_staging_log, "has a staging log"),
    Defect([ATTACH], with_a_staging_log, "has a staging log"),
    Defect([ATTACH, SUSPEND], with_a_staging_log, "has a staging log"),
    Defect([ATTACH], unusable, "its secondary is not usable"),
    Defect([ATTACH, SUSPEND], at_no_cut, "is at no cut"),
    Defect([ATTACH, SUSPEND], beyond_its_cut, "its secondary holds changes from after the cut"),
    Defect([COPY], unusable_without_a_map, "is unusable without a map of what to copy"),
]


def test_each_rule_is_broken_in_each_of_its_states() -> None:
    tried = {(arrived(defect.way).pair().state, defect.what) for defect in DEFECTS}
    rules = {(state, what) for states, what, _ in invariants._TABLE for state in states}
    assert tried == rules


@pytest.fixture
def spoiled(request: pytest.FixtureRequest) -> Iterator[Defect]:
    """A defective ledger: it folds the last marker of the way, and leaves a field wrong."""
    defect: Defect = request.param
    fold = vars(Ledger)["_fold"]

    def folded(self: Ledger, marker: Marker, place: Place) -> None:
        fold.__get__(self, Ledger)(marker, place)
        if place.sequence == len(defect.way) + 1:  # the first marker makes the volume
            defect.spoil(self.pairs[1])

    with mock.patch.object(Ledger, "_fold", folded):
        yield defect


@pytest.mark.parametrize(
    "spoiled",
    DEFECTS,
    indirect=True,
    ids=lambda defect: f"{'-'.join(defect.way)}-{defect.spoil.__name__}",
)
def test_a_ledger_that_breaks_a_rule_is_found_by_the_next_marker(spoiled: Defect) -> None:
    with pytest.raises(DamageError, match=f"journal record .*, but {spoiled.what}, after"):
        arrived(spoiled.way)


def test_only_the_first_wrong_pair_is_named() -> None:
    story = Story("data", "wal")
    story.mark(Attach([1, 2]))
    for number in (1, 2):
        unusable(story.pair(number))
    assert (
        broken([story.pair(1), story.pair(2)]) == "data is DUPLEX, but its secondary is not usable"
    )
    assert broken([story.pair(2)]) == "wal is DUPLEX, but its secondary is not usable"
    assert broken([]) == ""

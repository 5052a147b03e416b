"""Which points a secondary can be brought to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.backend import WRITE
from duplexd.core import mark_reach
from duplexd.core.mark_reach import THE_TAIL, Reach, together, within_reach
from duplexd.core.markers import (
    JOURNAL,
    Attach,
    Copy,
    Differ,
    Equal,
    Fail,
    MakeCut,
    Mark,
    Missed,
    Remove,
    Resync,
    Swap,
)
from tests.unit.core.ledgers import (
    SIZE,
    Story,
    changed,
    packed_snapshot,
    restored,
    through_a_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.markers import Marker

ATTACH, CUT = Attach([1]), MakeCut("c", "", [1])
AT = 3  # where the cut of a suspended pair is


def pair_after(*markers: Marker, names: Sequence[str] = ("data",)) -> Story:
    story = Story(*names)
    for marker in markers:
        story.mark(marker)
    return story


# at, sequence, oldest record in the journal: whether it is within reach, of a suspended pair
NUMBERS = [
    (AT, AT - 1, 1, False),  # it goes forwards only
    (AT, AT, 1, True),  # it is there
    (AT, AT + 1, 1, True),
    (AT, AT + 1, AT + 1, True),  # the journal has just what it lacks
    (AT, AT + 1, AT + 2, False),  # it has not
    (AT, AT, AT + 2, True),  # nothing has to be brought to it
    (AT, AT, 0, True),
    (AT, AT + 1, 0, False),  # the journal is empty
    (AT - 1, AT, 1, True),  # on its way to the cut
    (AT - 1, AT - 1, 1, True),
]


@pytest.mark.parametrize(("at", "sequence", "oldest", "expected"), NUMBERS)
def test_by_numbers(at: int, sequence: int, oldest: int, expected: bool) -> None:
    pair = pair_after(ATTACH, CUT).pair()
    assert within_reach(pair, at, sequence, oldest) is expected


# What was done to the pair: why nothing is within reach, or nothing but where it is
STATES: list[tuple[list[Marker], str, bool]] = [
    ([], "no secondary", False),
    ([Copy({1: changed(1)}, "first copy")], "at no number", False),
    ([ATTACH], "", True),
    ([ATTACH, CUT], "", True),
    ([ATTACH, CUT, Mark("m", "", [1])], "", True),
    ([ATTACH, CUT, Remove(1)], "removed", False),
    ([ATTACH, CUT, Differ(1, [(0, 4096)])], "known to differ", False),
    ([ATTACH, Fail("f", 2, [1], [1], [1], "", {})], "at no number", False),
    ([ATTACH, Fail("f", 2, [1], [1], [], "", {1: changed(1)})], "", True),
    ([ATTACH, CUT, Swap([1])], "at no number", False),
]


@pytest.mark.parametrize(("markers", "why", "here"), STATES)
def test_by_states(markers: list[Marker], why: str, here: bool) -> None:
    pair = pair_after(*markers).pair()
    at = pair.applied
    reach = mark_reach.of(pair, at, 1)
    assert (reach.why_not(at) == "") is here
    assert why in reach.why_not(at + 1)
    assert (reach.why_not(at + 1) == "") is not bool(why)
    if why:
        assert reach.why_not(at + 1).startswith("data: ")


def test_another_primary_is_a_change_without_records() -> None:
    pair = pair_after(ATTACH, CUT, Missed({1: changed(2)}, (1,))).pair()
    assert "without records by number 4" in mark_reach.of(pair, AT, 1).why_not(AT + 1)


def test_marks_before_an_unclean_stop_stay_within_reach_and_later_ones_do_not() -> None:
    missed = Missed({1: changed(2)})
    story = pair_after(ATTACH, CUT, Mark("m", "", [1]), missed, missed, Mark("n", "", [1]))
    for _ in range(2):
        reach = mark_reach.of(story.pair(), AT, 1)
        assert [not reach.why_not(number) for number in range(2, 8)] == [
            False, True, True, False, False, False,
        ]  # fmt: skip
        story.ledger = through_a_checkpoint(story.ledger, story.sequence)
    story.mark(Resync("j", JOURNAL, [1]))
    story.mark(Equal([1]))
    story.mark(MakeCut("d", "", [1]))
    assert within_reach(story.pair(), story.sequence, story.sequence + 5, 1)


def test_a_checkpoint_that_does_not_say_since_when_is_believed_to_say_from_the_beginning() -> None:
    story = pair_after(ATTACH, CUT, Missed({1: changed(2)}), Mark("m", "", [1]))
    saved = packed_snapshot(story.ledger, story.sequence)
    del saved["pairs"][0]["unrecorded"]
    pair = restored(saved).pairs[1]
    assert [within_reach(pair, AT, number, 1) for number in (AT, AT + 1)] == [True, False]


def test_changes_with_records_are_no_hindrance() -> None:
    story = pair_after(ATTACH, CUT)
    story.ledger.track(story.pair(), WRITE, 0, SIZE)
    assert within_reach(story.pair(), AT, AT + 10, 1)


def test_the_reach_of_several_is_what_all_of_them_have() -> None:
    early, late = Reach(3, THE_TAIL, "early"), Reach(7, THE_TAIL, "late")
    stuck, nowhere = Reach(5, 5, "stuck before", "stuck"), Reach(0, -1, "", "nowhere")
    assert together([]) == Reach(0, THE_TAIL, "")
    assert together([early, late]) == late
    both = together([stuck, early])
    assert [both.why_not(number) for number in (4, 5, 6)] == ["stuck before", "", "stuck"]
    apart = together([late, stuck])
    assert [apart.why_not(number) for number in (4, 5, 6, 7, 8)] == ["stuck"] * 5
    assert together([early, nowhere, late]) == nowhere

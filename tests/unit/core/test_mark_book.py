"""Marks: what their markers make of them, which are remembered, what a checkpoint has of them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from duplexd.core.cut_states import CONSISTENT, CUT, READY, VOID
from duplexd.core.markers import Agreed, Attach, MakeCut, Mark, Ready, Stood, Void
from duplexd.errors import DamageError
from duplexd.limits import TAG_CHARACTERS_MAX
from tests.unit.core.ledgers import Story, everything, packed_snapshot, restored

if TYPE_CHECKING:
    from duplexd.core.mark_book import MarkBook

MEMBERS = ("alpha", "beta", "gamma")
MIB = 1 << 20


@pytest.fixture
def story() -> Story:
    story = Story("data", "wal", "log")
    story.mark(Attach([1, 2, 3]))
    return story


def book(story: Story) -> MarkBook:
    return story.ledger.book.marks


def test_one_of_this_controller_alone_is_consistent_with_its_marker(story: Story) -> None:
    number = story.mark(Mark("m", "before", [1, 2]))
    mark = story.ledger.cut("m")
    assert mark is not None
    assert (mark.state, mark.sequence, mark.tag, mark.time_us) == (
        CONSISTENT,
        number,
        "before",
        number * 1000,
    )
    assert [volume for volume in (1, 2, 3) if mark.is_of([volume])] == [1, 2]


def test_one_of_a_group_is_voted_on(story: Story) -> None:
    seen = []
    for marker in (Mark("m", "", [1], "db", MEMBERS), Ready("m"), Agreed("m")):
        story.mark(marker)
        seen.append(story.ledger.state_of("m"))
    assert seen == [CUT, READY, CONSISTENT]


def test_a_member_that_lost_its_hold_makes_it_void(story: Story) -> None:
    story.mark(Mark("m", "", [1], "db", MEMBERS))
    story.mark(Void("m"))
    assert story.ledger.state_of("m") == VOID


def test_no_pair_learns_of_it(story: Story) -> None:
    story.mark(MakeCut("c", "", [1]))
    story.mark(Stood("c"))
    before = everything(story.ledger)
    last = story.pair().last_cut
    story.mark(Mark("m", "", [1, 2, 3]))
    story.mark(Void("m"))
    assert everything(story.ledger) == before
    assert story.pair().last_cut is last
    assert [pair.history for pair in story.ledger.pairs.values()][1:] == [None, None]


def test_a_void_mark_of_the_same_moment_forgets_no_good_cut(story: Story) -> None:
    story.mark(MakeCut("c", "", [1]))
    story.mark(Stood("c"))
    mark = Mark("m", "", [1], "db", MEMBERS)
    story.ledger.book.fold(mark, story.sequence, 0)
    known = story.ledger.cut("m")
    assert known is not None
    story.pair().good_cut_us = known.time_us = 5
    story.mark(Void("m"))
    assert story.pair().good_cut_us == 5


def test_beyond_the_limit_the_oldest_is_forgotten_and_no_cut_is(story: Story) -> None:
    story.mark(MakeCut("c", "", [1]))
    book(story).keep(3)
    for number in range(6):
        story.mark(Mark(f"m{number}", "", [1]))
    assert list(book(story).known) == ["m3", "m4", "m5"]
    assert list(story.ledger.cuts) == ["c"]
    book(story).keep(1)
    assert list(book(story).known) == ["m5"]


def test_one_in_doubt_outlives_those_that_are_decided(story: Story) -> None:
    story.mark(Mark("doubt", "", [1], "db", MEMBERS))
    story.mark(Ready("doubt"))
    book(story).keep(2)
    for number in range(4):
        story.mark(Mark(f"m{number}", "", [1]))
    assert list(book(story).known) == ["doubt", "m3"]


def test_the_newest_is_remembered_though_all_are_in_doubt(story: Story) -> None:
    book(story).keep(2)
    for number in range(4):
        story.mark(Mark(f"m{number}", "", [1], "db", MEMBERS))
    assert list(book(story).known) == ["m2", "m3"]


def test_the_latest_is_consistent_and_of_all_these_volumes(story: Story) -> None:
    assert book(story).latest([1]) is None
    story.mark(Mark("both", "", [1, 2]))
    story.mark(Mark("one", "", [1]))
    story.mark(Mark("doubt", "", [1, 2], "db", MEMBERS))
    for volumes, name in (((1,), "one"), ((1, 2), "both"), ((2,), "both"), ((), "one")):
        latest = book(story).latest(volumes)
        assert latest is not None
        assert latest.id == name
    assert book(story).latest([3]) is None


def packed_marks(story: Story) -> list[list[object]]:
    return [
        [
            mark.id,
            mark.sequence,
            mark.time_us,
            mark.tag,
            mark.state,
            mark.group,
            mark.members,
            mark.of,
        ]
        for mark in book(story).known.values()
    ]


def test_a_restored_checkpoint_has_them_all(story: Story) -> None:
    story.mark(Mark("m1", "erste", [1, 2]))
    story.mark(Mark("m2", "", [1, 3], "db", MEMBERS))
    story.mark(Mark("m3", "", [1, 3], "db", MEMBERS))
    story.mark(Ready("m3"))
    before = packed_marks(story)
    story.ledger = restored(packed_snapshot(story.ledger, story.sequence))
    assert packed_marks(story) == before
    first, second = (story.ledger.cut(name) for name in ("m2", "m3"))
    assert first is not None
    assert second is not None
    assert first.members is second.members


def test_a_checkpoint_without_marks_has_no_word_of_them(story: Story) -> None:
    assert "marks" not in packed_snapshot(story.ledger, story.sequence)


@pytest.mark.parametrize(
    "packed",
    [
        {"of": [], "marks": [["m", 1, 2, "", "cut", 0]]},
        {"of": [["db", ["alpha"], [1, 1]]], "marks": [["m", 1]]},
        {"of": [1], "marks": []},
    ],
)
def test_a_checkpoint_that_is_none_is_damage(story: Story, packed: object) -> None:
    saved = {**packed_snapshot(story.ledger, story.sequence), "marks": packed}
    with pytest.raises(DamageError, match="not readable"):
        restored(saved)


def test_a_thousand_cost_less_than_a_mebibyte_in_a_checkpoint_and_in_memory(story: Story) -> None:
    """Of three hundred volumes and as many controllers, with the longest tags."""
    many = Story(*(f"v{number}" for number in range(300)))
    members = [f"controller-{number}" for number in range(256)]
    for number in range(1000):
        tag = f"{number}".ljust(TAG_CHARACTERS_MAX, "x")
        many.mark(Mark(f"{number:016x}", tag, list(range(1, 301)), "db", members))
    marks = book(many)
    assert len(marks.known) == 1000
    assert len(json.dumps(marks.pack())) < MIB / 2
    seen: set[int] = set()

    def size(value: object) -> int:
        if id(value) in seen:
            return 0
        seen.add(id(value))
        inner = value if isinstance(value, tuple) else ()
        return sys.getsizeof(value) + sum(map(size, inner))

    fields = ("id", "sequence", "time_us", "tag", "state", "group", "members", "of", "grade")
    total = sys.getsizeof(marks.known) + sum(
        size(mark) + sum(size(getattr(mark, name)) for name in fields)
        for mark in marks.known.values()
    )
    assert total < MIB

"""Drills, as the ledger remembers them."""

from __future__ import annotations

from duplexd.core.drill_record import Drilled
from duplexd.core.markers import Attach, Detach, MakeCut, Stood
from tests.unit.core.ledgers import Story, through_a_checkpoint


def at_cut() -> Story:
    story = Story("data", "wal")
    story.mark(Attach([1, 2]))
    story.mark(MakeCut("c1", "nightly", [1, 2]))
    story.mark(Stood("c1"))
    return story


def drilled(story: Story, drill: str, exit_code: int, *volumes: int) -> float:
    """A drill that ended; the time, as status has it."""
    story.mark(Drilled(drill, "c1", exit_code, 1500, list(volumes)))
    last = story.pair(volumes[0]).drill
    assert last is not None
    time: float = last.show()["time"]
    return time


def test_a_drill_is_of_its_volumes_alone() -> None:
    story = at_cut()
    time = drilled(story, "d1", 0, 2)
    assert story.pair(1).drill is None
    drill = story.pair(2).drill
    assert drill is not None
    assert drill.show() == {
        "id": "d1",
        "cut": "c1",
        "outcome": "passed",
        "exit_code": 0,
        "time": time,
        "took_s": 1.5,
        "passed_time": time,
    }


def test_one_that_fails_leaves_when_the_last_one_passed() -> None:
    story = at_cut()
    passed = drilled(story, "d1", 0, 1)
    failed = drilled(story, "d2", 3, 1)
    drill = story.pair(1).drill
    assert drill is not None
    shown = drill.show()
    assert (shown["id"], shown["outcome"], shown["exit_code"]) == ("d2", "failed", 3)
    assert (shown["time"], shown["passed_time"]) == (failed, passed)
    assert failed > passed


def test_of_one_that_never_passed_no_time_is_known() -> None:
    story = at_cut()
    drilled(story, "d1", 137, 1)
    drill = story.pair(1).drill
    assert drill is not None
    assert drill.show()["passed_time"] is None


def test_a_checkpoint_keeps_it_and_so_does_a_pair_without_a_secondary() -> None:
    story = at_cut()
    drilled(story, "d1", 0, 1, 2)
    drilled(story, "d2", 1, 2)
    story.mark(Detach([2]))
    again = through_a_checkpoint(story.ledger, 20)
    assert [again.pairs[number].drill for number in (1, 2)] == [
        story.pair(number).drill for number in (1, 2)
    ]
    assert again.pairs[1].drill is not None


def test_it_moves_no_pair() -> None:
    story = at_cut()
    before = story.pair(1).state, story.pair(1).cut, story.pair(1).applied
    drilled(story, "d1", 1, 1, 2)
    assert (story.pair(1).state, story.pair(1).cut, story.pair(1).applied) == before

"""Where a failing secondary leaves its pair and the pairs of its group."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from duplexd.core import freeze
from duplexd.core.markers import JOURNAL, Attach, Fail, MakeCut, Resync
from duplexd.core.pair import Halfway
from tests.unit.core.ledgers import Story, changed, empty_map, grains, served

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair


class Group:
    """Three pairs: `data`, `wal` and `log`."""

    def __init__(self) -> None:
        self.story = Story("data", "wal", "log")
        self.story.mark(Attach([1, 2, 3]))
        self.data, self.wal, self.log = (served(self.story.pair(number)) for number in (1, 2, 3))
        self.pairs = [self.data, self.wal, self.log]

    def follow(self, **applied: int) -> None:
        """Bring all of them back from a cut, with secondaries that hold so much."""
        self.story.mark(MakeCut("c1", "", [1, 2, 3]))
        self.story.mark(Resync("j", JOURNAL, [1, 2, 3]))
        for pair in self.pairs:
            pair.refresh()
            self.story.ledger.advance(pair.record, applied[pair.name])

    def fail(
        self,
        at: int,
        unusable: Iterable[Pair] = (),
        missed: Mapping[Pair, ChangeMap] | None = None,
        members: Iterable[Pair] | None = None,
    ) -> list[Fail]:
        """The markers when the secondary of `data` fails."""
        numbers = count(1)
        return freeze.plan(
            self.pairs if members is None else members,
            self.data,
            at,
            "I/O error",
            unusable,
            missed or {},
            lambda: f"f{next(numbers)}",
        )


def test_a_group_that_mirrors_is_suspended_at_one_number() -> None:
    group = Group()
    assert group.fail(at=7) == [Fail("f1", 7, [1, 2, 3], [1], [], "I/O error", {})]


def test_a_pair_that_mirrors_is_taken_back_from_the_tail() -> None:
    """Its secondary holds the tail, and its changes after the number are in its map."""
    group = Group()
    group.story.ledger.advance(group.wal.record, 99)
    (marker,) = group.fail(at=7, missed={group.wal: changed(4)})
    assert (marker.at, marker.volumes) == (7, [1, 2, 3])
    assert {number: grains(each) for number, each in marker.missed.items()} == {2: [4]}


def test_a_secondary_that_is_ahead_is_suspended_where_it_is() -> None:
    group = Group()
    group.follow(data=10, wal=30, log=30)
    at, ahead = group.fail(at=20)
    assert (at.at, at.volumes, at.id) == (20, [1], "f1")
    assert (ahead.at, ahead.volumes, ahead.id) == (30, [2, 3], "f2")
    assert ahead.failed == [1], "the failure that it is suspended for"


def test_secondaries_ahead_by_different_numbers_have_a_cut_each() -> None:
    group = Group()
    group.follow(data=10, wal=30, log=40)
    assert [(marker.at, marker.volumes) for marker in group.fail(at=20)] == [
        (20, [1]),
        (30, [2]),
        (40, [3]),
    ]


def test_a_secondary_that_is_behind_is_brought_to_the_number_by_a_restart() -> None:
    group = Group()
    group.follow(data=10, wal=15, log=20)
    assert [(marker.at, marker.volumes) for marker in group.fail(at=20)] == [(20, [1, 2, 3])]


def test_a_torn_secondary_is_not_ahead_whatever_it_holds() -> None:
    group = Group()
    group.follow(data=30, wal=30, log=10)
    at, ahead = group.fail(at=20, unusable=[group.data])
    assert (at.at, at.volumes, at.unusable) == (20, [1, 3], [1])
    assert (ahead.at, ahead.volumes, ahead.unusable) == (30, [2], [])


def test_a_secondary_that_was_unusable_before_is_not_ahead() -> None:
    group = Group()
    group.follow(data=10, wal=30, log=10)
    group.wal.record.usable = False
    assert [marker.volumes for marker in group.fail(at=20)] == [[1, 2, 3]]


def test_a_secondary_that_is_at_no_number_is_not_taken_back() -> None:
    """It holds everything up to `applied`, and a start brings it to a number after that."""
    group = Group()
    group.follow(data=10, wal=30, log=10)
    group.wal.halfway = Halfway("torn", empty_map())
    assert not group.wal.usable
    assert [(marker.at, marker.volumes) for marker in group.fail(at=20)] == [
        (20, [1, 3]),
        (30, [2]),
    ]


def test_a_map_goes_with_the_marker_of_its_pair_and_an_empty_one_is_left_out() -> None:
    group = Group()
    group.follow(data=10, wal=30, log=10)
    missed = {group.data: changed(0), group.wal: changed(1), group.log: empty_map()}
    at, ahead = group.fail(at=20, missed=missed)
    assert {number: grains(each) for number, each in at.missed.items()} == {1: [0]}
    assert {number: grains(each) for number, each in ahead.missed.items()} == {2: [1]}


def test_a_number_that_no_pair_is_suspended_at_has_no_marker() -> None:
    group = Group()
    group.follow(data=30, wal=30, log=30)
    assert [marker.at for marker in group.fail(at=20)] == [30]


def test_no_pairs_no_marker() -> None:
    assert Group().fail(at=7, members=[]) == []


def test_the_markers_fit_the_states() -> None:
    group = Group()
    group.follow(data=10, wal=30, log=40)
    for marker in group.fail(at=20, unusable=[group.data]):
        group.story.mark(marker)
    places = [pair.record.cut.sequence for pair in group.pairs if pair.record.cut is not None]
    assert places == [20, 30, 40]
    assert [pair.usable for pair in group.pairs] == [False, True, True]

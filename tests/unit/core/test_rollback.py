"""A rollback in the journal: what it closes, what it keeps the secondary for, how it ends."""

from __future__ import annotations

import pytest

from duplexd.core import markers, rollback
from duplexd.core.pair import ONLY_THE_MAP
from duplexd.core.pair_states import SUSPENDED
from duplexd.core.rollback_state import ABANDONED, DONE, Rollback, behind_door, door
from duplexd.errors import DamageError, WrongStateError
from tests.unit.core.ledgers import Story, changed, fold, grains, through_a_checkpoint

BEGINS = markers.Rollback("r1", "c1", [1, 2])
ENDED = markers.RolledBack("r1", [1, 2], whole=True)
GIVEN_UP = markers.RolledBack("r1", [1, 2], whole=False)


def at_cut() -> Story:
    """Two pairs at cut c1, both changed since."""
    story = Story()
    story.mark(markers.NewVolume(2, "wal", 1 << 20))
    story.mark(markers.Attach([1, 2]))
    story.mark(markers.MakeCut("c1", "", [1, 2]))
    for number in (1, 2):
        story.ledger.advance(story.pair(number), story.sequence)
        story.ledger.track(story.pair(number), 1, 0, 100)
    return story


def half_way() -> Story:
    story = at_cut()
    story.mark(BEGINS)
    return story


def test_from_its_begin_to_its_end_the_volumes_are_closed() -> None:
    story = at_cut()
    assert rollback.closed(story.pair(1)) == ""
    story.mark(BEGINS)
    assert "its rollback to cut c1 is not finished" in rollback.closed(story.pair(1))
    story.mark(ENDED)
    assert rollback.closed(story.pair(1)) == ""
    assert story.pair(1).rollback == Rollback("r1", "c1", story.sequence * 1000, DONE)


def test_it_ends_at_the_cut_with_nothing_to_copy_and_what_follows_is_copied_by_the_map() -> None:
    story = half_way()
    story.mark(ENDED)
    pair = story.pair(1)
    assert (pair.state, pair.changed, pair.cut and pair.cut.id) == (SUSPENDED, None, "c1")
    story.ledger.track(pair, 1, 3 << 16, 100)
    assert grains(pair.changed) == [3]
    assert pair.tracked_bytes > ONLY_THE_MAP


def test_given_up_all_that_changed_since_the_cut_is_still_to_be_copied() -> None:
    story = half_way()
    story.mark(GIVEN_UP)
    pair = story.pair(1)
    assert grains(pair.changed) == [0]
    assert pair.rollback is not None
    assert pair.rollback.ended == ABANDONED


@pytest.mark.parametrize(
    "marker",
    [
        markers.Resync("j1", markers.MAP, [1]),
        markers.Copy({1: changed(0)}, "resync"),
        markers.Swap([1]),
        BEGINS,
    ],
    ids=lambda marker: type(marker).__name__,
)
def test_what_would_take_the_secondary_from_its_cut_is_refused(marker: markers.Marker) -> None:
    story = half_way()
    with pytest.raises(WrongStateError, match="data: its rollback to cut c1 is not finished"):
        story.ledger.check(marker)
    story.mark(GIVEN_UP)
    story.ledger.check(marker)


def test_a_failure_and_a_secondary_that_is_configured_no_more_are_not_refused() -> None:
    story = half_way()
    story.mark(markers.Fail("f1", 3, [1], [1], [1], "EIO", {1: changed(0)}))
    story.mark(markers.Detach([2]))
    assert rollback.closed(story.pair(1))
    assert rollback.closed(story.pair(2))
    story.mark(markers.Copy({2: changed(0)}, "first copy"))  # a start would end otherwise
    for pair in (1, 2):
        with pytest.raises(WrongStateError, match="is not at cut c1, so it is not rolled back"):
            story.ledger.check(markers.RolledBack("r1", [pair], whole=True))
    story.ledger.check(GIVEN_UP)


def test_it_begins_at_its_cut_only() -> None:
    story = at_cut()
    with pytest.raises(WrongStateError, match="data is not at cut c2"):
        story.ledger.check(markers.Rollback("r1", "c2", [1]))


@pytest.mark.parametrize("marker", [ENDED, GIVEN_UP, ENDED._replace(id="r2")])
def test_an_end_without_its_begin_is_refused_and_in_a_journal_it_is_damage(
    marker: markers.RolledBack,
) -> None:
    story = half_way() if marker.id == "r2" else at_cut()
    with pytest.raises(WrongStateError, match="has no rollback"):
        story.ledger.check(marker)
    with pytest.raises(DamageError, match="has no rollback"):
        fold(story.ledger, story.sequence + 1, marker)


@pytest.mark.parametrize("ends", [None, ENDED, GIVEN_UP])
def test_a_checkpoint_keeps_it(ends: markers.RolledBack | None) -> None:
    story = half_way()
    if ends is not None:
        story.mark(ends)
    again = through_a_checkpoint(story.ledger, 20)
    assert again.pairs[1].rollback == story.pair(1).rollback
    assert grains(again.pairs[1].changed) == grains(story.pair(1).changed)
    assert again.pairs[1].tracked_bytes == story.pair(1).tracked_bytes


# --------------------------------------------------------------------------- from a backup

RESTORES = markers.Rollback("r2", "c0", [1, 2], "b1")
RESTORED = markers.RolledBack("r2", [1, 2], whole=True)


def restored_half_way() -> Story:
    story = at_cut()
    story.mark(RESTORES)
    return story


def test_a_restore_closes_volumes_to_all_but_the_name_that_its_client_knows() -> None:
    begun = restored_half_way().pair(1).rollback
    assert begun is not None
    assert "its restore from backup b1 is not finished" in begun.closed
    assert begun.admits("data", door("data", "r2"))
    assert not begun.admits("data", "data")
    assert not begun.admits("data", door("data", "r1"))
    assert not begun._replace(ended=DONE).admits("data", door("data", "r2"))
    assert not begun._replace(backup="").admits("data", door("data", "r2"))
    assert [behind_door(name) for name in (door("data", "r2"), "data", "data@restore:")] == [
        "data", "", ""
    ]  # fmt: skip


@pytest.mark.parametrize("end", [RESTORED, RESTORED._replace(whole=False)])
def test_what_was_restored_is_copied_by_the_map_and_none_of_it_is_forgotten(
    end: markers.RolledBack,
) -> None:
    """The records lead there through what nobody can use."""
    story = restored_half_way()
    story.mark(end)
    pair = story.pair(1)
    assert (pair.state, grains(pair.changed)) == (SUSPENDED, [0])
    assert pair.tracked_bytes >= ONLY_THE_MAP


def test_a_pair_that_mirrors_is_not_restored() -> None:
    story = Story()
    story.mark(markers.Attach([1]))
    with pytest.raises(WrongStateError, match="data is DUPLEX: its secondary would get"):
        story.ledger.check(RESTORES._replace(volumes=[1]))


def test_one_that_got_a_secondary_half_way_is_opened_only_as_a_mixture() -> None:
    story = restored_half_way()
    story.mark(markers.Detach([1]))
    story.ledger.check(RESTORED)
    story.mark(markers.Copy({1: changed(0)}, "first copy"))
    with pytest.raises(WrongStateError, match="data is PENDING"):
        story.ledger.check(RESTORED)
    story.ledger.check(RESTORED._replace(whole=False))


@pytest.mark.parametrize(
    "marker",
    [
        markers.Resync("j1", markers.MAP, [1]),
        markers.Swap([1]),
        RESTORES,
        RESTORES._replace(id="r3"),
    ],
    ids=["resync", "swap", "the same", "another"],
)
def test_half_way_the_secondary_stays_and_no_other_restore_begins(marker: markers.Marker) -> None:
    story = restored_half_way()
    with pytest.raises(WrongStateError, match="data: its restore from backup b1 is not finished"):
        story.ledger.check(marker)


def test_a_rollback_takes_the_place_of_a_restore_but_not_the_other_way_round() -> None:
    story = restored_half_way()
    story.mark(BEGINS)
    assert "its rollback to cut c1" in rollback.closed(story.pair(1))
    with pytest.raises(WrongStateError, match="its rollback to cut c1 is not finished"):
        story.ledger.check(RESTORES)
    story.mark(ENDED)
    assert story.pair(1).changed is None


@pytest.mark.parametrize("ends", [None, RESTORED])
def test_a_checkpoint_keeps_a_restore(ends: markers.RolledBack | None) -> None:
    story = restored_half_way()
    if ends is not None:
        story.mark(ends)
    again = through_a_checkpoint(story.ledger, 20)
    assert again.pairs[1].rollback == story.pair(1).rollback
    assert again.pairs[1].tracked_bytes == story.pair(1).tracked_bytes

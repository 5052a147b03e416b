"""A volume grows: what is sized by it follows, and what is of an earlier time stays as it was."""

from __future__ import annotations

import pytest

from duplexd.core.change_history import GREW
from duplexd.core.change_map import ChangeMap
from duplexd.core.growth import GROWN_MAX, Grow, since_cut
from duplexd.core.ledger import Ledger, Place
from duplexd.core.markers import (
    Attach,
    CutAt,
    MakeCut,
    Missed,
    NewVolume,
    Onward,
    Regions,
)
from duplexd.core.regions import DirtyRegions
from duplexd.errors import DamageError
from duplexd.limits import EngineLimits

MIB = 1 << 20
LIMITS = EngineLimits(
    region_bytes_min=MIB, regions_max=4, change_grain_bytes_min=4096, change_grains_max=256
)


class Story:
    """Markers, one after the other."""

    def __init__(self) -> None:
        self.ledger = Ledger(LIMITS)
        self.number = 0
        self.mark(NewVolume(1, "data", MIB))
        self.mark(Attach([1]))
        self.pair = self.ledger.pairs[1]

    def mark(self, marker: object) -> int:
        self.number += 1
        self.ledger.apply(Place(self.number, self.number), marker)  # type: ignore[arg-type]
        return self.number


def test_a_volume_has_its_new_size_from_the_second_marker_on() -> None:
    story = Story()
    story.mark(Grow({1: 2 * MIB}, done=False))
    assert story.pair.size == MIB
    at = story.mark(Grow({1: 2 * MIB}, done=True))
    later = story.mark(Grow({1: 5 * MIB}, done=True))
    pair = story.pair
    assert pair.size == 5 * MIB
    assert [pair.size_at(number) for number in (at - 1, at, later - 1, later)] == [
        MIB,
        2 * MIB,
        2 * MIB,
        5 * MIB,
    ]


@pytest.mark.parametrize("size", [MIB, MIB - 4096])
def test_a_marker_that_does_not_make_a_volume_larger_is_damage(size: int) -> None:
    with pytest.raises(DamageError, match="cannot grow"):
        Story().mark(Grow({1: size}, done=True))


def test_what_changed_since_a_cut_stays_and_what_is_new_of_the_volume_is_not_to_be_copied() -> None:
    story = Story()
    story.mark(MakeCut("c1", "", [1]))
    changed = story.pair.new_map()
    changed.set(MIB - 1, 1)
    story.mark(Missed({1: changed}))
    story.mark(Grow({1: 3 * MIB}, done=True))
    found = story.pair.changed
    assert found is not None
    assert (found.size_bytes, found.grain_bytes) == (3 * MIB, 16384)
    assert found.next_run(0, MIB) == (MIB - 16384, 16384)
    assert found.count == 1


def test_a_copy_of_an_older_cut_is_told_that_all_that_is_new_has_changed() -> None:
    story = Story()
    story.mark(MakeCut("c1", "", [1]))
    story.mark(Grow({1: 2 * MIB}, done=True))
    history = story.pair.history
    assert history is not None
    assert (history.live.next_run(0, 2 * MIB), history.why) == ((MIB, MIB), (GREW,))


def test_regions_that_were_open_are_in_the_larger_ones() -> None:
    story = Story()
    story.mark(Regions({1: [0]}))
    regions = story.pair.regions
    story.mark(Grow({1: 4 * MIB}, done=True))
    story.mark(Regions({1: [3]}))
    regions.touch(3 * MIB, 1)
    before = regions.shift
    story.mark(Grow({1: 8 * MIB}, done=True))
    assert (regions.shift, regions.open, regions.touched) == (before + 1, {0, 1}, {1})
    assert story.pair.regions is regions


def test_a_checkpoint_that_failed_leaves_the_regions_open_in_which_it_began() -> None:
    regions = DirtyRegions(4 * MIB, MIB, 4)
    regions.open = {3}
    regions.checkpointed()
    regions.fit(8 * MIB, MIB, 4)
    regions.not_checkpointed()
    assert regions.open == {1}


def test_a_checkpoint_remembers_when_a_volume_grew() -> None:
    story = Story()
    story.mark(MakeCut("c1", "", [1]))
    story.mark(Grow({1: 2 * MIB}, done=True))
    saved = Ledger.pack_snapshot(story.ledger.snapshot(story.number, {}))
    again = Ledger(LIMITS)
    again.restore({**saved, "sequence": story.number})
    assert again.pairs[1].grown == story.pair.grown
    assert again.pairs[1].size_at(3) == MIB
    assert since_cut(again.pairs[1]) == 1


def test_images_may_be_longer_until_the_volume_has_grown_or_they_are_cut_off() -> None:
    story = Story()
    story.mark(Grow({1: 3 * MIB}, done=False))
    story.mark(Grow({1: 2 * MIB}, done=False))
    saved = Ledger.pack_snapshot(story.ledger.snapshot(story.number, {}))
    again = Ledger(LIMITS)
    again.restore({**saved, "sequence": story.number})
    assert again.pairs[1].growing == story.pair.growing == 3 * MIB
    again.images_fit(again.pairs[1])
    story.mark(Grow({1: 2 * MIB}, done=True))
    assert again.pairs[1].growing == story.pair.growing == 0


def test_what_is_remembered_is_bounded() -> None:
    story = Story()
    for times in range(GROWN_MAX + 3):
        story.mark(Grow({1: MIB + 4096 * (times + 1)}, done=True))
    assert len(story.pair.grown) == GROWN_MAX


@pytest.mark.parametrize(("size", "shift"), [(2 * MIB, 12), (2 * MIB, 14), (MIB, 13)])
def test_a_map_takes_one_of_the_time_before_its_volume_grew(size: int, shift: int) -> None:
    older = ChangeMap(MIB, 4096, 1 << 20)
    for offset in (0, 5 * 4096, MIB - 1):
        older.set(offset, 1)
    newer = ChangeMap(size, 1 << shift, 1 << 20)
    newer.merge(older)
    expected = newer.emptied()
    for offset in (0, 5 * 4096, MIB - 1):
        expected.set(offset, 1)
    assert newer == expected
    assert newer.count == expected.count


def test_a_map_of_a_larger_volume_or_grain_is_refused() -> None:
    ours = ChangeMap(MIB, 4096, 1 << 20)
    for other in (ChangeMap(2 * MIB, 4096, 1 << 20), ChangeMap(MIB, 8192, 1 << 20)):
        with pytest.raises(ValueError, match="differ"):
            ours.merge(other)


@pytest.mark.parametrize("tracked", [0, 8])
def test_what_is_new_counts_as_changed_since_a_cut_of_the_time_before(tracked: int) -> None:
    story = Story()
    story.ledger.remember_cuts(tracked)
    at = story.mark(Grow({1: 2 * MIB}, done=False))
    story.mark(Grow({1: 2 * MIB}, done=True))
    story.ledger.remember_cuts(8)
    for marker in (CutAt("c", "", [1], at - 1, 7, {}), Onward("d", "", [1], at, 8)):
        story.pair.applied = marker.at
        story.mark(marker)
        history = story.pair.history
        assert history is not None
        assert (history.cuts[-1].id, history.why) == (marker.id, (GREW,))
        assert history.live.next_run(0, 4 * MIB) == (MIB, MIB)

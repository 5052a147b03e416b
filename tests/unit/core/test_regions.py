"""Dirty regions: which have to be opened before a change, and what a checkpoint closes."""

from __future__ import annotations

import pytest

from duplexd.core.regions import DirtyRegions

REGION = 16 << 20
SIZE = 10 * REGION


def regions(size: int = SIZE) -> DirtyRegions:
    return DirtyRegions(size, REGION, 4096)


@pytest.mark.parametrize(
    ("size", "region_min", "regions_max", "region"),
    [
        (10 << 30, 16 << 20, 4096, 16 << 20),
        (64 << 30, 16 << 20, 4096, 16 << 20),
        ((64 << 30) + 1, 16 << 20, 4096, 32 << 20),
        (1 << 40, 16 << 20, 4096, 256 << 20),
        (4096, 16 << 20, 4096, 16 << 20),
    ],
)
def test_a_region_is_the_smallest_of_which_the_limit_covers_the_volume(
    size: int, region_min: int, regions_max: int, region: int
) -> None:
    assert 1 << DirtyRegions(size, region_min, regions_max).shift == region


def test_a_range_touches_every_region_it_overlaps() -> None:
    dirty = regions()
    assert list(dirty.of(0, 1)) == [0]
    assert list(dirty.of(REGION - 1, 1)) == [0]
    assert list(dirty.of(REGION - 1, 2)) == [0, 1]
    assert list(dirty.of(REGION, 2 * REGION)) == [1, 2]


def test_only_the_first_change_of_a_region_has_to_wait() -> None:
    dirty = regions()
    assert dirty.touch(REGION - 1, 2) == [0, 1]
    assert dirty.touch(0, 2 * REGION) == []
    assert dirty.touch(REGION, 2 * REGION) == [2]
    assert dirty.touched == {0, 1, 2}


def test_a_region_that_is_open_needs_no_marker_but_stays_open() -> None:
    dirty = regions()
    dirty.open = {3}
    assert dirty.touch(3 * REGION, 1) == []
    assert dirty.touched == {3}


def test_after_a_marker_that_was_not_written_the_next_change_writes_it() -> None:
    dirty = regions()
    fresh = dirty.touch(0, 2 * REGION)
    dirty.untouch(fresh)
    assert dirty.touched == set()
    assert dirty.touch(0, REGION) == [0]


def test_untouch_keeps_the_regions_of_earlier_changes() -> None:
    dirty = regions()
    dirty.touch(0, 1)
    dirty.untouch(dirty.touch(0, 2 * REGION))
    assert dirty.touched == {0}


def test_a_checkpoint_closes_what_did_not_change_since_the_one_before() -> None:
    dirty = regions()
    dirty.open = {0, 1}
    dirty.touch(0, 1)
    dirty.checkpointed()
    assert (dirty.open, dirty.touched) == ({0}, set())
    dirty.checkpointed()
    assert (dirty.open, dirty.touched) == (set(), set())


def test_a_checkpoint_that_fails_closes_nothing() -> None:
    dirty = regions()
    dirty.open = {0, 1}
    dirty.touch(0, 1)
    dirty.checkpointed()
    dirty.not_checkpointed()
    assert dirty.open == {0, 1}
    dirty.checkpointed()
    assert dirty.open == set(), "the next one closes it"


def test_after_a_checkpoint_a_change_of_an_open_region_keeps_it_open_for_the_next() -> None:
    dirty = regions()
    dirty.open = set(dirty.touch(0, 1))
    dirty.checkpointed()
    assert dirty.touch(0, 1) == [], "the journal says so already"
    dirty.checkpointed()
    assert dirty.open == {0}


def test_the_ranges_to_compare_end_with_the_volume() -> None:
    size = 2 * REGION + 4096
    dirty = regions(size)
    dirty.open = {2, 0}
    assert dirty.ranges(size) == [(0, REGION), (2 * REGION, 4096)]

"""Ranges that are holes on both legs are found without reading them, in bounded steps."""

from __future__ import annotations

from sys import maxsize

import pytest

from duplexd.images import holes
from duplexd.images.holes import equal_holes, first_extents, hole_until
from duplexd.units import GIB, MIB, TIB
from tests.support.sparse_leg import PAGE, SparseLeg


class AskedLeg(SparseLeg):
    """Counts the extents that it lists."""

    listed = 0
    most = 0
    asked = 0

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        found = super().extents(offset, length, count_max)
        self.listed += len(found)
        self.most = max(self.most, length)
        self.asked += 1
        return found


def legs(size: int) -> tuple[AskedLeg, AskedLeg]:
    return AskedLeg(size), AskedLeg(size)


@pytest.mark.parametrize("end", [PAGE, MIB, 3 * MIB + PAGE, 5 * GIB, TIB])
def test_all_of_a_range_without_data_is_a_hole(end: int) -> None:
    assert equal_holes(*legs(TIB), 0, end) == end


@pytest.mark.parametrize("at", [0, PAGE, MIB - PAGE, MIB, 700 * MIB, 3 * GIB])
@pytest.mark.parametrize("side", [0, 1])
def test_a_hole_ends_where_either_leg_has_data(at: int, side: int) -> None:
    both = legs(TIB)
    both[side].write(at, b"x" * PAGE)
    assert equal_holes(*both, 0, TIB) == at
    assert equal_holes(*both, at, TIB) == at
    assert equal_holes(*both, at + PAGE, 4 * GIB) == 4 * GIB


def test_a_hole_of_one_leg_alone() -> None:
    leg, _ = legs(TIB)
    leg.write(MIB, b"x" * PAGE)
    assert hole_until(leg, 0, TIB) == MIB
    assert hole_until(leg, 0, PAGE) == PAGE
    assert hole_until(leg, MIB, TIB) == MIB


def test_no_call_asks_about_more_than_a_gibibyte() -> None:
    """A fragmented image has millions of extents in a tebibyte, and all of them are listed."""
    one, other = legs(TIB)
    equal_holes(one, other, 0, TIB)
    assert one.most == GIB


def test_beside_data_little_is_listed() -> None:
    one, other = legs(TIB)
    for page in range(0, 1024, 2):
        one.write(MIB + page * PAGE, b"x" * PAGE)
    one.listed = 0
    assert equal_holes(one, other, MIB, TIB) == MIB
    assert one.listed <= MIB // PAGE


def test_one_call_has_an_end_and_the_next_one_goes_on() -> None:
    both = legs(1 << 60)
    first = equal_holes(*both, 0, 1 << 60)
    assert TIB < first < 1 << 60
    assert equal_holes(*both, first, 1 << 60) > first
    assert holes._WINDOWS_MAX <= 4096


# The extents of a range, from its start on


def whole(leg: AskedLeg, offset: int, end: int) -> list[tuple[int, int, bool]]:
    return first_extents(leg, offset, end - offset, lambda _found: False)


@pytest.mark.parametrize("end", [PAGE, MIB, 3 * MIB + PAGE, 5 * GIB, TIB])
def test_a_range_without_data_is_one_extent(end: int) -> None:
    assert whole(AskedLeg(TIB), 0, end) == [(0, end, False)]


def test_extents_go_on_over_the_calls_that_they_are_asked_in() -> None:
    leg = AskedLeg(TIB)
    for page in range(0, 400, 2):
        leg.write(MIB + page * PAGE, b"x" * PAGE)
    found = whole(leg, 0, TIB)
    assert leg.asked > 3
    assert found == leg.extents(0, TIB)
    assert len(found) == 401


def test_a_range_that_began_to_be_data_between_two_calls_is_joined() -> None:
    class Growing(AskedLeg):
        def extents(
            self, offset: int, length: int, count_max: int = maxsize
        ) -> list[tuple[int, int, bool]]:
            self.zero(0, TIB, False)
            if offset:
                self.write(offset, b"x" * PAGE)
            return super().extents(offset, min(length, PAGE), count_max)

    leg = Growing(TIB)
    assert first_extents(leg, 0, 3 * PAGE, lambda _found: False) == [
        (0, PAGE, False),
        (PAGE, 2 * PAGE, True),
    ]


def test_a_fragmented_leg_is_left_once_there_is_enough() -> None:
    leg = AskedLeg(TIB)
    for page in range(0, 64 * MIB // PAGE, 2):
        leg.write(page * PAGE, b"x" * PAGE)
    found = first_extents(leg, 0, TIB, lambda found: len(found) >= 1000)
    assert 1000 <= len(found) <= 1100
    assert leg.listed == len(found)
    assert found[-1][0] + found[-1][1] == sum(length for _, length, _ in found)


def test_who_wants_one_extent_has_few_listed() -> None:
    leg = AskedLeg(TIB)
    for page in range(0, 64 * MIB // PAGE, 2):
        leg.write(page * PAGE, b"x" * PAGE)
    assert first_extents(leg, 0, TIB, lambda found: len(found) >= 1, 1)[0] == (0, PAGE, True)
    assert leg.listed <= 2


def test_at_least_one_call_is_made() -> None:
    assert first_extents(AskedLeg(TIB), 0, TIB, lambda _found: True) == [(0, TIB, False)]

"""Ranges that are holes on both legs are found without reading them, in bounded steps."""

from __future__ import annotations

import pytest

from duplexd.images import holes
from duplexd.images.holes import Window, equal_holes, first_extents, hole_until
from duplexd.units import GIB, MIB, TIB
from tests.support.sparse_leg import PAGE, SparseLeg


class AskedLeg(SparseLeg):
    """Counts the extents that it lists."""

    listed = 0
    most = 0
    asked = 0

    def extents(self, offset: int, length: int) -> list[tuple[int, int, bool]]:
        found = super().extents(offset, length)
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


def test_extents_go_on_over_the_windows_that_they_are_asked_in() -> None:
    leg = AskedLeg(TIB)
    leg.write(MIB, b"x" * 2 * PAGE)  # half of it is in the first window
    leg.write(5 * GIB, b"x" * PAGE)
    assert whole(leg, PAGE, 6 * GIB) == [
        (PAGE, MIB - PAGE, False),
        (MIB, 2 * PAGE, True),
        (MIB + 2 * PAGE, 5 * GIB - MIB - 2 * PAGE, False),
        (5 * GIB, PAGE, True),
        (5 * GIB + PAGE, GIB - PAGE, False),
    ]


def test_a_fragmented_leg_is_left_once_there_is_enough() -> None:
    leg = AskedLeg(TIB)
    for page in range(0, 64 * MIB // PAGE, 2):
        leg.write(page * PAGE, b"x" * PAGE)
    found = first_extents(leg, 0, TIB, lambda found: len(found) >= 1000)
    assert 1000 <= len(found) <= 2048
    assert leg.listed <= len(found) + 16
    assert found[-1][0] + found[-1][1] == sum(length for _, length, _ in found)


def test_at_least_one_window_is_looked_at() -> None:
    assert first_extents(AskedLeg(TIB), 0, TIB, lambda _found: True) == [(0, MIB, False)]


def test_a_question_goes_on_with_the_window_of_the_last_one() -> None:
    leg, window = AskedLeg(TIB), Window()
    for at in range(0, 8 * GIB, 128 * MIB):
        first_extents(leg, at, 128 * MIB, lambda _found: False, window)
    assert leg.asked <= 8 + 64  # 512 if each began with the smallest


def test_a_window_that_has_grown_over_holes_is_small_again_once_there_are_many_extents() -> None:
    leg, window = AskedLeg(TIB), Window()
    first_extents(leg, 512 * GIB, 64 * GIB, lambda _found: False, window)
    assert leg.most == GIB
    for page in range(0, 256 * MIB // PAGE, 2):
        leg.write(page * PAGE, b"x" * PAGE)
    leg.most = 0
    first_extents(leg, 0, 256 * MIB, lambda _found: True, window)
    assert leg.most == 128 * MIB
    leg.most = 0
    first_extents(leg, 128 * MIB, 128 * MIB, lambda _found: True, window)
    assert leg.most == MIB

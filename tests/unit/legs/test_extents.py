"""Extent sets, scenario by scenario. What holds for any sequence of them is in tests/property/test_extents.py."""

from __future__ import annotations

import pytest

from duplexd.legs.extents import ExtentSet


def extents(*ranges: tuple[int, int]) -> ExtentSet:
    made = ExtentSet()
    for offset, length in ranges:
        made.add(offset, length)
    return made


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ((40, 10), [(10, 10), (30, 5), (40, 10)]),
        ((20, 5), [(10, 15), (30, 5)]),
        ((20, 10), [(10, 25)]),
        ((12, 3), [(10, 10), (30, 5)]),
        ((0, 100), [(0, 100)]),
        ((0, 10), [(0, 20), (30, 5)]),
        ((0, 0), [(10, 10), (30, 5)]),
        ((15, 17), [(10, 25)]),
    ],
)
def test_what_overlaps_or_touches_becomes_one(added: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    found = extents((10, 10), (30, 5))
    found.add(*added)
    assert list(found) == expected
    assert found.total == sum(length for _, length in expected)
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ((12, 3), [(10, 2), (15, 5), (30, 5)]),
        ((0, 100), []),
        ((15, 17), [(10, 5), (32, 3)]),
        ((10, 10), [(30, 5)]),
        ((20, 10), [(10, 10), (30, 5)]),
        ((0, 10), [(10, 10), (30, 5)]),
        ((12, 0), [(10, 10), (30, 5)]),
        ((50, 10), [(10, 10), (30, 5)]),
    ],
)
def test_what_is_removed_leaves_the_rest(removed: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    found = extents((10, 10), (30, 5))
    found.remove(*removed)
    assert list(found) == expected
    assert found.total == sum(length for _, length in expected)


@pytest.mark.parametrize(
    ("asked", "overlaps", "contains"),
    [
        ((10, 10), True, True),
        ((12, 3), True, True),
        ((5, 5), False, False),
        ((5, 6), True, False),
        ((20, 10), False, False),
        ((19, 2), True, False),
        ((10, 25), True, False),
        ((12, 0), False, True),
        ((100, 1), False, False),
    ],
)
def test_what_is_in_the_set(asked: tuple[int, int], overlaps: bool, contains: bool) -> None:
    found = extents((10, 10), (30, 5))
    assert (found.overlaps(*asked), found.contains(*asked)) == (overlaps, contains)


def test_cleared_set_is_empty() -> None:
    found = extents((10, 10), (30, 5))
    found.clear()
    assert (list(found), found.total, len(found)) == ([], 0, 0)

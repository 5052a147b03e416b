"""An extent set is a set of bytes, whatever is done to it in whatever order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from duplexd.legs.extents import ExtentSet

ranges = st.tuples(st.integers(0, 60), st.integers(0, 20))
steps = st.lists(st.tuples(st.booleans(), ranges), max_size=30)


@given(steps, st.lists(ranges, max_size=10))
def test_extent_set_agrees_with_a_set_of_bytes(steps: list[tuple[bool, tuple[int, int]]], asked: list[tuple[int, int]]) -> None:
    found, model = ExtentSet(), set[int]()
    for adds, (offset, length) in steps:
        if adds:
            found.add(offset, length)
            model |= set(range(offset, offset + length))
        else:
            found.remove(offset, length)
            model -= set(range(offset, offset + length))
        extents = list(found)
        assert {byte for start, size in extents for byte in range(start, start + size)} == model
        assert all(size > 0 for _, size in extents)
        assert all(one[0] + one[1] < other[0] for one, other in pairwise(extents)), "in order, apart"
        assert (found.total, len(found)) == (len(model), len(extents))
    for offset, length in asked:
        wanted = set(range(offset, offset + length))
        assert found.overlaps(offset, length) == bool(wanted & model)
        assert found.contains(offset, length) == (wanted <= model)

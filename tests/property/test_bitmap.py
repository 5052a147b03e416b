"""A change map is a set of grains, whatever is done to it in whatever order."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexd.core.change_map import CHUNK_BITS, ChangeMap

GRAIN = 8
SIZE = GRAIN * (2 * CHUNK_BITS + 100) + 3
GRAINS = 2 * CHUNK_BITS + 101

edges = st.sampled_from([0, GRAIN * CHUNK_BITS, 2 * GRAIN * CHUNK_BITS, SIZE - 1])
offsets = st.one_of(
    st.integers(0, SIZE - 1),
    st.builds(lambda edge, by: min(max(edge + by, 0), SIZE - 1), edges, st.integers(-20, 20)),
)
lengths = st.one_of(st.integers(1, 40), st.integers(1, SIZE))
ranges = st.builds(lambda offset, length: (offset, min(length, SIZE - offset)), offsets, lengths)
steps = st.lists(
    st.tuples(
        st.sampled_from(["set", "clear", "clear_grain", "set_all", "merge", "store"]), ranges
    ),
    max_size=12,
)


def fresh() -> ChangeMap:
    return ChangeMap(SIZE, GRAIN, 1 << 20)


def touched(offset: int, length: int) -> set[int]:
    return set(range(offset // GRAIN, (offset + length - 1) // GRAIN + 1))


def covered(offset: int, length: int) -> set[int]:
    stop = GRAINS if offset + length >= SIZE else (offset + length) // GRAIN
    return set(range(-(-offset // GRAIN), stop))


def apply(
    changed: ChangeMap, model: set[int], verb: str, offset: int, length: int
) -> tuple[ChangeMap, set[int]]:
    if verb == "set":
        changed.set(offset, length)
        return changed, model | touched(offset, length)
    if verb == "clear":
        changed.clear(offset, length)
        return changed, model - covered(offset, length)
    if verb == "clear_grain":
        changed.clear_grain(offset // GRAIN)
        return changed, model - {offset // GRAIN}
    if verb == "set_all":
        changed.set_all()
        return changed, set(range(GRAINS))
    if verb == "merge":
        other = fresh()
        other.set(offset, length)
        changed.merge(other)
        return changed, model | touched(offset, length)
    return ChangeMap.from_bytes(changed.copy().to_bytes()), model


def runs(changed: ChangeMap, max_bytes: int) -> list[tuple[int, int]]:
    found, place = [], 0
    while (run := changed.next_run(place, max_bytes)) is not None:
        found.append(run)
        place = sum(run)
    return found


@given(steps, ranges)
def test_change_map_agrees_with_a_set_of_grains(
    steps: list[tuple[str, tuple[int, int]]], asked: tuple[int, int]
) -> None:
    changed, model = fresh(), set[int]()
    for verb, (offset, length) in steps:
        changed, model = apply(changed, model, verb, offset, length)
        assert (changed.count, changed.any()) == (len(model), bool(model))
        found = runs(changed, 1 << 60)
        assert {grain for run in found for grain in touched(*run)} == model
        assert all(sum(one) < other[0] for one, other in pairwise(found)), (
            "each run is as long as it can be"
        )
        assert changed.changed_bytes == sum(length for _, length in found)
    assert changed.overlaps(*asked) == bool(touched(*asked) & model)


@given(st.lists(ranges, max_size=5), st.integers(1, 100 * GRAIN))
def test_bounded_runs_are_whole_grains_and_find_the_same(
    written: list[tuple[int, int]], max_bytes: int
) -> None:
    changed, model = fresh(), set[int]()
    for offset, length in written:
        changed.set(offset, min(length, 5000))
        model |= touched(offset, min(length, 5000))
    found = runs(changed, max_bytes)
    assert {grain for run in found for grain in touched(*run)} == model
    assert all(length <= max(max_bytes, GRAIN) for _, length in found)
    assert all(
        offset % GRAIN == 0 and (length % GRAIN == 0 or offset + length == SIZE)
        for offset, length in found
    )


@given(st.binary(max_size=200), st.booleans())
def test_stored_bytes_are_read_or_refused_and_nothing_else(junk: bytes, packed: bool) -> None:
    with pytest.raises(ValueError, match="change map"):
        ChangeMap.from_bytes(zlib.compress(junk) if packed else junk)


@given(st.lists(ranges, min_size=1, max_size=4), st.data())
def test_a_damaged_map_is_refused_or_still_a_map(
    written: list[tuple[int, int]], data: st.DataObject
) -> None:
    changed = fresh()
    for offset, length in written:
        changed.set(offset, length)
    raw = bytearray(zlib.decompress(changed.to_bytes()))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = ChangeMap.from_bytes(zlib.compress(raw))
    except ValueError:
        return
    assert 0 <= again.changed_bytes <= again.size_bytes
    assert again.count == sum(-(-length // again.grain_bytes) for _, length in runs(again, 1 << 62))

"""The change map, scenario by scenario. What holds for any sequence of them is in
tests/property/test_bitmap.py.
"""

from __future__ import annotations

import sys
import zlib

import pytest

from duplexd.core.change_map import CHUNK_BITS, ChangeMap, grain_shift
from duplexd.limits import EngineLimits
from duplexd.units import GIB, KIB, MIB, TIB

LIMITS = EngineLimits()
GRAIN = LIMITS.change_grain_bytes_min


def empty(size: int, grain_min: int = GRAIN) -> ChangeMap:
    """A map of a volume of this size, with the limits of a daemon."""
    return ChangeMap(size, grain_min, LIMITS.change_grains_max)


@pytest.mark.parametrize(
    ("size", "grain_min", "grains_max", "grain"),
    [
        (10 * GIB, 64 * KIB, 1 << 20, 64 * KIB),
        (64 * GIB, 64 * KIB, 1 << 20, 64 * KIB),
        (64 * GIB + 1, 64 * KIB, 1 << 20, 128 * KIB),
        (1 * TIB, 64 * KIB, 1 << 20, 1 * MIB),
        (4096, 64 * KIB, 1 << 20, 64 * KIB),
        (10 * MIB, 65 * KIB, 1 << 20, 128 * KIB),
        (1000, 1, 10, 128),
    ],
)
def test_grain_is_the_smallest_power_of_two_that_covers_the_volume(
    size: int, grain_min: int, grains_max: int, grain: int
) -> None:
    assert 1 << grain_shift(size, grain_min, grains_max) == grain
    assert ChangeMap(size, grain_min, grains_max).grain_bytes == grain


def test_a_write_marks_every_grain_it_touches() -> None:
    changed = empty(1 * GIB)
    assert not changed.any()
    changed.set(GRAIN - 1, 2)
    assert (changed.count, changed.changed_bytes) == (2, 2 * GRAIN)
    changed.set(5 * GRAIN, 1)
    changed.set(5 * GRAIN, GRAIN)
    assert changed.any()
    assert changed.count == 3
    assert changed.next_run(0, GIB) == (0, 2 * GRAIN)
    assert changed.next_run(2 * GRAIN, GIB) == (5 * GRAIN, GRAIN)
    assert changed.next_run(6 * GRAIN, GIB) is None


@pytest.mark.parametrize("size", [GRAIN, 9 * GRAIN - 1, CHUNK_BITS * GRAIN, 3 * CHUNK_BITS * GRAIN])
def test_a_map_of_the_beginning_of_a_volume_says_the_same_of_it(size: int) -> None:
    changed, expected = empty(3 * CHUNK_BITS * GRAIN), empty(size)
    for grain in (0, 8, 9, CHUNK_BITS - 1, 2 * CHUNK_BITS):
        changed.set(grain * GRAIN, GRAIN)
        if grain * GRAIN < size:
            expected.set(grain * GRAIN, 1)
    changed.set(CHUNK_BITS * GRAIN, CHUNK_BITS * GRAIN)
    if size > CHUNK_BITS * GRAIN:
        expected.set(CHUNK_BITS * GRAIN, CHUNK_BITS * GRAIN)
    before = changed.copy()
    cut = changed.cut_to(size)
    assert (cut, cut.count, cut.changed_bytes) == (
        expected, expected.count, expected.changed_bytes,
    )  # fmt: skip
    assert changed == before


def test_a_range_clears_only_the_grains_it_covers() -> None:
    changed = empty(1 * GIB)
    changed.set(0, 5 * GRAIN)
    changed.clear(GRAIN - 1, 3 * GRAIN)
    assert list(runs(changed)) == [(0, GRAIN), (3 * GRAIN, 2 * GRAIN)]
    changed.clear(3 * GRAIN + 1, GRAIN)
    assert changed.count == 3
    changed.clear_grain(4)
    assert list(runs(changed)) == [(0, GRAIN), (3 * GRAIN, GRAIN)]
    changed.clear_all()
    assert not changed.any()


def test_the_end_of_the_volume_cuts_the_last_grain_short() -> None:
    size = 3 * GRAIN + 4096
    changed = empty(size)
    changed.set(size - 1, 1)
    assert (changed.count, changed.changed_bytes) == (1, 4096)
    assert changed.next_run(0, GIB) == (3 * GRAIN, 4096)
    assert changed.next_run(size, GIB) is None, (
        "a walk that goes on where the last run ended comes to an end"
    )
    changed.set_all()
    assert (changed.count, changed.changed_bytes) == (changed.grains, size) == (4, size)
    changed.clear(3 * GRAIN, 4096)
    assert changed.changed_bytes == 3 * GRAIN
    changed.set_all()
    changed.clear(0, size)
    assert not changed.any()


def test_a_run_is_whole_grains_no_longer_than_asked_but_at_least_one() -> None:
    changed = empty(1 * GIB)
    changed.set(GRAIN, 10 * GRAIN)
    assert changed.next_run(0, 4 * GRAIN + 1) == (GRAIN, 4 * GRAIN)
    assert changed.next_run(0, 1) == (GRAIN, GRAIN)
    assert changed.next_run(GRAIN + 5, GRAIN) == (GRAIN, GRAIN), (
        "from the grain that holds the start"
    )


def test_a_run_goes_on_over_the_parts_the_map_is_kept_in() -> None:
    changed = ChangeMap(4 * CHUNK_BITS, 1, 4 * CHUNK_BITS)
    changed.set(CHUNK_BITS - 3, CHUNK_BITS + 6)
    assert changed.next_run(0, 1 << 40) == (CHUNK_BITS - 3, CHUNK_BITS + 6)
    changed.set_all()
    assert changed.next_run(5, 1 << 40) == (5, 4 * CHUNK_BITS - 5)


def test_overlaps_asks_for_any_grain_of_the_range() -> None:
    changed = empty(1 * GIB)
    changed.set(5 * GRAIN, 1)
    assert changed.overlaps(5 * GRAIN + 100, 1)
    assert changed.overlaps(0, 5 * GRAIN + 1)
    assert not changed.overlaps(0, 5 * GRAIN)
    assert not changed.overlaps(6 * GRAIN, 100 * GRAIN)
    assert not empty(GIB).overlaps(0, GIB)


def test_merge_unites_and_leaves_the_other_alone() -> None:
    ours, theirs = empty(1 * GIB), empty(1 * GIB)
    ours.set(0, 2 * GRAIN)
    theirs.set(GRAIN, 2 * GRAIN)
    theirs.set(CHUNK_BITS * GRAIN, 1)
    before = theirs.copy()
    ours.merge(theirs)
    assert list(runs(ours)) == [(0, 3 * GRAIN), (CHUNK_BITS * GRAIN, GRAIN)]
    assert ours.count == 4
    ours.set(CHUNK_BITS * GRAIN + GRAIN, 1)
    assert theirs == before


@pytest.mark.parametrize("other", [empty(2 * GIB), empty(GIB, 2 * GRAIN)])
def test_merge_refuses_a_map_of_another_shape(other: ChangeMap) -> None:
    with pytest.raises(ValueError, match="differ"):
        empty(1 * GIB).merge(other)


def test_a_copy_is_its_own() -> None:
    changed = empty(1 * TIB)
    changed.set_all()
    twin = changed.copy()
    twin.clear_grain(0)
    assert changed.count == twin.count + 1 == changed.grains
    assert changed != twin
    assert changed != "something else"


def test_a_thousand_maps_of_a_terabyte_that_are_set_all_over_share_their_memory() -> None:
    maps = [empty(1 * TIB) for _ in range(1000)]
    for changed in maps:
        changed.set_all()
    chunks = {id(chunk): chunk for changed in maps for chunk in changed._chunks.values()}
    assert sum(sys.getsizeof(chunk) for chunk in chunks.values()) < 4096
    assert maps[0].count == LIMITS.change_grains_max


def test_parts_that_are_clear_again_cost_nothing() -> None:
    changed = empty(1 * TIB)
    changed.set_all()
    changed.clear(0, TIB)
    assert not changed._chunks


@pytest.mark.parametrize("size", [4096, 3 * GRAIN + 4096, 1 * GIB, 1 * TIB])
@pytest.mark.parametrize("fill", ["nothing", "some", "everything"])
def test_what_is_stored_is_read_back(size: int, fill: str) -> None:
    changed = empty(size)
    if fill == "everything":
        changed.set_all()
    elif fill == "some":
        for place in range(0, size, size // 7 + 1):
            changed.set(place, 1)
    again = ChangeMap.from_bytes(changed.to_bytes())
    assert again == changed
    assert (again.count, again.changed_bytes, again.grain_bytes) == (
        changed.count,
        changed.changed_bytes,
        changed.grain_bytes,
    )
    again.set(0, 1)
    again.clear(0, size)
    assert not again.any()


def test_stored_maps_are_small() -> None:
    changed = empty(1 * TIB)
    changed.set_all()
    assert len(changed.to_bytes()) < 4096


def packed(
    magic: bytes = b"dcm1",
    shift: int = 16,
    size: int = GIB,
    chunks: int = 1,
    body: bytes | None = None,
) -> bytes:
    bits = (0).to_bytes(4, "little") + b"\x01" + bytes(CHUNK_BITS // 8 - 1)
    header = (
        magic
        + shift.to_bytes(4, "little")
        + size.to_bytes(8, "little")
        + chunks.to_bytes(4, "little")
    )
    return zlib.compress(header + (bits if body is None else body))


def chunk(index: int, bits: bytes) -> bytes:
    return index.to_bytes(4, "little") + bits.ljust(CHUNK_BITS // 8, b"\0")


def test_packed_by_hand_is_what_is_stored() -> None:
    changed = empty(GIB)
    changed.set(0, 1)
    assert ChangeMap.from_bytes(packed()) == changed
    assert zlib.decompress(changed.to_bytes()) == zlib.decompress(packed())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        packed()[:-1],
        packed()[:10],
        packed() + b"x",
        zlib.compress(b"dcm1"),
        packed(magic=b"dcm2"),
        packed(shift=49),
        packed(shift=0, size=1 << 60),
        packed(chunks=0),
        packed(chunks=2),
        packed(chunks=3, body=chunk(0, b"\1") + chunk(1, b"\1") + chunk(2, b"\1")),
        packed(chunks=2, body=chunk(1, b"\1") + chunk(0, b"\1")),
        packed(chunks=2, body=chunk(1, b"\1") + chunk(1, b"\1")),
        packed(body=chunk(2, b"\1")),
        packed(body=chunk(0, b"")),
        packed(size=GRAIN, body=chunk(0, b"\3")),
        packed(size=0, chunks=1),
        packed(body=bytes(100 * MIB)),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="change map"):
        ChangeMap.from_bytes(data)


def test_a_map_cannot_be_a_key() -> None:
    with pytest.raises(TypeError):
        hash(empty(GIB))


def runs(changed: ChangeMap) -> list[tuple[int, int]]:
    found, place = [], 0
    while (run := changed.next_run(place, 1 << 60)) is not None:
        found.append(run)
        place = sum(run)
    return found

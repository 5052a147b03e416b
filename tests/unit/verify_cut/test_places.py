"""Where two views differ, to the byte at the ends, in runs of sectors."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from duplexd.verify_cut.places import Places, differing


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ([], []),
        ([0], [(0, 1)]),
        ([2999], [(2999, 3000)]),
        ([10, 20], [(10, 21)]),
        ([500, 600], [(500, 601)]),
        ([100, 2000], [(100, 101), (2000, 2001)]),
        (range(3000), [(0, 3000)]),
    ],
)
def test_differences_are_runs_of_sectors(changed: list[int], found: list[tuple[int, int]]) -> None:
    one = bytes(3000)
    other = bytearray(one)
    for at in changed:
        other[at] = 1
    assert list(differing(one, bytes(other))) == found


@pytest.mark.parametrize("seed", range(20))
def test_every_byte_that_differs_is_in_a_run_and_each_run_begins_and_ends_with_one(
    seed: int,
) -> None:
    rng = Random(seed)
    one = rng.randbytes(rng.randrange(1, 9000))
    other = bytearray(one)
    for _ in range(rng.randrange(12)):
        other[rng.randrange(len(one))] ^= 1
    runs = list(differing(one, bytes(other)))
    inside = {at for start, end in runs for at in range(start, end)}
    unlike = {at for at in range(len(one)) if one[at] != other[at]}
    assert unlike <= inside
    assert {at for start, end in runs for at in (start, end - 1)} <= unlike
    assert all(end + 1 < start for (_, end), (start, _) in pairwise(runs))


def test_a_place_that_goes_on_in_the_next_piece_is_one_if_the_reason_is_the_same() -> None:
    places = Places(16)
    for base, why in ((0, "a"), (512, "a"), (1024, "b"), (4096, "b")):
        places.compare(base, bytes(512), b"\1" * 512, why)
    assert (places.count, [tuple(place) for place in places.kept]) == (
        3,
        [(0, 1024, "a"), (1024, 1536, "b"), (4096, 4608, "b")],
    )


def test_beyond_the_limit_places_are_counted_and_not_kept() -> None:
    places = Places(3)
    for number in range(8):
        for piece in range(2):  # two pieces of one place
            places.compare(number * 4096 + piece * 512, bytes(512), b"\1" * 512, "why")
    assert (places.count, len(places.kept), places.ranges.total_bytes) == (
        8,
        3,
        8 * 1024,
    )
    assert list(places.describe("/x"))[-1] == "/x: 5 more places differ; 8192 bytes in all"

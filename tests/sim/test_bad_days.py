"""Everything fails, hangs or is exchanged, on either leg, at any moment, at a start too: what was
acknowledged is read, what was flushed survives, and no image is called what it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sim.bad_day import run, run_hanging, run_unmarked

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK, LONG_CHUNK = 10, 100
LONG = (pytest.mark.long, pytest.mark.timeout(1800))


def chunks(short: int, long: int) -> list[object]:
    """The first `short` seeds in small chunks, and up to `long` in large ones, for the long run."""
    return [
        *(range(first, first + CHUNK) for first in range(0, short, CHUNK)),
        *(
            pytest.param(range(first, first + LONG_CHUNK), marks=LONG)
            for first in range(short, long, LONG_CHUNK)
        ),
    ]


def named(seeds: range) -> str:
    return str(seeds.start)


@pytest.mark.parametrize("seeds", chunks(200, 6700), ids=named)
def test_whatever_fails_costs_only_itself(seeds: range) -> None:
    for seed in seeds:
        run(seed)


@pytest.mark.parametrize("seeds", chunks(100, 3400), ids=named)
def test_what_hangs_hangs_alone(seeds: range) -> None:
    for seed in seeds:
        run_hanging(seed)


@pytest.mark.parametrize("seeds", chunks(30, 1500), ids=named)
def test_without_marks_no_image_is_called_what_it_is_not(seeds: range) -> None:
    for seed in seeds:
        run_unmarked(seed)


@pytest.mark.parametrize(
    ("day", "seed"),
    [(run, 4605), (run_hanging, 2029), (run_unmarked, 332), (run_unmarked, 1268)],
    ids=["a change only in memory", "a thread left behind", "no answer", "another disk"],
)
def test_a_seed_that_found_a_fault(day: Callable[[int], None], seed: int) -> None:
    day(seed)

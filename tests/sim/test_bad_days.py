"""Everything fails, hangs or is exchanged, on either leg, at any moment, at a start too: what was
acknowledged is read, what was flushed survives, and no image is called what it is not.
"""

from __future__ import annotations

import pytest

from tests.sim.bad_day import run, run_hanging

SEEDS, HANGING_SEEDS, CHUNK = 200, 100, 10
LONG_SEEDS, LONG_HANGING_SEEDS, LONG_CHUNK = 6700, 3400, 100


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_whatever_fails_costs_only_itself(first: int) -> None:
    for seed in range(first, first + CHUNK):
        run(seed)


@pytest.mark.parametrize("first", range(0, HANGING_SEEDS, CHUNK))
def test_what_hangs_hangs_alone(first: int) -> None:
    for seed in range(first, first + CHUNK):
        run_hanging(seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(SEEDS, LONG_SEEDS, LONG_CHUNK))
def test_whatever_fails_costs_only_itself_long(first: int) -> None:
    for seed in range(first, first + LONG_CHUNK):
        run(seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(HANGING_SEEDS, LONG_HANGING_SEEDS, LONG_CHUNK))
def test_what_hangs_hangs_alone_long(first: int) -> None:
    for seed in range(first, first + LONG_CHUNK):
        run_hanging(seed)

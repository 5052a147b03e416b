"""The journal, pair and recovery code, unchanged, on a disk that forgets: seeded scenarios of
several lives each.
"""

from __future__ import annotations

import pytest

from tests.sim import together
from tests.sim.scenario import run

SEEDS, CHUNK, LONG_SEEDS, LONG_CHUNK = 200, 10, 5000, 100
FOUND = (709,)  # a sync that failed behind a copy's back: grains were forgotten


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_crashes_lose_nothing_acknowledged(first: int) -> None:
    for seed in range(first, first + CHUNK):
        run(seed)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_a_group_member_keeps_its_votes_over_crashes(first: int) -> None:
    for seed in range(first, first + CHUNK):
        together.run(seed)


@pytest.mark.parametrize("seed", FOUND)
def test_seeds_that_once_failed(seed: int) -> None:
    run(seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(SEEDS, LONG_SEEDS, LONG_CHUNK))
def test_crashes_lose_nothing_acknowledged_long(first: int) -> None:
    for seed in range(first, first + LONG_CHUNK):
        run(seed)


# What a worker met after its caller was cancelled, and a cut that nobody waited for, were told to
# nobody; a checkpoint that was complete only after
# a resync had begun let go of the journal that a restart needed
@pytest.mark.parametrize("seed", [498, 2155, 2640, 3542])
def test_seeds_of_a_group_member_that_once_failed(seed: int) -> None:
    together.run(seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(SEEDS, LONG_SEEDS, LONG_CHUNK))
def test_a_group_member_keeps_its_votes_over_crashes_long(first: int) -> None:
    for seed in range(first, first + LONG_CHUNK):
        together.run(seed)

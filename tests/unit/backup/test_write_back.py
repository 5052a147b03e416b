"""Which ranges are compared."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from duplexd.backup.write_back import GAP_BYTES, united

BLOCK = 4096


@pytest.mark.parametrize("seed", range(50))
def test_all_that_is_data_in_one_of_them_is_compared_once_in_whole_blocks(seed: int) -> None:
    random = Random(seed)
    size = random.randrange(1, 400 * BLOCK)
    ranges = [
        (at := random.randrange(size), random.randint(1, min(9 * BLOCK, size - at)))
        for _ in range(6)
    ]
    found = united(ranges, size)
    covered = [at for offset, length in found for at in range(offset, offset + length, BLOCK)]
    assert covered == sorted(set(covered))
    wanted = {
        block * BLOCK
        for offset, length in ranges
        for block in range(offset // BLOCK, (offset + length - 1) // BLOCK + 1)
    }
    assert wanted <= set(covered)
    assert all(offset + length <= size for offset, length in found)
    # no more than the gaps between them
    assert all(
        {offset, (offset + length - 1) // BLOCK * BLOCK} <= wanted for offset, length in found
    )
    ends = [(sum(one), other[0]) for one, other in pairwise(found)]
    assert all(end + GAP_BYTES < begin for end, begin in ends)


def test_what_lies_behind_the_volume_is_not() -> None:
    """Images have whole sectors."""
    assert united([(0, 1024)], 1000) == [(0, 1000)]
    assert united([(8192, 512)], 8192) == []

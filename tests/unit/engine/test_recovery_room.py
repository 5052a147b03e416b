"""What a start that needs room in the journal records of the images, after the replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.core.cut import Cut
from duplexd.core.image_record import Image
from duplexd.core.pair import PairRecord
from duplexd.core.pair_states import SUSPENDED
from duplexd.engine.recovery.room import left
from duplexd.limits import EngineLimits
from duplexd.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

LAST, NUMBER = 10, 20  # of the checkpoint that was read, and of the one that is written
OFFSETS = [0, 32 * MIB]


def found(sampled_at: int, at_cut: bool = False, swaps: int = 0, cut: int = 5) -> Sequence[int]:
    """Where the samples are still true; the first region was touched."""
    record = PairRecord(1, "data", 64 * MIB, EngineLimits())
    record.regions.touch(0, 1)
    record.state, record.swaps = SUSPENDED, swaps
    record.cut = Cut("1", cut, 0, "", "consistent")
    samples = tuple((offset, 1) for offset in OFFSETS)
    image = Image("id", "/a", "", 0, True, 1, samples, sampled_at=sampled_at)
    return left(record, image, LAST, NUMBER, at_cut).offsets


@pytest.mark.parametrize(
    ("sampled_at", "at_cut", "swaps", "true"),
    [
        (5, True, 0, OFFSETS),  # it is at that cut still
        (5, False, 0, []),  # a primary: it went on
        (LAST, False, 0, OFFSETS[1:]),
        (LAST, True, 0, OFFSETS[1:]),
        (LAST, False, 1, []),
        (7, False, 0, []),  # of a cut that it has left
    ],
)
def test_samples_are_kept_where_nothing_can_have_changed(
    sampled_at: int, at_cut: bool, swaps: int, true: Sequence[int]
) -> None:
    assert found(sampled_at, at_cut, swaps) == true

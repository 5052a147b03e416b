"""Where each byte of a clone is read, and how much of it is data."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from bitarray import bitarray
from hypothesis import given
from hypothesis import strategies as st

from duplexd.core.overlay_map import BASE, OVERLAY, ZEROES, OverlayMap

if TYPE_CHECKING:
    import pytest

BLOCK = 16
SIZE = 10 * BLOCK - 4  # the last block is short


def test_an_unchanged_volume_is_one_run_of_the_secondary() -> None:
    assert list(OverlayMap(SIZE, BLOCK).runs(3, SIZE - 3)) == [(3, SIZE - 3, BASE)]


def test_blocks_are_larger_where_there_would_be_too_many() -> None:
    assert OverlayMap(1 << 40).block_bytes == 64 << 10
    assert OverlayMap(1 << 36).block_bytes == 4 << 10


def test_the_blocks_of_a_range_as_a_whole() -> None:
    blocks = OverlayMap(SIZE, BLOCK)
    assert blocks.whole(1, 14)[1] == 0
    assert blocks.whole(1, 40) == (16, 16)
    assert blocks.whole(1, SIZE - 1) == (16, SIZE - 16)
    assert blocks.block(SIZE - 1) == (9 * BLOCK, BLOCK - 4)


class Counting(bitarray):
    """How many bits were looked at in searches."""

    looked = 0

    def find(self, value: int, start: int, stop: int) -> int:  # type: ignore[override]
        at = super().find(value, start, stop)
        Counting.looked += (at if at >= 0 else stop) - start
        return at


def test_however_many_runs_there_are_the_bitmaps_are_searched_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("duplexd.core.overlay_map.zeros", lambda count: Counting(bytes(count)))
    monkeypatch.setattr(Counting, "looked", 0)
    blocks = OverlayMap(1000 * BLOCK, BLOCK)
    blocks.zero(0, 1000 * BLOCK)
    for block in range(0, 1000, 2):
        blocks.write(block * BLOCK, BLOCK)
    assert len(list(blocks.runs(0, 1000 * BLOCK))) == 1000
    assert 1000 < Counting.looked <= 2000


Step = tuple[bool, int, int]
_STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, SIZE - 1), st.integers(1, SIZE)), max_size=12
)


@given(_STEPS, st.integers(0, SIZE - 1), st.integers(1, SIZE))
def test_runs_say_of_each_byte_what_was_done_last_to_its_block(
    steps: list[Step], offset: int, length: int
) -> None:
    blocks, model = OverlayMap(SIZE, BLOCK), [BASE] * 10
    for is_write, start, nbytes_max in steps:
        nbytes = min(nbytes_max, SIZE - start)
        first, stop = start // BLOCK, -(-(start + nbytes) // BLOCK)
        more = sum(each != OVERLAY for each in model[first:stop]) * BLOCK
        assert blocks.new_bytes(start, nbytes) == more
        (blocks.write if is_write else blocks.zero)(start, nbytes)
        model[first:stop] = [OVERLAY if is_write else ZEROES] * (stop - first)
    length = min(length, SIZE - offset)
    said = [source for _, nbytes, source in blocks.runs(offset, length) for _ in range(nbytes)]
    assert said == [model[at // BLOCK] for at in range(offset, offset + length)]
    neighbours = [source for _, _, source in blocks.runs(offset, length)]
    assert all(one != other for one, other in pairwise(neighbours))
    assert blocks.data_bytes == model.count(OVERLAY) * BLOCK

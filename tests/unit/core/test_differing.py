"""Blocks that have to be written, compared with a plain look at each block."""

from __future__ import annotations

from random import Random

import pytest

from duplexd.core.differing import BLOCK_BYTES, Run, differing

B = BLOCK_BYTES


def test_equal_ranges_need_nothing() -> None:
    assert differing(b"x" * 100, b"x" * 100) == []


def test_blocks_that_follow_one_another_are_one_run_but_zeroes_are_runs_of_their_own() -> None:
    wanted = b"a" * 2 * B + bytes(2 * B) + b"c" * B + b"d" * 10
    present = b"z" * 4 * B + b"c" * B + b"e" * 10
    assert differing(wanted, present) == [
        Run(0, 2 * B, zeroes=False), Run(2 * B, 2 * B, zeroes=True), Run(5 * B, 10, zeroes=False)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_makes_them_equal_and_touches_no_block_that_is(seed: int) -> None:
    random = Random(seed)
    size = random.randrange(1, 9 * B)

    def content() -> bytes:
        return b"".join(bytes([random.choice((0, 0, 7))]) * B for _ in range(9))[:size]

    wanted, present = content(), content()
    now, touched = bytearray(present), 0
    for run in differing(wanted, present):
        piece = wanted[run.offset : run.offset + run.length]
        assert run.zeroes is not any(piece)
        now[run.offset : run.offset + run.length] = piece
        touched += run.length
    assert now == wanted
    unequal = [at for at in range(0, size, B) if wanted[at : at + B] != present[at : at + B]]
    assert touched == sum(len(wanted[at : at + B]) for at in unequal)

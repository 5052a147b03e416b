"""Pieces of long changes: their lengths, and when the whole is done."""

from __future__ import annotations

import dataclasses
import errno

import pytest

from duplexd.backend import WRITE, ZERO
from duplexd.core.long_change import LongChange, PieceSizes
from duplexd.core.pair import PairChange
from duplexd.limits import EngineLimits
from duplexd.units import MIB
from tests.unit.core.test_fair_queue import VOLUMES, Peer

LIMITS = dataclasses.replace(
    EngineLimits(),
    record_bytes_max=MIB,
    zero_bytes_first=4 * MIB,
    zero_bytes_max=16 * MIB,
    zero_seconds=0.002,
)


def zeroes(length: int, offset: int = 0, allocate: bool = False) -> PairChange:
    return PairChange(Peer(), 0, VOLUMES[0], ZERO, offset, length, allocate=allocate)


@pytest.mark.parametrize(
    ("mib", "seconds", "then"),
    [
        (4, 0.0009, 8),
        (4, 0.001, 4),
        (4, 0.004, 4),
        (4, 0.008, 1),
        (4, 0.0041, 1),
        (4, 1.0, 1),
        (2, 0.0, 4),
    ],
)
def test_the_next_piece_follows_from_the_time_of_the_last(
    mib: int, seconds: float, then: int
) -> None:
    sizes = PieceSizes(LIMITS)
    sizes.took(zeroes(mib * MIB), seconds)
    assert sizes.next(zeroes(64 * MIB)) == then * MIB


def test_pieces_grow_up_to_a_limit_and_are_at_least_a_record() -> None:
    sizes = PieceSizes(LIMITS)
    for _ in range(10):
        sizes.took(zeroes(sizes.next(zeroes(64 * MIB))), 0.0)
    assert sizes.next(zeroes(64 * MIB)) == LIMITS.zero_bytes_max
    sizes.took(zeroes(LIMITS.zero_bytes_max), 1000.0)
    assert sizes.next(zeroes(64 * MIB)) == LIMITS.record_bytes_max


def test_holes_and_zeroes_that_keep_their_space_have_lengths_of_their_own() -> None:
    sizes = PieceSizes(LIMITS)
    sizes.took(zeroes(4 * MIB, allocate=True), 1.0)
    assert sizes.next(zeroes(64 * MIB, allocate=True)) == MIB
    assert sizes.next(zeroes(64 * MIB)) == 4 * MIB


def test_pieces_of_zeroes_end_at_multiples_of_a_record() -> None:
    long = LongChange(zeroes(7 * MIB, offset=512, allocate=True), lambda _: None)
    found = []
    while not long.is_cut:
        piece = long.piece(4 * MIB, MIB)
        found.append((piece.offset, piece.length))
        assert (piece.kind, piece.allocate, piece.fua) == (ZERO, True, False)
    assert found == [(512, 4 * MIB - 512), (4 * MIB, 3 * MIB + 512)]


def test_pieces_of_a_write_have_its_payload() -> None:
    data = bytes(range(256)) * 4
    whole = PairChange(Peer(), 0, VOLUMES[0], WRITE, 100, len(data), data, fua=True)
    long = LongChange(whole, lambda _: None)
    pieces = [long.piece(400, 400) for _ in range(3)]
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.offset for piece in pieces] == [100, 500, 900]
    assert not any(piece.fua for piece in pieces), "the whole is made durable, once"


def test_a_piece_that_fails_is_the_last_one() -> None:
    done: list[PairChange] = []
    whole = zeroes(64 * MIB)
    long = LongChange(whole, done.extend)
    first, second = long.piece(MIB, MIB), long.piece(MIB, MIB)
    first.error = errno.ENOSPC
    long.finished([first])
    assert (long.is_cut, done) == (True, [])
    long.finished([second])
    assert (done, whole.error) == ([whole], errno.ENOSPC)


def test_what_is_given_up_is_answered_once_when_what_began_is_done() -> None:
    done: list[PairChange] = []
    whole = zeroes(64 * MIB)
    long = LongChange(whole, done.extend)
    piece = long.piece(MIB, MIB)
    long.give_up(errno.EIO)
    long.give_up(errno.EIO)
    assert done == []
    long.finished([piece])
    long.give_up(errno.EIO)
    assert (done, whole.error) == ([whole], errno.EIO)

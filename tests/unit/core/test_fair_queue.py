"""Turns among volumes: the order within one, what each gets, and what leaves with its client."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from duplexd.backend import TRIM, WRITE, ZERO, Change
from duplexd.core.fair_queue import FairQueue
from duplexd.core.long_change import LongChange, PieceSizes
from duplexd.core.pair import Pair, PairChange, PairRecord
from duplexd.limits import EngineLimits
from duplexd.units import KIB
from tests.support.memory_leg import MemoryLeg

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS = dataclasses.replace(
    EngineLimits(),
    batch_bytes_max=64 * KIB,
    shared_cost_max=24 * KIB,
    shared_piece_bytes=8 * KIB,
    shared_batches=3,
    turn_cost=8 * KIB,
    change_cost_bytes=1 * KIB,
    record_bytes_max=8 * KIB,
    zero_bytes_first=16 * KIB,
    zero_bytes_max=64 * KIB,
)
SHORT_PIECES = dataclasses.replace(LIMITS, shared_piece_bytes=2 * KIB)
WITHOUT_END = 1 << 40
SIZE = 1 << 20


class Peer:
    """A client: what it was answered."""

    def __init__(self) -> None:
        self.answers: list[Change] = []

    def finished(self, changes: Sequence[Change]) -> None:
        self.answers += changes


def volume(number: int) -> Pair:
    leg = MemoryLeg(0, f"/a/{number}.img")
    return Pair(PairRecord(number, f"v{number}", SIZE, LIMITS), leg, None, "sync")


VOLUMES = [volume(number) for number in range(1, 5)]


class Day:
    """A queue, and what was put into it."""

    def __init__(self, limits: EngineLimits = LIMITS) -> None:
        self.peer = Peer()
        self.done: list[PairChange] = []
        self.queue = FairQueue(limits, PieceSizes(limits), self.done.extend)

    def change(
        self, number: int, length: int, kind: int = WRITE, peer: Peer | None = None
    ) -> PairChange:
        data = bytes(length) if kind == WRITE else b""
        return PairChange(peer or self.peer, 0, VOLUMES[number], kind, 0, length, data)

    def add(self, number: int, *lengths: int, peer: Peer | None = None) -> list[PairChange]:
        changes = [self.change(number, length, peer=peer) for length in lengths]
        self.queue.add(changes, None)
        return changes

    def take(self) -> list[PairChange]:
        batch = self.queue.take(WITHOUT_END)
        self.queue.began()
        return batch


def cost(changes: Sequence[PairChange]) -> int:
    return sum(change.length + LIMITS.change_cost_bytes for change in changes)


def test_four_of_the_longest_records_fit_into_a_batch_as_it_is_configured() -> None:
    limits = EngineLimits()
    day = Day(limits)
    changes = day.add(0, *[limits.record_bytes_max] * 5)
    assert [day.take(), day.take()] == [changes[:4], changes[4:]]


def test_one_volume_fills_a_batch() -> None:
    day = Day()
    changes = day.add(0, *[7 * KIB] * 20)
    assert day.take() == changes[:8]
    assert day.take() == changes[8:16]
    assert day.take() == changes[16:]
    assert (day.take(), len(day.queue)) == ([], 0)


def test_several_volumes_share_a_short_batch() -> None:
    day = Day()
    first, second = day.add(0, *[3 * KIB] * 20), day.add(1, *[3 * KIB] * 20)
    assert day.take() == [*first[:2], *second[:2], *first[2:4]]
    assert day.take() == [*second[2:4], *first[4:6], *second[4:6]]


def test_a_change_that_comes_alone_is_in_the_next_batch() -> None:
    day = Day()
    day.add(0, *[3 * KIB] * 1000)
    day.take()
    (alone,) = day.add(1, KIB)
    assert alone in day.take()


def test_batches_stay_small_for_a_while_after_another_volume_came() -> None:
    day = Day()
    day.add(0, *[1 * KIB] * 256)
    day.add(1, 1 * KIB)
    costs = [cost(day.take()) for _ in range(4)]
    assert costs == [LIMITS.shared_cost_max] * 3 + [LIMITS.batch_bytes_max]


def test_a_write_beside_another_volume_is_taken_in_shorter_pieces() -> None:
    day = Day(SHORT_PIECES)
    first, second = day.add(0, 7 * KIB, 7 * KIB)
    day.add(1, 1 * KIB)
    pieces: list[PairChange] = []
    while batch := day.take():
        pieces += [change for change in batch if change.volume is VOLUMES[0]]
    assert [piece.length // KIB for piece in pieces] == [2, 2, 2, 1] * 2
    for piece in pieces:
        piece.client.finished([piece])
    assert day.done == [first, second]


def test_a_write_that_is_in_pieces_already_goes_on_so_when_its_volume_is_alone() -> None:
    day = Day(dataclasses.replace(SHORT_PIECES, shared_batches=1))
    day.add(1, 1 * KIB)
    day.add(0, 8 * KIB)
    lengths: list[int] = []
    while batch := day.queue.take(6 * KIB):
        day.queue.began()
        lengths += [change.length // KIB for change in batch if change.volume is VOLUMES[0]]
    assert lengths == [2, 6]


def test_what_exceeds_a_turn_is_paid_with_later_ones() -> None:
    """Changes of 8 KiB in turns of 8 KiB get no more than changes of 3 KiB do."""
    day = Day()
    large = day.add(0, *[8 * KIB] * 200)
    small = day.add(1, *[3 * KIB] * 200)
    taken = [change for _ in range(30) for change in day.take()]
    shares = [cost([c for c in taken if c.volume is each[0].volume]) for each in (large, small)]
    assert abs(shares[0] - shares[1]) <= 2 * LIMITS.turn_cost


def test_a_long_write_is_taken_in_records() -> None:
    day = Day()
    (long,) = day.add(0, 20 * KIB)
    pieces = day.take()
    assert [piece.length for piece in pieces] == [8 * KIB, 8 * KIB, 4 * KIB]
    assert isinstance(pieces[0].client, LongChange)
    pieces[0].client.finished(pieces)
    assert day.done == [long]


def test_a_piece_of_zeroes_is_alone_in_its_batch_or_the_last() -> None:
    day = Day()
    day.queue.add([day.change(0, 100 * KIB, ZERO)], None)
    before = day.add(1, KIB)
    assert [change.length for change in day.take()] == [16 * KIB]
    assert day.take() == before
    assert [change.length for change in day.take()] == [16 * KIB]


def test_a_trim_of_everything_is_never_many_pieces_at_once() -> None:
    day = Day()
    day.queue.add([day.change(0, 1 << 60, TRIM)], None)
    for _ in range(10):
        assert len(day.take()) == 1
    assert len(day.queue) == 1


def test_a_batch_that_cannot_begin_is_put_back_where_it_was() -> None:
    day = Day()
    day.add(0, 3 * KIB, 20 * KIB, 3 * KIB)
    day.add(1, 3 * KIB)
    day.queue.take(WITHOUT_END)
    day.queue.put_back()
    assert len(day.queue) == 4
    again: list[PairChange] = []
    while batch := day.take():
        again += batch
    mine = [change.length for change in again if change.volume is VOLUMES[0]]
    assert mine == [3 * KIB, 8 * KIB, 8 * KIB, 4 * KIB, 3 * KIB]


def test_what_a_client_has_in_line_leaves_with_it() -> None:
    day, gone = Day(), Peer()
    stays = [*day.add(0, KIB), *day.add(1, KIB)]
    for number in (0, 1, 0):
        day.add(number, KIB, 20 * KIB, peer=gone)
    day.queue.withdraw(gone)
    assert len(day.queue) == 2
    assert day.take() == stays
    assert day.take() == []


def test_a_client_that_comes_and_goes_leaves_nothing_in_a_line_that_is_shut() -> None:
    day = Day()
    day.queue.shut(VOLUMES[0], 1.0)
    day.queue.add([day.change(0, KIB)], 1.0)
    for _ in range(100):
        gone = Peer()
        day.queue.add([day.change(0, KIB, peer=gone)], 1.0)
        day.queue.withdraw(gone)
    assert len(day.queue.waiting([VOLUMES[0]])) == 1
    assert len(day.queue._lines[1].parcels) <= 2
    assert list(day.queue._parcels) == [day.peer]


def test_a_line_that_is_shut_has_no_turns_and_keeps_times_of_arrival() -> None:
    day = Day()
    first = day.add(0, KIB)
    day.queue.shut(VOLUMES[0], 5.0)
    later = [day.change(0, KIB)]
    day.queue.add(later, 7.0)
    assert (day.take(), len(day.queue)) == ([], 0)
    assert day.queue.waiting([VOLUMES[0]]) == [(5.0, first[0]), (7.0, later[0])]
    day.queue.open([VOLUMES[0]])
    assert day.queue.oldest(VOLUMES[0]) == 5.0
    assert day.take() == [*first, *later]
    assert day.queue.oldest(VOLUMES[0]) is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 2),
            st.lists(st.integers(1, 20 * KIB), min_size=1, max_size=5),
        ),
        max_size=40,
    ),
    st.integers(0, 2),
)
def test_within_a_volume_order_of_arrival_and_no_batch_too_large(
    wakeups: list[tuple[int, int, list[int]]], leaves: int
) -> None:
    day, peers = Day(), [Peer(), Peer(), Peer()]
    expected: dict[int, list[PairChange]] = {number: [] for number in range(4)}
    for number, who, lengths in wakeups:
        changes = day.add(number, *lengths, peer=peers[who])
        expected[number] += changes if who != leaves else []
    day.queue.withdraw(peers[leaves])
    taken: list[PairChange] = []
    while day.queue.round:
        batch = day.take()
        assert cost(batch) <= LIMITS.batch_bytes_max
        taken += batch
    for number, changes in expected.items():
        lengths = [change.length for change in changes]
        whole = [piece.length for piece in taken if piece.volume is VOLUMES[number]]
        assert sum(lengths) == sum(whole)
        mine = iter(whole)
        for length in lengths:
            left = length
            while left > 0:
                left -= next(mine)
            assert left == 0, "the pieces of a change follow each other"

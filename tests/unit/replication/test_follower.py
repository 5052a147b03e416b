"""A follower applies records in order, each once, none beyond a cut; its position is exact."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import TRIM, ZERO
from duplexd.errors import DamageError
from duplexd.journal.reader import Reader
from duplexd.replication.follower import (
    Follower,
    SecondarySink,
    SinkError,
    UntouchedError,
)
from duplexd.replication.watched import WatchedLegs
from tests.unit.replication.fakes import BLOCK, World

if TYPE_CHECKING:
    from duplexd.core.pair import Pair, PairRecord
    from duplexd.replication.follower import Buffer
    from tests.support.fault_leg import Operation

CHUNK = 64 * BLOCK


class Advances:
    """In place of the ledger's `advance`: keeps the calls. A pair's `applied` stays as it was."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, record: PairRecord, number: int) -> None:
        self.calls.append((record.name, number))


class NotTheSecondary:
    """A sink that leaves the secondary as it is."""

    moves_secondary = False

    def __init__(self) -> None:
        self.legs = WatchedLegs()
        self.written: list[tuple[int, int]] = []

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        self.written.append((offset, len(data)))

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        self.written.append((offset, length))


def follower(world: World, *pairs: Pair, counted_until: int = 0) -> tuple[Follower, Advances]:
    """One at the first record that any of the pairs lacks."""
    advances, position = Advances(), min(pair.applied for pair in pairs)
    ring = world.timeline.writer.ring
    return Follower(ring, pairs, position, SecondarySink(), advances, counted_until), advances


def to(walk: Follower, last: int) -> None:
    """All steps up to that number."""
    while walk.position < last:
        walk.step(last, CHUNK)


def test_records_are_applied_up_to_the_number_given_and_no_further() -> None:
    world = World()
    pair = world.pair()
    numbers = [world.timeline.write(pair, at * BLOCK, bytes([at + 1]) * BLOCK) for at in range(3)]
    walk, advances = follower(world, pair)
    assert walk.step(numbers[1], CHUNK) == 2 * BLOCK
    secondary = world.legs[pair].secondary.data
    assert [secondary[at * BLOCK] for at in range(3)] == [1, 2, 0]
    assert walk.position == numbers[1]
    assert advances.calls[-1] == ("data", numbers[1])


def test_a_step_that_has_nothing_to_do_does_not_read_the_journal() -> None:
    world = World()
    pair = world.pair()
    walk, advances = follower(world, pair)
    world.disk.fail("/state/journal", errno.EIO, operation="read")
    assert walk.step(walk.position, CHUNK) == 0
    assert not advances.calls


def test_records_of_other_volumes_are_passed_by() -> None:
    world = World()
    pair, other = world.pair(), world.pair("other")
    world.timeline.write(other, 0, b"\x01" * BLOCK)
    last = world.timeline.write(pair, 0, b"\x02" * BLOCK)
    walk, _ = follower(world, pair)
    to(walk, last)
    assert world.legs[pair].secondary.data[0] == 2
    assert not any(world.legs[other].secondary.data)


def test_what_the_secondary_holds_already_is_not_applied_again() -> None:
    """It may hold something newer there: an older record would take it back until the next is
    applied.
    """
    world = World()
    pair, behind = world.pair(), world.pair("behind")
    world.timeline.write(pair, 0, b"\x01" * BLOCK)
    last = world.timeline.write(behind, 0, b"\x01" * BLOCK)
    world.timeline.ledger.advance(pair.record, last)
    walk, _ = follower(world, pair, behind)
    to(walk, last)
    assert not any(world.legs[pair].secondary.data)
    assert world.legs[behind].secondary.data[0] == 1


def test_nothing_behind_its_cut_reaches_a_suspended_pair() -> None:
    world = World()
    pair, other = world.pair(), world.pair("other")
    world.timeline.write(pair, 0, b"before" * 100)
    cut = world.suspend(pair)
    world.timeline.write(pair, BLOCK, b"behind" * 100)
    last = world.timeline.write(other, 0, b"x" * BLOCK)
    walk, advances = follower(world, pair, other)
    to(walk, last)
    assert world.legs[pair].secondary.data[:6] == b"before"
    assert not any(world.legs[pair].secondary.data[BLOCK:])
    assert advances.calls[-2:] == [("data", cut), ("other", last)]


@pytest.mark.parametrize("kind", [ZERO, TRIM])
def test_zeroes_and_trims_are_applied(kind: int) -> None:
    world = World()
    pair = world.pair()
    world.timeline.write(pair, 0, b"x" * 2 * BLOCK)
    writer = world.timeline.writer
    writer.append(kind, pair.id, 0, BLOCK, b"", 0, 1)
    writer.write()
    walk, _ = follower(world, pair)
    to(walk, writer.written)
    assert world.legs[pair].secondary.data[: 2 * BLOCK] == bytes(BLOCK) + b"x" * BLOCK


def test_a_failure_leaves_it_right_before_the_record_that_failed() -> None:
    world = World()
    pair, other = world.pair(), world.pair("other")
    before = world.timeline.write(other, 0, b"1" * BLOCK)
    failing = world.timeline.write(pair, 0, b"2" * BLOCK)
    last = world.timeline.write(other, BLOCK, b"3" * BLOCK)
    walk, advances = follower(world, pair, other)
    world.legs[pair].faults.fail("write", errno.EIO, times=1)
    with pytest.raises(SinkError) as caught:
        to(walk, last)
    assert (caught.value.pair, caught.value.sequence, caught.value.torn) == (pair, failing, True)
    assert walk.position == before == failing - 1
    assert advances.calls[-2:] == [("data", before), ("other", before)]


def test_the_others_go_on_from_there_without_the_one_that_failed() -> None:
    world = World()
    pair, other = world.pair(), world.pair("other")
    world.timeline.write(pair, 0, b"2" * BLOCK)
    last = world.timeline.write(other, BLOCK, b"3" * BLOCK)
    walk, _ = follower(world, pair, other)
    world.legs[pair].faults.fail("write", errno.EIO)
    with pytest.raises(SinkError):
        to(walk, last)
    del walk.pairs[pair.id]
    to(walk, last)
    assert world.legs[other].secondary.data[BLOCK] == ord("3")


def test_a_full_disk_is_met_before_anything_is_written() -> None:
    world = World()
    pair = world.pair()
    last = world.timeline.write(pair, 0, b"x" * BLOCK)
    walk, _ = follower(world, pair)
    world.legs[pair].faults.fail("reserve", errno.ENOSPC)
    with pytest.raises(SinkError) as caught:
        walk.step(last, CHUNK)
    assert isinstance(caught.value.error, UntouchedError)
    assert not caught.value.torn, "the secondary is as it was"
    assert not world.legs[pair].faults.calls["write"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_secondary_that_was_written_to_is_dirty_even_if_the_write_failed(fails: bool) -> None:
    world = World()
    pair = world.pair()
    last = world.timeline.write(pair, 0, b"x" * BLOCK)
    walk, _ = follower(world, pair)
    if fails:
        world.legs[pair].faults.fail("write", errno.EIO)
    try:
        walk.step(last, CHUNK)
    except SinkError:
        assert fails
    assert pair.secondary_dirty


def test_a_sink_beside_the_secondary_does_not_bring_it_forward() -> None:
    world = World()
    pair = world.pair()
    last = world.timeline.write(pair, 0, b"x" * BLOCK)
    sink, advances = NotTheSecondary(), Advances()
    walk = Follower(world.timeline.writer.ring, [pair], pair.applied, sink, advances)
    walk.step(last, CHUNK)
    assert sink.written == [(0, BLOCK)]
    assert walk.position == last
    assert not advances.calls


def test_only_what_a_resync_had_to_bring_counts_as_copied() -> None:
    world = World()
    pair = world.pair()
    due = world.timeline.write(pair, 0, b"x" * BLOCK)
    fresh = world.timeline.write(pair, BLOCK, b"y" * BLOCK)
    walk, _ = follower(world, pair, counted_until=due)
    walk.step(fresh, CHUNK)
    assert pair.copied_bytes == BLOCK


def test_the_lag_is_what_lies_between_it_and_the_writer() -> None:
    world = World()
    pair = world.pair()
    timeline = world.timeline
    first = timeline.write(pair, 0, b"x" * BLOCK)
    last = timeline.write(pair, 0, b"y" * BLOCK)
    walk, _ = follower(world, pair)
    walk.reach()
    assert walk.lag_bytes(timeline.log_position) > 2 * BLOCK
    walk.step(first, CHUNK)
    assert BLOCK < walk.lag_bytes(timeline.log_position) < 2 * BLOCK
    walk.step(last, CHUNK)
    assert walk.lag_bytes(timeline.log_position) == 0


def test_the_lag_can_be_asked_for_while_a_worker_drops_its_reader() -> None:
    """The loop asks after each batch, and the worker that follows drops it when a sink fails."""

    class Racing(Follower):
        looks = 0

        @property
        def _reader(self) -> Reader | None:
            """There at the first look only."""
            self.looks += 1
            return Reader(self._ring, 1) if self.looks == 1 else None

        @_reader.setter
        def _reader(self, _reader: Reader | None) -> None:
            """It comes and goes by itself."""

    world = World()
    pair = world.pair()
    walk = Racing(world.timeline.writer.ring, [pair], 0, SecondarySink(), Advances())
    assert walk.lag_bytes(world.timeline.log_position) > 0
    assert walk.lag_bytes(world.timeline.log_position) == 0


def test_an_unexpected_error_is_a_failure_at_that_record_too() -> None:
    """Or pairs would hold records that they are not known to hold."""
    world = World()
    pair, other = world.pair(), world.pair("other")
    before = world.timeline.write(other, 0, b"1" * BLOCK)
    world.timeline.write(pair, 0, b"2" * BLOCK)

    def burst(operation: Operation) -> None:
        if operation == "write":
            raise MemoryError

    world.legs[pair].faults.delay = burst
    walk, advances = follower(world, pair, other)
    with pytest.raises(SinkError) as caught:
        to(walk, world.timeline.written)
    assert (caught.value.pair, caught.value.torn, walk.position) == (pair, True, before)
    assert advances.calls[-1] == ("other", before)


def test_a_record_that_is_damaged_is_not_applied() -> None:
    world = World()
    pair = world.pair()
    last = world.timeline.write(pair, 0, b"x" * BLOCK)
    segment = world.timeline.writer.ring.live[0]
    world.disk.flip(segment.file.path, segment.end - 100)
    walk, advances = follower(world, pair)
    with pytest.raises(DamageError):
        walk.step(last, CHUNK)
    assert not any(world.legs[pair].secondary.data)
    assert not advances.calls

"""The follower of `async` pairs: a bounded amount behind, never past the primaries or a cut."""

from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from duplexd.core import pair_states
from duplexd.core.markers import Fail
from duplexd.core.patience import Patience
from duplexd.replication.async_follower import AsyncFollower
from duplexd.replication.backlog import Backlog, backlog
from duplexd.units import KIB
from tests.unit.replication.fakes import BLOCK, GRAIN, LIMITS, SIZE, World, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from duplexd.core.pair import Pair
    from tests.support.fault_leg import Operation

JOURNAL = "/state/journal"


class Following:
    """An `AsyncFollower` of a world. `groups` are sets of pairs that are suspended together;
    `moves` counts `on_moved`.
    """

    def __init__(self, world: World, *groups: set[Pair]) -> None:
        self.world = world
        self.groups = groups
        self.follower = AsyncFollower(
            world.timeline,
            world.gates,
            Backlog(world.timeline, world.gates, world.calls, LIMITS),
            world.freeze,
            self._group_of,
            world.calls,
            world.clock,
            LIMITS,
        )
        self.moves = 0
        self.follower.on_moved = self._moved

    def _group_of(self, pair: Pair) -> set[Pair]:
        return next((group for group in self.groups if pair in group), {pair})

    def _moved(self) -> None:
        self.moves += 1


@asynccontextmanager
async def following(
    world: World, *pairs: Pair, groups: tuple[set[Pair], ...] = ()
) -> AsyncIterator[Following]:
    """It runs, and was given these pairs."""
    started = Following(world, *groups)
    started.follower.add(pairs)
    started.follower.start()
    try:
        yield started
    finally:
        await started.follower.stop()


async def test_what_is_written_arrives() -> None:
    world = World()
    pair = world.pair()
    async with following(world, pair) as started:
        last = world.timeline.write(pair, 0, b"x" * BLOCK)
        await until(lambda: pair.applied == last)
        assert world.legs[pair].equal
        await until(lambda: started.moves > 0)
        assert started.follower.floor == last


async def test_it_does_not_pass_what_the_primaries_hold() -> None:
    world = World()
    pair = world.pair()
    async with following(world, pair):
        before = world.timeline.write(pair, 0, b"1" * BLOCK)  # it has something to do
        finish = world.timeline.begin(pair, 0, b"2" * BLOCK)
        await turns()
        assert pair.applied == before
        finish()
        await until(lambda: pair.applied == before + 1)


async def test_a_suspended_pair_is_brought_to_its_cut_and_released() -> None:
    world = World()
    pair, other = world.pair(), world.pair("other")
    async with following(world, pair, other) as started:
        world.timeline.write(pair, 0, b"x" * BLOCK)
        cut = world.suspend(pair)
        assert started.follower.takes(pair)
        world.timeline.write(pair, BLOCK, b"later" * 100)
        await until(lambda: not started.follower.takes(pair))
        assert pair.applied == cut
        assert not any(world.legs[pair].secondary.data[BLOCK:])
        last = world.timeline.write(other, 0, b"y" * BLOCK)
        await until(lambda: other.applied == last)


async def test_without_a_pair_it_neither_needs_the_journal_nor_listens_to_it() -> None:
    world = World()
    pair = world.pair()
    async with following(world, pair) as started:
        assert len(world.timeline.on_written) == 1
        world.timeline.write(pair, 0, b"x" * BLOCK)
        world.suspend(pair)
        await until(lambda: not started.follower.takes(pair))
        assert not world.timeline.on_written
        assert started.follower.floor > world.timeline.written
        assert started.follower.lag_bytes == 0


async def test_a_pair_that_was_removed_is_not_written_to_any_more() -> None:
    world = World()
    pair, other = world.pair(), world.pair("other")
    async with following(world, pair, other) as started:
        async with started.follower.stepping:
            started.follower.forget(pair)
        world.timeline.write(pair, 0, b"x" * BLOCK)
        last = world.timeline.write(other, 0, b"y" * BLOCK)
        await until(lambda: other.applied == last)
        assert not any(world.legs[pair].secondary.data)


async def test_a_pair_that_is_behind_it_is_refused() -> None:
    """It would never get what lies in between, and be called equal."""
    world = World()
    pair, late = world.pair(), world.pair("late")
    async with following(world, pair) as started:
        world.timeline.write(late, 0, b"x" * BLOCK)
        last = world.timeline.write(pair, 0, b"y" * BLOCK)
        await until(lambda: pair.applied == last)
        with pytest.raises(ValueError, match="late: the follower is at"):
            started.follower.add([late])


async def test_a_stop_brings_the_secondaries_to_the_tail() -> None:
    world = World()
    pair = world.pair()
    async with following(world, pair):
        for at in range(40):
            world.timeline.write(pair, at * BLOCK, b"x" * BLOCK)
    assert world.legs[pair].equal
    assert pair.applied == world.timeline.written


async def test_a_stop_of_a_controller_that_failed_does_not_wait() -> None:
    world = World()
    pair = world.pair()
    async with following(world, pair):
        world.workers.held = asyncio.Event()
        world.timeline.write(pair, 0, b"x" * BLOCK)
        world.timeline.failed = "the reason"
        world.workers.held.set()
    assert pair.state == pair_states.DUPLEX


async def test_a_stop_does_not_wait_for_what_never_ran_or_has_died() -> None:
    world = World()
    pair = world.pair()
    never = Following(world)
    never.follower.add([pair])
    world.timeline.write(pair, 0, b"x" * BLOCK)
    async with asyncio.timeout(1):
        await never.follower.stop()
    died = Following(world)
    died.follower.on_moved = _raise
    died.follower.add([pair])
    died.follower.start()
    await turns()
    world.timeline.write(pair, 0, b"y" * BLOCK)
    async with asyncio.timeout(1):
        await died.follower.stop()


def _raise() -> None:
    raise RuntimeError("a defect")


# ---------------------------------------------------------------------------------------- its lag


async def test_writes_wait_at_their_gate_while_it_is_far_behind() -> None:
    world = World()
    pair = world.pair()
    async with following(world, pair) as started:
        last = world.timeline.write(pair, 0, b"x" * BLOCK)
        await until(lambda: pair.applied == last)
        world.workers.held = asyncio.Event()
        written = 0
        while not world.gates.closed[pair]:
            world.timeline.write(pair, written, b"x" * GRAIN)
            written += GRAIN
        limit = LIMITS.async_lag_bytes_max
        assert limit / 2 < started.follower.lag_bytes <= limit / 2 + 2 * GRAIN
        world.workers.held.set()
        await until(lambda: not world.gates.closed[pair])
        assert started.follower.lag_bytes <= limit / 2


async def test_writes_do_not_wait_for_a_pair_that_is_not_followed_for_any_more() -> None:
    world = World()
    pair = world.pair()
    async with following(world, pair) as started:
        last = world.timeline.write(pair, 0, b"x" * BLOCK)
        await until(lambda: pair.applied == last)
        async with started.follower.stepping:
            for at in range(0, SIZE // 2, GRAIN):
                world.timeline.write(pair, at, b"x" * GRAIN)
            assert world.gates.closed[pair]
            started.follower.forget(pair)
        assert not world.gates.closed[pair]


async def test_only_the_pair_whose_secondary_takes_the_time_has_to_wait() -> None:
    world = World()
    slow, quick = world.pair("slow"), world.pair("quick")

    def take_time(operation: Operation) -> None:
        if operation == "write":
            world.clock.now += 0.1

    world.legs[slow].faults.delay = take_time
    async with following(world, slow, quick):
        world.timeline.write(slow, 0, b"x" * BLOCK)
        last = world.timeline.write(quick, 0, b"y" * BLOCK)
        await until(lambda: quick.applied == last)
        world.workers.held = asyncio.Event()
        for at in range(0, SIZE // 2, GRAIN):
            world.timeline.write(quick, at, b"y" * GRAIN)
        assert (world.gates.closed[slow], world.gates.closed[quick]) == (1, 0)
        world.workers.held.set()


async def test_a_pair_that_would_make_writes_wait_too_long_is_suspended_with_its_group() -> None:
    world = World()
    slow, mate, apart = world.pair("slow"), world.pair("mate"), world.pair("apart")
    async with following(world, slow, mate, apart, groups=({slow, mate},)):

        def take_time(operation: Operation) -> None:
            if operation == "write" and slow.state == pair_states.DUPLEX:
                world.clock.now += 0.1
                world.timeline.write(slow, 0, b"x" * GRAIN)  # as much as it takes

        world.calls.patience = Patience(secondary_s=0.0003, primary_s=1.0)
        last = world.timeline.write(mate, 0, b"m" * BLOCK)
        await until(lambda: mate.applied == last)
        world.legs[slow].faults.delay = take_time
        for at in range(0, 4 * GRAIN, GRAIN):
            world.timeline.write(slow, at, b"x" * GRAIN)
        await until(lambda: slow.state == pair_states.SUSPENDED)
        last = world.timeline.write(apart, 0, b"a" * BLOCK)
        await until(lambda: apart.applied == last)
        assert (slow.usable, mate.state) == (True, pair_states.SUSPENDED)
        assert slow.cut is mate.cut
        assert "too slow" in str(world.freeze.calls[0].error)
        await until(lambda: not +world.gates.closed)


# ----------------------------------------------------------------------------------- its failures


async def test_a_failing_secondary_is_suspended_with_its_group_at_one_number() -> None:
    world = World()
    pair, mate, apart = world.pair(), world.pair("mate"), world.pair("apart")
    async with following(world, pair, mate, apart, groups=({pair, mate},)):
        world.legs[pair].faults.fail("write", errno.EIO)
        before = world.timeline.write(mate, 0, b"1" * BLOCK)
        world.timeline.write(pair, 0, b"2" * BLOCK)
        world.timeline.write(mate, GRAIN, b"3" * BLOCK)
        last = world.timeline.write(apart, 0, b"4" * BLOCK)
        await until(lambda: apart.applied >= last)
        (frozen,) = world.freeze.calls
        assert (frozen.members, frozen.failed, frozen.at) == ({"data", "mate"}, "data", before)
        assert frozen.unusable == {"data"}
        assert (pair.applied, mate.applied) == (before, before)
        assert pair.cut is mate.cut
        assert apart.state == pair_states.DUPLEX
        assert frozen.missed["mate"].overlaps(GRAIN, BLOCK)
        assert not frozen.missed["mate"].overlaps(0, BLOCK)


async def test_a_secondary_that_is_full_stays_usable() -> None:
    world = World()
    pair = world.pair()
    async with following(world, pair):
        world.legs[pair].faults.fail("reserve", errno.ENOSPC)
        before = world.timeline.written
        world.timeline.write(pair, 0, b"x" * BLOCK)
        await until(lambda: pair.state == pair_states.SUSPENDED)
        assert (pair.usable, pair.applied) == (True, before)
        assert pair.changed is not None
        assert pair.changed.changed_bytes == GRAIN


async def test_those_on_their_way_to_one_cut_are_suspended_together() -> None:
    """The cut would otherwise be one for some of its pairs only."""
    world = World()
    pair, mate = world.pair(), world.pair("mate")
    async with following(world, pair, mate):
        world.legs[pair].faults.fail("write", errno.EIO)
        before = world.timeline.written
        world.timeline.write(pair, 0, b"x" * BLOCK)
        world.timeline.write(mate, 0, b"x" * BLOCK)
        world.suspend(pair, mate)
        await until(lambda: bool(world.freeze.calls))
        assert world.freeze.calls[0].members == {"data", "mate"}
        assert (pair.applied, mate.applied) == (before, before)


async def test_a_journal_that_cannot_be_read_suspends_all_where_they_are() -> None:
    """Changes would wait for them for ever; the secondaries are as good as before."""
    world = World()
    pair, other = world.pair(), world.pair("other")
    async with following(world, pair, other):
        last = world.timeline.write(pair, 0, b"x" * BLOCK)
        await until(lambda: other.applied == last)
        world.disk.fail(JOURNAL, errno.EIO, operation="read", times=4)
        world.timeline.write(pair, BLOCK, b"y" * BLOCK)
        await until(lambda: pair.state == other.state == pair_states.SUSPENDED)
        assert (pair.usable, other.usable) == (True, True)
        assert (pair.applied, other.applied) == (last, last)
        assert pair.cut is other.cut
        assert pair.reason == other.reason == pair_states.BY_JOURNAL
        assert [marker.unusable for marker in world.timeline.markers if type(marker) is Fail] == [
            []
        ]
        assert world.freeze.calls[0].missed["other"] == other.record.full_map()
        assert not +world.gates.closed


async def test_an_unexpected_error_suspends_all_and_ends_neither_follower_nor_stop() -> None:
    """Or changes would wait, once it is too far behind, for a follower that is dead."""
    world = World()
    pair = world.pair()
    async with following(world, pair) as started:
        last = world.timeline.write(pair, 0, b"x" * BLOCK)
        await until(lambda: pair.applied == last)
        world.workers.burst = MemoryError()
        world.timeline.write(pair, BLOCK, b"y" * BLOCK)
        await until(lambda: pair.state == pair_states.SUSPENDED)
        assert (pair.usable, pair.applied) == (True, last)
        assert "MemoryError" in str(world.freeze.calls[0].error)
        again = world.pair("again")
        started.follower.add([again])
        number = world.timeline.write(again, 0, b"z" * BLOCK)
        await until(lambda: again.applied == number)


# ----------------------------------------------------------------------------------------- backlog


def test_the_backlog_is_what_comes_after_a_number() -> None:
    world = World()
    pair = world.pair()
    world.timeline.write(pair, 0, b"x" * BLOCK)
    after = world.timeline.written
    world.timeline.write(pair, 3 * GRAIN, b"x" * BLOCK)
    until_number = world.timeline.written
    world.timeline.write(pair, 5 * GRAIN, b"x" * BLOCK)
    missed = backlog(world.timeline.writer.ring, [pair], after, until_number, 64 * KIB)[pair]
    assert [missed.overlaps(at * GRAIN, BLOCK) for at in (0, 3, 5)] == [False, True, False]


def test_there_is_none_at_the_tail() -> None:
    world = World()
    pair = world.pair()
    tail = world.timeline.written
    assert not backlog(world.timeline.writer.ring, [pair], tail, tail, 64 * KIB)[pair].any()


def test_a_backlog_that_cannot_be_read_may_be_anything() -> None:
    world = World()
    pair = world.pair()
    after = world.timeline.written
    world.timeline.write(pair, 0, b"x" * BLOCK)
    world.disk.fail(JOURNAL, errno.EIO, operation="read")
    tail = world.timeline.written
    missed = backlog(world.timeline.writer.ring, [pair], after, tail, 64 * KIB)[pair]
    assert missed == pair.record.full_map()

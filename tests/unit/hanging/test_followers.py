"""Async followers and jobs while a leg hangs: given up, with the pair suspended where it was."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from duplexd.core.pair_states import BY_JOURNAL, DUPLEX, PENDING, SUSPENDED
from duplexd.replication.leg_calls import JournalHungError
from duplexd.runtime.threads import ThreadWorkers
from duplexd.runtime.watch import HungError
from tests.support.hanging_file import HangingReads
from tests.support.hanging_leg import PATIENCE_SECONDS, HangingLeg
from tests.unit.hanging.worlds import LONG, SHORT, until
from tests.unit.replication.fakes import BLOCK, GRAIN, World
from tests.unit.replication.test_async_follower import Following
from tests.unit.replication.test_resync import Replication

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from duplexd.core.pair import Pair


class Threaded:
    """A world whose calls are made by threads, on legs that hang on demand."""

    def __init__(self) -> None:
        self.world = World()
        self.workers = ThreadWorkers(asyncio.get_running_loop(), "follower", 2)
        self.world.calls.workers = self.workers
        self.world.calls.patience = SHORT
        self.legs: dict[Pair, tuple[HangingLeg, HangingLeg]] = {}
        self.journal = HangingReads.of(self.world.timeline.writer.segment)

    def pair(self, name: str, mode: str = "async") -> Pair:
        return self._hangs(self.world.pair(name, mode))

    def to_copy(self, name: str) -> Pair:
        return self._hangs(self.world.to_copy(name, b"c" * GRAIN))

    def _hangs(self, pair: Pair) -> Pair:
        assert pair.secondary is not None
        self.legs[pair] = HangingLeg(pair.primary), HangingLeg(pair.secondary)
        pair.set_legs(*self.legs[pair], pair.mode)
        return pair

    def close(self) -> None:
        for legs in self.legs.values():
            for leg in legs:
                leg.release()
        self.journal.release()
        self.workers.close()


@asynccontextmanager
async def threaded() -> AsyncIterator[Threaded]:
    made = Threaded()
    try:
        yield made
    finally:
        made.close()


@asynccontextmanager
async def following(
    made: Threaded, *pairs: Pair, groups: tuple[set[Pair], ...] = ()
) -> AsyncIterator[Following]:
    started = Following(made.world, *groups)
    started.follower.add(pairs)
    started.follower.start()
    try:
        yield started
    finally:
        for legs in made.legs.values():
            legs[1].release()
        await started.follower.stop()


async def test_a_secondary_that_hangs_is_suspended_with_its_group_and_the_others_go_on() -> None:
    async with threaded() as made:
        world = made.world
        pair, mate, apart = made.pair("data"), made.pair("mate"), made.pair("apart")
        async with following(made, pair, mate, apart, groups=({pair, mate},)):
            made.legs[pair][1].hang("write")
            before = world.timeline.write(mate, 0, b"1" * BLOCK)
            world.timeline.write(pair, 0, b"2" * BLOCK)
            world.timeline.write(mate, GRAIN, b"3" * BLOCK)
            last = world.timeline.write(apart, 0, b"4" * BLOCK)
            await until(lambda: apart.applied >= last)
            assert (pair.state, mate.state, apart.state) == (SUSPENDED, SUSPENDED, DUPLEX)
            (frozen,) = world.freeze.calls
            assert (frozen.members, frozen.at) == ({"data", "mate"}, before)
            assert frozen.unusable == {"data"}, "it may be half on it"
            assert isinstance(frozen.error, HungError)
            assert frozen.missed["mate"].overlaps(GRAIN, BLOCK)
            assert world.legs[mate].secondary.data[:BLOCK] == b"1" * BLOCK
            assert not any(world.legs[mate].secondary.data[GRAIN:])
            assert world.legs[apart].secondary.data[:BLOCK] == b"4" * BLOCK


async def test_the_thread_that_hung_changes_nothing_when_it_goes_on() -> None:
    async with threaded() as made:
        world = made.world
        pair, apart = made.pair("data"), made.pair("apart")
        async with following(made, pair, apart):
            secondary = made.legs[pair][1]
            secondary.hang("write")
            world.timeline.write(pair, 0, b"2" * BLOCK)
            world.timeline.write(apart, 0, b"4" * BLOCK)
            last = world.timeline.write(pair, GRAIN, b"5" * BLOCK)
            await until(lambda: apart.applied >= last)
            applied = pair.applied
            written = made.legs[apart][1].calls["write"]
            secondary.release()
            assert await asyncio.to_thread(secondary.left.acquire, timeout=60)
            last = world.timeline.write(apart, GRAIN, b"6" * BLOCK)
            await until(lambda: apart.applied >= last)
            assert pair.applied == applied
            assert made.legs[apart][1].calls["write"] == written + 1, "each record once"
            assert secondary.calls["write"] == 1, "nothing after the one that hung"


async def test_one_whose_reservation_hangs_is_suspended_too() -> None:
    async with threaded() as made:
        pair = made.pair("data")
        async with following(made, pair):
            made.legs[pair][1].hang("reserve")
            made.world.timeline.write(pair, 0, b"2" * BLOCK)
            await until(lambda: pair.state == SUSPENDED)


async def test_a_journal_that_hangs_suspends_all_where_they_are_and_ends_no_later_pair() -> None:
    async with threaded() as made:
        world = made.world
        pair, mate = made.pair("data"), made.pair("mate")
        async with following(made, pair, mate) as started:
            last = world.timeline.write(pair, 0, b"1" * BLOCK)
            await until(lambda: mate.applied == last)
            made.journal.hang()
            world.timeline.write(pair, 0, b"2" * BLOCK)
            await until(lambda: pair.state == mate.state == SUSPENDED)
            assert (pair.reason, pair.applied, pair.usable) == (BY_JOURNAL, last, True)
            (frozen,) = world.freeze.calls
            assert isinstance(frozen.error, JournalHungError)
            assert "has not answered for 0.9 s" in str(frozen.error)
            assert frozen.missed["data"] == pair.record.full_map()
            assert not +world.gates.closed
            made.journal.release()
            again = made.pair("again")
            started.follower.add([again])
            last = world.timeline.write(again, 0, b"3" * BLOCK)
            await until(lambda: again.applied == last)


async def test_the_thread_that_hung_in_the_journal_applies_nothing_when_it_goes_on() -> None:
    async with threaded() as made:
        world, pair = made.world, made.pair("data")
        async with following(made, pair):
            made.journal.hang()
            world.timeline.write(pair, 0, b"2" * BLOCK)
            await until(lambda: pair.state == SUSPENDED)
            applied = pair.applied
            made.journal.release()
            assert await asyncio.to_thread(made.journal.left.acquire, timeout=60)
            made.workers.close()
            assert pair.applied == applied
            assert made.legs[pair][1].calls["write"] == 0


async def test_a_follower_whose_journal_hangs_does_not_keep_a_stop_waiting() -> None:
    async with threaded() as made:
        world, pair = made.world, made.pair("data")
        async with following(made, pair) as started:
            made.journal.hang()
            world.timeline.write(pair, 0, b"2" * BLOCK)
            await made.journal.hung()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await started.follower.stop()


# ------------------------------------------------------------------------------------------- jobs


@asynccontextmanager
async def replicating(made: Threaded) -> AsyncIterator[Replication]:
    replication = Replication(made.world)
    replication.followers.start([])
    try:
        yield replication
    finally:
        made.close()
        await replication.followers.stop()


async def test_a_copy_ends_when_its_secondary_hangs_and_the_others_are_copied() -> None:
    async with threaded() as made, replicating(made) as replication:
        pair, other = made.to_copy("data"), made.to_copy("other")
        made.legs[pair][1].hang("write", "read_into")
        replication.followers.adopt([pair, other])
        await until(lambda: other.state == DUPLEX)
        assert (pair.state, pair.usable) == (SUSPENDED, False)
        assert "the disk has not answered for 0.3 s" in str(pair.resync_error)


async def test_a_copy_whose_primary_hangs_names_the_primary_and_can_be_made_again() -> None:
    async with threaded() as made, replicating(made) as replication:
        pair = made.to_copy("data")
        primary, secondary = made.legs[pair]
        primary.hang("read_into")
        replication.followers.adopt([pair])
        await until(lambda: pair.state == SUSPENDED)
        assert "/a/data: the disk has not answered for 0.9 s" in str(pair.resync_error)
        assert pair.secondary is secondary, "it is not to blame"
        primary.release()
        await replication.resyncs.resync([pair])
        await until(lambda: pair.state == DUPLEX)
        assert made.world.legs[pair].equal


async def test_a_resync_whose_secondary_hangs_leaves_it_at_the_last_number_it_holds() -> None:
    async with threaded() as made, replicating(made) as replication:
        world, pair = made.world, made.pair("data", "sync")
        world.suspend(pair)
        first = world.timeline.write(pair, 0, b"1" * BLOCK)
        world.timeline.write(pair, GRAIN, b"2" * BLOCK)
        made.legs[pair][1].hang("reserve", after=1)
        await replication.resyncs.resync([pair])
        await until(lambda: pair.state == SUSPENDED)
        assert world.freeze.calls[-1].at == first
        assert not pair.usable


async def test_the_end_of_a_resync_holds_up_only_its_own_volumes() -> None:
    async with threaded() as made, replicating(made) as replication:
        world, pair = made.world, made.pair("data", "sync")
        other = made.pair("other", "sync")
        world.suspend(pair)
        world.timeline.write(pair, 0, b"1" * BLOCK)
        world.calls.patience = LONG
        made.legs[pair][1].hang("write")
        await replication.resyncs.resync([pair])
        await made.legs[pair][1].hung()
        assert pair.state == PENDING
        assert not world.gates.closed[other]


async def test_a_resync_by_journal_ends_when_the_journal_hangs_and_can_be_made_again() -> None:
    async with threaded() as made, replicating(made) as replication:
        world, pair = made.world, made.pair("data", "sync")
        cut = world.suspend(pair)
        world.timeline.write(pair, 0, b"1" * BLOCK)
        made.journal.hang()
        await replication.resyncs.resync([pair])
        await until(lambda: pair.state == SUSPENDED)
        assert (pair.reason, pair.usable, pair.applied) == (BY_JOURNAL, True, cut)
        assert "the journal cannot be read" in str(pair.resync_error)
        assert pair.secondary is made.legs[pair][1], "it is not to blame"
        made.journal.release()
        await replication.resyncs.resync([pair])
        await until(lambda: pair.state == DUPLEX)
        assert world.legs[pair].equal


async def test_a_resync_by_map_is_abandoned_when_the_journal_hangs() -> None:
    async with threaded() as made, replicating(made) as replication:
        world, pair = made.world, made.pair("data", "sync")
        cut = world.suspend(pair)
        for number in range(5):
            world.timeline.write(pair, GRAIN, bytes([number + 1]) * GRAIN)
        made.journal = HangingReads.of(world.timeline.writer.segment)
        made.legs[pair][0].hang("read_into")
        await replication.resyncs.resync([pair])
        await made.legs[pair][0].hung()
        made.journal.hang()
        world.timeline.write(pair, 0, b"1" * BLOCK)
        made.legs[pair][0].release()
        await until(lambda: pair.state == SUSPENDED)
        assert (pair.usable, pair.applied) == (True, cut)
        assert "the journal cannot be read" in str(pair.resync_error)


async def test_a_copy_ends_when_the_journal_hangs_and_keeps_no_client_waiting_for_it() -> None:
    async with threaded() as made, replicating(made) as replication:
        world, pair = made.world, made.to_copy("data")
        made.journal.hang()
        world.timeline.write(pair, 0, b"1" * BLOCK)
        replication.followers.adopt([pair])
        await until(lambda: pair.state == SUSPENDED)
        assert (pair.reason, pair.usable) == (BY_JOURNAL, False)
        assert pair.changed == pair.record.full_map()
        assert not +world.gates.closed


async def test_a_backlog_that_hangs_in_the_journal_may_be_anything() -> None:
    async with threaded() as made:
        world, pair = made.world, made.pair("data")
        async with following(made, pair):
            secondary = made.legs[pair][1]
            secondary.hang("write")
            world.timeline.write(pair, 0, b"1" * BLOCK)
            await secondary.hung()
            made.journal.hang()
            await until(lambda: pair.state == SUSPENDED)
            assert pair.reason != BY_JOURNAL
            assert pair.changed == pair.record.full_map()

"""Syncs of legs, each in a worker of its own leg, so that one that hangs delays no other.

A leg counts as clean from the moment its sync is planned: at rest, so that no batch is half on it.
Until that sync has ended, and what follows from its failure is recorded, the leg is *under way*:
a suspend that needs it durable has to wait, though it is not dirty. Nothing else waits: there is no
lock over all legs, because a suspend of one group must not wait for the hanging disk of another.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.patience import SYNC
from duplexd.images.absent import AbsentLeg
from duplexd.images.place import lost_image
from duplexd.runtime.tasks import several_at_once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.replication.leg_calls import LegCalls

_AT_ONCE = 32  # syncs that are waited for at once; of those that hang, so many delay the others


class Planned(NamedTuple):
    """A sync of a leg, or, if it is not `dirty`, only a look at its path."""

    pair: Pair
    leg: Leg
    dirty: bool
    looked_for: bool  # whether its path has to name the open image


class Outcome(NamedTuple):
    """Of one of them. `lost`: the path names another image; `failed`: the sync failed, or hung."""

    planned: Planned
    lost: OSError | None
    failed: OSError | None


class LegSyncs:
    """Plans and runs them. `plan` is called at rest, with `planning` held; the others from the
    loop.
    """

    def __init__(
        self, timeline: Timeline, legs: LegCalls, sync: Callable[[Leg], Callable[[], None]]
    ) -> None:
        """`sync` is called in a worker; what it returns, in the loop, if it was not given up."""
        self._timeline = timeline
        self._legs = legs
        self._sync = sync  # blocking
        self._under_way: dict[Leg, asyncio.Future[bool]] = {}  # whether it was synced
        self.planning = asyncio.Lock()
        self.left_dirty = False  # by `plan`: written to since the sync began that is under way

    def plan(
        self, primaries: Iterable[Pair], secondaries: Iterable[Pair], looked_for: Collection[Pair]
    ) -> list[Planned]:
        """Syncs of the dirty ones of these legs, which count as clean from now on, and a look at
        the secondaries of `looked_for`. `end` has to be called for all of them.

        Those under way are left out, and those that are clean: a follower may be writing to such a
        secondary in its thread, and marks it dirty itself. So are those that are absent: they stay
        dirty, until a sync of what comes back tells what is on it.
        """
        planned: list[Planned] = []
        self.left_dirty = False
        for pair in primaries:
            self.left_dirty |= pair.primary_dirty and not self._is_free(pair.primary)
            if pair.primary_dirty and self._is_free(pair.primary):
                pair.primary_dirty = False
                planned.append(Planned(pair, pair.primary, True, False))
        for pair in secondaries:
            leg = pair.secondary
            if leg is None or not self._is_free(leg):
                self.left_dirty |= leg is not None and pair.secondary_dirty
                continue
            dirty = pair.secondary_dirty and not isinstance(leg, AbsentLeg)
            if dirty:
                pair.secondary_dirty = False
            if dirty or pair in looked_for:
                planned.append(Planned(pair, leg, dirty, pair in looked_for))
        for sync in planned:
            self._under_way[sync.leg] = asyncio.get_running_loop().create_future()
        return planned

    def _is_free(self, leg: Leg) -> bool:
        return leg not in self._under_way

    async def planned_at_rest(
        self, primaries: Sequence[Pair], secondaries: Sequence[Pair], looked_for: Collection[Pair]
    ) -> list[Planned]:
        """`plan`, at rest."""
        made: list[Planned] = []

        def plan() -> None:
            made.extend(self.plan(primaries, secondaries, looked_for))

        async with self.planning:
            try:
                await self._timeline.at_rest(plan)
            except BaseException:  # of a step that was run: the journal cannot be written
                self.give_up(made)
                raise
        return made

    async def run(self, planned: Sequence[Planned]) -> list[Outcome]:
        """Their outcomes, in any order. One without consequences is not under way any more, while
        another may still hang.
        """
        outcomes: list[Outcome] = []

        async def one(sync: Planned) -> None:
            outcomes.append(outcome := await self._one(sync))
            if outcome.failed is None and outcome.lost is None:
                self._end(sync, synced=True)

        await several_at_once(planned, one, _AT_ONCE)
        return outcomes

    async def _one(self, sync: Planned) -> Outcome:
        try:
            lost, failed, synced = await self._legs.on(
                sync.pair, sync.leg, SYNC, lambda: self._call(sync)
            )
        except OSError as hung:
            return Outcome(sync, None, hung)
        synced()
        return Outcome(sync, lost, failed)

    def _call(self, sync: Planned) -> tuple[OSError | None, OSError | None, Callable[[], None]]:
        """In a worker."""
        lost = lost_image(sync.leg) if sync.looked_for else None
        try:
            return lost, None, self._sync(sync.leg) if sync.dirty else _nothing
        except OSError as error:
            return lost, error, _nothing

    def end(self, planned: Iterable[Planned]) -> None:
        """They are over, and their failures are recorded."""
        for sync in planned:
            self._end(sync, synced=False)  # what was synced has ended already

    def _end(self, sync: Planned, synced: bool) -> None:
        future = self._under_way.pop(sync.leg, None)
        if future is not None and not future.done():
            future.set_result(synced)

    def give_up(self, planned: Sequence[Planned]) -> None:
        """They are not run."""
        make_dirty(planned)
        self.end(planned)

    def under_way(self) -> list[asyncio.Future[bool]]:
        """What `plan` leaves out now. A checkpoint calls those legs durable too, so it has to wait
        for all of these, and none may have failed.
        """
        return list(self._under_way.values())

    async def others(self, pairs: Iterable[Pair]) -> None:
        """Wait for what is under way now on the secondaries of these pairs."""
        legs = [pair.secondary for pair in pairs if pair.secondary is not None]
        under_way = [self._under_way[leg] for leg in legs if leg in self._under_way]
        if under_way:
            await asyncio.wait(under_way)

    @contextlib.asynccontextmanager
    async def none(self) -> AsyncIterator[None]:
        """Meanwhile there are no syncs."""
        async with self.planning:
            while self._under_way:
                await asyncio.wait(list(self._under_way.values()))
            yield


def _nothing() -> None:
    """It was not synced."""


def make_dirty(planned: Sequence[Planned]) -> None:
    """They have not ended."""
    for sync in planned:
        if sync.dirty and sync.leg is sync.pair.primary:
            sync.pair.primary_dirty = True
        elif sync.dirty:
            sync.pair.secondary_dirty = True

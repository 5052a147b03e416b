"""All followers that trail: one for the `async` pairs, one for each delay, and those on their way.

Delayed secondaries of one delay share a walk along the journal, unless one of them is behind where
the others are already: then it has its own. One that is suspended has to go on while the others of
its walk stay behind, so it goes to its cut in a follower that ends there (`_leave`).

A secondary that is at a cut may be sent on to a later one (`go_on`). It gets there in the same way.

Where a secondary is wanted that holds everything, for a swap or a repair, it is brought along at
once (`at_once`), in a walk of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.delayed import DELAYED
from duplexd.errors import DuplexdError
from duplexd.replication.delayed_walk import DelayedWalk
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from duplexd.core.pair import Pair
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.async_follower import AsyncFollower
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.seams import Timeline
    from duplexd.runtime.clock import Clock

    Make = Callable[[Callable[[], int] | None], AsyncFollower]


class Trailing:
    """The followers of pairs that are DUPLEX, or SUSPENDED and not yet at their cuts. `delay_of`:
    of a volume, in seconds; `hurries`: whether changes wait for room in the journal. Both are set
    by the engine.
    """

    def __init__(
        self,
        timeline: Timeline,
        legs: LegCalls,
        clock: Clock,
        limits: EngineLimits,
        make: Make,
    ) -> None:
        """`make` gives a follower to a goal; None: the tail."""
        self._timeline = timeline
        self._legs = legs
        self._clock = clock
        self._limits = limits
        self._make = make
        self.async_follower = make(None)
        self._walks: list[DelayedWalk] = []
        self._leaving: list[AsyncFollower] = []
        self._sent_on: list[Pair] = []  # and not followed for yet
        self._task: asyncio.Task[None] | None = None
        self._something = asyncio.Event()
        self.delay_of: Callable[[Pair], float] = _none
        self.hurries: Callable[[], bool] = _never

    def start(self) -> None:
        """Start the tasks."""
        self.async_follower.start()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name="trailing followers")

    async def stop(self) -> None:
        """Bring the secondaries to the tail, or their cuts, or as far as they may go, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._sorted()
        for walk in self._walks:
            await walk.stop()
        for follower in self._all():
            await follower.stop()

    def _all(self) -> list[AsyncFollower]:
        return [self.async_follower, *(walk.follower for walk in self._walks), *self._leaving]

    def _of(self, pair: Pair) -> AsyncFollower | None:
        return next((each for each in self._all() if pair in each.pairs), None)

    # ------------------------------------------------------------------------------ its pairs

    def add(self, pairs: Sequence[Pair]) -> None:
        """Follow for pairs. Raises ValueError for one that lacks what its follower has passed."""
        self.async_follower.add([pair for pair in pairs if pair.mode != DELAYED])
        delayed = [pair for pair in pairs if pair.mode == DELAYED]
        for delay_s in {self.delay_of(pair) for pair in delayed}:
            alike = [pair for pair in delayed if self.delay_of(pair) == delay_s]
            walk = next((walk for walk in self._walks if _takes(walk, delay_s, alike)), None)
            (walk or self._new_walk(delay_s)).add(alike)

    def _new_walk(self, delay_s: float) -> DelayedWalk:
        walk = DelayedWalk(
            self._timeline, self._legs, self._clock, self._limits, delay_s, self.hurries,
            self._make, self.poke,
        )  # fmt: skip
        self._walks.append(walk)
        walk.start()
        return walk

    def is_past(self, pair: Pair) -> bool:
        """Whether the pair lacks changes that its follower has passed already."""
        return pair.mode != DELAYED and self.async_follower.is_past(pair)

    def go_on(self, pairs: Sequence[Pair]) -> None:
        """These were at a cut, and go on to the later one that they are at now. In the step that
        says so, and once that is durable, they do.
        """
        self._sent_on += pairs
        self.poke()

    def forget(self, pair: Pair) -> None:
        """A pair was removed. Not while a follower holds `stepping`."""
        self._sent_on = [each for each in self._sent_on if each is not pair]
        for follower in self._all():
            follower.forget(pair)

    def takes(self, pair: Pair) -> bool:
        """Whether a suspended pair is still on its way to its cut."""
        return pair in self._sent_on or any(follower.takes(pair) for follower in self._all())

    def pairs(self, floor: int) -> list[Pair]:
        """Those that need the journal from that number on."""
        sent_on = [pair for pair in self._sent_on if pair.applied == floor]
        return sent_on + [p for each in self._all() if each.floor == floor for p in each.pairs]

    @property
    def floor(self) -> int:
        """The number after which they still need the journal."""
        sent_on = [pair.applied for pair in self._sent_on]
        return min([*sent_on, *(each.floor for each in self._all())])

    def lag_bytes(self, pair: Pair) -> int:
        """How far its secondary trails, in bytes of journal."""
        walk = self._walk_of(pair)
        if walk is not None:
            return walk.lag_bytes
        follower = self._of(pair)
        return follower.lag_bytes if follower is not None else 0

    def delay(self, pair: Pair) -> Json | None:
        """How far back a delayed secondary can be suspended; None of others."""
        walk = self._walk_of(pair) if pair.is_delayed else None
        return walk.show(pair) if walk is not None else None

    def _walk_of(self, pair: Pair) -> DelayedWalk | None:
        return next((walk for walk in self._walks if pair in walk.follower.pairs), None)

    # ------------------------------------------------------------------------------- standing

    @asynccontextmanager
    async def standing(self, pairs: Collection[Pair] | None = None) -> AsyncIterator[None]:
        """Meanwhile no worker writes to secondaries of these pairs, or of any, and none moves on;
        those excepted that jobs copy to.
        """
        async with AsyncExitStack() as stack:
            held: set[AsyncFollower] = set()
            while more := [each for each in self._concerned(pairs) if each not in held]:
                await stack.enter_async_context(more[0].stepping)
                held.add(more[0])
            yield

    def _concerned(self, pairs: Collection[Pair] | None) -> list[AsyncFollower]:
        if pairs is None:
            return self._all()
        return [each for each in self._all() if any(pair in each.pairs for pair in pairs)]

    @asynccontextmanager
    async def at_once(self, pair: Pair) -> AsyncIterator[None]:
        """Bring a delayed secondary along without a delay meanwhile."""
        if pair.mode != DELAYED or pair.state != pair_states.DUPLEX:
            yield
            return
        async with self.standing([pair]):
            self.forget(pair)
            walk = self._new_walk(self.delay_of(pair))
            walk.at_once = True
            walk.add([pair])
        try:
            yield
        finally:
            walk.at_once = False

    # -------------------------------------------------------------------------------- sorting

    def poke(self) -> None:
        """Some of them were suspended, or their delay is another now."""
        self._something.set()

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            await to_its_end(self._sorted())

    async def _sorted(self) -> None:
        try:
            await self._sort()
        except (DuplexdError, OSError):
            if not self._timeline.failed:
                raise

    async def _sort(self) -> None:
        """Put each pair where it belongs, and end followers that have none any more."""
        if self._sent_on:
            await self._start_for(list(self._sent_on))
        for walk in list(self._walks):
            if any(pair.state == pair_states.SUSPENDED for pair in walk.follower.pairs):
                await self._leave(walk)
            if self._misplaced(walk):
                async with walk.follower.stepping:
                    others = self._misplaced(walk)
                    for pair in others:
                        walk.follower.forget(pair)
                    self.add(others)
        for follower in [each for each in self._leaving if not each.pairs]:
            self._leaving.remove(follower)
            await follower.stop()
        for walk in [each for each in self._walks if not each.follower.pairs]:
            self._walks.remove(walk)
            await walk.stop()

    def _misplaced(self, walk: DelayedWalk) -> list[Pair]:
        """Those that have another delay now. One that was suspended leaves for its cut."""
        found = [] if walk.at_once else walk.follower.pairs
        duplex = [pair for pair in found if pair.state == pair_states.DUPLEX]
        return [pair for pair in duplex if self.delay_of(pair) != walk.delay_s]

    async def _leave(self, walk: DelayedWalk) -> None:
        """Those that were suspended go on to their cuts, which are durable before they do."""
        await self._timeline.durable()
        async with walk.follower.stepping:
            found = [p for p in walk.follower.pairs if p.state == pair_states.SUSPENDED]
            for pair in found:
                walk.follower.forget(pair)
            self._follow_to_cuts(found)

    async def _start_for(self, pairs: Collection[Pair]) -> None:
        """Those that were sent on go. Meanwhile one may have failed, or be no pair any more."""
        await self._timeline.durable()
        async with self.standing(pairs):
            found = [pair for pair in pairs if pair in self._sent_on]
            for pair in found:
                self.forget(pair)
            self._follow_to_cuts([p for p in found if p.state == pair_states.SUSPENDED])

    def _follow_to_cuts(self, pairs: Sequence[Pair]) -> None:
        found = [pair for pair in pairs if pair.usable and pair.applied < pair.limit(0)]
        if not found:
            return
        follower = self._make(lambda: max(pair.limit(0) for pair in found))
        self._leaving.append(follower)
        follower.add(found)
        follower.start()


def _takes(walk: DelayedWalk, delay_s: float, pairs: Sequence[Pair]) -> bool:
    """Whether these can join: they lack nothing up to where it may go by now. It may have passed
    what one lacks, in a step or with a horizon that is being written, and gets to it never more.
    """
    if walk.delay_s != delay_s or walk.at_once or not walk.follower.pairs:
        return False
    return all(pair.applied >= walk.bound for pair in pairs)


def _none(_pair: Pair) -> float:
    return 0.0


def _never() -> bool:
    return False

"""Secondaries that trail by a time: an `async` follower that may not go beyond its horizon.

The horizon is the newest number that is older than the delay. It is in the journal, durably, before
the follower goes there (marker `horizon`). So whatever stops the daemon, a restart brings the
secondary to that number and no further, and asks no clock. Nothing reaches such a secondary that a
power cut could still take from the journal.

Where the journal is about to be full, the horizon moves on earlier: writes never wait for a delay.
Then status says that the secondary trails by less than it should.

A secondary that is suspended is on its way to a cut. It leaves this follower for one of its own
(`trailing.py`), because the others stay behind.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.core.markers import Horizon
from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.core.steady_time import SteadyTime
from duplexd.errors import DuplexdError
from duplexd.replication.backlog import UNREADABLE
from duplexd.replication.retries import when_there_is_room
from duplexd.replication.scout import Scout

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.async_follower import AsyncFollower
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.seams import Timeline
    from duplexd.runtime.clock import Clock

LOOKS_SECONDS = 0.5  # between two looks, at most
KEPT_SHARE = 3 / 4  # of the journal, that may be kept for a delay
READS_MAX = 16  # of the journal, before what is due by then may go
IDLE_BYTES_MAX = 1 << 20  # of markers alone that are kept


class DelayedWalk:
    """Pairs of one delay, in one follower. `hurries`: whether changes wait for room in the journal.
    `own`: at once, whatever the delay: somebody waits for the secondary.
    """

    def __init__(
        self,
        timeline: Timeline,
        legs: LegCalls,
        clock: Clock,
        limits: EngineLimits,
        delay_s: float,
        hurries: Callable[[], bool],
        make: Callable[[Callable[[], int]], AsyncFollower],
        left: Callable[[], None],
    ) -> None:
        """`make` gives a follower to a goal; `left` is called while there are pairs that do not
        belong here any more, also if a failure suspended them.
        """
        self._timeline = timeline
        self._legs = legs
        self._clock = clock
        self._limits = limits
        self._hurries = hurries
        self._left = left
        self.delay_s = delay_s
        self.at_once = False
        self.horizon = 0
        self.bound = 0  # that, or where it is about to be
        self.shortened = False
        self._began = timeline.log_position
        self._bytes = 0  # of journal up to the horizon
        self.follower = make(lambda: self.horizon)
        self._steady = SteadyTime(clock.wall(), clock.monotonic())
        self._scout: Scout | None = None
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the tasks."""
        self.follower.start()
        self._timeline.on_written.append(self._written)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="delayed follower")

    async def stop(self) -> None:
        """End them, with the secondaries at the horizon."""
        if self._task is not None:
            self._timeline.on_written.remove(self._written)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.follower.stop()

    def _written(self) -> None:
        """Once more than is kept lies there, the horizon does not wait for the next look."""
        begins = self._scout.bytes if self._scout is not None else 0
        if self._timeline.log_position - (begins or self._began) > self._kept_bytes:
            self._something.set()

    @property
    def _kept_bytes(self) -> int:
        return int(self._timeline.writer.ring.size_bytes * KEPT_SHARE)

    def poke(self) -> None:
        """Look again now."""
        self._something.set()

    def add(self, pairs: list[Pair]) -> None:
        """Follow for pairs that lack nothing before the horizon, or the first ones."""
        if not self.follower.pairs:
            self._scout = None
            self.horizon = self.bound = min(pair.applied for pair in pairs)
        self.follower.add(pairs)
        self.poke()

    def show(self, pair: Pair) -> Json:
        """For status: how far back its secondary can be suspended, and how far it should be."""
        horizon = pair.record.horizon
        back_s = max(self._clock.wall() - horizon.time_us / 1e6, 0.0) if horizon else 0.0
        shortened = self.shortened and back_s < self.delay_s
        return {"wanted_s": self.delay_s, "back_s": round(back_s, 3), "shortened": shortened}

    @property
    def lag_bytes(self) -> int:
        """How far it trails, in bytes of journal."""
        scout = self._scout
        known = scout is not None and scout.bytes
        return self._timeline.log_position - scout.bytes if scout is not None and known else 0

    async def _run(self) -> None:
        while True:
            await self._look()
            try:
                async with asyncio.timeout(min(LOOKS_SECONDS, max(self.delay_s / 10, 0.05))):
                    await self._something.wait()
            except TimeoutError:
                pass
            self._something.clear()

    async def _look(self) -> None:
        """Move the horizon on. What cannot be written is tried again."""
        try:
            if any(pair.record.horizon is None for pair in self._duplex()):
                await self._allow(self.horizon, 0)
            if any(pair.state == SUSPENDED for pair in self.follower.pairs):
                self._left()
            if self._duplex():
                await self._advance()
        except (DuplexdError, OSError):
            if not self._timeline.failed:
                raise

    def _duplex(self) -> list[Pair]:
        return [pair for pair in self.follower.pairs if pair.state == DUPLEX]

    async def _advance(self) -> None:
        """What cannot be read the follower finds out, too, and it has the consequences."""
        timeline, wall = self._timeline, self._clock.wall()
        now = self._steady.now(wall, self._clock.monotonic())
        ring, until, log_position = timeline.writer.ring, timeline.performed, timeline.log_position
        if self._scout is None:
            known = [pair.record.horizon.time_us for pair in self._duplex() if pair.record.horizon]
            chunk_bytes = self._limits.follower_chunk_bytes
            self._scout = Scout(ring, self.horizon, chunk_bytes, max(known, default=0))
        scout = self._scout
        kept_bytes = self._kept_bytes
        if self._hurries():
            kept_bytes = min(kept_bytes, self.lag_bytes // 2)
        due_us = int((wall if self.at_once else now - self.delay_s) * 1e6)
        least = 0 if self.at_once else log_position - kept_bytes
        try:
            await self._legs.walk(
                ring, scout.watch, lambda: scout.go(due_us, until, least, READS_MAX)
            )
        except UNREADABLE:
            self._scout = None
            await self._allow(self.horizon + 1, timeline.now_us())
            return
        if self._is_worth_it(scout):
            self._bytes = scout.bytes
            self.shortened = not self.at_once and scout.time_us > due_us
            await self._allow(scout.position, scout.time_us)

    def _is_worth_it(self, scout: Scout) -> bool:
        """A horizon is a record that will be passed, too: it needs changes before it, or so many
        markers that the journal should not keep them.
        """
        if scout.position <= self.horizon:
            return False
        idle_bytes = min(IDLE_BYTES_MAX, self._timeline.writer.ring.size_bytes // 16)
        many = scout.bytes - self._bytes > idle_bytes
        return scout.last_change > self.horizon or self.at_once or many

    async def _allow(self, number: int, time_us: int) -> None:
        """Let the follower go to `number`, which is in the journal. A secondary that has just come
        may be ahead of the others; it holds what is of now.
        """
        timeline = self._timeline

        def step() -> None:
            self.bound = max(self.bound, number)
            to: dict[tuple[int, int], list[int]] = {}
            for pair in self._duplex():
                horizon = pair.record.horizon
                if horizon is None:
                    place = max(pair.applied, number), timeline.now_us()
                    to.setdefault(place, []).append(pair.id)
                elif horizon.number < number:
                    to.setdefault((number, time_us), []).append(pair.id)
            for place, ids in to.items():
                timeline.append(Horizon(ids, *place))

        await when_there_is_room(timeline, step)
        await timeline.durable()
        self.horizon = max(self.horizon, number)
        self.follower.poke()

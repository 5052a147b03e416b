"""The follower of `async` pairs: it trails the tail by a bounded amount.

There is one for all of them, so that their secondaries are at one number and the journal is read
once. A suspended pair leaves it at its cut. It exists only while there are such pairs. Those that
trail by a time have others of this class, see `delayed_walk.py`.

A secondary that hangs is given up after its time-out: the pair and its group are suspended where
they are, and another follower goes on from there with the others. The thread that hangs changes
nothing any more. One that is slow makes its own clients wait (`throttle.py`), and is suspended when
they would wait too long. A journal that cannot be read suspends all of them, for no other follower
could go on.
"""

from __future__ import annotations

import asyncio
import errno
import math
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.replication.backlog import UNREADABLE
from duplexd.replication.follower import Follower, SecondarySink, SinkError, UntouchedError
from duplexd.replication.leg_calls import JournalHungError, hung_in
from duplexd.replication.throttle import TOO_SLOW, Throttle
from duplexd.runtime.tasks import to_its_end
from duplexd.runtime.watch import HungError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.limits import EngineLimits
    from duplexd.replication.backlog import Backlog
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.seams import Freeze, Gates, Timeline
    from duplexd.runtime.clock import Clock

STEP_SECONDS = 0.5  # that a step should take at most
_NOTHING = 1 << 62


class AsyncFollower:
    """Has a `Follower` while there are `async` pairs that are DUPLEX or on their way to a cut.

    `on_moved` is called when it went on. `stepping` is held while a worker may be at the
    secondaries.
    """

    def __init__(
        self,
        timeline: Timeline,
        gates: Gates,
        backlog: Backlog,
        freeze: Freeze,
        group_of: Callable[[Pair], set[Pair]],
        legs: LegCalls,
        clock: Clock,
        limits: EngineLimits,
        goal: Callable[[], int] | None = None,
    ) -> None:
        """`goal`: up to which number to go; None for the tail, where clients wait for it."""
        self._timeline = timeline
        self._goal = goal or (lambda: timeline.performed)
        self._end = goal or (lambda: timeline.written)
        self._backlog = backlog
        self._freeze = freeze
        self._group_of = group_of
        self._legs = legs
        self._clock = clock
        self._limits = limits
        self._chunk_bytes = limits.follower_chunk_bytes
        self._throttle = Throttle(
            gates,
            limits.async_lag_bytes_max if goal is None else math.inf,
            lambda: legs.patience.secondary_s,
            self._is_late,
        )
        self._late = False
        self._follower: Follower | None = None
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.on_moved: Callable[[], None] = _nobody
        self.stepping = asyncio.Lock()

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="async follower")

    async def stop(self) -> None:
        """Bring the secondaries to the tail, or their cut, and end."""
        timeline, task = self._timeline, self._task
        if task is None:
            return
        while self.floor < self._end() and not (timeline.failed or task.done()):
            self._something.set()
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    # ------------------------------------------------------------------------------ its pairs

    def add(self, pairs: Sequence[Pair]) -> None:
        """Follow for pairs that are at or after the follower's position: what lies before it, it
        will never apply.
        """
        if not pairs:
            return
        behind = [pair.name for pair in pairs if self.is_past(pair)]
        if self._follower is None:
            self._follower = self._new(pairs, min(pair.applied for pair in pairs))
            self._timeline.on_written.append(self._written)
        elif behind:
            raise ValueError(f"{', '.join(behind)}: the follower is at {self.floor} already")
        else:
            self._follower.pairs.update({pair.id: pair for pair in pairs})
        self.poke()

    def poke(self) -> None:
        """Look again: there may be more to do."""
        self._something.set()

    def is_past(self, pair: Pair) -> bool:
        """Whether the pair lacks changes that the follower has passed already."""
        return self._follower is not None and pair.applied < self.floor

    def _new(self, pairs: Sequence[Pair], position: int) -> Follower:
        ring, advance = self._timeline.writer.ring, self._timeline.ledger.advance
        now = self._clock.monotonic
        return Follower(ring, pairs, position, SecondarySink(), advance, now=now)

    def forget(self, pair: Pair) -> None:
        """A pair was removed. Not while the follower holds `stepping`."""
        if self._follower is not None:
            self._follower.pairs.pop(pair.id, None)
            self._release_arrived()

    def takes(self, pair: Pair) -> bool:
        """Whether a suspended pair is still on its way to its cut."""
        suspended = pair.state == pair_states.SUSPENDED
        return suspended and self._follower is not None and pair.id in self._follower.pairs

    @property
    def pairs(self) -> list[Pair]:
        """Those that it follows for."""
        return list(self._follower.pairs.values()) if self._follower else []

    def _release_arrived(self) -> None:
        follower = self._follower
        if follower is None:
            return
        for pair in list(follower.pairs.values()):
            suspended = pair.state == pair_states.SUSPENDED
            if pair.state != pair_states.DUPLEX and (
                not suspended or pair.applied >= pair.limit(_NOTHING)
            ):
                del follower.pairs[pair.id]
        self._throttle.keep(follower.pairs.values())
        if not follower.pairs:
            self._follower = None
            self._timeline.on_written.remove(self._written)
        self._look_at_lag()

    # ------------------------------------------------------------------------------ positions

    @property
    def lag_bytes(self) -> int:
        """How far it trails, in bytes of journal."""
        if self._follower is None:
            return 0
        return self._follower.lag_bytes(self._timeline.log_position)

    @property
    def floor(self) -> int:
        """The number after which it still needs the journal."""
        return self._follower.position if self._follower is not None else _NOTHING

    def _written(self) -> None:
        self._something.set()
        self._look_at_lag()

    def _look_at_lag(self) -> None:
        self._throttle.look(self._timeline.log_position, self.lag_bytes, self._slow)

    def _slow(self) -> list[Pair]:
        """Those whose clients are to write less."""
        follower = self._follower
        slow = follower.slow() if follower is not None else []
        return [pair for pair in slow if pair.state == pair_states.DUPLEX]

    def _is_late(self) -> None:
        """Clients have waited for long enough."""
        self._late = True
        if self._follower is not None:
            self._follower.ends = True
        self._something.set()

    # ------------------------------------------------------------------------------ following

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self.floor < self._goal() or self._late:
                async with self.stepping:
                    follower = self._follower
                    if follower is not None:
                        await self._step(follower)
                        follower.ends = False
                    self._late = False

    async def _step(self, follower: Follower) -> None:
        try:
            await self._walk(follower)
            if self._late:
                await self._suspend_late(follower)
        except SinkError as error:
            await self._failed(follower, error.pair, error.located(), error.torn)
        except Exception as error:  # noqa: BLE001  no pair may stay DUPLEX without a follower
            text = str(error) if isinstance(error, UNREADABLE) else repr(error)
            why = error if isinstance(error, OSError) else OSError(errno.EIO, text)
            await self._lost_its_way(follower, why)
        self._release_arrived()
        self.on_moved()

    async def _walk(self, follower: Follower) -> None:
        """Go on by some records, a fraction of a second's worth, so that the lag is known well.

        Raises SinkError; UNREADABLE. The thread is given up that hangs, and another follower takes
        the place of this one.
        """
        until, began = self._goal(), self._clock.monotonic()
        step = to_its_end(
            self._legs.walk(
                self, follower.sink.legs.watch, lambda: follower.step(until, self._chunk_bytes)
            )
        )
        try:
            await step
        except (HungError, JournalHungError) as hung:
            follower.left()
            self._follower = self._new(list(follower.pairs.values()), follower.position)
            if isinstance(hung, JournalHungError):
                raise
            raise SinkError(hung_in(hung).pair, follower.position + 1, hung) from hung
        took_s, limits = self._clock.monotonic() - began, self._limits
        if took_s > STEP_SECONDS:
            self._chunk_bytes = max(self._chunk_bytes // 2, limits.follower_final_bytes)
        elif took_s < STEP_SECONDS / 4:
            self._chunk_bytes = min(self._chunk_bytes * 2, limits.follower_chunk_bytes)

    # ------------------------------------------------------------------------------- failures

    async def _failed(self, follower: Follower, failed: Pair, error: OSError, torn: bool) -> None:
        """The failed pair, its group, and those on their way to the same cut: all are suspended at
        one number.
        """

        def members() -> set[Pair]:
            same_cut = {
                pair
                for pair in follower.pairs.values()
                if pair.state == pair_states.SUSPENDED and pair.cut is failed.cut
            }
            together = self._group_of(failed) | same_cut
            return {pair for pair in together if pair.id in follower.pairs}

        await self._suspend(follower, members, failed, error, {failed} if torn else set())

    async def _suspend_late(self, follower: Follower) -> None:
        late = next((pair for pair in self._throttle.closed if pair.id in follower.pairs), None)
        if late is not None:
            why = TOO_SLOW.format(self._legs.patience.secondary_s)
            await self._failed(follower, late, UntouchedError(errno.ETIMEDOUT, why), False)

    async def _lost_its_way(self, follower: Follower, error: OSError) -> None:
        """The journal can't be read any further: the secondaries are suspended where they are, or
        changes would wait for them for ever.
        """
        if follower.pairs:
            await self._suspend(follower, lambda: set(follower.pairs.values()), None, error, set())

    async def _suspend(
        self,
        follower: Follower,
        members: Callable[[], set[Pair]],
        failed: Pair | None,
        error: OSError,
        unusable: set[Pair],
    ) -> None:
        """Their backlog is read in a worker, so they may not get more of it meanwhile. That of one
        that hangs begins where its last sync was: no other can end any more.
        """
        timeline, position = self._timeline, follower.position
        since = position
        if failed is not None and isinstance(error, HungError):
            since = min(position, failed.record.secondary_at)

        async def together(pairs: set[Pair]) -> set[Pair]:
            """Those that were suspended: none, if others have to be with them by now."""
            async with self._backlog.after(since, pairs, error) as missed:
                return await timeline.at_rest(lambda: freeze(pairs, missed))

        def freeze(pairs: set[Pair], missed: dict[Pair, ChangeMap]) -> set[Pair]:
            if members() - pairs:
                return set()
            self._freeze(members(), failed, position, error, unusable, missed)
            return pairs

        suspended: set[Pair] = set()
        while not suspended:
            suspended = await together(await timeline.at_rest(members))
        for pair in suspended:
            follower.pairs.pop(pair.id, None)
            if self._follower is not None:  # another one, if a thread hangs in this
                self._follower.pairs.pop(pair.id, None)


def _nobody() -> None:
    """Nobody waits."""

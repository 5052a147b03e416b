"""The follower of `async` pairs: it trails the tail by a bounded amount.

There is one for all of them, so that their secondaries are at one number and the journal is read
once. A suspended pair leaves it at its cut. It exists only while there are such pairs, and makes
batches wait (a reason in `Admission`) when it trails by more than the limit.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.errors import DamageError
from duplexd.journal.format import TRIM, WRITE, ZERO
from duplexd.journal.reader import Reader
from duplexd.replication.follower import Follower, SecondarySink, SinkError
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.core.admission import Admission
    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.journal.segment import Ring
    from duplexd.limits import EngineLimits
    from duplexd.replication.seams import Freeze, Timeline
    from duplexd.runtime.threads import Workers

ASYNC_TOO_FAR_BEHIND = (
    "the secondaries of async pairs are too far behind"  # the reason in `Admission`
)
UNREADABLE = (DamageError, LookupError, OSError)  # what reading the journal may raise
_NOTHING = 1 << 62


def backlog(
    ring: Ring, pairs: Iterable[Pair], position: int, until: int, chunk_bytes: int
) -> dict[Pair, ChangeMap]:
    """What the records after number `position`, up to `until`, change of each pair: everything, if
    they can't be read. Blocking.
    """
    changed = {pair.id: (pair, pair.new_map()) for pair in pairs}
    try:
        reader = Reader(ring, position + 1) if position < until else None
        while reader is not None and reader.sequence <= until:
            _, records = reader.read(until, chunk_bytes)
            for record in records:
                if record.volume in changed and record.kind in (WRITE, ZERO, TRIM):
                    changed[record.volume][1].set(record.offset, record.length)
    except UNREADABLE:
        for _, everything in changed.values():
            everything.set_all()
    return dict(changed.values())


class AsyncFollower:
    """Has a `Follower` while there are `async` pairs that are DUPLEX or on their way to a cut.

    `on_moved` is called when it went on. `stepping` is held while a worker may be at the
    secondaries.
    """

    def __init__(
        self,
        timeline: Timeline,
        admission: Admission,
        freeze: Freeze,
        group_of: Callable[[Pair], set[Pair]],
        workers: Workers,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._admission = admission
        self._freeze = freeze
        self._group_of = group_of
        self._workers = workers
        self._limits = limits
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
        while self.floor < timeline.written and not (timeline.failed or task.done()):
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
        behind = [pair.name for pair in pairs if pair.applied < self.floor]
        if self._follower is None:
            ring, advance = self._timeline.writer.ring, self._timeline.ledger.advance
            first = min(pair.applied for pair in pairs)
            self._follower = Follower(ring, pairs, first, SecondarySink(), advance)
            self._timeline.on_written.append(self._written)
        elif behind:
            raise ValueError(f"{', '.join(behind)}: the follower is at {self.floor} already")
        else:
            self._follower.pairs.update({pair.id: pair for pair in pairs})
        self._something.set()

    def forget(self, pair: Pair) -> None:
        """A pair was removed. Not while the follower holds `stepping`."""
        if self._follower is not None:
            self._follower.pairs.pop(pair.id, None)
            self._release_arrived()

    def takes(self, pair: Pair) -> bool:
        """Whether a suspended pair is still on its way to its cut."""
        suspended = pair.state == pair_states.SUSPENDED
        return suspended and self._follower is not None and pair.id in self._follower.pairs

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
        self._admission.set(ASYNC_TOO_FAR_BEHIND, self.lag_bytes > self._limits.async_lag_bytes_max)

    # ------------------------------------------------------------------------------ following

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self.floor < self._timeline.performed:
                async with self.stepping:
                    if self._follower is not None:
                        await self._step(self._follower)

    async def _step(self, follower: Follower) -> None:
        timeline, chunk = self._timeline, self._limits.follower_chunk_bytes
        until = timeline.performed
        try:
            await to_its_end(self._workers.run(lambda: follower.step(until, chunk)))
        except SinkError as error:
            failure = error
            await timeline.at_rest(lambda: self._failed(follower, failure))
        except Exception as error:  # noqa: BLE001  no pair may stay DUPLEX without a follower
            text = str(error) if isinstance(error, UNREADABLE) else repr(error)
            why = error if isinstance(error, OSError) else OSError(errno.EIO, text)
            await timeline.at_rest(lambda: self._lost_its_way(follower, why))
        self._release_arrived()
        self.on_moved()

    def _failed(self, follower: Follower, error: SinkError) -> None:
        """The failed pair, its group, and those on their way to the same cut: all are suspended at
        one number.
        """
        same_cut = {
            pair
            for pair in follower.pairs.values()
            if pair.state == pair_states.SUSPENDED and pair.cut is error.pair.cut
        }
        members = self._group_of(error.pair) | same_cut
        members = {pair for pair in members if pair.id in follower.pairs}
        torn = {error.pair} if error.torn else set()
        self._suspend(follower, members, error.pair, error.error, torn)
        for pair in members:
            follower.pairs.pop(pair.id, None)

    def _lost_its_way(self, follower: Follower, error: OSError) -> None:
        """The journal can't be read any further: the secondaries are suspended where they are, or
        changes would wait for them for ever.
        """
        members = set(follower.pairs.values())
        if members:
            first = min(members, key=lambda pair: pair.id)
            self._suspend(follower, members, first, error, set())
            follower.pairs.clear()

    def _suspend(
        self,
        follower: Follower,
        members: set[Pair],
        failed: Pair,
        error: OSError,
        unusable: set[Pair],
    ) -> None:
        ring, tail = self._timeline.writer.ring, self._timeline.written
        chunk = self._limits.follower_chunk_bytes
        missed = backlog(ring, members, follower.position, tail, chunk)
        self._freeze(members, failed, follower.position, error, unusable, missed)


def _nobody() -> None:
    """Nobody waits."""

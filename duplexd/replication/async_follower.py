"""The follower of `async` pairs: always a bounded amount behind the tail; at their cut it lets suspended pairs go."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from duplexd.core import state
from duplexd.core.change_map import ChangeMap
from duplexd.errors import DamageError
from duplexd.journal.format import TRIM, WRITE, ZERO
from duplexd.journal.reader import Reader
from duplexd.limits import FOLLOWER_CHUNK_BYTES
from duplexd.replication.follower import Follower, SecondarySink, SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller
    from duplexd.journal.segment import Ring

_NOTHING = 1 << 62
UNREADABLE = (DamageError, LookupError, OSError)  # what the journal may answer to a follower


def backlog(ring: Ring, pairs: Iterable[Pair], position: int, until: int) -> dict[Pair, ChangeMap]:
    """What records after number `position`, up to `until`, change of each pair. If they can't be read, it may be anything."""
    changed = {pair.id: (pair, ChangeMap(pair.size)) for pair in pairs}
    try:
        reader = Reader(ring, position + 1) if position < until else None
        while reader is not None and reader.sequence <= until:
            _, records = reader.read(until, FOLLOWER_CHUNK_BYTES)
            for record in records:
                if record.volume in changed and record.kind in (WRITE, ZERO, TRIM):
                    changed[record.volume][1].set(record.offset, record.length)
    except UNREADABLE:
        for _, everything in changed.values():
            everything.set_all()
    return dict(changed.values())


class Trail:
    """Owns one `Follower` while there are `async` pairs that are DUPLEX or on their way to a cut."""

    def __init__(self, controller: Controller, moved: Callable[[], None]) -> None:
        self._controller = controller
        self._moved = moved
        self._follower: Follower | None = None
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.stepping = asyncio.Lock()  # held while a worker may be at the secondaries

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="trail")

    async def stop(self) -> None:
        """Bring the secondaries to the tail, or their cut, and end."""
        while (
            self._follower is not None
            and self._follower.position < self._controller.writer.written
            and not self._controller.failed
        ):
            self._something.set()
            await asyncio.sleep(0.005)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, pairs: list[Pair]) -> None:
        """Pairs that stand at or after the follower's position."""
        if not pairs:
            return
        if self._follower is None:
            self._follower = Follower(
                self._controller.ring, pairs, min(pair.applied for pair in pairs), SecondarySink()
            )
        else:
            self._follower.pairs.update({pair.id: pair for pair in pairs})
        self.wake()

    def forget(self, pair: Pair) -> None:
        """A pair that was removed. Not while `stepping` is held by the follower."""
        if self._follower is not None:
            self._follower.pairs.pop(pair.id, None)
            self._let_go(self._follower)

    def takes(self, pair: Pair) -> bool:
        """Whether a suspended pair is still on its way to its cut."""
        return (
            pair.state == state.SUSPENDED
            and self._follower is not None
            and pair.id in self._follower.pairs
        )

    def wake(self) -> None:
        """There may be something to follow."""
        if self._follower is not None:
            self._something.set()

    @property
    def lag_bytes(self) -> int:
        """How far it trails, in bytes of journal."""
        return (
            self._follower.lag_bytes(self._controller.writer.log_position)
            if self._follower is not None
            else 0
        )

    @property
    def floor(self) -> int:
        """The number after which it still needs the journal."""
        return self._follower.position if self._follower is not None else _NOTHING

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while (
                self._follower is not None
                and self._follower.position < self._controller.batches.performed
            ):
                await self._step(self._follower)

    async def _step(self, follower: Follower) -> None:
        async with self.stepping:
            if self._follower is follower:
                await self._follow(follower)

    async def _follow(self, follower: Follower) -> None:
        controller = self._controller
        until = controller.batches.performed
        try:
            await controller.work(lambda: follower.step(until, FOLLOWER_CHUNK_BYTES))
        except SinkError as error:
            failure = error
            await controller.step(lambda: self._failed(follower, failure))
        except UNREADABLE as error:
            why = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
            await controller.step(lambda: self._lost_its_way(follower, why))
        self._let_go(follower)
        controller.maintenance.space_may_be_free()
        self._moved()

    def _let_go(self, follower: Follower) -> None:
        for pair in list(follower.pairs.values()):
            if pair.state != state.DUPLEX and (
                pair.state != state.SUSPENDED or pair.applied >= pair.limit(_NOTHING)
            ):
                del follower.pairs[pair.id]
        if not follower.pairs:
            self._follower = None

    def _failed(self, follower: Follower, error: SinkError) -> None:
        """The failed pair, its group, and those that were on their way to the same cut: all stand at one number now."""
        controller = self._controller
        members = controller.trouble.group_of(error.pair) | {
            pair
            for pair in follower.pairs.values()
            if pair.state == state.SUSPENDED and pair.cut is error.pair.cut
        }
        members = {pair for pair in members if pair.id in follower.pairs}
        missed = backlog(controller.ring, members, follower.position, controller.writer.written)
        controller.trouble.freeze(
            members,
            error.pair,
            follower.position,
            error.error,
            {error.pair} if error.torn else set(),
            missed,
        )
        for pair in members:
            follower.pairs.pop(pair.id, None)

    def _lost_its_way(self, follower: Follower, error: OSError) -> None:
        """The journal can't be read any further: the secondaries stand where they are, or changes would wait for them for ever."""
        controller, members = self._controller, set(follower.pairs.values())
        if not members:
            return
        missed = backlog(controller.ring, members, follower.position, controller.writer.written)
        controller.trouble.freeze(
            members, min(members, key=lambda pair: pair.id), follower.position, error, set(), missed
        )
        follower.pairs.clear()

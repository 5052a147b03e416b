"""Ranges that a primary cannot read, although that was tried twice: written anew.

A disk gives a bad sector a new place when it is written to, and a file system may do the same. So a
range that a current secondary could give is written to the primary as a change of its own: in the
journal, in a batch, with the content that the secondary has. The volume's gate is closed meanwhile,
from before that is read until it is written, because a change of a client in between would be
overwritten by older content. Other volumes do not wait.

If the write fails as well, the primary has failed, as by any other write. So it has if its disk
does not take the range, or cannot read it afterwards; the page cache would take and return
anything. And so it has if it was truncated: what is written behind its end makes it long again, and
what was lost before that would read as zeroes. If there is no room in the journal, the range is
left as it is: the next read of it asks again.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core.patience import SECONDARY
from duplexd.images.place import shortened
from duplexd.images.unreadable import BLOCK_BYTES, read
from duplexd.replication.watched import WatchedLegs
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.engine.events import Events
    from duplexd.engine.own_writes import OwnWrites
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.write_path import WritePath
    from duplexd.images.leg import Leg
    from duplexd.replication.leg_calls import LegCalls

    Range = tuple[int, int]  # offset, length

_PIECE_BYTES = 64 * 1024  # looked at and written at once
_WAITING_MAX = 64  # ranges of a volume; others are found again by the next read


class BadRanges:
    """`on_rewritten(pair)` is called when a range can be read again, `on_primary_failed(pair,
    primary, error)` when it cannot although it was written.
    """

    def __init__(
        self,
        timeline: Timeline,
        write_path: WritePath,
        legs: LegCalls,
        events: Events,
        own_writes: OwnWrites,
    ) -> None:
        self._timeline = timeline
        self._write_path = write_path
        self._legs = legs
        self._events = events
        self._own_writes = own_writes
        self._waiting: dict[Pair, deque[Range]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_rewritten: Callable[[Pair], None] = _nobody
        self.on_primary_failed: Callable[[Pair, Leg, OSError], None] = _nobody_swaps

    def found(self, pair: Pair, offset: int, length: int) -> None:
        """The primary cannot read this; the secondary could."""
        waiting = self._waiting.get(pair)
        if waiting is not None:
            if len(waiting) < _WAITING_MAX and (offset, length) not in waiting:
                waiting.append((offset, length))
            return
        self._waiting[pair] = deque([(offset, length)])
        task = asyncio.get_running_loop().create_task(self._run(pair), name=f"rewrite {pair.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what runs; a range that is being written is written."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, pair: Pair) -> None:
        waiting = self._waiting[pair]
        try:
            while waiting and not self._timeline.failed:
                await to_its_end(self._rewrite(pair, *waiting.popleft()))
        except OSError:  # a leg fails otherwise: it is noticed, and reported, where it is used
            return
        finally:
            del self._waiting[pair]

    async def _rewrite(self, pair: Pair, offset: int, length: int) -> None:
        primary = pair.primary
        if why := await self._shortened(pair, primary):
            self.on_primary_failed(pair, primary, OSError(errno.EIO, why))
            return
        start = offset // BLOCK_BYTES * BLOCK_BYTES
        for at in range(start, offset + length, _PIECE_BYTES):
            end = min(at + _PIECE_BYTES, pair.size)
            for bad in await self._unreadable(pair, pair.primary, at, end):
                primary = pair.primary
                if await self._rewrite_one(pair, primary, *bad):
                    await self._check(pair, primary, *bad)

    async def _shortened(self, pair: Pair, primary: Leg) -> str:
        legs = WatchedLegs()
        look = partial(shortened, legs.primary(pair))
        return await self._legs.walk(primary, legs.watch, look)

    async def _unreadable(self, pair: Pair, primary: Leg, offset: int, end: int) -> list[Range]:
        legs = WatchedLegs()
        look = partial(_bad, legs.primary(pair), offset, end)
        return await self._legs.walk(primary, legs.watch, look)

    async def _refused(self, pair: Pair, primary: Leg, offset: int, length: int) -> str:
        """Why the range is not on the disk, or an empty string."""
        legs = WatchedLegs()
        look = partial(_why_not_on_disk, legs.primary(pair), offset, length)
        return await self._legs.walk(primary, legs.watch, look)

    async def _rewrite_one(self, pair: Pair, primary: Leg, offset: int, length: int) -> bool:
        self._write_path.close_gates([pair])
        try:
            if not await self._timeline.at_rest(lambda: pair.mirror_has(offset, length)):
                return False
            secondary = pair.copy_of
            content = partial(read, secondary, offset, length)
            data = await self._legs.on(pair, secondary, SECONDARY, content)

            def good() -> bool:
                """It is current only if the pair has mirrored ever since."""
                return pair.mirror_has(offset, len(data)) and pair.primary is primary

            return await self._own_writes.write(pair, offset, data, good)
        finally:
            self._write_path.open_gates([pair])

    async def _check(self, pair: Pair, primary: Leg, offset: int, length: int) -> None:
        """It was written, which does not say that the disk has it."""
        refused = await self._refused(pair, primary, offset, length)
        if pair.primary is not primary:  # it gave way meanwhile
            return
        if refused:
            why = f"bytes {offset} to {offset + length} {refused}"
            self.on_primary_failed(pair, primary, OSError(errno.EIO, why))
            return
        pair.repaired_bytes += length
        self._events.emit(
            "range-repaired", volume=pair.name, path=primary.path, offset=offset, length=length
        )
        self.on_rewritten(pair)


def _bad(primary: Leg, offset: int, end: int) -> list[Range]:
    """The ranges of a piece that the primary does not return. Blocking."""
    buffer = memoryview(bytearray(end - offset))
    bad: list[Range] = []
    try:
        primary.read_into(offset, buffer)
    except OSError:
        for at in range(offset, end, BLOCK_BYTES):
            try:
                primary.read_into(at, buffer[: min(BLOCK_BYTES, end - at)])
            except OSError:
                last, length = bad[-1] if bad else (0, 0)
                if bad and last + length == at:
                    bad[-1] = (last, length + BLOCK_BYTES)
                else:
                    bad.append((at, BLOCK_BYTES))
    return bad


def _why_not_on_disk(primary: Leg, offset: int, length: int) -> str:
    """Blocking."""
    try:
        primary.write_back(offset, length)
    except OSError as error:
        return f"cannot be written anew: {error.strerror or error}"
    if _bad(primary, offset, offset + length):
        return "cannot be read, although they were written anew"
    return ""


def _nobody(_pair: Pair) -> None:
    """Nobody waits for it."""


def _nobody_swaps(_pair: Pair, _leg: Leg, _error: OSError) -> None:
    """Nobody has another primary."""

"""What changed up to a point since an earlier cut, as NBD clients ask for it: range by range.

The maps of all intervals in between are united once, in a worker, and the union is kept, because a
client that copies a large volume asks thousands of times. It never changes while the point stands.
What is asked of it is answered in the loop, for all clients one question a turn, each with few
extents: nobody waits for a volume that has a million of them, and who wants all asks on. A question
for the first extent alone, as QEMU asks, is as little work as any other request, so a few of those
are answered in each turn.

Never too little: where it is not known what changed, everything has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.core.change_history import UNREADABLE
from duplexd.core.point import Point
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Extent, Volume
    from duplexd.core.change_map import ChangeMap
    from duplexd.engine.changes import Changes
    from duplexd.limits import EngineLimits


_AT_ONCE = 8  # questions for one extent, in a turn: 0.4 ms


class DirtyBitmaps:
    """Of points. Called from the loop."""

    def __init__(self, changes: Changes, limits: EngineLimits) -> None:
        self._changes = changes
        self._kept_max = limits.bitmaps_kept_max
        self._kept: dict[tuple[int, str, str], ChangeMap] = {}  # the one used last at the end
        self._uniting, self._turn = asyncio.Lock(), asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = 0  # in this turn

    def changed(
        self,
        volume: Volume,
        offset: int,
        length: int,
        bitmap: str,
        extents_max: int,
        done: Callable[[list[Extent]], None],
    ) -> None:
        """See `Backend`."""
        since = volume.bitmaps().get(bitmap) if isinstance(volume, Point) else None
        if not isinstance(volume, Point) or since is None:  # forgotten since it was selected
            done([(offset, length, True)])
            return
        if extents_max == 1 and self._at_once < _AT_ONCE:
            changed = self._kept_of(volume, since)
            if changed is not None:
                self._count()
                done(within(changed, offset, length, 1))
                return
        answer = self._answer(volume, since, offset, length, extents_max, done)
        task = asyncio.get_running_loop().create_task(answer)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self) -> None:
        if not self._at_once:
            asyncio.get_running_loop().call_soon(self._new_turn)
        self._at_once += 1

    def _new_turn(self) -> None:
        self._at_once = 0

    async def _answer(
        self,
        point: Point,
        since: str,
        offset: int,
        length: int,
        extents_max: int,
        done: Callable[[list[Extent]], None],
    ) -> None:
        try:
            changed = await self._united(point, since)
        except (DuplexdError, OSError, MemoryError, KeyError):  # no such volume any more
            done([(offset, length, True)])
            return
        async with self._turn:
            done(within(changed, offset, length, extents_max))
            await asyncio.sleep(0)

    async def _united(self, point: Point, since: str) -> ChangeMap:
        """One union at a time: a client that asks for more than are kept takes one thread."""
        changed = self._kept_of(point, since)
        if changed is None:
            async with self._uniting:
                changed = self._kept_of(point, since)
                if changed is None:
                    between = await self._changes.extents(point.of, since, point.cut.id)
                    changed = between.changed
                    if UNREADABLE not in between.why:  # perhaps only this time
                        self._keep(point, since, changed)
        return changed

    def _kept_of(self, point: Point, since: str) -> ChangeMap | None:
        """It is the one used last now."""
        key = point.pair.id, since, point.cut.id
        changed = self._kept.pop(key, None)
        if changed is not None:
            self._kept[key] = changed
        return changed

    def _keep(self, point: Point, since: str, changed: ChangeMap) -> None:
        self._kept[point.pair.id, since, point.cut.id] = changed
        if len(self._kept) > self._kept_max:
            del self._kept[next(iter(self._kept))]


def within(changed: ChangeMap, offset: int, length: int, extents_max: int) -> list[Extent]:
    """What changed in a range and what did not, in order, in at most so many extents. They cover it
    from its beginning, and all of it if there are no more.
    """
    found: list[Extent] = []
    end = offset + length
    while offset < end and len(found) < extents_max:
        run = changed.next_run(offset, end - offset + 2 * changed.grain_bytes)
        start = end if run is None else min(run[0], end)
        if offset < start:
            found.append((offset, start - offset, False))
            offset = start
        elif run is not None:
            stop = min(run[0] + run[1], end)
            found.append((offset, stop - offset, True))
            offset = stop
    return found

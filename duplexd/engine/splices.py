"""Reads of what is in the page cache, without copying it: for replies that are long.

It takes tens of microseconds, so it is done as small batches are (`runtime/relay.py`): in the
thread that drives the event loop, between two turns of it. Whether the page cache has a range is
asked first. But a page may leave it just then, or may be on its way from the disk, and then the
call waits for the disk. If that takes long, another thread drives the loop, and the request is
answered otherwise: a worker reads, and it is there that legs are called slow, or failed. Until the
call returns no other is made on that image: each would stop the loop as long, and take a thread.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

from duplexd.core.pair import Pair
from duplexd.runtime.watch import LOOK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Pages, Volume
    from duplexd.images.leg import Leg
    from duplexd.runtime.threads import Workers


class Splices:
    """Calls in `workers`, which run what takes microseconds unless a disk hangs."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._asked: dict[int, Callable[[bool], None]] = {}  # not answered, oldest first
        self._inside: set[Leg] = set()  # that calls are in: one at a time, unless it hangs
        self._numbers = count()
        self._seen = 0  # what is below was asked before the last look
        self._timer: asyncio.TimerHandle | None = None

    def splice(
        self, volume: Volume, offset: int, length: int, pipe: Pages, done: Callable[[bool], None]
    ) -> None:
        """See `Backend`."""
        inside = self._inside
        if not isinstance(volume, Pair) or volume.primary in inside:  # a point is put together
            done(False)
            return
        pair, number, leg = volume, next(self._numbers), volume.primary
        self._asked[number] = done

        def put() -> bool:
            if leg in inside:
                return False
            inside.add(leg)
            try:
                return leg.put_pages(offset, length, pipe) and not leg.has_lost_writes()
            finally:
                inside.discard(leg)

        def over(is_put: bool | None, _error: BaseException | None) -> None:
            if self._asked.pop(number, None) is not None:
                done(bool(is_put) and pair.primary is leg)

        self._workers.submit(put, over)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self.look)

    def look(self) -> None:
        """Wait no longer for what was there at the last look already."""
        self._timer = None
        while self._asked:
            number, done = next(iter(self._asked.items()))
            if number >= self._seen:
                break
            del self._asked[number]
            done(False)
        self._seen = next(self._numbers)
        if self._asked:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self.look)

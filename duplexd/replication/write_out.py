"""Writing out what a copy has put into the page cache, beside it.

A copy ends with a sync, and without this all that it wrote goes to the disk only then: the disk
has nothing to do while data is copied, and the copy nothing while the disk writes. So a second
worker begins to write what is there already. One call at a time for each job: what comes meanwhile
is the next one's.

It also keeps the copy from filling the memory with what the disk has not taken. Other clients of
that disk would have to wait for it at their next sync. So a copy waits once it is too far ahead.
It does not wait for long, because it also has to follow the journal; and a disk that hangs is found
by the calls of the copy, in their own time.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

from duplexd.core.patience import SYNC

if TYPE_CHECKING:
    from types import TracebackType

    from duplexd.core.pair import Pair
    from duplexd.replication.leg_calls import LegCalls


_WAIT_SECONDS_MAX = 0.5


class WriteOut:
    """Of one job; a context manager. A call that runs at its end is left to itself. What fails
    here, the sync that follows says.
    """

    def __init__(self, legs: LegCalls, ahead_bytes_max: int) -> None:
        self._legs = legs
        self._ahead_bytes_max = ahead_bytes_max
        self._spans: dict[Pair, tuple[int, int]] = {}  # first offset, end
        self._ahead_bytes = 0  # what was written since the present call began
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def add(self, pair: Pair, offset: int, end: int, written_bytes: int) -> None:
        """So many bytes between these offsets were written to a secondary."""
        first, last = self._spans.get(pair, (offset, end))
        self._spans[pair] = min(first, offset), max(last, end)
        self._ahead_bytes += written_bytes
        if self._task is not None and not self._task.done():
            if self._ahead_bytes < self._ahead_bytes_max:
                return
            _, running = await asyncio.wait((self._task,), timeout=_WAIT_SECONDS_MAX)
            if running:
                return
        self._ahead_bytes = 0
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._spans:
            pair, (offset, end) = self._spans.popitem()
            leg = pair.secondary
            if leg is None:  # it was taken away meanwhile
                continue
            with suppress(OSError):
                call = partial(leg.write_out, offset, end - offset)
                await self._legs.on(pair, leg, SYNC, call)

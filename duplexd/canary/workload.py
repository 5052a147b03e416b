"""Dependent writers: each issues a record only after those that it depends on were acknowledged.

A writer's chain goes round all volumes; each record also names the record that was acknowledged
last, of any writer.

Why bursts: that two volumes were cut at different moments shows only if one record was written to
the one volume, and then one to the other, between these moments. At an even pace with few records
that is chance. A burst writes one record behind the other, round all volumes and back to the first:
it shows the tear if any two of its records fall between the moments.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.canary.history import History
from duplexd.canary.record import Placement, Record, pack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    # Takes writer, volume, offset, data; returns when the record is acknowledged.
    Write = Callable[[int, int, int, bytes], Awaitable[None]]

# Of the time between two bursts, either way: regular cuts could fall between regular bursts each
# time.
_JITTER = 0.25


class Workload:
    """All writers of one run.

    `write` is awaited for every record; an exception of it ends the run and is raised by `check`
    and `stop`. Writers take turns to write `burst` records each, as often as if each writer paused
    for `pause_s` after each record.
    """

    def __init__(
        self,
        placement: Placement,
        write: Write,
        *,
        epoch: int = 0,
        pause_s: float = 0.0,
        keep: int | None = None,
        burst: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.placement = placement
        self.epoch = epoch
        self.history = History(placement.writers, keep)
        self._write = write
        self._clock = clock
        self._burst = burst
        self._turn_s = pause_s * burst / placement.writers  # from one beginning to the next
        self._next_turn = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._in_flight: dict[int, float] = {}
        self._longest_s = 0.0

    def start(self) -> None:
        """Start all writers as tasks of this loop."""
        self._stopping.clear()
        self._tasks = [
            asyncio.create_task(self._run(writer)) for writer in range(self.placement.writers)
        ]

    async def stop(self) -> None:
        """Return when the records in flight are acknowledged. Raises a writer's exception."""
        self._stopping.set()
        tasks, self._tasks = self._tasks, []
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def check(self) -> None:
        """Raise the exception of a writer that has ended."""
        for task in self._tasks:
            if task.done():
                task.result()

    @property
    def running(self) -> bool:
        """Whether all writers go on."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def waiting_s(self) -> float:
        """Seconds that the oldest write in flight has waited. Do not use with `take_longest_s`."""
        return self._clock() - min(self._in_flight.values()) if self._in_flight else 0.0

    def take_longest_s(self) -> float:
        """The longest wait of a write since the last call, in seconds, those in flight included."""
        now = self._clock()
        longest = max([self._longest_s, *(now - since for since in self._in_flight.values())])
        self._longest_s = 0.0
        self._in_flight = dict.fromkeys(self._in_flight, now)
        return longest

    async def _run(self, writer: int) -> None:
        left = 0
        while not self._stopping.is_set():
            if not left:
                left = self._burst
                if self._turn_s:
                    await self._turn()
                    continue
            left -= 1
            await self._issue(writer)

    async def _turn(self) -> None:
        """Wait for the next free turn, or for the end."""
        now = asyncio.get_running_loop().time()
        begin = max(now, self._next_turn)
        self._next_turn = begin + self._turn_s * random.uniform(1 - _JITTER, 1 + _JITTER)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), begin - now)

    async def _issue(self, writer: int) -> None:
        named = self.history.newest
        number = self.history.issue(writer)
        place = self.placement.place(writer, number)
        block = pack(Record(writer, number, *named, self.epoch))
        self._in_flight[writer] = self._clock()
        await self._write(writer, place.volume, place.offset, block)
        self.history.acknowledge(writer)
        self._longest_s = max(self._longest_s, self._clock() - self._in_flight.pop(writer))

"""Dependent writers: each issues a record only after the records that it depends on were acknowledged.

A writer's chain goes round all volumes; each record also names the record that was acknowledged last, of whichever writer.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from duplexd.canary.history import History
from duplexd.canary.record import Placement, Record, pack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Write = Callable[[int, int, int, bytes], Awaitable[None]]  # writer, volume, offset, data: returns when acknowledged


class Workload:
    """All writers of one run. `write` is awaited for every record; an exception of it ends the run and is raised by `check` and `stop`."""

    def __init__(self, placement: Placement, write: Write, *, epoch: int = 0, pause_s: float = 0.0, keep: int | None = None) -> None:
        self.placement = placement
        self.epoch = epoch
        self.history = History(placement.writers, keep)
        self._write = write
        self._pause_s = pause_s  # of each writer after each record
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._in_flight: dict[int, float] = {}
        self._longest_s = 0.0

    def start(self) -> None:
        """Let all writers run as tasks of this loop."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._run(writer)) for writer in range(self.placement.writers)]

    async def stop(self) -> None:
        """Let each writer's record in flight be acknowledged, then return. Raises what a writer met."""
        self._stopping = True
        tasks, self._tasks = self._tasks, []
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def check(self) -> None:
        """Raise what a writer met, if one has ended."""
        for task in self._tasks:
            if task.done():
                task.result()

    @property
    def running(self) -> bool:
        """Whether all writers go on."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def waiting_s(self) -> float:
        """How long the oldest write in flight has waited by now, in seconds. Not to be used together with `take_longest_s`."""
        return time.perf_counter() - min(self._in_flight.values()) if self._in_flight else 0.0

    def take_longest_s(self) -> float:
        """The longest that a write waited for its reply since the last call, in seconds, those still in flight included."""
        now = time.perf_counter()
        longest = max([self._longest_s, *(now - since for since in self._in_flight.values())])
        self._longest_s = 0.0
        self._in_flight = dict.fromkeys(self._in_flight, now)
        return longest

    async def _run(self, writer: int) -> None:
        while not self._stopping:
            named = self.history.newest
            number = self.history.issue(writer)
            place = self.placement.place(writer, number)
            block = pack(Record(writer, number, *named, self.epoch))
            self._in_flight[writer] = time.perf_counter()
            await self._write(writer, place.volume, place.offset, block)
            self.history.acknowledge(writer)
            self._longest_s = max(self._longest_s, time.perf_counter() - self._in_flight.pop(writer))
            if self._pause_s:
                await asyncio.sleep(self._pause_s)

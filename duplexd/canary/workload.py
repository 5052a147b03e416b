"""Dependent writers: each issues a record only after the records that it depends on were acknowledged.

A writer's chain goes round all volumes; each record also names the record that was acknowledged last, of whichever writer.

That two volumes were cut at different moments shows if between them, on the one and then on the other, a record was written. So what is to find
that out with few records writes them in bursts, one behind the other, that go round all volumes and come back to the first: wherever the burst
falls between the two moments, it shows, if only a pair of its records does. At an even pace two records would have to fall there by chance.
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

    Write = Callable[
        [int, int, int, bytes], Awaitable[None]
    ]  # writer, volume, offset, data: returns when acknowledged

_JITTER = 0.25  # of the time between two bursts, either way: else what comes at regular moments could fall between them each time


class Workload:
    """All writers of one run. `write` is awaited for every record; an exception of it ends the run and is raised by `check` and `stop`.

    Writers take turns to write a burst of `burst` records each. As many turns begin as if each writer made a pause of `pause_s` after each record.
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
        self._turn_s = (
            pause_s * burst / placement.writers
        )  # from the beginning of one to that of the next
        self._next_turn = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._in_flight: dict[int, float] = {}
        self._longest_s = 0.0

    def start(self) -> None:
        """Let all writers run as tasks of this loop."""
        self._stopping.clear()
        self._tasks = [
            asyncio.create_task(self._run(writer)) for writer in range(self.placement.writers)
        ]

    async def stop(self) -> None:
        """Let each writer's record in flight be acknowledged, then return. Raises what a writer met."""
        self._stopping.set()
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
        return self._clock() - min(self._in_flight.values()) if self._in_flight else 0.0

    def take_longest_s(self) -> float:
        """The longest that a write waited for its reply since the last call, in seconds, those still in flight included."""
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
        """Wait for the next turn that nobody has taken, or for the end."""
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

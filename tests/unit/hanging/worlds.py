"""Parts of the engine on real threads, with legs that hang on demand and short time-outs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from duplexd.core.patience import Patience
from duplexd.engine.checkpoint import Checkpointer
from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.engine.failed_legs import FailedLegs
from duplexd.engine.mark_numbers import MarkNumbers
from duplexd.engine.reads import Reads
from duplexd.engine.samples import Samples
from duplexd.journal.group_commit import GroupCommit
from duplexd.replication.leg_calls import LegCalls
from duplexd.runtime.threads import ThreadWorkers
from tests.support.hanging_leg import PATIENCE_SECONDS, HangingLeg
from tests.unit.engine.parts import NAMES, SMALL, Parts
from tests.unit.replication.fakes import InlineWorkers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from duplexd.core.pair import Pair

SHORT = Patience(secondary_s=0.3, primary_s=0.9)
LONG = Patience(secondary_s=3600.0, primary_s=3600.0)  # nothing is given up while a test looks


class Hanging:
    """Two DUPLEX pairs of one group; `legs` hang on demand. `primaries` are those that were called
    failed.
    """

    def __init__(self) -> None:
        self.parts = parts = Parts()
        parts.timeline.group_commit = GroupCommit(
            parts.writer, InlineWorkers(), parts.clock, parts.timeline.fail
        )
        self.workers = ThreadWorkers(asyncio.get_running_loop(), "leg", 2)
        self.calls = LegCalls(self.workers, SHORT)
        self.failed_legs = FailedLegs(parts.timeline, parts.volumes, parts.failures)
        self.failed_legs.on_primary_failed = lambda pair, error: self.primaries.append(
            (pair.name, error)
        )
        self.primaries: list[tuple[str, OSError]] = []
        self.file = CheckpointFile(parts.disk, "/state")
        self.numbers = numbers = MarkNumbers(parts.timeline, parts.volumes, self.calls, SMALL)
        self.checkpointer = Checkpointer(
            parts.timeline,
            parts.volumes,
            self.failed_legs,
            self.file,
            Samples(parts.timeline, self.calls, numbers, "alpha"),
            self.calls,
            parts.clock,
        )
        self.reads = Reads(self.calls, parts.events)
        self.reads.on_leg_failed = self.failed_legs.found
        self.legs: dict[str, tuple[HangingLeg, HangingLeg]] = {}
        for name in NAMES:
            primary, secondary = parts.images[name]
            self.legs[name] = HangingLeg(primary), HangingLeg(secondary)
            self.pair(name).set_legs(*self.legs[name], "sync")

    def pair(self, name: str = "data") -> Pair:
        return self.parts.pair(name)

    def start_read(self, name: str, offset: int, length: int) -> asyncio.Future[tuple[int, bytes]]:
        """A READ: its errno and its content."""
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.reads.read(
            self.pair(name),
            offset,
            length,
            0,
            lambda number, content: answer.set_result((number, bytes(content))),
        )
        return answer

    def release(self) -> None:
        """Nothing hangs any more."""
        for legs in self.legs.values():
            for leg in legs:
                leg.release()


@asynccontextmanager
async def hanging() -> AsyncIterator[Hanging]:
    async with ended(Hanging()) as world:
        yield world


W = TypeVar("W", bound=Hanging)


@asynccontextmanager
async def ended(world: W) -> AsyncIterator[W]:
    """Its threads end with it."""
    try:
        yield world
    finally:
        world.release()
        world.workers.close()


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is true, however slow the machine is."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110  threads do it, and signal nobody
            await asyncio.sleep(0.01)

"""A whole controller on a simulated disk, with legs that fail on demand and a client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, TypeVar

from duplexd.backend import FLUSH, TRIM, WRITE, ZERO, Change
from duplexd.config import load as config
from duplexd.engine.controller import Controller, Machine, start
from duplexd.engine.events import Events
from tests.sim.disk import SimDisk
from tests.sim.workers import SimWorkers
from tests.support.fault_leg import FaultLeg
from tests.support.prompt_workers import PromptWorkers
from tests.unit.loops import PatientLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from duplexd.config.daemon_file import Config
    from duplexd.core.pair import Pair
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.runtime.tally_file import TallyFile

T = TypeVar("T")

MIB = 1 << 20
SIZE = 4 * MIB


class HandClock:
    """Time that goes on by `pass_`."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_795_000_000.0 + self.now

    def boot_id(self) -> str:
        return self._disk.boot_id()


class Peer:
    """A connection: what was answered, in order, and in how many calls."""

    def __init__(self) -> None:
        self.answers: list[Change] = []
        self.calls = 0

    def finished(self, changes: Sequence[Change]) -> None:
        self.answers += changes
        self.calls += 1


class Core:
    """A controller that runs, its disk, its events. `Core.begin` starts one."""

    def __init__(
        self,
        disk: SimDisk,
        clock: HandClock,
        workers: SimWorkers,
        controller: Controller,
        events: list[Json],
    ) -> None:
        self.disk = disk
        self.clock = clock
        self.workers = workers
        self.controller = controller
        self.events = events
        self.peer = Peer()

    @classmethod
    async def begin(
        cls,
        disk: SimDisk,
        settings: Config,
        workers: int = 2,
        limits: EngineLimits | None = None,
        adopt: bool = False,
        tally: TallyFile | None = None,
    ) -> Core:
        clock = HandClock(disk)
        simulated = SimWorkers(asyncio.get_running_loop(), Random(1), workers)
        events = Events(clock)
        seen: list[Json] = []
        events.listeners.append(seen.append)
        machine = Machine(disk, clock, simulated, simulated, PromptWorkers(), tally)
        controller = await start(settings, machine, events, limits, adopt=adopt)
        return cls(disk, clock, simulated, controller, seen)

    def pair(self, name: str = "data") -> Pair:
        return self.controller.volumes.by_name[name]

    def refuse_swaps(self) -> None:
        """As `on_primary_error = "refuse"`."""
        self.controller.executor.swaps = self.controller.failures.swaps = False

    def faulty(self, name: str = "data") -> tuple[FaultLeg, FaultLeg | None]:
        """Wrap both legs, so that a test can let them fail: primary, secondary."""
        pair = self.pair(name)
        primary, secondary = (
            FaultLeg(pair.primary),
            FaultLeg(pair.secondary) if pair.secondary is not None else None,
        )
        pair.set_legs(primary, secondary, pair.mode)
        return primary, secondary

    def secondary(self, name: str = "data") -> FaultLeg:
        _, leg = self.faulty(name)
        assert leg is not None
        return leg

    def change(
        self, kind: int, name: str, offset: int, length: int, data: bytes = b"", **flags: bool
    ) -> Change:
        return Change(self.peer, 0, self.pair(name), kind, offset, length, data, **flags)

    def send(self, name: str, offset: int, data: bytes, **flags: bool) -> Change:
        """Submit one WRITE."""
        change = self.change(WRITE, name, offset, len(data), data, **flags)
        self.controller.submit([change])
        return change

    async def write(self, name: str, offset: int, data: bytes, **flags: bool) -> int:
        """A WRITE and its errno."""
        return await self.answer(self.send(name, offset, data, **flags))

    async def zero(self, name: str, offset: int, length: int, kind: int = ZERO) -> int:
        change = self.change(kind, name, offset, length)
        self.controller.submit([change])
        return await self.answer(change)

    async def trim(self, name: str, offset: int, length: int) -> int:
        return await self.zero(name, offset, length, TRIM)

    async def flush(self, name: str = "data") -> int:
        change = self.change(FLUSH, name, 0, 0)
        self.controller.flush(change)
        return await self.answer(change)

    async def read(self, name: str, offset: int, length: int) -> tuple[int, bytes]:
        """A READ that is not served from the page cache: its errno and its content."""
        answers: list[tuple[int, bytes]] = []
        self.controller.read(
            self.pair(name), offset, length, 0, lambda *answer: answers.append(answer)
        )
        await self.until(lambda: bool(answers))
        ((number, content),) = answers
        return number, bytes(content)

    async def answer(self, change: Change) -> int:
        await self.until(lambda: change in self.peer.answers)
        return change.error

    async def until(self, true: Callable[[], bool], turns: int = 20_000) -> None:
        """Let the loop run until it is true; fails if it never is."""
        for _ in range(turns):
            if true():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not come true")

    async def turns(self, count: int = 50) -> None:
        """Let the loop run for a while: whatever is going to happen has happened then."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def crash(self, power: bool) -> None:
        """Kill the daemon; with `power`, the machine. `disk` is what the next start finds."""
        self.disk.crash(power=power)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def image(self, name: str, side: str) -> bytes:
        return self.disk.read_file(f"/{side}/{name}.img")

    def equal(self, name: str = "data") -> bool:
        return self.image(name, "a") == self.image(name, "b")

    def named(self, event: str) -> list[Json]:
        return [entry for entry in self.events if entry["event"] == event]

    def states(self) -> dict[str, str]:
        return {name: pair.state for name, pair in self.controller.volumes.by_name.items()}


def settings(
    volumes: Mapping[str, str] | None = None,
    groups: Mapping[str, list[str]] | None = None,
    size: int = SIZE,
    journal: str = "32MiB",
) -> Config:
    """Volumes by name with their mode ("" has no secondary; "delayed 60s" has a delay)."""
    lines = [
        "[controller]",
        'name = "alpha"',
        'state_dir = "/state"',
        f'journal_size = "{journal}"',
        "[nbd]",
        'listen = ["unix:/nbd.sock"]',
    ]
    for name, wanted in (volumes if volumes is not None else {"data": "sync"}).items():
        lines += [f"[volumes.{name}]", f"size = {size}", f'primary = "/a/{name}.img"']
        mode, _, delay = wanted.partition(" ")
        lines += [f'secondary = "/b/{name}.img"', f'mode = "{mode}"'] if mode else []
        lines += [f'delay = "{delay}"'] if delay else []
    for name, members in (groups or {}).items():
        lines += [f"[groups.{name}]", f"volumes = {members!r}".replace("'", '"')]
    return config.parse("\n".join(lines), "/duplexd.toml")


def new_disk() -> SimDisk:
    disk = SimDisk(1)
    disk.make_directory("/a")
    disk.make_directory("/b")
    return disk


@asynccontextmanager
async def running(
    volumes: Mapping[str, str] | None = None,
    groups: Mapping[str, list[str]] | None = None,
    disk: SimDisk | None = None,
    size: int = SIZE,
    journal: str = "32MiB",
    limits: EngineLimits | None = None,
) -> AsyncIterator[Core]:
    """A started controller; stopped at the end."""
    configured = settings(volumes, groups, size, journal)
    core = await Core.begin(disk or new_disk(), configured, limits=limits)
    try:
        yield core
    finally:
        await core.controller.stop()


def run(scenario: Coroutine[None, None, T]) -> T:
    """`asyncio.run` in the time of `PatientLoop`: for tests of several lives."""
    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        return runner.run(scenario)

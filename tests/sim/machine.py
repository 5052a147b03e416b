"""A machine with a simulated disk, on which controllers are started and killed in turn."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Literal

from duplexd.backend import TRIM, WRITE, ZERO
from duplexd.config.daemon_file import (
    Config,
    ControllerConfig,
    GroupConfig,
    VolumeConfig,
)
from duplexd.config.nbd_section import NbdConfig
from duplexd.core.pair_states import BY_COMMAND
from duplexd.engine import controller as engine
from duplexd.engine.events import Events
from duplexd.limits import TRACKED_CUTS_DEFAULT
from tests.sim.clients import Promises
from tests.sim.disk import PowerCut, SimDisk
from tests.sim.hanging import HangingWorkers, Hangs
from tests.sim.history import History
from tests.sim.identities import check_images
from tests.sim.loop import SimClock, SimLoop
from tests.sim.small import JOURNAL_BYTES, SMALL
from tests.sim.workers import SimWorkers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.backend import Change
    from duplexd.json_object import Json

TURNS_MAX = 60_000


class Died(Exception):  # noqa: N818  it is no error
    """The process, or the machine, is gone; `Machine.crash` brings it up again."""


class Machine:
    """One disk, one controller after the other. All chance comes from `seed`."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.disk = SimDisk(self.rng.randrange(1 << 30), cold=0.2)
        self.history = History(found_at_birth=self._found_at_birth)
        self.promises = Promises()
        self.operations: deque[str] = deque(maxlen=60)
        # events: what was suspended, and not by command; which of these volumes were `served`
        self.failures: list[Json] = []
        self.may_refuse = False  # whether the journal has met a full disk
        self.refuses: Callable[[Change], bool] = lambda _change: False  # for another reason
        self.volumes: dict[str, VolumeConfig] = {}
        self.groups: dict[str, list[str]] = {}
        self.last: engine.Controller | None = None  # of this life, once it has recovered
        self.may_hang = False  # whether calls run in threads, so that they can
        self.hangs: Hangs | None = None  # of this life
        self.patience_s = 80.0
        self.tracked_cuts = TRACKED_CUTS_DEFAULT
        self.images_untouched = True  # no image was exchanged
        self.loop: SimLoop
        self.workers: list[SimWorkers] = []

    def note(self, what: str) -> None:
        """Remember an operation, for the report of a failure."""
        self.operations.append(what)

    def _found_at_birth(self, name: str, size: int) -> bytes:
        path = str(self.volumes[name].primary)
        return self.disk.content(path) if self.disk.has(path) else bytes(size)

    def config(self) -> Config:
        """The configuration as it is now."""
        return Config.model_construct(
            source=Path("/etc/sim.toml"),
            controller=ControllerConfig.model_construct(
                name="sim",
                state_dir=Path("/state"),
                journal_size=JOURNAL_BYTES,
                tracked_cuts=self.tracked_cuts,
            ),
            nbd=NbdConfig.model_construct(listen=[]),
            volumes=dict(self.volumes),
            groups={
                name: GroupConfig.model_construct(volumes=list(members))
                for name, members in self.groups.items()
            },
        )

    def add_volume(
        self, name: str, size: int, secondary: bool, mode: Literal["sync", "async", "delayed"]
    ) -> None:
        """Configure a volume; it is there after the next start or reload."""
        self.volumes[name] = VolumeConfig.model_construct(
            size=size,
            primary=Path(f"/a/{name}"),
            secondary=Path(f"/b/{name}") if secondary else None,
            mode=mode,
        )

    # ------------------------------------------------------------------------------------- one life

    def live(self, life: Callable[[], Awaitable[None]]) -> None:
        """Run `life` in a loop of its own, until it ends or the disk dies. Raises Died; HungError;
        what `life` raises.
        """
        self.loop = loop = SimLoop()
        loop.limit(TURNS_MAX)
        tasks: set[asyncio.Task[object]] = set()

        def remember(
            _loop: asyncio.AbstractEventLoop, coroutine: object, **fields: object
        ) -> asyncio.Task[object]:
            task = asyncio.Task[object](coroutine, loop=loop, **fields)  # type: ignore[arg-type]
            tasks.add(task)
            return task

        loop.set_task_factory(remember)  # type: ignore[arg-type]
        self.workers = [self._make_workers(count) for count in (3, 2, 1)]
        self.disk.on_dead = loop.stop

        async def main() -> None:
            await life()

        task = loop.create_task(main())
        task.add_done_callback(lambda _: None if self.disk.dead else loop.stop())
        try:
            loop.run_forever()
            if not self.disk.dead:
                assert not loop.troubles, loop.troubles[0]
                task.result()
                _check_tasks(loop, tasks - {task})
        finally:
            self._bury(loop, tasks)
        if self.disk.dead:
            raise Died

    def _make_workers(self, count: int) -> SimWorkers:
        if not self.may_hang:
            return SimWorkers(self.loop, self.rng, count)
        if self.hangs is None:
            self.hangs = Hangs(self.disk, self.rng)
        return HangingWorkers(self.loop, self.rng, count, self.hangs)

    def _bury(self, loop: SimLoop, tasks: set[asyncio.Task[object]]) -> None:
        """End every task; what they still try to do meets a dead disk."""
        was_dead, self.disk.dead, self.disk.on_dead = self.disk.dead, True, None
        if self.hangs is not None:
            self.hangs.end()
        loop.set_task_factory(None)
        loop.limit(TURNS_MAX)
        try:
            while tasks:  # what one that is cancelled begins is cancelled too
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(_turns(3))
                tasks = {task for task in asyncio.all_tasks(loop) if not task.done()}
        finally:  # a planted mistake may stop the loop
            loop.close()
            if self.hangs is not None:
                self.hangs.close()
                self.hangs = None
            self.disk.dead = was_dead

    async def start(self) -> None:
        """A new controller on what the disk holds. Raises what the engine's `start` raises."""
        self.last = None
        clock = SimClock(self.loop, self.disk)
        disks, journal, writer = self.workers
        machine = engine.Machine(self.disk, clock, disks, journal, writer)
        events = Events(clock)
        events.listeners.append(self._note_failure)
        self.last = await engine.start(self.config(), machine, events, SMALL)
        self.history.begun()

    def _note_failure(self, event: Json) -> None:
        if event["event"] == "suspended" and event["reason"] != BY_COMMAND:
            by_name = self.last.volumes.by_name if self.last is not None else {}
            unserved = {name for name, pair in by_name.items() if pair.failed}
            served = [name for name in event["volumes"] if name not in unserved]
            self.failures.append({**event, "served": served})

    @property
    def controller(self) -> engine.Controller:
        """The controller of this life."""
        assert self.last is not None, "no controller has recovered yet"
        return self.last

    async def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait, for a bounded time."""
        end = self.loop.time() + self.patience_s
        while self.loop.time() < end:
            if true():
                return
            await asyncio.sleep(0.02)
        controller = self.controller
        raise AssertionError(
            f"in {self.patience_s:g} seconds this did not come: {what}; "
            f"{controller.write_path.queued} queued, "
            f"refused with {controller.admission.refusal}, held back by "
            f"{set(controller.admission.reasons)}, leases {list(controller.leases.held)}, "
            f"{len(controller.timeline.writer.ring.spares)} spares, jobs "
            f"{controller.followers.jobs}, floors {controller.checkpointer.replay_floor} "
            f"{controller.followers.floor()}, quiet {self.quiet}"
        )

    @property
    def quiet(self) -> bool:
        """Whether no call is in a worker."""
        return all(workers.idle for workers in self.workers)

    def crash(self, power: bool, lost: Sequence[str] = ()) -> None:
        """Bring the machine up again. `lost`: see `SimDisk.crash`."""
        self.note("POWER CUT" if power else f"LOST {' '.join(lost)}" if lost else "KILL")
        self.disk.crash(power, lost)
        if self.images_untouched:
            check_images(self)

    # ------------------------------------------------------------------------------------ one check

    def check_journaled(self, change: Change, payload: bytes) -> None:
        """An acknowledged change is in the journal, as it was issued; a long one with its last part
        at least.
        """
        entries = self.history.entries
        pair_id: int = change.volume.id  # type: ignore[attr-defined]
        place = next(
            at for at in range(len(entries) - 1, -1, -1) if entries[at].sequence == change.sequence
        )
        entry = entries[place]
        end = change.offset + change.length
        assert entry.volume == pair_id
        assert entry.kind == change.kind
        assert change.kind in {WRITE, ZERO, TRIM}
        assert entry.offset >= change.offset
        assert entry.offset + len(entry.data) == end
        if change.kind == WRITE:
            assert entry.data == payload[entry.offset - change.offset :]


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _check_tasks(loop: SimLoop, tasks: set[asyncio.Task[object]]) -> None:
    """Every task that ended with an error must be accounted for."""
    for task in tasks:
        if task.done() and not task.cancelled() and getattr(task, "_log_traceback", False):
            error = task.exception()
            if error is not None and not isinstance(error, PowerCut):
                raise AssertionError(
                    f"{task.get_name()} ended with {error!r}, which nobody asked for"
                ) from error
    assert not loop.troubles, loop.troubles


def no_space(machine: Machine, path: str) -> None:
    """Fill a directory."""
    machine.note(f"full {path}")
    machine.disk.full(path)


def broken_sync(machine: Machine, path: str) -> None:
    """Let the next sync of a file fail."""
    machine.note(f"sync fails {path}")
    machine.disk.fail(path, errno.EIO, operation="sync", times=1)

"""The controller: one journal, one sequence, many pairs. What it is made of, and what server and control plane ask of it."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any, TypeVar

from duplexd.core.ledger import Ledger
from duplexd.engine import status as overview
from duplexd.engine import verify as verification
from duplexd.engine import volumes as provisioning
from duplexd.engine.counters import Counters
from duplexd.engine.cuts import Cuts
from duplexd.engine.failures import Trouble
from duplexd.engine.holds import Holds
from duplexd.engine.maintenance import Maintenance
from duplexd.engine.recovery import Recovery
from duplexd.engine.write_path import Batches
from duplexd.errors import DuplexdError, NotFoundError
from duplexd.replication.resync import Jobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config
    from duplexd.core.gate import Lease
    from duplexd.core.pair import Pair
    from duplexd.journal.group_commit import Flusher
    from duplexd.journal.segment import Ring
    from duplexd.journal.writer import Writer
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.disk import Disk
    from duplexd.runtime.threads import Workers

T = TypeVar("T")


class Controller:
    """Implements `volume.Backend`; `control.actions` is the other user. All methods are called from the event loop.

    `workers` do what may block for long; `journal_workers` run batches and journal syncs, so that these never queue behind a copy.
    """

    def __init__(
        self,
        config: Config,
        disk: Disk,
        clock: Clock,
        workers: Workers,
        on_progress: Callable[[str], None] | None = None,
        journal_workers: Workers | None = None,
    ) -> None:
        self.config = config
        self.name: str = config.controller.name
        self.disk = disk
        self.clock = clock
        self.workers = workers
        self.journal_workers = journal_workers or workers
        self.on_progress = on_progress or (lambda _text: None)
        self.ledger = Ledger()
        self.pairs: dict[str, Pair] = {}  # what is configured, in that order
        self.groups: dict[str, list[str]] = {}
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self.ring: Ring  # these three are given by recovery
        self.writer: Writer
        self.flusher: Flusher
        self.failed = ""  # why no change is taken any more; final
        self.refusing = (
            0  # errno with which changes are refused because the journal has no room, 0 if it has
        )
        self.batches = Batches(self)
        self.holds = Holds(self)
        self.cuts = Cuts(self)
        self.jobs = Jobs(self)
        self.maintenance = Maintenance(self)
        self.trouble = Trouble(self)
        self._unreadable: set[int] = set()  # volumes whose primary could not be read somewhere
        self.submit = (
            self.batches.submit
        )  # see `Backend`; bound here, they cost no call more than there
        self.flush = self.batches.flush
        self.disconnected = self.batches.disconnected

    # ------------------------------------------------------------------------------------------------- start, stop, reload

    async def start(self) -> None:
        """Recover, then serve. Raises DuplexdError or OSError; nothing that was acknowledged is lost by trying again."""
        await Recovery(self).run()
        self.holds.member.start = self.ledger.starts
        self.maintenance.start()
        self.jobs.start()

    async def stop(self) -> None:
        """Release holds, finish what runs, sync everything, close. What is still queued was never acknowledged."""
        self.holds.stop()
        await self.jobs.stop()
        while self.batches.queue and not self.failed and not self.refusing:
            await self.step(self.batches.kick)
            await asyncio.sleep(0.001)
        await self.maintenance.stop()
        for pair in self.ledger.pairs.values():
            overview.close_legs(pair)
        self.ring.close()

    async def reload(self, config: Config) -> list[str]:
        """Take over a new configuration; says what changed. Raises ConfigurationError, with nothing changed."""
        return await provisioning.reload(self, config)

    # ---------------------------------------------------------------------------------------------------- the NBD server's

    @property
    def volumes(self) -> dict[str, Pair]:
        """The configured volumes by name."""
        return self.pairs

    @property
    def sequence(self) -> int:
        """The number of the last record."""
        return self.writer.written

    def volume(self, name: str) -> Pair | None:
        """See `Backend`: "" is the first volume."""
        return next(iter(self.pairs.values()), None) if name == "" else self.pairs.get(name)

    def volume_names(self) -> list[str]:
        """See `Backend`."""
        return list(self.pairs)

    def read(
        self, volume: Any, offset: int, buffer: memoryview, done: Callable[[int], None]
    ) -> None:
        """See `Backend`. What the primary can't read is read from the secondary, if that holds all there is."""

        def call() -> OSError | None:
            try:
                volume.primary.read_into(offset, buffer)
            except OSError as unreadable:
                if not volume.read_mirror(offset, buffer):
                    raise
                return unreadable
            return None

        def finished(unreadable: OSError | None, error: BaseException | None) -> None:
            if unreadable is not None and volume.id not in self._unreadable:
                self._unreadable.add(
                    volume.id
                )  # once is enough: a client may read it ten thousand times a second
                self.emit(
                    "primary-error",
                    volume=volume.name,
                    error=unreadable.strerror or str(unreadable),
                    path=volume.primary.path,
                )
            done(0 if error is None else (isinstance(error, OSError) and error.errno) or errno.EIO)

        self.workers.submit(call, finished)

    # ------------------------------------------------------------------------------------------------------------- steps

    async def step(self, call: Callable[[], T]) -> T:
        """The result of `call`, run between two batches; not at all if the caller is cancelled before that."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = call()
            except Exception as error:  # noqa: BLE001  it is the caller's
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.batches.when_idle(run)
        return await future

    async def work(self, call: Callable[[], T]) -> T:
        """The result of `call`, run in a worker. A cancelled caller still waits for it to end: nothing may go on behind its back."""
        running = asyncio.ensure_future(self.workers.run(call))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running})
            if not running.cancelled():
                running.exception()  # nobody is left to be told
            raise

    def mark(self, marker: dict[str, Any]) -> int:
        """Write a marker and fold it: within a step only. Returns its number. Raises OSError if the journal does not take it."""
        if self.batches.busy:
            raise RuntimeError(
                f"the marker {marker['m']!r} is not within a step: a batch has the journal"
            )
        if self.failed:
            raise OSError(errno.EIO, self.failed)
        time_us = int(self.clock.wall() * 1e6)
        self.ledger.check(marker)
        try:
            sequence = self.writer.append_marker(marker, time_us)
            self.writer.write()
        except OSError as error:
            self.trouble.journal_refused(error)
            raise
        self.ledger.apply(sequence, time_us, marker)
        self.maintenance.written()
        self.jobs.written()
        return sequence

    async def durable(self, sequence: int) -> None:
        """Wait until record `sequence` survives a power cut. Raises DuplexdError if the journal can't be synced."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.flusher.wait(
            sequence, lambda error: None if future.done() else future.set_result(error)
        )
        if await future:
            raise DuplexdError(
                f"the journal could not be synced; {self.failed or 'restart the daemon'}"
            )

    # ------------------------------------------------------------------------------------------------------------ trouble

    def fail(self, why: str) -> None:
        """Take no change any more: reads go on, changes and flushes get EIO. Only a restart, which recovers, ends this."""
        if not self.failed:
            self.failed = why
            self.flusher.dead = True  # what a sync lost, the next one would not tell
            self.emit("controller-failed", error=why)
        self.batches.refuse_queued(errno.EIO)
        self.jobs.moved()  # whoever waits for a secondary waits for nothing

    def emit(self, event: str, **fields: Any) -> None:
        """Tell everybody who listens."""
        message = {
            "event": event,
            "time": self.clock.wall(),
            "sequence": self.writer.written,
            **fields,
        }
        for listener in list(self.listeners):
            listener(message)

    # ------------------------------------------------------------------------------------------------------ control plane's

    def resolve(self, targets: list[str]) -> list[str]:
        """The volumes that targets (volumes and groups) stand for, each once, in order. Raises NotFoundError."""
        names: dict[str, None] = {}
        for target in targets:
            if target in self.pairs:
                names[target] = None
            elif target in self.groups:
                names.update(dict.fromkeys(self.groups[target]))
            else:
                raise NotFoundError(
                    f"{target!r}: no such volume or group; duplexctl status shows them"
                )
        return list(names)

    def status(self) -> dict[str, Any]:
        """Everything, in the shape that scripts rely on."""
        return overview.status(self)

    def counters(self) -> Counters:
        """What the parts have counted since the start."""
        return Counters(
            batches=self.batches.begun,
            changes_by_threads=self.batches.changes_by_threads,
            cuts=self.cuts.made,
            holds_lost=self.holds.lost,
            checkpoints=self.maintenance.checkpoints,
            copied_bytes=self.jobs.copying.copied_bytes,
            journal_syncs=self.flusher.syncs,
            journal_sync_seconds=self.flusher.sync_seconds,
        )

    async def quiesce(
        self, names: list[str], hold_s: float | None, owner: str, cut_id: str = ""
    ) -> Lease:
        """Close the gates of these volumes; returns once nothing is in flight. See `holds.Holds`."""
        hold_s = self.config.controller.hold_max if hold_s is None else hold_s
        return await self.holds.quiesce([self.pairs[name] for name in names], hold_s, owner, cut_id)

    def renew(self, lease_id: str, fence: int | None, hold_s: float) -> dict[str, Any]:
        """Let a hold last longer. See `holds.Holds`."""
        return overview.lease_status(
            self.holds.renew(lease_id, fence, hold_s), self.clock.monotonic()
        )

    def release(self, lease_id: str, reason: str = "released", fence: int | None = None) -> bool:
        """End a hold; False if it had ended already. Raises NotFoundError, LeaseLostError."""
        return self.holds.release(lease_id, reason, fence)

    async def suspend(
        self,
        names: list[str],
        tag: str = "",
        lease_id: str | None = None,
        fence: int | None = None,
        certificate: bool = False,
    ) -> dict[str, Any]:
        """Cut. See `cuts.Cuts.suspend`."""
        return await self.cuts.suspend(
            [self.pairs[name] for name in names], tag, lease_id, fence, certificate
        )

    async def resync(self, names: list[str]) -> dict[str, Any]:
        """Start bringing suspended pairs back to DUPLEX. See `pair.resync.Jobs`."""
        return await self.jobs.resync([self.pairs[name] for name in names])

    async def resync_wait(self, names: list[str]) -> dict[str, Any]:
        """Wait until none of these volumes is PENDING."""
        return await self.jobs.wait([self.pairs[name] for name in names])

    async def verify(
        self, names: list[str], progress: Callable[[str, int, int], None] | None = None
    ) -> dict[str, Any]:
        """Compare the legs."""
        return await verification.verify(self, [self.pairs[name] for name in names], progress)

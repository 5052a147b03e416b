"""The controller: one journal, one sequence, many pairs. The write path from a change to its acknowledgement.

One batch runs at a time. What needs the journal to itself (a marker, a change of state) is a *step*: it runs in the event loop, between
two batches. Everything a step does is therefore one point of the sequence.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from duplexd import overview, provisioning, verification
from duplexd.batch import Batch, Joined, parts, perform, record_bytes
from duplexd.cuts import Cuts
from duplexd.errors import DuplexdError, NotFoundError
from duplexd.holds import Holds
from duplexd.limits import BATCH_BYTES_MAX, INLINE_BATCH_BYTES_MAX, INLINE_ZERO_BYTES_MAX, MARKER_RESERVE_BYTES, RECORD_BYTES_MAX
from duplexd.maintenance import Maintenance
from duplexd.pair import state
from duplexd.pair.ledger import Ledger
from duplexd.pair.resync import Jobs
from duplexd.recovery import Recovery
from duplexd.trouble import Trouble
from duplexd.volume import TRIM, WRITE, Change, Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.config import Config
    from duplexd.flusher import Flusher
    from duplexd.io.clock import Clock
    from duplexd.io.disk import Disk
    from duplexd.io.threads import Workers
    from duplexd.journal.segment import Ring
    from duplexd.journal.writer import Writer
    from duplexd.pair.gate import Lease
    from duplexd.pair.pair import Pair

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
        self.refusing = 0  # errno with which changes are refused because the journal has no room, 0 if it has
        self.holds = Holds(self)
        self.cuts = Cuts(self)
        self.jobs = Jobs(self)
        self.maintenance = Maintenance(self)
        self.trouble = Trouble(self)
        self._busy = False
        self._before_batch = 0  # the last number when the batch began that runs in a worker
        self._queue: deque[Change] = deque()
        self._steps: deque[Callable[[], None]] = deque()
        self._submitter: Client | None = None
        self._unreadable: set[int] = set()  # volumes whose primary could not be read somewhere
        self.batches = 0
        self.changes_by_threads = 0

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
        while self._queue and not self.failed and not self.refusing:
            await self.step(self._pump)
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

    @property
    def performed(self) -> int:
        """The last number up to which all changes are on the primaries: what lies beyond may be in the journal alone.

        Who copies from a primary must not have followed the journal further, or would put older content over newer.
        """
        return self._before_batch if self._busy else self.writer.written

    def volume(self, name: str) -> Pair | None:
        """See `Backend`: "" is the first volume."""
        return next(iter(self.pairs.values()), None) if name == "" else self.pairs.get(name)

    def volume_names(self) -> list[str]:
        """See `Backend`."""
        return list(self.pairs)

    def submit(self, changes: list[Change]) -> None:
        """See `Backend`."""
        self._submitter = changes[0].client
        try:
            if self._busy or self._queue or self.holds.leases or self.jobs.behind():
                self._wait(changes)
                self._pump()
            else:
                self._start(changes)
        finally:
            self._submitter = None

    def flush(self, change: Change) -> None:
        """See `Backend`."""

        def done(error: int) -> None:
            change.error = error
            self._answer([change])

        self._submitter = change.client
        self.flusher.wait(self.writer.written, done)
        self._submitter = None

    def read(self, volume: Any, offset: int, buffer: memoryview, done: Callable[[int], None]) -> None:
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
                self._unreadable.add(volume.id)  # once is enough: a client may read it ten thousand times a second
                self.emit("primary-error", volume=volume.name, error=unreadable.strerror or str(unreadable), path=volume.primary.path)
            done(0 if error is None else (isinstance(error, OSError) and error.errno) or errno.EIO)

        self.workers.submit(call, finished)

    def disconnected(self, client: Client) -> None:
        """See `Backend`."""

        def theirs(change: Change) -> bool:
            owner = change.client
            return owner is client or (type(owner) is Joined and owner.origin is client)

        self._queue = deque(change for change in self._queue if not theirs(change))
        self.holds.forget(theirs)

    # ----------------------------------------------------------------------------------------------------------- the queue

    def _wait(self, changes: Iterable[Change]) -> None:
        for change in changes:
            change.own()
            self._enqueue(change)

    def _enqueue(self, change: Change) -> None:
        pair: Any = change.volume
        if pair.holds:
            self.holds.waits(pair, change)
        else:
            self._queue.extend(parts(change))

    def withdraw(self, pairs: list[Pair]) -> None:
        """Take the changes of volumes that are held now out of the queue, to their gates: they have not started."""
        held = {pair.id for pair in pairs}
        queued, self._queue = self._queue, deque()
        for change in queued:
            if change.volume.id in held:  # type: ignore[attr-defined]
                self.holds.waits(change.volume, change)  # type: ignore[arg-type]
            else:
                self._queue.append(change)

    def resume(self, changes: list[Change]) -> None:
        """Take changes that a gate held, in their order; a volume that another lease holds keeps its own.

        They go on once the step is over in which the gate was opened: it may have more to say to the journal.
        """
        for change in changes:
            self._enqueue(change)
        if changes:
            self._soon(self._pump)

    def _pump(self) -> None:
        while self._queue and not self._busy and not self.jobs.behind():
            taken = [self._queue.popleft()]
            size, limit = record_bytes(taken), self.batch_bytes_max()
            while self._queue and (size := size + record_bytes([self._queue[0]])) <= limit:
                taken.append(self._queue.popleft())
            if not self._start(taken):
                return

    def batch_bytes_max(self) -> int:
        """What a batch takes in the journal at most."""
        return min(BATCH_BYTES_MAX, self.writer.segment.size // 2)

    def kick(self) -> None:
        """Something that held batches back may have gone."""
        self._pump()

    # --------------------------------------------------------------------------------------------------------- one batch

    def _start(self, changes: list[Change]) -> bool:
        """Run a batch, or put it back at the head of the queue and return False."""
        if self.failed or self.refusing:
            self._refuse(changes, errno.EIO if self.failed else self.refusing)
            return True
        size = record_bytes(changes)
        if size > INLINE_BATCH_BYTES_MAX:
            for change in changes:
                change.own()
            changes = [part for change in changes for part in parts(change)]
        too_big = len(changes) > 1 and size > self.batch_bytes_max()
        if too_big or not self.writer.room(size + MARKER_RESERVE_BYTES, RECORD_BYTES_MAX):
            return self._postpone(changes, too_big)
        regions, rare = self._look_at(changes)
        heavy = bool(regions) or size > INLINE_BATCH_BYTES_MAX
        if rare:
            changes = self._without_trims(changes)
            heavy = heavy or any(change.kind != WRITE and change.length > INLINE_ZERO_BYTES_MAX for change in changes)
        batch = Batch(changes, regions, int(self.clock.wall() * 1e6))
        self.batches += 1
        if heavy:
            for change in changes:
                change.own()
            self._busy, self._before_batch = True, self.writer.written
            self.changes_by_threads += len(changes)
            self.journal_workers.submit(
                lambda: perform(batch, self.writer, self.trouble.group_of), lambda _none, error: self._performed_elsewhere(batch, error)
            )
            return True
        try:
            perform(batch, self.writer, self.trouble.group_of)
        except OSError as error:
            self._performed(batch, error)
        else:
            self._performed(batch, None)
        return True

    def _postpone(self, changes: list[Change], too_big: bool) -> bool:
        for change in changes:
            change.own()
        self._queue.extendleft(reversed([part for change in changes for part in parts(change)]))
        if too_big:
            self._soon(self._pump)  # it is taken in several batches
        else:
            self.maintenance.want_space()
        return False

    def _soon(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    def _look_at(self, changes: list[Change]) -> tuple[dict[int, list[int]], bool]:
        """What the batch makes dirty: the regions that are not known to be yet; and whether there is anything but WRITEs."""
        fresh: dict[int, list[int]] = {}
        rare = False
        for change in changes:
            pair: Any = change.volume
            pair.primary_dirty = True
            if change.kind != WRITE:
                rare = True
            if pair.secondary is None:
                continue
            if pair.mirrors:
                pair.secondary_dirty = True
            first, last = change.offset >> pair.region_shift, (change.offset + change.length - 1) >> pair.region_shift
            if first == last and first in pair.touched:
                continue  # what is touched is open
            for region in range(first, last + 1):
                pair.touched.add(region)
                if region not in pair.regions and region not in (known := fresh.setdefault(pair.id, [])):
                    known.append(region)
        return ({number: regions for number, regions in fresh.items() if regions} if fresh else fresh), rare

    def _without_trims(self, changes: list[Change]) -> list[Change]:
        """Trims that can't do the same to both legs do nothing: content after a trim is undefined, but equal."""
        ignored = [change for change in changes if change.kind == TRIM and not change.volume.can_trim]  # type: ignore[attr-defined]
        if not ignored:
            return changes
        self._acknowledge(ignored)
        return [change for change in changes if change not in ignored]

    def _performed_elsewhere(self, batch: Batch, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, OSError):
            self.fail(f"a batch ended in an unexpected way: {error!r}")
            self._busy = False  # reads go on, and whoever waits is answered
            self._refuse(batch.changes, errno.EIO)
            self._run_steps()
            raise error
        self._performed(batch, error)
        self._run_steps()
        self._pump()

    def _performed(self, batch: Batch, error: OSError | None) -> None:
        """The batch is in the journal and on the legs, or, with an error, nowhere. `_busy` ends here."""
        self._busy = False
        if error is not None:
            for number, regions in batch.regions.items():
                self.ledger.pairs[number].touched.difference_update(regions)  # not marked: the next change there has to
            self.trouble.journal_refused(error, final=batch.journaled)
            self._refuse(batch.changes, error.errno or errno.EIO)
            return
        if batch.regions:
            self.ledger.apply(batch.regions_sequence, batch.time_us, batch.marker())
        track = self.ledger.track
        for change in batch.changes:
            pair: Any = change.volume
            if pair.state != state.DUPLEX and pair.tracks:
                track(pair, change.kind, change.offset, change.length)
        try:
            self.trouble.after(batch)
        except OSError as journal_error:
            self.trouble.journal_refused(journal_error, final=True)
        self._acknowledge(batch.changes)
        self.maintenance.written()
        self.jobs.written()

    def _acknowledge(self, changes: list[Change]) -> None:
        ready = changes
        if any(change.fua for change in changes):
            ready = [change for change in changes if not change.fua or change.error]
            durable = [change for change in changes if change.fua and not change.error]

            def done(error: int) -> None:
                for change in durable:
                    change.error = error
                self._answer(durable)

            self.flusher.wait(self.writer.written, done)
        self._answer(ready)

    def _answer(self, changes: list[Change]) -> None:
        others: dict[Client, None] = {}
        submitter = self._submitter
        for change in changes:
            client = change.client
            client.finished(change)
            if client is not submitter:
                others[client] = None
        for client in others:
            if type(client) is not Joined or client.origin is not submitter:
                client.flush_replies()

    def _refuse(self, changes: list[Change], error: int) -> None:
        for change in changes:
            change.error = error
        self._answer(changes)

    # ------------------------------------------------------------------------------------------------------------- steps

    def when_idle(self, call: Callable[[], None]) -> None:
        """Run `call` between two batches: now if none runs."""
        if self._busy:
            self._steps.append(call)
        else:
            call()

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

        self.when_idle(run)
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

    def _run_steps(self) -> None:
        while self._steps and not self._busy:
            self._steps.popleft()()

    def mark(self, marker: dict[str, Any]) -> int:
        """Write a marker and fold it: within a step only. Returns its number. Raises OSError if the journal does not take it."""
        if self._busy:
            raise RuntimeError(f"the marker {marker['m']!r} is not within a step: a batch has the journal")
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
        self.flusher.wait(sequence, lambda error: None if future.done() else future.set_result(error))
        if await future:
            raise DuplexdError(f"the journal could not be synced; {self.failed or 'restart the daemon'}")

    # ------------------------------------------------------------------------------------------------------------ trouble

    def fail(self, why: str) -> None:
        """Take no change any more: reads go on, changes and flushes get EIO. Only a restart, which recovers, ends this."""
        if not self.failed:
            self.failed = why
            self.flusher.dead = True  # what a sync lost, the next one would not tell
            self.emit("controller-failed", error=why)
        queued, self._queue = list(self._queue), deque()
        self._refuse(queued, errno.EIO)
        self.jobs.moved()  # whoever waits for a secondary waits for nothing

    def refuse_queued(self, error: int) -> None:
        """Answer all that waits for room in the journal."""
        queued, self._queue = list(self._queue), deque()
        self._refuse(queued, error)

    def emit(self, event: str, **fields: Any) -> None:
        """Tell everybody who listens."""
        message = {"event": event, "time": self.clock.wall(), "sequence": self.writer.written, **fields}
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
                raise NotFoundError(f"{target!r}: no such volume or group; duplexctl status shows them")
        return list(names)

    def status(self) -> dict[str, Any]:
        """Everything, in the shape that scripts rely on."""
        return overview.status(self)

    async def quiesce(self, names: list[str], hold_s: float | None, owner: str, cut_id: str = "") -> Lease:
        """Close the gates of these volumes; returns once nothing is in flight. See `holds.Holds`."""
        hold_s = self.config.controller.hold_max if hold_s is None else hold_s
        return await self.holds.quiesce([self.pairs[name] for name in names], hold_s, owner, cut_id)

    def renew(self, lease_id: str, fence: int | None, hold_s: float) -> dict[str, Any]:
        """Let a hold last longer. See `holds.Holds`."""
        return overview.lease_status(self.holds.renew(lease_id, fence, hold_s), self.clock.monotonic())

    def release(self, lease_id: str, reason: str = "released", fence: int | None = None) -> bool:
        """End a hold; False if it had ended already. Raises NotFoundError, LeaseLostError."""
        return self.holds.release(lease_id, reason, fence)

    async def suspend(
        self, names: list[str], tag: str = "", lease_id: str | None = None, fence: int | None = None, certificate: bool = False
    ) -> dict[str, Any]:
        """Cut. See `cuts.Cuts.suspend`."""
        return await self.cuts.suspend([self.pairs[name] for name in names], tag, lease_id, fence, certificate)

    async def resync(self, names: list[str]) -> dict[str, Any]:
        """Start bringing suspended pairs back to DUPLEX. See `pair.resync.Jobs`."""
        return await self.jobs.resync([self.pairs[name] for name in names])

    async def resync_wait(self, names: list[str]) -> dict[str, Any]:
        """Wait until none of these volumes is PENDING."""
        return await self.jobs.wait([self.pairs[name] for name in names])

    async def verify(self, names: list[str], progress: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
        """Compare the legs."""
        return await verification.verify(self, [self.pairs[name] for name in names], progress)

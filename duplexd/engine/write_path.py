"""The way of changes: they queue, become batches, and are answered. One batch runs at a time; between two there is room for steps.

What needs the journal to itself (a marker, a change of state) is a *step*: it runs in the event loop, between two batches. Everything a
step does is therefore one point of the sequence.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, Any

from duplexd.backend import TRIM, WRITE, Change, Client
from duplexd.core import state
from duplexd.engine.apply import Batch, Joined, parts, perform, record_bytes
from duplexd.limits import (
    BATCH_BYTES_MAX,
    INLINE_BATCH_BYTES_MAX,
    INLINE_ZERO_BYTES_MAX,
    MARKER_RESERVE_BYTES,
    RECORD_BYTES_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller


class Batches:
    """A controller's queue of changes, the batch that runs, and the steps that wait for its end."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.busy = False  # a batch runs in a worker
        self._before_batch = 0  # the last number when that batch began
        self.queue: deque[Change] = deque()
        self._steps: deque[Callable[[], None]] = deque()
        self._submitter: Client | None = None
        self.begun = 0
        self.changes_by_threads = 0

    def submit(self, changes: list[Change]) -> None:
        """See `Backend`."""
        self._submitter = changes[0].client
        try:
            if (
                self.busy
                or self.queue
                or self._controller.holds.leases
                or self._controller.jobs.behind()
            ):
                self._wait(changes)
                self.kick()
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
        self._controller.flusher.wait(self._controller.writer.written, done)
        self._submitter = None

    def disconnected(self, client: Client) -> None:
        """See `Backend`."""

        def theirs(change: Change) -> bool:
            owner = change.client
            return owner is client or (type(owner) is Joined and owner.origin is client)

        self.queue = deque(change for change in self.queue if not theirs(change))
        self._controller.holds.forget(theirs)

    @property
    def performed(self) -> int:
        """The last number up to which all changes are on the primaries: what lies beyond may be in the journal alone.

        Who copies from a primary must not have followed the journal further, or would put older content over newer.
        """
        return self._before_batch if self.busy else self._controller.writer.written

    # ------------------------------------------------------------------------------------------------------------ the queue

    def _wait(self, changes: Iterable[Change]) -> None:
        for change in changes:
            change.own()
            self._enqueue(change)

    def _enqueue(self, change: Change) -> None:
        pair: Any = change.volume
        if pair.holds:
            self._controller.holds.waits(pair, change)
        else:
            self.queue.extend(parts(change))

    def withdraw(self, pairs: list[Pair]) -> None:
        """Take the changes of volumes that are held now out of the queue, to their gates: they have not started."""
        held = {pair.id for pair in pairs}
        queued, self.queue = self.queue, deque()
        for change in queued:
            if change.volume.id in held:  # type: ignore[attr-defined]
                self._controller.holds.waits(change.volume, change)  # type: ignore[arg-type]
            else:
                self.queue.append(change)

    def resume(self, changes: list[Change]) -> None:
        """Take changes that a gate held, in their order; a volume that another lease holds keeps its own.

        They go on once the step is over in which the gate was opened: it may have more to say to the journal.
        """
        for change in changes:
            self._enqueue(change)
        if changes:
            self._soon(self.kick)

    def kick(self) -> None:
        """Begin batches as long as changes are queued and nothing is in the way. To be called when what was in the way may have gone."""
        while self.queue and not self.busy and not self._controller.jobs.behind():
            taken = [self.queue.popleft()]
            size, limit = record_bytes(taken), self.bytes_max()
            while self.queue and (size := size + record_bytes([self.queue[0]])) <= limit:
                taken.append(self.queue.popleft())
            if not self._start(taken):
                return

    def bytes_max(self) -> int:
        """What a batch takes in the journal at most."""
        return min(BATCH_BYTES_MAX, self._controller.writer.segment.size // 2)

    def refuse_queued(self, error: int) -> None:
        """Answer all that is queued with this errno."""
        queued, self.queue = list(self.queue), deque()
        self._refuse(queued, error)

    # ------------------------------------------------------------------------------------------------------------ one batch

    def _start(self, changes: list[Change]) -> bool:
        """Run a batch, or put it back at the head of the queue and return False."""
        controller = self._controller
        if controller.failed or controller.refusing:
            self._refuse(changes, errno.EIO if controller.failed else controller.refusing)
            return True
        size = record_bytes(changes)
        if size > INLINE_BATCH_BYTES_MAX:
            for change in changes:
                change.own()
            changes = [part for change in changes for part in parts(change)]
        too_big = len(changes) > 1 and size > self.bytes_max()
        if too_big or not controller.writer.room(size + MARKER_RESERVE_BYTES, RECORD_BYTES_MAX):
            return self._postpone(changes, too_big)
        regions, rare = self._look_at(changes)
        heavy = bool(regions) or size > INLINE_BATCH_BYTES_MAX
        if rare:
            changes = self._without_trims(changes)
            heavy = heavy or any(
                change.kind != WRITE and change.length > INLINE_ZERO_BYTES_MAX for change in changes
            )
        batch = Batch(changes, regions, int(controller.clock.wall() * 1e6))
        self.begun += 1
        if heavy:
            for change in changes:
                change.own()
            self.busy, self._before_batch = True, controller.writer.written
            self.changes_by_threads += len(changes)
            controller.journal_workers.submit(
                lambda: perform(batch, controller.writer, controller.trouble.group_of),
                lambda _none, error: self._performed_elsewhere(batch, error),
            )
            return True
        try:
            perform(batch, controller.writer, controller.trouble.group_of)
        except OSError as error:
            self._performed(batch, error)
        else:
            self._performed(batch, None)
        return True

    def _postpone(self, changes: list[Change], too_big: bool) -> bool:
        for change in changes:
            change.own()
        self.queue.extendleft(reversed([part for change in changes for part in parts(change)]))
        if too_big:
            self._soon(self.kick)  # it is taken in several batches
        else:
            self._controller.maintenance.want_space()
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
            first, last = (
                change.offset >> pair.region_shift,
                (change.offset + change.length - 1) >> pair.region_shift,
            )
            if first == last and first in pair.touched:
                continue  # what is touched is open
            for region in range(first, last + 1):
                pair.touched.add(region)
                if region not in pair.regions and region not in (
                    known := fresh.setdefault(pair.id, [])
                ):
                    known.append(region)
        return (
            {number: regions for number, regions in fresh.items() if regions} if fresh else fresh
        ), rare

    def _without_trims(self, changes: list[Change]) -> list[Change]:
        """Trims that can't do the same to both legs do nothing: content after a trim is undefined, but equal."""
        ignored = [
            change for change in changes if change.kind == TRIM and not change.volume.can_trim
        ]  # type: ignore[attr-defined]
        if not ignored:
            return changes
        self._acknowledge(ignored)
        return [change for change in changes if change not in ignored]

    def _performed_elsewhere(self, batch: Batch, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, OSError):
            self._controller.fail(f"a batch ended in an unexpected way: {error!r}")
            self.busy = False  # reads go on, and whoever waits is answered
            self._refuse(batch.changes, errno.EIO)
            self._run_steps()
            raise error
        self._performed(batch, error)
        self._run_steps()
        self.kick()

    def _performed(self, batch: Batch, error: OSError | None) -> None:
        """The batch is in the journal and on the legs, or, with an error, nowhere. `busy` ends here."""
        controller = self._controller
        self.busy = False
        if error is not None:
            for number, regions in batch.regions.items():
                controller.ledger.pairs[number].touched.difference_update(
                    regions
                )  # not marked: the next change there has to
            controller.trouble.journal_refused(error, final=batch.journaled)
            self._refuse(batch.changes, error.errno or errno.EIO)
            return
        if batch.regions:
            controller.ledger.apply(batch.regions_sequence, batch.time_us, batch.marker())
        track = controller.ledger.track
        for change in batch.changes:
            pair: Any = change.volume
            if pair.state != state.DUPLEX and pair.tracks:
                track(pair, change.kind, change.offset, change.length)
        try:
            controller.trouble.after(batch)
        except OSError as journal_error:
            controller.trouble.journal_refused(journal_error, final=True)
        self._acknowledge(batch.changes)
        controller.maintenance.written()
        controller.jobs.written()

    # ---------------------------------------------------------------------------------------------------------- the answers

    def _acknowledge(self, changes: list[Change]) -> None:
        ready = changes
        if any(change.fua for change in changes):
            ready = [change for change in changes if not change.fua or change.error]
            durable = [change for change in changes if change.fua and not change.error]

            def done(error: int) -> None:
                for change in durable:
                    change.error = error
                self._answer(durable)

            self._controller.flusher.wait(self._controller.writer.written, done)
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

    # ---------------------------------------------------------------------------------------------------------------- steps

    def when_idle(self, call: Callable[[], None]) -> None:
        """Run `call` between two batches: now if none runs."""
        if self.busy:
            self._steps.append(call)
        else:
            call()

    def _run_steps(self) -> None:
        while self._steps and not self.busy:
            self._steps.popleft()()

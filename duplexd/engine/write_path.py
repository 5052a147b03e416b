"""The path of a change: it queues, becomes part of a batch, and is answered.

All changes of one wake-up of a connection come in one call. If nothing is in the way (`Admission`,
a running batch, earlier changes) they become a batch at once; this is the fast path. Otherwise the
changes wait in the line of their volume, which stops while a lease holds it (a *gate*). Their
payloads stay in the receive buffer, which the connection keeps for them or copies. A waiting change
has no number yet and was never acknowledged, so it is dropped with its connection. That loses
nothing, and it is required: a client that gave up on the change may send it again over another
connection, and the stale one must not overwrite what came after.

Order: of one volume, that of arrival. The volumes take turns (`core/fair_queue.py`), and a batch
is so small that it takes a few milliseconds: what one volume has waiting costs others no more than
that. Long changes are taken in pieces (`core/long_change.py`).
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, NamedTuple, cast

from duplexd.backend import TRIM, WRITE, Change, Client
from duplexd.core.fair_queue import FairQueue
from duplexd.core.long_change import PieceSizes
from duplexd.engine.batch import Batch
from duplexd.journal.format import RECORD_HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.core.admission import Admission
    from duplexd.core.fair_queue import Parcel
    from duplexd.core.pair import Pair, PairChange
    from duplexd.engine.batch import Done
    from duplexd.engine.timeline import Timeline
    from duplexd.limits import EngineLimits
    from duplexd.runtime.clock import Clock


class Arrival(NamedTuple):
    """A change that waits at a gate, and since when (monotonic seconds)."""

    at: float
    change: PairChange


class Gate:
    """Of one volume: how often it is closed. With an `error`, an errno, nothing waits there: every
    change gets it, for good. `since`: no change waits for longer.
    """

    __slots__ = ("closed", "error", "since")

    def __init__(self, since: float) -> None:
        self.closed = 0
        self.error = 0
        self.since = since


class WritePath:
    """The queue of a controller, its gates, and the answers. Called from the event loop."""

    def __init__(
        self,
        timeline: Timeline,
        admission: Admission,
        want_room: Callable[[], None],
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        """`want_room` is called when a batch does not fit into the journal: it has to hold batches
        back in `admission` until there is room.
        """
        self._timeline = timeline
        self._writer = timeline.writer
        self._admission = admission
        self._want_room = want_room
        self._clock = clock
        self._limits = limits
        self._piece_sizes = PieceSizes(limits)
        self._queue = FairQueue(limits, self._piece_sizes, self._acknowledge)
        self._turns = self._queue.round  # what is in line, and not at a gate
        self._gates: dict[int, Gate] = {}  # that are closed, by volume number
        self._flushes: list[Change] = []  # that wait for the same record
        self._flushed = 0  # its number
        self._failed = 0  # what every change gets, once the controller has failed
        self.batches = 0

    # ------------------------------------------------------------------ what the server calls

    def submit(self, changes: list[Change]) -> None:
        """See `Backend`."""
        ours = cast("list[PairChange]", changes)
        queued = self._turns or self._gates
        if self._admission.clear and not queued and not self._timeline.busy:
            size, limits = 0, self._limits
            for change in ours:
                size += change.length
            cost = size + len(ours) * limits.change_cost_bytes
            if size <= limits.record_bytes_max and cost <= limits.batch_bytes_max:
                if not self._start(ours, size):
                    self._enqueue(ours)
                    self._want_room()
                return
        self._enqueue(ours)
        self.kick()

    def flush(self, change: Change) -> None:
        """See `Backend`. Those that wait for the same record are answered together."""
        written = self._timeline.written
        if self._flushes and self._flushed == written:
            self._flushes.append(change)
            return
        group = self._flushes = [change]
        self._flushed = written

        def done(error: int) -> None:
            if self._flushes is group:
                self._flushes = []
            for flush in group:
                flush.error = error
            self._answer(group)

        self._timeline.when_durable(written, done)

    def disconnected(self, client: Client) -> None:
        """See `Backend`."""
        self._queue.withdraw(client)

    # ------------------------------------------------------------------------ queue and gates

    @property
    def queued(self) -> int:
        """How many changes are queued, not counting those at gates."""
        return len(self._queue)

    def _enqueue(self, changes: list[PairChange]) -> None:
        """Those of one wake-up: mostly of one client, and so of one volume."""
        client, volume, start = changes[0].client, changes[0].volume, 0
        for at, change in enumerate(changes):
            if change.client is not client or change.volume is not volume:
                self._enqueue_of_one(changes[start:at])
                client, volume, start = change.client, change.volume, at
        self._enqueue_of_one(changes[start:] if start else changes)

    def _enqueue_of_one(self, changes: list[PairChange]) -> None:
        gate = self._gates.get(changes[0].volume.id)
        if gate is None:
            self._queue.add(changes, None)
        elif error := gate.error or self._failed:
            self._refuse(changes, error)
        else:
            self._queue.add(changes, self._clock.monotonic())

    def fail(self, error: int) -> None:
        """From now on every change gets `error`, an errno; those that wait, too, also at gates: who
        has closed one may wait for the journal, and never open it.
        """
        self._failed = error
        self._admission.refuse(error)
        self._refuse_parcels(self._queue.drain_all(), error)

    def refuse_volume(self, pair: Pair, error: int) -> None:
        """From now on every change of this volume gets `error`, an errno; those that wait, too."""
        self.close_gates([pair])
        self._gates[pair.id].error = error
        self._refuse_parcels(self._queue.drain(pair), error)

    def accept_volume(self, pair: Pair) -> None:
        """Undo `refuse_volume`, if it was called."""
        gate = self._gates.get(pair.id)
        if gate is not None and gate.error:
            gate.error = 0
            gate.since = self._clock.monotonic()  # nothing waited until now: it was refused
            self.open_gates([pair])

    def is_gated(self, pair: Pair) -> bool:
        """Whether changes of this volume wait at its gate."""
        return pair.id in self._gates

    def close_gates(self, pairs: Iterable[Pair]) -> None:
        """Make changes of these volumes wait, those that are queued included.

        Each call needs its own `open_gates`, because leases may overlap.
        """
        now = self._clock.monotonic()
        for pair in pairs:
            gate = self._gates.get(pair.id)
            if gate is None:
                self._queue.shut(pair, now)
                gate = self._gates[pair.id] = Gate(min(now, self._queue.oldest(pair) or now))
            gate.closed += 1

    def held_since(self, pair: Pair) -> float | None:
        """When the gate of this volume was closed; if it is open, when the oldest change arrived
        that waited there and has not begun. None if nothing has to wait, or may wait.
        """
        gate = self._gates.get(pair.id)
        if gate is not None:
            return None if gate.error else gate.since
        return self.passing_since(pair)

    def passing_since(self, pair: Pair) -> float | None:
        """When the oldest change arrived that a gate released, and that has not begun; or None."""
        return self._queue.oldest(pair)

    def open_gates(self, pairs: Iterable[Pair]) -> list[Arrival]:
        """Undo one `close_gates`; returns what waited for it. Changes that no lease holds now go on
        when the present step is over, because it may have more markers to append.
        """
        gated = list(pairs)
        opened: list[Pair] = []
        for pair in gated:
            gate = self._gates[pair.id]
            gate.closed -= 1
            if not gate.closed:
                del self._gates[pair.id]
                opened.append(pair)
        waited = self._queue.open(opened, gated)
        if waited:
            self.kick_soon()
        return [Arrival(at, change) for at, change in waited]

    def kick(self) -> None:
        """Begin batches while changes are queued and nothing is in the way. Refusals are checked
        before each batch, because the previous one may have made the controller fail.
        """
        admission, timeline, queue = self._admission, self._timeline, self._queue
        while self._turns and not admission.refusal:
            if timeline.busy or admission.waiting:
                return
            batch = queue.take(self.batch_bytes_max())
            if batch and not self._start(batch, sum(change.length for change in batch)):
                queue.put_back()
                self._want_room()
                return
            queue.began()
        if self._turns:
            self._refuse_parcels(queue.drain_round(), admission.refusal)

    def batch_bytes_max(self) -> int:
        """How many bytes of journal a batch may take."""
        return min(self._limits.batch_bytes_max, self._writer.segment.size // 2)

    def kick_soon(self) -> None:
        """Call `kick` when the present step is over."""
        asyncio.get_running_loop().call_soon(self.kick)

    # ------------------------------------------------------------------------------ one batch

    def _start(self, changes: list[PairChange], size: int) -> bool:
        """Run a batch that writes or zeroes `size` bytes; False if the journal has no room."""
        limits = self._limits
        reserve = size + RECORD_HEADER_BYTES * len(changes) + limits.marker_reserve_bytes
        writer = self._writer  # what `room` asks first is asked here: no call for most batches
        if reserve > writer.segment.size - writer.position - RECORD_HEADER_BYTES:
            reserve = record_bytes(changes) + limits.marker_reserve_bytes  # zeroes take no room
            if not writer.room(reserve, limits.record_bytes_max):
                return False
        regions, client, tracked, rare = self._look_at(changes)
        answer: Done = self._answered
        if rare:
            client = None
            if size > limits.record_bytes_max and not regions:
                answer = self._timed(changes)
            changes = self._without_trims(changes)
        heavy = bool(regions) or size > limits.inline_batch_bytes_max
        self.batches += 1
        self._timeline.batch(Batch(changes, regions, heavy, answer, client, tracked))
        return True

    def _look_at(
        self, changes: list[PairChange]
    ) -> tuple[dict[int, list[int]], Client | None, bool, bool]:
        """Mark what the batch makes dirty; returns the regions that have to be opened first, by
        volume number; the client, if there is one and no FUA; whether a volume tracks its changes;
        and whether there is anything but WRITEs.
        """
        fresh: dict[int, list[int]] = {}
        client: Client | None = changes[0].client
        pair: Pair | None = None
        regions = changes[0].volume.regions
        tracked = rare = False
        for change in changes:
            change.begun = True
            if change.kind != WRITE:
                rare = True
            if change.fua or change.client is not client:
                client = None
            if change.volume is not pair:
                pair = change.volume
                pair.primary_dirty = True
                if pair.mirrors:
                    pair.secondary_dirty = True
                if pair.tracks:
                    tracked = True
                regions = pair.regions
            offset, shift = change.offset, regions.shift
            first = offset >> shift
            if first == offset + change.length - 1 >> shift and first in regions.touched:
                continue  # the common case
            if pair.secondary is not None and (found := regions.touch(offset, change.length)):
                fresh.setdefault(pair.id, []).extend(found)
        return fresh, client, tracked, rare

    def _without_trims(self, changes: list[PairChange]) -> list[PairChange]:
        """Skip trims that would not do the same to both legs: content after a trim is undefined,
        but it has to be equal on both.
        """
        ignored = [
            change for change in changes if change.kind == TRIM and not change.volume.can_trim
        ]
        if not ignored:
            return changes
        self._acknowledge(ignored)
        return [change for change in changes if change not in ignored]

    def _timed(self, changes: Sequence[PairChange]) -> Done:
        """The answer to a batch that may end with a piece of zeroes: notes how long that took."""
        began, piece = self._clock.monotonic(), changes[-1]

        def answered(batch: Batch, error: BaseException | None) -> None:
            if piece.kind != WRITE:
                self._piece_sizes.took(piece, self._clock.monotonic() - began)
            self._answered(batch, error)

        return answered

    # ---------------------------------------------------------------------------- the answers

    def _answered(self, batch: Batch, error: BaseException | None) -> None:
        """The batch is over."""
        if error is None:
            if batch.client is not None:  # the common case
                batch.client.finished(batch.changes)
            else:
                self._acknowledge(batch.changes)
        else:
            number = error.errno if isinstance(error, OSError) else None
            self._refuse(batch.changes, number or errno.EIO)

    def _acknowledge(self, changes: Sequence[PairChange]) -> None:
        """Changes with FUA are answered once the journal is durable, the others now."""
        durable = [change for change in changes if change.fua and not change.error]
        if not durable:
            self._answer(changes)
            return

        for change in durable:  # a sync may take long, and its receive buffer is wanted
            change.data = b""

        def done(error: int) -> None:
            for change in durable:
                change.error = error
            self._answer(durable)

        self._timeline.when_durable(self._timeline.written, done)
        self._answer([change for change in changes if not change.fua or change.error])

    def _refuse(self, changes: Sequence[PairChange], error: int) -> None:
        for change in changes:
            change.error = error
        self._answer(changes)

    def _answer(self, changes: Sequence[Change]) -> None:
        """Each client's replies in one call, so that they are sent together."""
        of: dict[Client, list[Change]] = {}
        for change in changes:
            of.setdefault(change.client, []).append(change)
        for client, theirs in of.items():
            client.finished(theirs)

    def _refuse_parcels(self, parcels: Iterable[Parcel], error: int) -> None:
        """Also of what has begun there will be no further pieces."""
        refused: list[PairChange] = []
        for parcel in parcels:
            left = list(parcel.changes[parcel.at :])
            if parcel.long is not None:
                parcel.long.give_up(error)
                del left[0]
            refused += left
        self._refuse(refused, error)


def record_bytes(changes: Sequence[Change]) -> int:
    """What the changes take in the journal."""
    size = RECORD_HEADER_BYTES * len(changes)
    for change in changes:  # a loop: twice as fast here as a generator
        size += len(change.data)
    return size

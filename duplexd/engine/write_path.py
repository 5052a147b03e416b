"""The path of a change: it queues, becomes part of a batch, and is answered.

All changes of one wake-up of a connection come in one call. If nothing is in the way (`Admission`,
a running batch, earlier changes) they become a batch at once; this is the fast path. Otherwise the
changes wait: in the queue, or, if a lease holds their volume, at its gate. Their payloads stay in
the receive buffer, which the connection keeps for them or copies. A waiting change has no number
yet and was never acknowledged, so it is dropped with its connection (`waiting.py`). That loses
nothing, and it is required: a client that gave up on the change may send it again over another
connection, and the stale one must not overwrite what came after.

Order: the queue is first in, first out over all volumes. A gate keeps the order of its volume, and
changes that several gates release continue in their order of arrival.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from duplexd.backend import TRIM, WRITE, Change, Client
from duplexd.core.pair import PairChange
from duplexd.engine.batch import Batch
from duplexd.engine.waiting import GONE, Waiting
from duplexd.journal.format import RECORD_HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.core.admission import Admission
    from duplexd.core.pair import Pair
    from duplexd.engine.timeline import Timeline
    from duplexd.limits import EngineLimits
    from duplexd.runtime.clock import Clock


class Arrival:
    """A change that waits at a gate, and since when (monotonic seconds)."""

    __slots__ = ("at", "change")

    def __init__(self, at: float, change: PairChange) -> None:
        self.at = at
        self.change = change


class Gate:
    """Of one volume: how often it is closed, and what waits there, in order. With an `error`, an
    errno, nothing waits there: every change gets it, for good. `since`: no change waits for longer.
    """

    __slots__ = ("closed", "error", "since", "waiting")

    def __init__(self, since: float) -> None:
        self.closed = 0
        self.error = 0
        self.since = since
        self.waiting: list[Arrival] = []


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
        self._queue: deque[PairChange] = deque()
        self._gates: dict[int, Gate] = {}  # that are closed, by volume number
        self._waiting = Waiting()
        # Changes that a gate let go, and since when they waited: until they begin, the next gate
        # takes them again. Weak, because a change that is over must not keep its payload.
        self._waited: WeakKeyDictionary[PairChange, float] = WeakKeyDictionary()
        self.batches = 0

    # ------------------------------------------------------------------ what the server calls

    def submit(self, changes: list[Change]) -> None:
        """See `Backend`."""
        ours = cast("list[PairChange]", changes)
        queued = self._queue or self._gates
        if self._admission.clear and not queued and not self._timeline.busy:
            self._start(ours)
        else:
            for change in ours:
                self._enqueue(change)
            self.kick()

    def flush(self, change: Change) -> None:
        """See `Backend`."""

        def done(error: int) -> None:
            change.error = error
            self._answer([change])

        self._timeline.when_durable(self._timeline.written, done)

    def disconnected(self, client: Client) -> None:
        """See `Backend`."""
        waiting = self._waiting
        waiting.leave(client)
        if 2 * waiting.gone > self._count_waiting():
            self._queue = deque(change for change in self._queue if change.client is not GONE)
            for gate in self._gates.values():
                gate.waiting = [each for each in gate.waiting if each.change.client is not GONE]
            waiting.gone = 0

    def _count_waiting(self) -> int:
        return len(self._queue) + sum(len(gate.waiting) for gate in self._gates.values())

    # ------------------------------------------------------------------------ queue and gates

    @property
    def queued(self) -> int:
        """How many changes are queued, not counting those at gates."""
        return len(self._queue)

    def _enqueue(self, change: PairChange) -> None:
        gate = self._gates.get(change.volume.id)
        if gate is None:
            self._queue.extend(self._noted_parts(change))
        elif gate.error:
            self._refuse([change], gate.error)
        else:
            gate.waiting.append(Arrival(self._clock.monotonic(), change))
            self._waiting.note(change.client, change)

    def refuse_volume(self, pair: Pair, error: int) -> None:
        """From now on every change of this volume gets `error`, an errno; those that wait, too."""
        self.close_gates([pair])
        gate = self._gates[pair.id]
        gate.error = error
        waiting, gate.waiting = gate.waiting, []
        self._refuse([arrival.change for arrival in waiting], error)

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
            self._gates.setdefault(pair.id, Gate(now)).closed += 1
        queued, self._queue = self._queue, deque()
        for change in queued:
            gate = self._gates.get(change.volume.id)
            if gate is None:
                self._queue.append(change)
            else:
                arrival = Arrival(self._waited.get(change, now), change)
                gate.since = min(gate.since, arrival.at)
                gate.waiting.append(arrival)

    def held_since(self, pair: Pair) -> float | None:
        """When the gate of this volume was closed; if it is open, when the oldest change arrived
        that waited there and has not begun. None if nothing has to wait, or may wait.
        """
        gate = self._gates.get(pair.id)
        if gate is not None:
            return None if gate.error else gate.since
        return self.passing_since(pair)

    def passing_since(self, pair: Pair) -> float | None:
        """When the oldest change arrived that a gate let go, and that has not begun; or None."""
        waited = [at for each, at in self._waited.items() if each.volume is pair and not each.begun]
        return min(waited, default=None)

    def open_gates(self, pairs: Iterable[Pair]) -> list[Arrival]:
        """Undo one `close_gates`; returns what waited for it. Changes that no lease holds now are
        queued in their order of arrival. They start when the present step is over, because it may
        have more markers to append.
        """
        waited: list[Arrival] = []
        freed: list[Arrival] = []
        for pair in pairs:
            gate = self._gates[pair.id]
            gate.closed -= 1
            waited += gate.waiting
            if not gate.closed:
                freed += self._gates.pop(pair.id).waiting
        freed.sort(key=lambda arrival: arrival.at)
        for arrival in freed:
            parts = self._noted_parts(arrival.change)
            self._waited.update(dict.fromkeys(parts, arrival.at))
            self._queue.extend(parts)
        if freed:
            self.kick_soon()
        return waited

    def kick(self) -> None:
        """Begin batches while changes are queued and nothing is in the way. Refusals are checked
        before each batch, because the previous one may have made the controller fail.
        """
        admission, timeline = self._admission, self._timeline
        while self._queue and not admission.refusal:
            if timeline.busy or admission.waiting:
                return
            taken = [self._queue.popleft()]
            size, limit = record_bytes(taken), self.batch_bytes_max()
            while self._queue and (size := size + record_bytes([self._queue[0]])) <= limit:
                taken.append(self._queue.popleft())
            if self._waiting.gone:
                taken = self._without_gone(taken)
            if taken and not self._start(taken):
                return
        if self._queue:
            queued, self._queue = list(self._queue), deque()
            self._refuse(queued, admission.refusal)
        if not self._gates:
            self._waiting.clear()  # nothing waits

    def _without_gone(self, taken: list[PairChange]) -> list[PairChange]:
        left = [change for change in taken if change.client is not GONE]
        self._waiting.gone = max(0, self._waiting.gone - (len(taken) - len(left)))
        return left

    def batch_bytes_max(self) -> int:
        """How many bytes of journal a batch may take."""
        return min(self._limits.batch_bytes_max, self._writer.segment.size // 2)

    def kick_soon(self) -> None:
        """Call `kick` when the present step is over."""
        asyncio.get_running_loop().call_soon(self.kick)

    # ------------------------------------------------------------------------------ one batch

    def _start(self, changes: list[PairChange]) -> bool:
        """Run a batch, or put it back at the head of the queue and return False."""
        limits = self._limits
        size = record_bytes(changes)
        if size > limits.inline_batch_bytes_max:
            changes = [part for change in changes for part in self._parts(change)]
        too_big = len(changes) > 1 and size > self.batch_bytes_max()
        reserve = size + limits.marker_reserve_bytes
        writer = self._writer  # what `room` asks first is asked here: no call for most batches
        if too_big or not (
            reserve <= writer.segment.size - writer.position - RECORD_HEADER_BYTES
            or writer.room(reserve, limits.record_bytes_max)
        ):
            self._postpone(changes, too_big)
            return False
        regions, client, tracked, rare = self._look_at(changes)
        heavy = bool(regions) or size > limits.inline_batch_bytes_max
        if rare:
            client = None
            changes = self._without_trims(changes)
            zero_max = limits.inline_zero_bytes_max
            heavy = heavy or any(
                change.kind != WRITE and change.length > zero_max for change in changes
            )
        self.batches += 1
        self._timeline.batch(Batch(changes, regions, heavy, self._answered, client, tracked))
        return True

    def _postpone(self, changes: list[PairChange], too_big: bool) -> None:
        parts = [part for change in changes for part in self._noted_parts(change)]
        self._queue.extendleft(reversed(parts))
        if too_big:
            self.kick_soon()  # it is taken in several batches
        else:
            self._want_room()

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

    def _parts(self, change: PairChange) -> list[PairChange]:
        """The change itself, or, for a long WRITE, changes of one record each, with views of its
        payload, which is its own from then on.
        """
        record_max = self._limits.record_bytes_max
        if change.kind != WRITE or change.length <= record_max:
            return [change]
        change.own()
        joined = Joined(change, -(-change.length // record_max))
        view = memoryview(change.data)
        pieces: list[PairChange] = []
        for at in range(0, change.length, record_max):
            length = min(record_max, change.length - at)
            data = view[at : at + length].toreadonly()
            offset = change.offset + at
            pieces.append(
                PairChange(joined, 0, change.volume, WRITE, offset, length, data, change.fua)
            )
        return pieces

    def _noted_parts(self, change: PairChange) -> list[PairChange]:
        """Its `_parts`, which are going to wait."""
        client, parts = change.client, self._parts(change)
        if type(client) is Joined:
            client = client.origin
        for part in parts:
            self._waiting.note(client, part)
        return parts


def record_bytes(changes: Sequence[Change]) -> int:
    """What the changes take in the journal."""
    size = RECORD_HEADER_BYTES * len(changes)
    for change in changes:  # a loop: twice as fast here as a generator
        size += len(change.data)
    return size


class Joined:
    """The client of the parts of a long WRITE: answers it when all of them are done."""

    __slots__ = ("_left", "_whole", "origin")

    def __init__(self, whole: PairChange, parts: int) -> None:
        self._whole = whole
        self._left = parts
        self.origin: Client = whole.client

    def finished(self, parts: Sequence[Change]) -> None:
        """See `Client`."""
        whole = self._whole
        for part in parts:
            whole.error = whole.error or part.error
            whole.sequence = max(whole.sequence, part.sequence)
        self._left -= len(parts)
        if not self._left:
            self.origin.finished([whole])

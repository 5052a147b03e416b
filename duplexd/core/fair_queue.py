"""Whose changes are next: a line for each volume, and turns among the lines. Pure.

Changes of one volume go in order of arrival, over all connections, because those that overlap have
to. Those of different volumes are independent, so a volume with thousands of changes in its line
does not make the others wait for them:

| situation | what follows |
|---|---|
| one volume has changes in line | a batch takes the next ones, up to `batch_bytes_max` |
| several have, or had lately | they take turns, up to `shared_cost_max` in a batch |
| a volume's turn | it gets `turn_cost` of credit, and takes changes until that is used up |
| the last of these exceeds the credit | it owes that, and pays with its next turns |
| the batch is full within a turn | the next batch begins with the rest of the turn |
| nothing is left in its line | it has no turns, keeps what it owes, and loses other credit |
| its gate is closed | it has no turns, and what waits keeps its time of arrival |

So a change that comes alone waits for the batch that runs and, at most, for one turn of each other
volume. It is deficit round robin (Shreedhar and Varghese, 1996) with debt in place of a look ahead.

A client that writes one block after the other is not in line when the batch begins that it will
have to wait for. So after two volumes have met, `shared_batches` are small, and long WRITEs in them
are taken in pieces of `shared_piece_bytes`.

A change costs its length and a fixed amount (`change_cost_bytes`), because a small change takes far
more time than its bytes do. A long change is taken in pieces (`long_change.py`); a piece of zeroes,
whose length says nothing of its time, is made to take the time of a batch and costs as much.

What came in one wake-up of a connection is one entry of a line, a parcel: to enter, and to leave
when the client does, costs a step for each of these. A client that leaves empties its own parcels.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backend import WRITE
from duplexd.core.long_change import LongChange
from duplexd.known import known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.backend import Client
    from duplexd.core.long_change import PieceSizes
    from duplexd.core.pair import Pair, PairChange
    from duplexd.limits import EngineLimits


class Parcel:
    """Changes of one client for one volume, in order; those before `at` were taken. `long` is the
    one at `at`, once there are pieces of it. `since` is its time of arrival, if it met a gate.
    """

    __slots__ = ("at", "changes", "line", "long", "since")

    def __init__(self, line: Line, changes: Sequence[PairChange], since: float | None) -> None:
        self.line = line
        self.changes = changes
        self.since = since
        self.at = 0
        self.long: LongChange | None = None


class Line:
    """What one volume has waiting. `emptied` parcels are those whose clients have left."""

    __slots__ = ("credit", "emptied", "in_round", "parcels", "shut")

    def __init__(self) -> None:
        self.parcels: deque[Parcel] = deque()
        self.credit = 0
        self.emptied = 0
        self.in_round = False
        self.shut = False


class _Taken(NamedTuple):
    """Where a parcel was before a batch took from it."""

    parcel: Parcel
    at: int
    long: LongChange | None
    cut: int


class FairQueue:
    """`round` has the lines that take turns; it is empty if there is nothing to take.

    `done` is called with a long change when all of its pieces are done.
    """

    def __init__(
        self,
        limits: EngineLimits,
        sizes: PieceSizes,
        done: Callable[[Sequence[PairChange]], None],
    ) -> None:
        self._limits = limits
        self._sizes = sizes
        self._done = done
        self.round: deque[Line] = deque()
        self._lines: dict[int, Line] = {}
        self._parcels: dict[Client, set[Parcel]] = {}
        self._taken: list[_Taken] = []
        self._shared = 0  # batches to come that are small, for others who may come

    def __len__(self) -> int:
        """How many changes wait for a batch; those at closed gates not counted."""
        return sum(
            len(parcel.changes) - parcel.at for line in self.round for parcel in line.parcels
        )

    # --------------------------------------------------------------------------- who comes and goes

    def add(self, changes: Sequence[PairChange], since: float | None) -> None:
        """Changes of one client for one volume, in order."""
        first = changes[0]
        line = self._lines.get(first.volume.id)
        if line is None:
            line = self._lines[first.volume.id] = Line()
        parcel = Parcel(line, changes, since)
        line.parcels.append(parcel)
        self._parcels.setdefault(first.client, set()).add(parcel)
        if not line.in_round and not line.shut:
            self._enter(line)

    def withdraw(self, client: Client) -> None:
        """The client has left: drop what it has in line."""
        for parcel in self._parcels.pop(client, ()):
            line = parcel.line
            parcel.changes, parcel.at, parcel.long = (), 0, None
            line.emptied += 1
            if 2 * line.emptied > len(line.parcels):
                line.parcels = deque(parcel for parcel in line.parcels if parcel.changes)
                line.emptied = 0

    def drain(self, volume: Pair) -> list[Parcel]:
        """Take all that a volume has in line."""
        line = self._lines.get(volume.id)
        return self._drained(line) if line is not None else []

    def drain_round(self) -> list[Parcel]:
        """Take all that does not wait at a gate."""
        return [parcel for line in self.round for parcel in self._drained(line)]

    def drain_all(self) -> list[Parcel]:
        """Take all that there is, also what waits at gates."""
        return [parcel for line in self._lines.values() for parcel in self._drained(line)]

    def _drained(self, line: Line) -> list[Parcel]:
        parcels, line.parcels = line.parcels, deque()
        line.emptied = 0
        for parcel in parcels:
            self._forget(parcel)
        return [parcel for parcel in parcels if parcel.changes]

    def _forget(self, parcel: Parcel) -> None:
        if parcel.changes:  # else it was forgotten with its client
            client = parcel.changes[0].client
            theirs = self._parcels[client]
            theirs.discard(parcel)
            if not theirs:
                del self._parcels[client]

    def _enter(self, line: Line) -> None:
        line.in_round = True
        self.round.append(line)

    # ---------------------------------------------------------------------------------------- gates

    def shut(self, volume: Pair, now: float) -> None:
        """What the volume has in line waits, and counts as arrived by now at the latest."""
        line = self._lines.setdefault(volume.id, Line())
        line.shut = True
        if line.in_round:
            line.in_round = False
            self.round.remove(line)
        for parcel in line.parcels:
            if parcel.since is None:
                parcel.since = now

    def open(
        self, volumes: Iterable[Pair], gated: Iterable[Pair] = ()
    ) -> list[tuple[float, PairChange]]:
        """Undo `shut` of volumes; returns what waits at the gates of all that are `gated`."""
        waiting = self.waiting(gated)
        for volume in volumes:
            line = self._lines[volume.id]
            line.shut = False
            if line.parcels:
                self._enter(line)
        return waiting

    def waiting(self, volumes: Iterable[Pair]) -> list[tuple[float, PairChange]]:
        """What waits at the closed gates of volumes, with the times of arrival."""
        return [
            (known(parcel.since, "it has met a gate"), change)
            for volume in volumes
            for parcel in self._lines[volume.id].parcels
            for change in parcel.changes[parcel.at :]
        ]

    def oldest(self, volume: Pair) -> float | None:
        """When the first of those arrived that have met a gate, and that no batch has taken."""
        line = self._lines.get(volume.id)
        parcels = line.parcels if line is not None else ()
        return next((parcel.since for parcel in parcels if parcel.changes), None)

    # ---------------------------------------------------------------------------------------- turns

    def take(self, bytes_max: int) -> list[PairChange]:
        """The changes of the next batch: at least one, if there is any; with more, no more than
        `bytes_max`. `put_back` or `began` says what became of it.
        """
        limits, turns = self._limits, self.round
        if len(turns) > 1:
            self._shared = limits.shared_batches
        limit = limits.shared_cost_max if self._shared else limits.batch_bytes_max
        left = limit = min(limit, bytes_max)
        batch: list[PairChange] = []
        while turns and left > 0:
            line = turns[0]
            if line.credit <= 0:
                line.credit += limits.turn_cost
            if line.credit > 0:
                used = self._turn(line, left, batch)
                left -= used
                line.credit -= used
            if not line.parcels:
                turns.popleft()
                line.in_round = False
                line.credit = min(line.credit, 0)
            elif line.credit <= 0:
                turns.rotate(-1)
            else:
                break  # the batch is full
        if self._shared:
            self._shared -= 1
        return batch

    def began(self) -> None:
        """The batch has begun: nothing of it is kept here."""
        self._taken.clear()

    def put_back(self) -> None:
        """Undo the last `take`, because the batch cannot begin."""
        for parcel, at, long, cut in reversed(self._taken):
            line = parcel.line
            if parcel.at == len(parcel.changes):
                line.parcels.appendleft(parcel)
                self._parcels.setdefault(parcel.changes[0].client, set()).add(parcel)
            parcel.at, parcel.long = at, long
            if long is not None:
                long.cut = cut
            if not line.in_round:
                line.in_round = True
                self.round.appendleft(line)
        self._taken.clear()

    def _turn(self, line: Line, left: int, batch: list[PairChange]) -> int:
        """Take changes while there is credit, and room for them; returns what they cost."""
        used, credit, parcels = 0, line.credit, line.parcels
        fixed, piece_max = self._limits.change_cost_bytes, self._piece_bytes_max()
        while parcels and used < credit:
            parcel = parcels[0]
            changes, at, end = parcel.changes, parcel.at, len(parcel.changes)
            self._note(parcel)
            # Where there are pieces of the first already, pieces may have become longer than it is.
            short_max = piece_max if parcel.long is None else 0
            full = False
            while at < end and used < credit:
                change = changes[at]
                cost = change.length + fixed
                if change.length > short_max and (
                    change.kind == WRITE or change.length > self._limits.record_bytes_max
                ):
                    cost, full = self._take_long(parcel, change, left - used, batch)
                    if parcel.long is None and not full:
                        at += 1
                elif cost > left - used and batch:
                    full = True
                else:
                    batch.append(change)
                    at += 1
                if full:
                    break
                used += cost
            parcel.at = at
            if at == end:
                parcels.popleft()
                if changes:
                    self._forget(parcel)
                else:
                    line.emptied -= 1
            if full:
                break
        return used

    def _piece_bytes_max(self) -> int:
        return self._limits.shared_piece_bytes if self._shared else self._limits.record_bytes_max

    def _note(self, parcel: Parcel) -> None:
        if parcel.changes:
            long = parcel.long
            self._taken.append(_Taken(parcel, parcel.at, long, long.cut if long is not None else 0))

    def _take_long(
        self, parcel: Parcel, change: PairChange, left: int, batch: list[PairChange]
    ) -> tuple[int, bool]:
        """Take a long change, or its next piece: what it costs, and whether the batch is too full
        for it.
        """
        limits, is_write = self._limits, change.kind == WRITE
        nbytes = self._piece_bytes_max() if is_write else self._sizes.next(change)
        if parcel.long is not None and parcel.long.is_cut:  # a piece has failed
            parcel.long = None
            return 0, False
        if is_write:
            cost = min(nbytes, change.length) + limits.change_cost_bytes
        else:
            cost = limits.batch_bytes_max
        if cost > left and batch:
            return 0, True
        if parcel.long is None and change.length <= nbytes:
            batch.append(change)
            return cost, False
        long = parcel.long = parcel.long or LongChange(change, self._done)
        batch.append(long.piece(nbytes, limits.record_bytes_max))
        if long.is_cut:
            parcel.long = None
        return cost, False

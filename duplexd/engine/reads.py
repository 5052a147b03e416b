"""Reads that have to wait for a disk.

The NBD server itself reads what is in the page cache, in the event loop (`Pair.read_cached`). Other
reads are done here, in workers of the leg, because the loop never waits for a disk.

One good leg is enough. Where the primary cannot be read, although that was tried twice, or has not
answered for `secondary_timeout`, the secondary answers, if it received every change in the same
batch as the primary, before the read and after it. An async secondary trails, and a suspended one
lacks the changes after its cut: an error is better than old content. Asking the secondary early
costs a thread and decides nothing: whichever leg answers first is believed, and a primary counts as
failed only after its own time-out. No read waits longer than both time-outs.

Every attempt fills a buffer of its own, taken in its thread: the thread of an attempt that hangs
may fill it at any later time, so it must not be one that is sent. A queued attempt therefore holds
no memory, and one whose read was answered meanwhile does nothing.

A sparse read asks the image for its holes first, and leaves them out. They stay out of the page
cache, too, so each such read needs a worker again: it is for long ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, cast

from duplexd.core.patience import PRIMARY, SECONDARY
from duplexd.runtime.buffers import Buffers
from duplexd.runtime.watch import LOOK_SECONDS, HungError, Watch
from duplexd.runtime.writeback import LostWritesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Extent, Volume
    from duplexd.core.pair import Pair
    from duplexd.engine.events import Events
    from duplexd.images.leg import Leg
    from duplexd.replication.leg_calls import LegCalls

    Done = Callable[[int, bytearray], None]
    SparseDone = Callable[[int, bytearray, list[Extent]], None]

KEPT_BYTES_MAX = 33 << 20  # of buffers, while there are reads: the pieces of a longest READ


class _Content(NamedTuple):
    """What one attempt has read; `extents` are of a sparse read."""

    buffer: bytearray
    extents: list[Extent]


_NOTHING = _Content(bytearray(), [])


class _Attempt(Watch["Leg"]):
    """One leg, asked for one read, with the watch of that call."""

    __slots__ = ("leg", "use")

    def __init__(self, leg: Leg, use: str) -> None:
        super().__init__()
        self.leg = leg
        self.use = use


class _Read:
    """A read that was not answered yet. `error` is the primary's, once it has failed."""

    __slots__ = (
        "answered", "attempts", "done", "error", "length", "offset", "pair", "room", "since",
        "sparse",
    )  # fmt: skip

    def __init__(
        self,
        pair: Pair,
        offset: int,
        length: int,
        room: int,
        done: SparseDone,
        sparse: bool,
        since: float,
    ) -> None:
        self.pair = pair
        self.offset = offset
        self.length = length
        self.room = room
        self.done = done
        self.sparse = sparse
        self.since = since  # loop time
        self.attempts: list[_Attempt] = []
        self.error: OSError | None = None
        self.answered = False

    @property
    def mirrored(self) -> bool:
        """Whether the secondary has what it wants."""
        return self.pair.mirror_has(self.offset, self.length)

    def tried(self, use: str) -> bool:
        """Whether this leg was asked."""
        return any(attempt.use == use for attempt in self.attempts)


class Reads:
    """Reads of volumes. `on_leg_failed(pair, leg, error)` is called for a leg that hangs or has
    lost writes, and `on_unreadable(pair, offset, length)` for a range that only the secondary could
    give.
    """

    def __init__(self, legs: LegCalls, events: Events) -> None:
        self._legs = legs
        self._events = events
        self._reported: set[int] = set()  # volumes whose primary failed a read
        # Not over; of a read that was not answered, there is at least one.
        self._asked: dict[_Attempt, _Read] = {}
        self._running: set[_Attempt] = set()  # of them, those that a worker has begun
        # Thousands may wait, so a look is at those for which it is time, and no others.
        self._young: dict[_Read, None] = {}  # for less time than a secondary has, oldest first
        self._late: list[tuple[float, int, _Read]] = []  # the others: a heap by when it is time
        self._numbers = count()
        self._slow: set[Leg] = set()  # primaries that did not answer in the time of a secondary
        self._timer: asyncio.TimerHandle | None = None
        self._buffers = Buffers(KEPT_BYTES_MAX)
        self.on_leg_failed: Callable[[Pair, Leg, OSError], None] = _nobody_swaps
        self.on_unreadable: Callable[[Pair, int, int], None] = _nobody_repairs

    def read(self, volume: Volume, offset: int, length: int, room: int, done: Done) -> None:
        """See `Backend`."""

        def plainly(number: int, buffer: bytearray, _extents: list[Extent]) -> None:
            done(number, buffer)

        self._begin(volume, offset, length, room, plainly, False)

    def read_sparse(
        self, volume: Volume, offset: int, length: int, room: int, done: SparseDone
    ) -> None:
        """See `Backend`."""
        self._begin(volume, offset, length, room, done, True)

    def _begin(
        self, volume: Volume, offset: int, length: int, room: int, done: SparseDone, sparse: bool
    ) -> None:
        pair = cast("Pair", volume)
        loop = asyncio.get_running_loop()
        read = _Read(pair, offset, length, room, done, sparse, loop.time())
        self._young[read] = None
        if pair.primary in self._slow and pair.mirror_has(offset, length):
            self._ask(read, SECONDARY)
        else:
            self._ask(read, PRIMARY)
        if self._timer is None:
            self._timer = loop.call_later(LOOK_SECONDS, self._look)

    def _ask(self, read: _Read, use: str) -> None:
        pair = read.pair
        leg = pair.primary if use == PRIMARY else pair.copy_of
        attempt = _Attempt(leg, use)
        read.attempts.append(attempt)
        self._asked[attempt] = read
        self._legs.workers.of(leg).submit(
            partial(_call, read, attempt, self._buffers, self._running),
            partial(self._tried, read, attempt),
        )

    # ----------------------------------------------------------------------------- its outcome

    def _tried(
        self,
        read: _Read,
        attempt: _Attempt,
        content: _Content | None,
        error: BaseException | None,
    ) -> None:
        del self._asked[attempt]
        self._running.discard(attempt)
        self._slow.discard(attempt.leg)
        if isinstance(error, LostWritesError):
            self.on_leg_failed(read.pair, attempt.leg, error)
        if read.answered:
            return
        if content is not None and _is_current(read, attempt.leg):
            self._answer(read, 0, content)
            if read.error is not None and not isinstance(read.error, HungError | LostWritesError):
                self.on_unreadable(read.pair, read.offset, read.length)
            return
        if all(other.leg is not read.pair.primary for other in read.attempts):
            self._ask(read, PRIMARY)  # the images have changed roles meanwhile
            return
        if attempt.use == PRIMARY:
            read.error = error if isinstance(error, OSError) else OSError(errno.EIO, repr(error))
            if read.mirrored and not read.tried(SECONDARY):
                self._ask(read, SECONDARY)
        elif not read.tried(PRIMARY):
            self._ask(read, PRIMARY)
        if not any(other in self._asked for other in read.attempts):
            self._fail(read)

    def _answer(self, read: _Read, number: int, content: _Content) -> None:
        read.answered = True
        self._young.pop(read, None)
        # of lost writes the failure of the leg is reported, and by a sync as well as by a read
        if read.error is not None and not isinstance(read.error, LostWritesError):
            self._report(read.pair, read.error)
        read.done(number, content.buffer, content.extents)

    def _fail(self, read: _Read) -> None:
        error = read.error
        self._answer(read, (error.errno if error is not None else 0) or errno.EIO, _NOTHING)

    def _report(self, pair: Pair, error: OSError) -> None:
        """Once for a volume: a client may repeat the read thousands of times a second."""
        if pair.id not in self._reported:
            self._reported.add(pair.id)
            why = error.strerror or str(error)
            path = pair.primary.path
            self._events.emit("primary-error", volume=pair.name, error=why, path=path)

    def waiting(self) -> bool:
        """Whether clients wait for a disk now."""
        return bool(self._asked)

    def repaired(self, pair: Pair) -> None:
        """The next range that cannot be read is reported again."""
        self._reported.discard(pair.id)

    # -------------------------------------------------------------------------------- hanging

    def _look(self) -> None:
        """Look at what was not answered yet, a few times a second."""
        self._timer = None
        now, patience = asyncio.get_running_loop().time(), self._legs.patience
        for attempt in list(self._running):
            if attempt in self._asked and attempt.waits_longer(patience.seconds(attempt.use), now):
                self._give_up(attempt)
        while self._young and next(iter(self._young)).since + patience.secondary_s <= now:
            read = next(iter(self._young))
            del self._young[read]
            self._look_at(read, now)
        while self._late and self._late[0][0] <= now:
            _time, _number, read = heappop(self._late)
            if not read.answered:
                self._look_at(read, now)
        if self._asked:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        else:
            self._late.clear()
            self._buffers.clear()

    def _give_up(self, attempt: _Attempt) -> None:
        """A leg that hangs has failed, for batches and all others too."""
        if not attempt.give_up(attempt.leg):
            return
        self._legs.workers.of(attempt.leg).replace()
        read = self._asked[attempt]
        error = HungError(attempt.leg, self._legs.patience.seconds(attempt.use))
        self.on_leg_failed(read.pair, attempt.leg, error)
        self._tried(read, attempt, None, error)

    def _look_at(self, read: _Read, now: float) -> None:
        """It may have spent its time in a queue: that says nothing of the leg."""
        patience = self._legs.patience
        if read.mirrored and not read.tried(SECONDARY):
            self._slow.add(read.attempts[0].leg)
            self._ask(read, SECONDARY)
        limit_s = patience.primary_s + (patience.secondary_s if read.tried(SECONDARY) else 0)
        if read.since + limit_s <= now:
            read.error = read.error or HungError(read.attempts[0].leg, limit_s)
            self._fail(read)
        else:
            heappush(self._late, (read.since + limit_s, next(self._numbers), read))


def _call(
    read: _Read, attempt: _Attempt, buffers: Buffers, running: set[_Attempt]
) -> _Content | None:
    """In a worker."""
    if read.answered:
        return None
    running.add(attempt)
    extents = [(read.offset, read.length, True)]
    if read.sparse:
        with contextlib.suppress(OSError), attempt.at(attempt.leg):  # else it reads all of it
            extents = attempt.leg.extents(read.offset, read.length)
    size = read.room + read.length
    whole = all(is_data for _, _, is_data in extents)
    content = buffers.take(size) if whole else bytearray(size)  # holes are zeroes in it
    for offset, length, is_data in extents:
        start = read.room + offset - read.offset
        if is_data:
            _fill(attempt, offset, memoryview(content)[start : start + length])
    return _Content(content, extents)


def _fill(attempt: _Attempt, offset: int, part: memoryview) -> None:
    leg = attempt.leg
    try:
        with attempt.at(leg):
            leg.read_into(offset, part)
    except OSError:
        if attempt.use != PRIMARY:
            raise
        with attempt.at(leg):
            leg.read_into(offset, part)


def _is_current(read: _Read, leg: Leg) -> bool:
    """Whether this leg has every change: it may have been suspended, or swapped, during a read; or
    it was found to differ.
    """
    return leg is read.pair.primary or (leg is read.pair.secondary and read.mirrored)


def _nobody_swaps(_pair: Pair, _leg: Leg, _error: OSError) -> None:
    """Nobody has another leg."""


def _nobody_repairs(_pair: Pair, _offset: int, _length: int) -> None:
    """Nobody writes it anew."""

"""The timeline: one journal, one sequence, and the only way to write to either.

Two kinds of things get numbers. A *batch* is changes of clients, which may take a while: it is
given to an executor, and meanwhile the journal belongs to it. Everything else, a marker that moves
states, is appended *at rest*, between two batches, in one turn of the event loop. So a step at rest
sees all changes before it done on the legs and none after it begun: that is what makes a cut a
position, and why no lock is needed. At most one batch runs; what arrives meanwhile queues
(`write_path.py`) or waits for the rest (`at_rest`).

The ledger is folded here right after each marker is written, so the states in memory are always
those that a restart would find. Others do not poll: they listen (`on_written`, `on_segment`,
`on_failed`, `on_rest`), or set a reason in `Admission`, which the write path asks.

Considered and left: a lock around the journal (every step would be a task, and steps would
interleave with batches at each await), and markers inside batches (a batch that fails half-way
would then have to undo states). What would change this: a write thread that owns the journal. It
would take the place of `Executor`, whose one method is the seam for it.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from duplexd.core.ledger import Place
from duplexd.core.markers import Equal, Regions, encode
from duplexd.core.pair import refresh
from duplexd.core.transitions import Moving
from duplexd.errors import DamageError, DuplexdError
from duplexd.journal.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.core.ledger import Ledger
    from duplexd.core.markers import Marker
    from duplexd.core.pair import Pair
    from duplexd.engine.apply import Batch, Executor
    from duplexd.journal.writer import Writer
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.threads import Workers

T = TypeVar("T")


class Timeline:
    """All methods are called from the event loop. `failed` says why no change is taken any more: it
    is final, only a restart, which recovers, ends it.
    """

    def __init__(
        self,
        writer: Writer,
        ledger: Ledger,
        pairs: Mapping[int, Pair],
        executor: Executor,
        sync_workers: Workers,
        clock: Clock,
    ) -> None:
        """`pairs`: those that are served, by number; looked into when their markers are written.
        `sync_workers` sync the journal.
        """
        self.writer = writer
        self.ledger = ledger
        self.failed = ""
        self.busy = False  # a batch has the journal
        self.group_commit = GroupCommit(writer, sync_workers, clock, self.fail)
        self.on_written: list[Callable[[], None]] = []  # the journal grew
        self.on_segment: Callable[[], None] = _nothing  # it went on to another segment
        self.on_failed: list[Callable[[str], None]] = []  # once, with the reason
        self.on_rest: Callable[[], None] = _nothing  # a batch that ran elsewhere is over
        self.on_no_room: Callable[[OSError], None] = _nothing_to_free
        self.consequences: Callable[[Batch], None] = _nothing_of  # of what failed in a batch
        self._pairs = pairs
        self._executor = executor
        self._clock = clock
        self._segment = writer.segment
        self._before_batch = 0  # the last number when the batch that runs began
        self._steps: deque[Callable[[], None]] = deque()

    # ------------------------------------------------------------------------------ positions

    @property
    def written(self) -> int:
        """The number of the last record."""
        return self.writer.written

    @property
    def performed(self) -> int:
        """The last number up to which all changes are on the primaries; beyond it they may be in
        the journal alone.

        A copy from a primary must not have followed the journal further, or it would put older
        content over newer.
        """
        return self._before_batch if self.busy else self.writer.written

    @property
    def log_position(self) -> int:
        """Bytes ever written to the journal, to measure how far a reader trails."""
        return self.writer.log_position

    # ---------------------------------------------------------------------------------- steps

    def when_at_rest(self, call: Callable[[], None]) -> None:
        """Run `call` between two batches: now if none runs."""
        if self.busy:
            self._steps.append(call)
        else:
            call()

    async def at_rest(self, call: Callable[[], T]) -> T:
        """The result of `call`, run between two batches.

        A caller that is cancelled before that has had nothing done; after it, all of it.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = call()
            except Exception as error:  # noqa: BLE001  the caller gets it
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.when_at_rest(run)
        return await future

    def append(self, marker: Marker) -> int:
        """Write a marker and fold it, at rest; returns its number.

        Raises WrongStateError, with nothing written, if it does not fit the states; OSError if
        the journal refuses it.
        """
        if self.busy:
            raise RuntimeError(f"{marker!r} is not at rest: a batch has the journal")
        if self.failed:
            raise OSError(errno.EIO, self.failed)
        self.ledger.check(marker)
        writer, time_us = self.writer, self.now_us()
        before, chain = writer.sequence, writer.chain
        try:
            sequence = writer.write_marker(encode(marker), time_us)
        except OSError as error:
            self.refused(error)
            raise
        in_one_segment = sequence == before + 1
        self._fold(
            marker, Place(sequence, time_us, writer.chain, chain if in_one_segment else None)
        )
        self._grew()
        return sequence

    def must(self, call: Callable[[], T]) -> T:
        """The result of `call`, at rest, which writes a marker without which a restart could find a
        state that is not true: if the journal refuses it, the controller fails.
        """
        try:
            return call()
        except OSError as error:
            self.refused(error, final=True)
            raise

    def _fold(self, marker: Marker, place: Place) -> None:
        """What holds only while running is noted with the marker: a pair that mirrors has all
        changes before it, and so has a secondary that is said to be equal. A restart cannot rely
        on either: what the secondary's cache had may be lost.
        """
        moving = [
            pair
            for number in (marker.volumes if isinstance(marker, Moving) else ())
            if (pair := self._pairs.get(number)) is not None
        ]
        current = [pair.record for pair in moving if pair.mirrors]
        if isinstance(marker, Equal):
            current = [pair.record for pair in moving]
        try:
            self.ledger.apply(place, marker, current)
        except DamageError as error:  # a broken invariant: no state can be trusted any more
            self.fail(str(error))
            raise
        if moving:
            refresh(moving)

    def now_us(self) -> int:
        """The time that a record gets, microseconds since 1970."""
        return int(self._clock.wall() * 1e6)

    # -------------------------------------------------------------------------------- batches

    def batch(self, batch: Batch) -> None:
        """Journal and apply a batch. `batch.answer` is called when it is over: before this returns,
        if it is small, else from the loop later. At rest only.
        """
        self.busy, self._before_batch = True, self.writer.written
        batch.time_us = self.now_us()
        self._executor.execute(batch, self._performed)

    def redo(self, batch: Batch) -> None:
        """Journal and apply what the engine itself has to write, at rest. Raises OSError."""
        batch.time_us = self.now_us()
        self._executor.execute_here(batch)
        self._track(batch)

    def _performed(self, batch: Batch, error: BaseException | None) -> None:
        """The batch is in the journal and on the legs, or, with an error, on no leg.

        Whatever happens here, clients are answered and steps that wait are run; an error that
        nobody expected is final, and raised at the end, so that it is logged.
        """
        self.busy = False
        unexpected: BaseException | None = None
        if error is None:
            unexpected = self._note(batch)
        elif isinstance(error, OSError):
            for number, regions in batch.regions.items():
                self.ledger.pairs[number].regions.untouch(regions)
            self.refused(error, final=batch.journaled)
        else:
            unexpected = error
        if unexpected is not None:
            self.fail(f"a batch ended in an unexpected way: {unexpected!r}")
        try:
            batch.answer(batch, error)
            if error is None:
                self._grew()
        finally:
            if batch.heavy:
                self._rest()
        if unexpected is not None:
            raise unexpected

    def _note(self, batch: Batch) -> Exception | None:
        """The changes are done, so their clients get answers even if this fails. Returns an error
        that nobody expected.
        """
        if batch.regions:
            place = Place(batch.regions_sequence, batch.time_us)
            self.ledger.apply(place, Regions(batch.regions))
        self._track(batch)
        if batch.failures or batch.primary_errors:
            try:
                self.consequences(batch)
            except OSError as error:
                self.refused(error, final=True)
            except DamageError as error:
                self.fail(str(error))
            except Exception as error:  # noqa: BLE001  the caller raises it
                return error
        return None

    def _track(self, batch: Batch) -> None:
        for change in batch.changes:
            pair = change.volume
            if pair.tracks:
                self.ledger.track(pair.record, change.kind, change.offset, change.length)

    def _grew(self) -> None:
        if self._segment is not self.writer.segment:
            self._segment = self.writer.segment
            self.on_segment()
        for listener in self.on_written:
            listener()

    def _rest(self) -> None:
        while self._steps and not self.busy:
            self._steps.popleft()()
        self.on_rest()

    # ----------------------------------------------------------------------------- durability

    def when_durable(self, sequence: int, done: Callable[[int], None]) -> None:
        """Call `done(errno)` once record `sequence` survives a power cut; 0 is success."""
        self.group_commit.wait(sequence, done)

    async def durable(self, sequence: int | None = None) -> None:
        """Wait until record `sequence`, or all that is written now, survives a power cut.

        Raises DuplexdError if the journal can't be synced.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        number = self.written if sequence is None else sequence
        self.when_durable(number, lambda error: None if future.done() else future.set_result(error))
        if await future:
            why = self.failed or "restart the daemon"
            raise DuplexdError(f"the journal could not be synced; {why}")

    # ------------------------------------------------------------------------------- failures

    def refused(self, error: OSError, final: bool = False) -> None:
        """The journal did not take something. `final`: the controller can't go on without it."""
        if error.errno == errno.ENOSPC and not final:
            self.on_no_room(error)
        else:
            self.fail(f"the journal could not be written: {error.strerror or error}")

    def fail(self, why: str) -> None:
        """Take no change any more: reads go on, changes and flushes get EIO until a restart."""
        if self.failed:
            return
        self.failed = why
        self.group_commit.dead = True  # what a sync lost, the next one would not say
        for listener in self.on_failed:
            listener(why)


def _nothing() -> None:
    """Nobody listens."""


def _nothing_of(_batch: Batch) -> None:
    """Nobody draws consequences."""


def _nothing_to_free(_error: OSError) -> None:
    """Nobody makes room."""

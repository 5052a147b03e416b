"""The timeline: one journal, one sequence, and the only way to write to either.

Two kinds of records get numbers. A *batch* is a set of changes from clients. It may take a while,
so it is passed to an executor, which owns the journal until the batch is done. A marker, which
changes states, is appended *at rest*: between two batches, in one turn of the event loop. So a step
at rest runs when every earlier change is on the legs and no later one has begun. That is what makes
a cut a position, and why no lock is needed. At most one batch runs; changes that arrive meanwhile
queue (`write_path.py`), and steps wait for it to end (`at_rest`).

A marker gets its number and is folded into the ledger at once, but the event loop must not write
to a disk: the record is staged, and written by a worker after the step, before any later batch.
Who waits for the step goes on only when its records are in the file, so what is said of a state is
what a restart would find. Until then only the states in memory are ahead.

Other parts do not poll: they are called (`on_written`, `on_segment`, `on_failed`, `on_rest`), or
they set a reason in `Admission`, which the write path reads.

Considered and rejected: a lock around the journal (every step would be a task, and steps would
interleave with batches at each await), and markers inside batches (a batch that fails half-way
would then have to undo states).
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from duplexd.core import marker_check
from duplexd.core.ledger import Place
from duplexd.core.markers import CutAt, Equal, MakeCut, Regions, encode
from duplexd.core.pair import refresh
from duplexd.core.transitions import Moving
from duplexd.errors import DamageError, DuplexdError
from duplexd.journal.group_commit import GroupCommit
from duplexd.journal.writer import NO_SPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from duplexd.core.ledger import Ledger
    from duplexd.core.markers import Marker
    from duplexd.core.pair import Pair, PairChange
    from duplexd.engine.apply import Executor
    from duplexd.engine.batch import Batch
    from duplexd.journal.writer import Writer
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.threads import Workers

T = TypeVar("T")

STAGED_AGAIN_SECONDS = 1.0  # between two attempts to write markers while the disk is full


class _Waiter(NamedTuple):
    """Who waits for record `sequence` to be in the file; `done` gets an error if it never will."""

    sequence: int
    done: Callable[[OSError | None], None]


class Timeline:
    """All methods are called from the event loop. `failed` says why changes are refused; it is
    final: only a restart, which recovers, clears it.
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
        """`pairs`: those that are served, by number; brought up to date when their markers are
        written. `sync_workers` sync the journal.
        """
        self.writer = writer
        self.ledger = ledger
        self.failed = ""
        self.busy = False  # a worker has the journal
        self.group_commit = GroupCommit(writer, sync_workers, clock, self.fail)
        self.on_written: list[Callable[[], None]] = []  # the journal grew
        self.on_segment: Callable[[], None] = _nothing  # it continued in another segment
        self.on_moved: Callable[[Sequence[Pair]], None] = _nobody_watches  # markers moved them
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
        self._waiters: list[_Waiter] = []
        self._again: asyncio.TimerHandle | None = None  # the disk is full: staged markers wait

    # ------------------------------------------------------------------------------ positions

    @property
    def written(self) -> int:
        """The number of the last record."""
        return self.writer.written

    @property
    def performed(self) -> int:
        """The last number up to which all changes are on the primaries; later ones may be in the
        journal only.

        A copy job must not follow the journal beyond it: copying from a primary afterwards would
        overwrite newer content with older.
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
            return
        try:
            call()
        finally:
            self._write_staged()

    async def at_rest(self, call: Callable[[], T]) -> T:
        """The result of `call`, run between two batches, once what it appended is in the file.

        If the caller is cancelled before that, `call` is not run; after that, it has run whole.
        Raises OSError if the journal cannot be written.
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
                return
            self._when_written(lambda error: _resolve(future, result, error))

        self.when_at_rest(run)
        return await future

    def append(self, marker: Marker) -> int:
        """Stage a marker and fold it, at rest; returns its number.

        Raises WrongStateError, with nothing staged, if it does not fit the states; OSError if the
        journal has no room for it.
        """
        if self.busy:
            raise RuntimeError(f"{marker!r} appended while a batch has the journal, not at rest")
        if self.failed:
            raise OSError(errno.EIO, self.failed)
        marker_check.check(marker, self.ledger.pairs, self.ledger.readers)
        writer, time_us = self.writer, self.now_us()
        before, chain = writer.sequence, writer.chain
        try:
            sequence = writer.append_marker(encode(marker), time_us)
        except OSError as error:
            self.refused(error)
            raise
        except MemoryError:
            self.fail("out of memory while a marker was made")
            raise
        writer.stage()
        in_one_segment = sequence == before + 1
        self._fold(
            marker, Place(sequence, time_us, writer.chain, chain if in_one_segment else None)
        )
        return sequence

    def must(self, call: Callable[[], T]) -> T:
        """The result of `call`, at rest, for a marker without which a restart would find a false
        state: if it cannot be written, the controller fails.
        """
        try:
            return call()
        except OSError as error:
            self.refused(error, final=True)
            raise

    def _fold(self, marker: Marker, place: Place) -> None:
        """Fold a marker, with what is true only while the daemon runs: the secondary of a pair that
        mirrors, or that an EQUAL marker names, holds all changes before it. After a restart that
        may be false, because the secondary's page cache may be lost.
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
        except DamageError as error:  # a broken invariant: no state can be trusted
            self.fail(str(error))
            raise
        if moving:
            refresh(moving)
            if not isinstance(marker, MakeCut | CutAt):  # it moves pairs that nobody reads yet
                self.on_moved(moving)

    def now_us(self) -> int:
        """The time that a record gets, microseconds since 1970."""
        return int(self._clock.wall() * 1e6)

    # --------------------------------------------------------------------------- staged markers

    def _write_staged(self) -> None:
        """Have a worker write them, unless a batch does it first."""
        if not self.writer.staged or self.busy or self.failed or self._again is not None:
            return
        self.busy, self._before_batch = True, self.writer.written
        self._executor.write_staged(self._staged_written)

    def _staged_written(self, error: BaseException | None) -> None:
        self.busy = False
        if isinstance(error, OSError):
            self._staged_refused(error)
        elif error is not None:
            self.fail(f"unexpected error of the journal: {error!r}")
        else:
            self._grew()
        self._rest()

    def _staged_refused(self, error: OSError) -> None:
        """They are folded already, so they are written when there is room, before all else."""
        if error.errno not in NO_SPACE:
            self.refused(error, final=True)
            return
        self.refused(error)
        loop = asyncio.get_running_loop()
        self._again = loop.call_later(STAGED_AGAIN_SECONDS, self._write_staged_again)

    def _write_staged_again(self) -> None:
        self._again = None
        self._write_staged()

    def _when_written(self, done: Callable[[OSError | None], None]) -> None:
        """Call `done` when everything up to now is in the file: at once if it is."""
        if self.failed and self.writer.staged:
            done(OSError(errno.EIO, self.failed))
        elif self.writer.staged:
            self._waiters.append(_Waiter(self.writer.sequence, done))
        else:
            done(None)

    # -------------------------------------------------------------------------------- batches

    def batch(self, batch: Batch) -> None:
        """Journal and apply a batch. `batch.answer` is called when it is done, later, from the
        loop. At rest only.
        """
        self.busy, self._before_batch = True, self.writer.written
        batch.time_us = int(self._clock.wall() * 1e6)
        self._executor.execute(batch, self._performed)

    def _performed(self, batch: Batch, error: BaseException | None) -> None:
        """The batch is in the journal and on the legs, or, with an error, on no leg.

        Whatever happens here, clients are answered and steps that wait are run; an error that
        nobody expected is final, and raised at the end, so that it is logged.
        """
        self.busy = False
        unexpected: BaseException | None = None
        try:
            if error is None:
                if batch.tracked and batch.changes:  # none if all were trims that a leg cannot do
                    self._track(batch.changes)
                if batch.regions or batch.failures or batch.primary_errors or batch.dead:
                    self._note(batch)
            elif isinstance(error, OSError):
                for number, regions in batch.regions.items():
                    self.ledger.pairs[number].regions.untouch(regions)
                self.refused(error, final=batch.journaled)
            else:
                unexpected = error
        except Exception as found:  # noqa: BLE001  raised below
            unexpected = found
        if unexpected is not None:
            self.fail(f"unexpected error in a batch: {unexpected!r}")
        try:
            batch.answer(batch, error)
            if self._waiters or self.on_written or self._segment is not self.writer.segment:
                self._grew()
        finally:
            self._rest()
        if unexpected is not None:
            raise unexpected

    def _note(self, batch: Batch) -> None:
        """Record what a batch opened, and what failed in it. The changes are done, whatever becomes
        of it.
        """
        if batch.regions:
            place = Place(batch.regions_sequence, batch.time_us)
            self.ledger.apply(place, Regions(batch.regions))
        if batch.restored:
            self._track(batch.restored)
        if batch.failures or batch.primary_errors or batch.dead:
            try:
                self.consequences(batch)
            except OSError as error:
                self.refused(error, final=True)
            except DamageError as error:
                self.fail(str(error))

    def _track(self, changes: Sequence[PairChange]) -> None:
        """Note changes; those of one volume that follow each other, mostly all, in one call."""
        volume, start = changes[0].volume, 0
        for at, change in enumerate(changes):
            if change.volume is not volume:
                self._track_run(volume, changes[start:at])
                volume, start = change.volume, at
        self._track_run(volume, changes[start:] if start else changes)

    def _track_run(self, volume: Pair, changes: Sequence[PairChange]) -> None:
        if volume.tracks:
            self.ledger.track_all(volume.record, changes)

    def _grew(self) -> None:
        written = self.writer.written
        if self._waiters:
            arrived = [waiter for waiter in self._waiters if waiter.sequence <= written]
            self._waiters = [waiter for waiter in self._waiters if waiter.sequence > written]
            for waiter in arrived:
                waiter.done(None)
        if self._segment is not self.writer.segment:
            self._segment = self.writer.segment
            self.on_segment()
        for listener in self.on_written:
            listener()

    def _rest(self) -> None:
        while self._steps and not self.busy:
            self._steps.popleft()()
        self.on_rest()  # a batch that begins now writes what is staged
        if self.writer.staged:
            self._write_staged()

    # ----------------------------------------------------------------------------- durability

    def when_durable(self, sequence: int, done: Callable[[int], None]) -> None:
        """Call `done(errno)` once record `sequence` survives a power cut; 0 is success."""
        self.group_commit.wait(sequence, done)

    async def durable(self, sequence: int | None = None) -> None:
        """Wait until record `sequence`, or all that is written now, survives a power cut.

        Raises DuplexdError if the journal can't be synced; OSError if it can't be written.
        """
        if self.writer.staged and (sequence is None or sequence > self.written):
            await self.at_rest(_nothing)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        number = self.written if sequence is None else sequence
        self.when_durable(number, lambda error: None if future.done() else future.set_result(error))
        if await future:
            why = self.failed or "restart the daemon"
            raise DuplexdError(f"the journal could not be synced; {why}")

    # ------------------------------------------------------------------------------- failures

    def refused(self, error: OSError, final: bool = False) -> None:
        """A write to the journal failed. `final`: the controller can't continue without it."""
        if error.errno in NO_SPACE and not final:
            self.on_no_room(error)
        else:
            where = f"{error.filename}: " if error.filename else ""
            self.fail(f"the journal could not be written: {where}{error.strerror or error}")

    def fail(self, why: str) -> None:
        """Refuse changes and flushes with EIO until a restart; reads continue."""
        if self.failed:
            return
        self.failed = why
        self.group_commit.dead = True  # a later fdatasync does not report what this one lost
        for listener in self.on_failed:
            listener(why)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.done(OSError(errno.EIO, why))


def _resolve(future: asyncio.Future[T], result: T, error: OSError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _nothing() -> None:
    """Nobody listens."""


def _nobody_watches(_pairs: Sequence[Pair]) -> None:
    """Nobody reads secondaries."""


def _nothing_of(_batch: Batch) -> None:
    """Nobody draws consequences."""


def _nothing_to_free(_error: OSError) -> None:
    """Nobody makes room."""

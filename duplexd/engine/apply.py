"""One batch: changes that get their numbers together, are journaled, and are applied to the legs.

The order is journal, then secondary, then primary, change by change:

    journal    first, because it is the write-ahead log of both legs: whatever a crash leaves on
               them, recovery applies the records again, and everything on a leg has a record.
    secondary  before the primary, because a change that fails on the secondary may be half written.
               The secondary is then repaired from the primary, which has not been written yet and
               so still has the old content. In the other order the old content would be lost.
    primary    last. If it fails, the secondary has the change: the pair goes on with it (a swap,
               see `failures.py`), and the client sees no error. Without a secondary that has it
               the client gets the error, and what the primary holds there now is journaled as a new
               change, so that a replay makes of it what clients read in between.

All of this waits for disks, so it is done in a worker, and the progress is kept in the batch, not
on the worker's stack. When a leg hangs, the worker is given up (`runtime/watch.py`), the leg counts
as failed at that change, and another worker goes on from there. The journal is waited for: without
it nothing can go on but reads.

Only one batch runs at a time, so it owns the writer meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
from bisect import bisect_left
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from duplexd.backend import WRITE
from duplexd.core.markers import Regions, encode
from duplexd.core.patience import PRIMARY, SECONDARY
from duplexd.engine.batch import GIVING, NOT_YET, READING, PrimaryFailure, SecondaryFailure
from duplexd.engine.hung_disks import LOOK_SILENT_SECONDS
from duplexd.engine.repair import heal, held
from duplexd.journal.writer import NO_SPACE
from duplexd.runtime.histogram import Histogram
from duplexd.runtime.watch import LOOK_SECONDS, HungError, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair, PairChange
    from duplexd.core.patience import Access
    from duplexd.engine.batch import Batch, Done, Note
    from duplexd.engine.hung_disks import HungDisks
    from duplexd.images.leg import Leg
    from duplexd.journal.writer import Writer
    from duplexd.runtime.threads import Workers

JOURNAL = "journal"  # what a worker waits for when it is at no leg


class Executor:
    """Executes batches: small ones in `light` workers, large ones in `heavy` ones.

    `group_of` gives the pairs that are suspended with a failing one; `disks` says how long a leg
    may hang, and which others hang with it. A reload replaces `swaps` (whether a pair goes on with
    its secondary when its primary fails).
    """

    def __init__(
        self,
        writer: Writer,
        group_of: Callable[[Pair], set[Pair]],
        disks: HungDisks,
        light: Workers,
        heavy: Workers,
        record_bytes_max: int,
    ) -> None:
        self._writer = writer
        self._group_of = group_of
        self._disks = disks
        self._light = light
        self._heavy = heavy
        self._record_bytes_max = record_bytes_max
        self.swaps = True
        self.heavy_changes = 0
        self.appends = Histogram()  # seconds that writing a batch to the journal took
        self._watch: Watch[Note] = Watch()
        self._batch: Batch | None = None  # that runs
        self._done: Done = _nobody
        self._over: Callable[[None, BaseException | None], None] = self._ended
        self._timer: asyncio.TimerHandle | None = None

    def execute(self, batch: Batch, done: Done) -> None:
        """Perform a batch; `done(batch, error)` is called later, in the loop.

        The error is an OSError if the journal did not take it: then no leg was written, and, unless
        it is `journaled`, a restart will not find it either.
        """
        self._batch, self._done = batch, done
        if self._timer is None:
            self._look_later()
        workers = self._light
        if batch.heavy:
            self.heavy_changes += len(batch.changes)
            workers = self._heavy
        workers.submit(self._perform, self._over)

    def write_staged(self, done: Callable[[BaseException | None], None]) -> None:
        """Write what is staged in the journal; `done(error)` is called later, in the loop."""
        if self._timer is None:
            self._look_later()
        watch, writer = self._watch, self._writer

        def write() -> None:
            watch.inside.append(JOURNAL)
            try:
                writer.write()
            finally:
                watch.inside.pop()

        self._light.submit(write, lambda _none, error: done(error))

    def journal_waits_s(self) -> float:
        """How long the journal has not answered; 0 if it is not waited for."""
        watch = self._watch
        if watch.waits_for() != JOURNAL:
            return 0.0
        return max(watch.waited_s(asyncio.get_running_loop().time()), 0.0)

    # ------------------------------------------------------------------------- legs that hang

    def _look_later(self) -> None:
        seconds = LOOK_SILENT_SECONDS if self._disks.silent else LOOK_SECONDS
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Look at the batch that runs, a few times a second while there are any."""
        self._timer = None
        watch, batch = self._watch, self._batch
        note = watch.waits_for()
        if batch is None and note is None:
            return
        self._look_later()
        if batch is None or note is None or isinstance(note, str):  # JOURNAL
            return
        at, leg = batch.place(note)
        use = PRIMARY if any(leg is c.volume.primary for c in batch.changes) else SECONDARY
        disks, waited_s = self._disks, watch.waited_s(asyncio.get_running_loop().time())
        if disks.silent:
            disks.forget()
            disks.heard(batch, batch.changes[batch.at : at])
        disks.waits(leg, use, waited_s)
        if waited_s >= disks.seconds(leg, use) and watch.give_up(note):
            batch.at = at
            error = HungError(leg, disks.patience.seconds(use))
            self._go_on_without(batch, error, disks.gave_up(leg, waited_s))

    def _go_on_without(self, batch: Batch, error: HungError, others: Sequence[Access]) -> None:
        """In another worker: the one that hangs was given up. `others` hang with its leg."""
        workers = self._heavy if batch.heavy else self._light
        workers.replace()
        fresh = self._watch = Watch()
        self._over = self._ended_after_silence
        workers.submit(partial(self._go_on, batch, fresh, error, others), self._over)

    def _ended_after_silence(self, none: None, error: BaseException | None) -> None:
        """In place of `_ended` while disks are silent: those that have answered no longer are."""
        batch, disks = self._batch, self._disks
        if batch is not None and error is None:
            disks.heard(batch, batch.changes[batch.at :])
        disks.forget()
        if not disks.silent:
            self._over = self._ended
        self._ended(none, error)

    def _ended(self, _none: None, error: BaseException | None) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            raise RuntimeError("a batch ended that had not begun")
        self._done(batch, error)

    # -------------------------------------------------------------------------- in the worker

    def _perform(self) -> None:
        batch = self._batch
        if batch is None:
            raise RuntimeError("a batch is performed that has not begun")
        self.perform(batch)

    def perform(self, batch: Batch) -> None:
        """Journal and apply a batch, here and now. Failures of legs are noted in the batch."""
        watch = self._watch
        watch.calls += 1  # so that its notes differ from those of other batches
        watch.inside.append(JOURNAL)
        began = monotonic()
        try:
            if batch.regions:
                _journal_with_regions(batch, self._writer)
            else:
                self._writer.write_changes(batch.changes, batch.time_us)
                batch.journaled = True
        except BaseException:
            watch.inside.pop()
            raise
        # `observe`, in place: this is on the path of every write
        took, appends = monotonic() - began, self.appends
        appends.counts[bisect_left(appends.bounds, took)] += 1
        appends.total += took
        self._apply(batch, watch, 0, False)

    def _go_on(
        self, batch: Batch, watch: Watch[Note], error: HungError, others: Sequence[Access] = ()
    ) -> None:
        """After the worker before was given up at change `batch.at`. `others` hang as well, and get
        no later change. While primaries are restored they do: they fail when the batch is over.
        """
        if batch.restoring != NOT_YET:
            self._leave_unrestored(batch, error)
            self._restore(batch, watch)
            return
        watch.inside.append(JOURNAL)  # it moves from here
        change, failure = batch.changes[batch.at], batch.healing
        pair, is_primary = change.volume, error.what is change.volume.primary
        died = {
            pair: PrimaryFailure(change, HungError(leg, error.seconds))
            for pair, leg, use in others
            if use == PRIMARY and pair not in batch.dead
        }
        lost = {pair for pair, _leg, use in others if use != PRIMARY}
        # First of all: a pair that goes on without its primary is not frozen with others.
        batch.dead |= {each: why for each, why in died.items() if each not in lost}
        if failure is not None or not is_primary:
            self._torn(batch, failure or SecondaryFailure(pair, change.sequence, error))
        if is_primary:
            self._primary_failed(batch, watch, change, error, final=True)
        batch.dead |= died
        self._leave(batch, change, others, error)
        self._apply(batch, watch, batch.at + is_primary, not is_primary)

    def _apply(self, batch: Batch, watch: Watch[Note], first: int, half: bool) -> None:
        """Apply the changes from place `first` on; `half`: its secondary is done.

        Once a secondary fails, it and the other secondaries of its group are no longer written:
        they are suspended at the number before the failed change.

        The note is moved from call to call, not removed between them. A move fails, too, if the
        loop has taken the note, so nothing is called after that.
        """
        changes, frozen, dead, inside = batch.changes, batch.frozen, batch.dead, watch.inside
        # Where changes go: looked up once for those of one volume that follow each other.
        volume: Pair | None = None
        secondary: Leg | None = None
        without = first if half else -1
        try:
            for at in range(first, len(changes)):
                change = changes[at]
                pair = change.volume
                if pair is not volume:
                    volume = pair
                    secondary = pair.secondary if pair.mirrors and pair not in frozen else None
                if secondary is not None and at != without:
                    inside[0] = at
                    try:
                        if change.kind == WRITE:  # here, not in a function: once for each change
                            secondary.write(change.offset, change.data)
                        else:
                            secondary.zero(change.offset, change.length, change.allocate)
                    except OSError as error:
                        self._secondary_failed(batch, watch, at, error)
                        secondary = None
                if dead and pair in dead:
                    if pair in frozen or not pair.mirrors:
                        change.error = errno.EIO
                    continue
                inside[0] = ~at
                try:
                    if change.kind == WRITE:
                        pair.primary.write(change.offset, change.data)
                    else:
                        pair.primary.zero(change.offset, change.length, change.allocate)
                except OSError as error:
                    self._primary_failed(batch, watch, change, error)
            inside.pop()
        except BaseException:
            if watch.given_up or inside:  # else a call has removed it before it failed
                watch.leave()
            raise
        if batch.primary_errors:
            self._restore(batch, watch)

    # ------------------------------------------------------------------- legs that fail

    def _secondary_failed(self, batch: Batch, watch: Watch[Note], at: int, error: OSError) -> None:
        watch.leave()
        batch.at, change = at, batch.changes[at]
        pair = change.volume
        failure = SecondaryFailure(pair, change.sequence, error)
        failure.lost = error.errno == errno.ESTALE  # not the image any more that it was
        if failure.lost or pair in batch.dead or _is_behind(batch, pair, change):
            failure.torn = True  # or the primary cannot say what was there
        else:
            batch.healing = failure
            heal(failure, change, watch, self._record_bytes_max)
        self._freeze(batch, failure)
        watch.inside.append(JOURNAL)

    def _torn(self, batch: Batch, failure: SecondaryFailure) -> None:
        failure.torn = True
        self._freeze(batch, failure)

    def _freeze(self, batch: Batch, failure: SecondaryFailure) -> None:
        """A pair of the group that goes on with its secondary alone is not suspended with it: when
        the batch is over that is its primary, as if the swap had come before.
        """
        pair, dead = failure.pair, batch.dead.keys() - batch.frozen
        leading = {each for each in dead if each is not pair and self._goes_on(each)}
        failure.members = self._group_of(pair) - leading
        batch.healing = None
        batch.failures.append(failure)
        batch.frozen |= failure.members
        for pair in batch.frozen & batch.dead.keys():
            self._both_failed(batch, pair)

    def _both_failed(self, batch: Batch, pair: Pair) -> None:
        """No leg goes on with what the secondary has taken alone. It is in the journal."""
        first = batch.dead[pair].change.sequence
        for change in batch.changes:
            if change.volume is pair and change.sequence >= first:
                change.error = errno.EIO

    def _primary_failed(
        self,
        batch: Batch,
        watch: Watch[Note],
        change: PairChange,
        error: OSError,
        final: bool = False,
    ) -> None:
        """`final`: it takes nothing more, also where no secondary can go on."""
        watch.inside[0] = JOURNAL
        pair, failure = change.volume, PrimaryFailure(change, error)
        goes_on = self._goes_on(pair) and pair not in batch.frozen
        if goes_on or final:
            batch.dead[pair] = failure
        if not goes_on:
            change.error = error.errno or errno.EIO
            if not final:
                batch.primary_errors.append(failure)

    def _goes_on(self, pair: Pair) -> bool:
        """Whether it does so with its secondary when its primary fails, unless that is frozen."""
        return self.swaps and pair.can_lead

    def _leave(
        self, batch: Batch, change: PairChange, others: Sequence[Access], error: HungError
    ) -> None:
        """Give these secondaries nothing after `change`. That of its own pair has it."""
        for pair, leg, use in others:
            if use != PRIMARY and pair not in batch.frozen:
                hung = HungError(leg, error.seconds)
                self._freeze(batch, SecondaryFailure(pair, change.sequence + 1, hung))

    def _restore(self, batch: Batch, watch: Watch[Note]) -> None:
        """Journal what primaries hold where they refused a change, and give it to secondaries.

        Where a primary cannot be read either, clients read nothing that a replay would contradict.
        """
        if batch.restoring != GIVING:
            batch.restoring = READING
            batch.restored = self._held(batch, watch)
            if batch.restored:
                self._journal_restored(batch, watch)
            batch.restoring = GIVING
        for at, found in enumerate(batch.restored):
            batch.at, pair = at, found.volume
            if pair.mirrors and pair not in batch.frozen:
                self._give(batch, found, watch)

    def _journal_restored(self, batch: Batch, watch: Watch[Note]) -> None:
        """Room is reserved for the batch, not for this. Without it the primaries cannot be used,
        but the controller can.
        """
        try:
            with watch.at(JOURNAL):
                self._writer.write_changes(batch.restored, batch.time_us)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            batch.restored = []
            for failure in batch.primary_errors:
                batch.dead[failure.change.volume] = failure

    def _leave_unrestored(self, batch: Batch, error: HungError) -> None:
        """A leg hung after the changes: while it was read, given to, or made whole again."""
        for change, _ in batch.primary_errors:
            if error.what is change.volume.primary:
                batch.dead[change.volume] = PrimaryFailure(change, error)
        if batch.restoring == GIVING:  # whichever it was, the secondary did not get it whole
            found = batch.restored[batch.at]
            self._torn(batch, SecondaryFailure(found.volume, found.sequence, error))

    def _held(self, batch: Batch, watch: Watch[Note]) -> list[PairChange]:
        found: list[PairChange | None] = []
        for change, error in batch.primary_errors:
            if change.volume not in batch.dead:
                end = change.offset + change.length
                for offset in range(change.offset, end, self._record_bytes_max):
                    length = min(self._record_bytes_max, end - offset)
                    piece = held(change.volume, offset, length, watch)
                    found.append(piece)
                    if piece is None:  # else it would return later what no record says
                        batch.dead[change.volume] = PrimaryFailure(change, error)
                        break
        return [change for change in found if change is not None]

    def _give(self, batch: Batch, found: PairChange, watch: Watch[Note]) -> None:
        secondary = found.volume.copy_of
        try:
            with watch.at(secondary):
                if found.kind == WRITE:
                    secondary.write(found.offset, found.data)
                else:
                    secondary.zero(found.offset, found.length, found.allocate)
        except OSError as error:
            # Repaired, it has what the primary holds: this very change.
            failure = SecondaryFailure(found.volume, found.sequence + 1, error)
            heal(failure, found, watch, self._record_bytes_max)
            if failure.torn:
                failure.sequence = found.sequence
            self._freeze(batch, failure)


def _journal_with_regions(batch: Batch, writer: Writer) -> None:
    """All of the batch, or none of it. No leg may be written before new regions are durable: if
    that fails, the batch is `journaled` nevertheless.
    """
    batch.regions_sequence = writer.append_marker(encode(Regions(batch.regions)), batch.time_us)
    writer.write_changes(batch.changes, batch.time_us)
    batch.journaled = True
    writer.sync_now()


def _is_behind(batch: Batch, pair: Pair, change: PairChange) -> bool:
    """Whether the primary lacks an earlier change of this batch where `change` is."""
    return any(
        other.volume is pair
        and other.offset < change.offset + change.length
        and change.offset < other.offset + other.length
        for other, _ in batch.primary_errors
    )


def _nobody(_batch: Batch, _error: BaseException | None) -> None:
    """No batch runs."""

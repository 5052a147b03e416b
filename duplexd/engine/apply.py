"""One batch: changes that get their numbers together, are journaled, and are applied to the legs.

The order is journal, then secondary, then primary, change by change:

    journal    first, because it is the write-ahead log of both legs: whatever a crash leaves on
               them, recovery applies the records again, and everything on a leg has a record.
    secondary  before the primary, because a change that fails on the secondary may be half written.
               The secondary is then repaired from the primary, which has not been written yet and
               so still has the old content. In the other order the old content would be lost.
    primary    last. If it fails, what it holds there now is journaled as a new change and goes to
               the secondary the same way (`failures.py`), so that both legs and the journal agree.

`execute_here` is all of the blocking work. Only one batch runs at a time, so it owns the writer
meanwhile. `execute` decides where: in the event loop for a small batch, where passing it to a
thread would cost more than the work; in a worker thread for a large one.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backend import WRITE
from duplexd.core.markers import Regions, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from duplexd.core.pair import Pair, PairChange
    from duplexd.images.leg import Leg
    from duplexd.journal.writer import Writer
    from duplexd.runtime.threads import Workers

_BLOCK_BYTES = 4096


class SecondaryFailure:
    """A secondary that could not take change `sequence`.

    `torn`: part of that change may be on it. `lost`: changes before it may not be.
    """

    __slots__ = ("error", "lost", "pair", "sequence", "torn")

    def __init__(self, pair: Pair, sequence: int, error: OSError) -> None:
        self.pair = pair
        self.sequence = sequence
        self.error = error
        self.torn = self.lost = False


class PrimaryFailure(NamedTuple):
    """A change that a primary did not take."""

    change: PairChange
    error: OSError


class Batch:
    """What the write path passes to the timeline, and the outcome.

    `regions` are new dirty regions by volume number: made durable before any leg is written.
    `heavy`: too long for the event loop. `answer` is called when it is done, with the error if it
    failed as a whole.
    """

    __slots__ = (
        "answer", "changes", "failures", "heavy", "journaled", "primary_errors", "regions",
        "regions_sequence", "time_us",
    )  # fmt: skip

    def __init__(
        self,
        changes: Sequence[PairChange],
        regions: Mapping[int, Sequence[int]],
        heavy: bool,
        answer: Callable[[Batch, BaseException | None], None],
    ) -> None:
        self.changes = changes
        self.regions = regions
        self.regions_sequence = 0
        self.time_us = 0  # of its records, microseconds since 1970
        self.heavy = heavy
        self.answer = answer
        self.journaled = False  # it is in the journal: a later error is not a refusal
        self.failures: list[SecondaryFailure] = []
        self.primary_errors: list[PrimaryFailure] = []


class Executor:
    """Executes batches. `group_of` gives the pairs that are suspended with a failing one.

    `execute` is the seam for another way: a thread that writes for one disk and may hang alone.
    """

    def __init__(
        self,
        writer: Writer,
        group_of: Callable[[Pair], set[Pair]],
        workers: Workers,
        record_bytes_max: int,
    ) -> None:
        self._writer = writer
        self._group_of = group_of
        self._workers = workers
        self._record_bytes_max = record_bytes_max
        self.heavy_changes = 0

    def execute(self, batch: Batch, done: Callable[[Batch, BaseException | None], None]) -> None:
        """Perform a batch, then call `done(batch, error)` in the loop: now, or later if `heavy`."""
        if batch.heavy:
            self.heavy_changes += len(batch.changes)
            self._workers.submit(
                lambda: self.execute_here(batch), lambda _none, error: done(batch, error)
            )
            return
        error: BaseException | None = None
        try:
            self.execute_here(batch)
        except Exception as raised:  # noqa: BLE001  `done` gets it
            error = raised
        done(batch, error)

    def execute_here(self, batch: Batch) -> None:
        """Perform a batch in this thread. Failures of legs are noted in the batch.

        Raises OSError if the journal did not take it: no leg was written then, and, unless it is
        `journaled`, a restart will not find it either.

        Once a secondary fails, it and the other secondaries of its group are no longer written:
        they are suspended at the number before the failed change.
        """
        _journal(batch, self._writer)
        frozen: set[Pair] = set()
        for change in batch.changes:
            pair, secondary = change.volume, change.volume.secondary
            if pair.mirrors and secondary is not None and pair not in frozen:
                try:
                    if change.kind == WRITE:  # here, not in a function: once for each change
                        secondary.write(change.offset, change.data)
                    else:
                        secondary.zero(change.offset, change.length, change.allocate)
                except OSError as error:
                    failure = SecondaryFailure(pair, change.sequence, error)
                    if _is_behind(batch, pair, change):
                        failure.torn = True  # the primary cannot say what was there
                    else:
                        self._heal(failure, change)
                    batch.failures.append(failure)
                    frozen |= self._group_of(pair)
            try:
                if change.kind == WRITE:
                    pair.primary.write(change.offset, change.data)
                else:
                    pair.primary.zero(change.offset, change.length, change.allocate)
            except OSError as error:
                change.error = error.errno or errno.EIO
                batch.primary_errors.append(PrimaryFailure(change, error))

    def _heal(self, failure: SecondaryFailure, change: PairChange) -> None:
        """Restore the range of a failed change on the secondary to what the primary still has
        there, durably; note whether that succeeded.
        """
        pair, healed = failure.pair, False
        end = change.offset + change.length
        try:
            for offset in range(change.offset, end, self._record_bytes_max):
                length = min(self._record_bytes_max, end - offset)
                healed |= _heal_piece(pair.primary, pair.copy_of, offset, length)
        except OSError:
            failure.torn = True
            return
        try:
            if healed:
                pair.copy_of.sync()
        except OSError:
            failure.torn = failure.lost = True


def _journal(batch: Batch, writer: Writer) -> None:
    """All of the batch, or none of it. Where new regions are opened, no leg may be written before
    that is durable: if that fails, the batch is `journaled` nevertheless.
    """
    if batch.regions:
        payload = encode(Regions(batch.regions))
        batch.regions_sequence = writer.append_marker(payload, batch.time_us)
    writer.write_changes(batch.changes, batch.time_us)
    batch.journaled = True
    if batch.regions:
        writer.sync_now()


def _is_behind(batch: Batch, pair: Pair, change: PairChange) -> bool:
    """Whether the primary lacks an earlier change of this batch where `change` is."""
    return any(
        other.volume is pair
        and other.offset < change.offset + change.length
        and change.offset < other.offset + other.length
        for other, _ in batch.primary_errors
    )


def _heal_piece(primary: Leg, secondary: Leg, offset: int, length: int) -> bool:
    before, now = bytearray(length), bytearray(length)
    primary.read_into(offset, memoryview(before))
    secondary.read_into(offset, memoryview(now))
    if before == now:
        return False
    for at in range(0, length, _BLOCK_BYTES):
        piece = before[at : at + _BLOCK_BYTES]
        if piece != now[at : at + _BLOCK_BYTES]:
            secondary.write(offset + at, piece)
    return True

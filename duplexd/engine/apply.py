"""A batch: changes that get their numbers together, are journaled with one write, and then applied to the legs.

`perform` is all of the blocking work; it runs in the event loop for a small batch and in a worker thread for a large one. There is
only ever one batch at a time, so it owns the writer meanwhile.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from duplexd.backend import WRITE, Change
from duplexd.journal.format import FLAG_ALLOCATE, RECORD_HEADER_BYTES
from duplexd.limits import RECORD_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Client
    from duplexd.core.pair import Pair
    from duplexd.journal.writer import Writer

_BLOCK_BYTES = 4096


class SecondaryFailure:
    """A secondary that could not take change `sequence`. `torn`: part of that change may be on it; `lost`: older ones may not be."""

    __slots__ = ("error", "lost", "pair", "sequence", "torn")

    def __init__(self, pair: Pair, sequence: int, error: OSError) -> None:
        self.pair = pair
        self.sequence = sequence
        self.error = error
        self.torn = self.lost = False


class Batch:
    """What one step of the write path does, and what came of it."""

    __slots__ = (
        "changes",
        "failures",
        "journaled",
        "primary_errors",
        "regions",
        "regions_sequence",
        "time_us",
    )

    def __init__(self, changes: list[Change], regions: dict[int, list[int]], time_us: int) -> None:
        self.changes = changes
        self.regions = (
            regions  # new dirty regions, by volume number: durable before any leg is touched
        )
        self.regions_sequence = 0
        self.time_us = time_us
        self.journaled = (
            False  # it has its place in the journal: an error after that is not that it was refused
        )
        self.failures: list[SecondaryFailure] = []
        self.primary_errors: list[tuple[Change, OSError]] = []

    def marker(self) -> dict[str, Any]:
        """The journal marker that opens `regions`."""
        return {
            "m": "regions",
            "volumes": {str(number): regions for number, regions in self.regions.items()},
        }


def record_bytes(changes: list[Change]) -> int:
    """What the changes take in the journal."""
    size = RECORD_HEADER_BYTES * len(changes)
    for change in changes:  # a loop: twice as fast here as a generator
        size += len(change.data)
    return size


def perform(batch: Batch, writer: Writer, group_of: Callable[[Pair], set[Pair]]) -> None:
    """Journal first, then the legs, change by change. Raises OSError if the journal did not take the batch: then nothing has happened.

    Once a secondary fails, it and the pairs of its group get nothing more: they stand at the number before the failed change.
    """
    _journal(batch, writer)
    frozen: set[Pair] = set()
    for change in batch.changes:
        pair: Any = change.volume
        if pair.mirrors and pair not in frozen:
            try:
                if change.kind == WRITE:
                    pair.secondary.write(change.offset, change.data)
                else:
                    pair.secondary.zero(change.offset, change.length, change.allocate)
            except OSError as error:
                batch.failures.append(_heal(SecondaryFailure(pair, change.sequence, error), change))
                frozen |= group_of(pair)
        try:
            if change.kind == WRITE:
                pair.primary.write(change.offset, change.data)
            else:
                pair.primary.zero(change.offset, change.length, change.allocate)
        except OSError as error:
            change.error = error.errno or errno.EIO
            batch.primary_errors.append((change, error))


def _journal(batch: Batch, writer: Writer) -> None:
    time_us = batch.time_us
    if batch.regions:
        batch.regions_sequence = writer.append_marker(batch.marker(), time_us)
    append = writer.append
    for change in batch.changes:
        flags = FLAG_ALLOCATE if change.allocate else 0
        change.sequence = append(
            change.kind, change.volume.id, change.offset, change.length, change.data, flags, time_us
        )  # type: ignore[attr-defined]
    writer.write()
    batch.journaled = True
    if batch.regions:
        writer.sync_now()


def _heal(failure: SecondaryFailure, change: Change) -> SecondaryFailure:
    """Take what a failed change left on the secondary back to what the primary still has, durably; says whether that went well."""
    pair, healed = failure.pair, False
    try:
        for offset in range(change.offset, change.offset + change.length, RECORD_BYTES_MAX):
            length = min(RECORD_BYTES_MAX, change.offset + change.length - offset)
            healed |= _heal_piece(pair, offset, length)
    except OSError:
        failure.torn = True
        return failure
    try:
        if healed and pair.secondary is not None:
            pair.secondary.sync()
    except OSError:
        failure.torn = failure.lost = True
    return failure


def _heal_piece(pair: Any, offset: int, length: int) -> bool:
    before, now = bytearray(length), bytearray(length)
    pair.primary.read_into(offset, memoryview(before))
    pair.secondary.read_into(offset, memoryview(now))
    if before == now:
        return False
    for at in range(0, length, _BLOCK_BYTES):
        piece = before[at : at + _BLOCK_BYTES]
        if piece != now[at : at + _BLOCK_BYTES]:
            pair.secondary.write(offset + at, piece)
    return True


class Joined:
    """Stands for the client of a WRITE that was cut into parts: answers it once all parts are done."""

    __slots__ = ("_left", "_whole", "origin")

    def __init__(self, whole: Change) -> None:
        self._whole = whole
        self._left = -(-whole.length // RECORD_BYTES_MAX)
        self.origin: Client = whole.client

    def finished(self, part: Change) -> None:
        """See `Client`."""
        whole = self._whole
        whole.error = whole.error or part.error
        whole.sequence = max(whole.sequence, part.sequence)
        self._left -= 1
        if not self._left:
            self.origin.finished(whole)

    def flush_replies(self) -> None:
        """See `Client`."""
        self.origin.flush_replies()


def parts(change: Change) -> list[Change]:
    """The change itself, or, for a long WRITE, changes of one record each. The payload must be its own."""
    if change.kind != WRITE or change.length <= RECORD_BYTES_MAX:
        return [change]
    joined, view = Joined(change), memoryview(change.data)
    pieces: list[Change] = []
    for at in range(0, change.length, RECORD_BYTES_MAX):
        length = min(RECORD_BYTES_MAX, change.length - at)
        piece = Change(
            joined,
            0,
            change.volume,
            WRITE,
            change.offset + at,
            length,
            view[at : at + length].toreadonly(),
            change.fua,
        )
        pieces.append(piece)
    return pieces

"""Replay: applying the records after the checkpoint to both legs.

Applying a record twice is harmless; applying one too many to a secondary is not, so each secondary
gets its records up to its cut, or to the tail. A secondary that fails here costs only its own pair
the redundancy. A primary that fails stops the start, because its volume may have no other current
image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.core.ledger import UNCOMMITTED
from duplexd.engine.recovery.progress import PRIMARIES, SECONDARIES
from duplexd.journal.format import TRIM, WRITE, ZERO
from duplexd.journal.reader import Reader
from duplexd.replication.follower import Follower, SecondarySink, SinkError, put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.recovery.progress import Report
    from duplexd.engine.recovery.read import ReadJournal
    from duplexd.limits import EngineLimits
    from duplexd.replication.follower import Buffer
    from duplexd.replication.staging import StagingArea


class ReplayFailure(NamedTuple):
    """A secondary that could not be brought to where it should be: its content is unknown."""

    pair: Pair
    error: OSError


class GivenUpError(Exception):
    """The replay was asked to end early."""


class PrimarySink:
    """Applies records to primaries; see `follower.Sink`."""

    moves_secondary = False

    def write(self, pair: Pair, offset: int, data: Buffer) -> None:
        """A WRITE."""
        pair.primary.write(offset, data)

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """A WRITE_ZEROES or a TRIM."""
        pair.primary.zero(offset, length, allocate)


class Replay:
    """One replay, for the `pairs` whose images are open. Blocking."""

    def __init__(
        self,
        journal: ReadJournal,
        pairs: Sequence[Pair],
        staging: StagingArea,
        limits: EngineLimits,
        progress: Report,
    ) -> None:
        self._journal = journal
        self._pairs = pairs
        self._mirrored = [pair for pair in pairs if pair.secondary is not None]
        self._staging = staging
        self._chunk_bytes = limits.follower_chunk_bytes
        self._report = progress
        self._given_up = False
        self._failures: list[ReplayFailure] = []

    def run(self) -> list[ReplayFailure]:
        """Do all of it. Raises DamageError; OSError if the journal or a primary fails; GivenUpError
        after `give_up`.
        """
        # A killed daemon may have left the journal in the page cache only: no leg may get a change
        # that a power cut could still remove from the journal.
        for segment in self._journal.ring.live:
            segment.file.sync()
        self._apply_staging_logs()
        if self._journal.unapplied:
            self._replay_primaries()
        self._replay_secondaries()
        self._sync_replayed()
        return self._failures

    def give_up(self) -> None:
        """Let `run` end soon. Any thread. It can be done again: nothing was said in the journal."""
        self._given_up = True

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self._given_up:
            raise GivenUpError
        self._report(stage, done, total)

    def _failed(self) -> set[Pair]:
        return {failure.pair for failure in self._failures}

    def _apply_staging_logs(self) -> None:
        """Apply the committed ones again: whether they were applied is unknown."""
        jobs = {pair.record.staging for pair in self._mirrored} - {"", UNCOMMITTED}
        for job in jobs:
            theirs = {pair.id: pair for pair in self._mirrored if pair.record.staging == job}
            count = next(iter(theirs.values())).record.staged
            try:
                self._staging.apply(job, theirs, count, SecondarySink())
                self._sync_staged(list(theirs.values()))
            except SinkError as error:
                self._failures += [ReplayFailure(pair, error.error) for pair in theirs.values()]

    def _sync_staged(self, pairs: Sequence[Pair]) -> None:
        """Staged content has to be durable before the journal says that the log is applied."""
        for pair in pairs:
            try:
                pair.copy_of.sync()
            except OSError as error:
                raise SinkError(pair, 0, error) from error

    def _replay_primaries(self) -> None:
        journal, sink = self._journal, PrimarySink()
        tail = journal.tail.sequence
        pairs = {pair.id: pair for pair in self._pairs}
        first = journal.saved["sequence"] + 1
        reader = Reader(journal.ring, first)
        while reader.sequence <= tail:
            buffer, records = reader.read(tail, self._chunk_bytes)
            for record in records:
                pair = pairs.get(record.volume)
                if pair is None or record.kind not in (WRITE, ZERO, TRIM):
                    continue
                try:
                    put(sink, pair, record, buffer)
                except SinkError as failure:
                    error = failure.error
                    raise OSError(
                        error.errno,
                        f"{pair.primary.path}: recovery cannot write to it: {error.strerror}",
                    ) from failure
            self._progress(PRIMARIES, reader.sequence - first, tail + 1 - first)

    def _replay_secondaries(self) -> None:
        tail, failed = self._journal.tail.sequence, self._failed()
        self._bring_to_abandoned_cuts()
        todo = [
            pair
            for pair in self._mirrored
            if pair not in failed and pair.record.staging != UNCOMMITTED and _follows(pair, tail)
        ]
        if todo:
            self._follow(todo, min(pair.applied for pair in todo), tail)

    def _bring_to_abandoned_cuts(self) -> None:
        """A resync that was not committed leaves its secondaries at their cuts; one that trailed
        when it began has to be brought there.
        """
        for pair in self._mirrored:
            uncommitted = pair.record.staging == UNCOMMITTED
            if uncommitted and pair.cut is not None and pair.applied < pair.cut.sequence:
                self._follow([pair], pair.applied, pair.cut.sequence)

    def _follow(self, pairs: Sequence[Pair], position: int, until: int) -> None:
        """Follow to the end; a secondary that fails is dropped from the walk."""
        journal = self._journal
        follower = Follower(journal.ring, pairs, position, SecondarySink(), journal.ledger.advance)
        while follower.position < until and follower.pairs:
            try:
                follower.step(until, self._chunk_bytes)
            except SinkError as error:
                self._failures.append(ReplayFailure(error.pair, error.error))
                del follower.pairs[error.pair.id]
            self._progress(SECONDARIES, follower.position - position, until - position)

    def _sync_replayed(self) -> None:
        """The markers of the start may say that a secondary needs no older records; that has to
        hold after another power cut, too.
        """
        failed = self._failed()
        for pair in self._mirrored:
            if pair.secondary_dirty and pair not in failed:
                try:
                    pair.copy_of.sync()
                except OSError as error:
                    self._failures.append(ReplayFailure(pair, error))


def _follows(pair: Pair, tail: int) -> bool:
    if pair.state == pair_states.SIMPLEX:
        return False
    if pair.state == pair_states.SUSPENDED and not pair.usable:
        return False
    return pair.applied < pair.limit(tail)

"""Replay: applying the records after the checkpoint to both legs.

Applying a record twice is harmless; applying one too many is not. So each secondary gets its
records up to its cut, or to the tail, and each primary those behind the number that it holds
durably. An image that fails here is a `Fault`, and costs its own pair the redundancy; the start
goes on.

A replay is watched (`runtime/watch.py`): the leg of a call that hangs is given up, and the replay
is done again without it. Nothing replaces the journal or a staging log: if one of these hangs, the
start ends, and says so.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, cast

from duplexd.core import pair_states
from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.patience import JournalRead
from duplexd.engine.opening import PRIMARY, SECONDARY, why_absent
from duplexd.engine.recovery.image_faults import Fault, Faults, Side
from duplexd.engine.recovery.primary_replay import PrimaryReplay, WatchedSink, lacking
from duplexd.engine.recovery.progress import SECONDARIES
from duplexd.errors import DamageError
from duplexd.replication.backlog import backlog
from duplexd.replication.follower import Follower, SecondarySink, SinkError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from duplexd.core.image_record import Image
    from duplexd.core.pair import Lacks, Pair
    from duplexd.core.patience import Waited
    from duplexd.engine.recovery.image_faults import Noted
    from duplexd.engine.recovery.progress import Report
    from duplexd.engine.recovery.read import ReadJournal
    from duplexd.limits import EngineLimits
    from duplexd.replication.staging import StagingArea
    from duplexd.runtime.watch import Watch


class GivenUpError(Exception):
    """The replay was asked to end early."""


class Replay:
    """One replay for the pairs of `holds`, which says up to which number their secondaries hold all
    changes durably. Images with a fault, and absent ones, are left alone. Blocking.
    """

    def __init__(
        self,
        journal: ReadJournal,
        holds: Mapping[Pair, int],
        faults: Faults,
        staging: StagingArea,
        limits: EngineLimits,
        progress: Report,
        watch: Watch[Noted],
    ) -> None:
        """What fails is added to `faults`."""
        self._journal = journal
        self._tail = journal.tail.sequence
        self._holds = holds
        self._pairs = list(holds)
        self._mirrored = [pair for pair in holds if pair.secondary is not None]
        self._faults = faults
        self._staging = staging
        self._chunk_bytes = limits.follower_chunk_bytes
        self._report = progress
        self._watch = watch
        self._secondaries = WatchedSink(SecondarySink(), SECONDARY, watch)
        self._given_up = False

    def run(self) -> None:
        """Do all of it. Raises DamageError; OSError if the journal fails; GivenUpError after
        `give_up`.
        """
        # A killed daemon may have left the journal in the page cache only: no leg may get a change
        # that a power cut could still remove from the journal.
        note = JournalRead(self._journal.ring.directory)
        for segment in self._journal.ring.live:
            with self._watch.at(note):
                segment.file.sync()
        self._find_unreachable()
        self._apply_staging_logs()
        self._replay_primaries()
        self._replay_secondaries()
        self._sync_replayed()
        self._note_what_is_missed()

    def give_up(self) -> None:
        """Let `run` end soon. Any thread. It can be done again: nothing was said in the journal."""
        self._given_up = True

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self._given_up:
            raise GivenUpError
        self._report(stage, done, total)

    def _good(self, pair: Pair, role: str) -> bool:
        side = Side(pair, role)
        return side not in self._faults and not why_absent(side.leg)

    def _failed(self, pair: Pair, role: str, error: OSError) -> None:
        """How much of the last change is on it is not known, nor what else it has lost."""
        side = Side(pair, role)
        if role == SECONDARY:
            self._journal.ledger.secondary_lacks(pair.record, self._holds[pair])
        why = error.strerror or str(error)
        named = why if side.leg.path in why else f"{side.leg.path}: {why}"
        self._faults.add(side, Fault(OSError(error.errno or errno.EIO, named)))

    def _find_unreachable(self) -> None:
        """Images of volumes that were not served for so long that the journal has dropped what they
        lack.
        """
        for pair in self._pairs:
            record = pair.record
            if why := unreachable(self._journal, record.primary_at):
                self._failed(pair, PRIMARY, OSError(errno.ENODATA, why))
            follows = pair.secondary is not None and _follows(pair, self._tail)
            if not follows or record.staging == UNCOMMITTED:
                continue
            if why := unreachable(self._journal, record.applied):
                self._failed(pair, SECONDARY, OSError(errno.ENODATA, why))

    # ----------------------------------------------------------------------------- staging logs

    def _apply_staging_logs(self) -> None:
        """Apply the committed ones again: whether they were applied is unknown.

        A log that is damaged costs its secondaries, which may be half-way: a resync copies them.
        """
        jobs = {pair.record.staging for pair in self._mirrored} - {"", UNCOMMITTED}
        for job in sorted(jobs):
            every = [pair for pair in self._mirrored if pair.record.staging == job]
            theirs = {pair.id: pair for pair in every if self._good(pair, SECONDARY)}
            if not theirs:
                continue
            try:
                staged = every[0].record.staged
                failed = self._staging.apply(job, theirs, staged, self._secondaries, self._watch)
            except (DamageError, OSError) as error:
                cause = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
                failed = dict.fromkeys(theirs.values(), cause)
            for pair, cause in failed.items():
                self._failed(pair, SECONDARY, cause)
            # Staged content has to be durable before the journal says that the log is applied.
            self._sync(theirs.values(), SECONDARY)

    def _sync(self, pairs: Iterable[Pair], role: str) -> None:
        for pair in pairs:
            if self._good(pair, role):
                side = Side(pair, role, syncs=True)
                try:
                    with self._watch.at(side):
                        side.leg.sync()
                except OSError as error:
                    self._failed(pair, role, error)

    def _replay_primaries(self) -> None:
        journal, saved = self._journal, int(self._journal.saved["sequence"])
        todo = [
            pair
            for pair in self._pairs
            if self._good(pair, PRIMARY)
            and (pair.id in journal.unapplied or pair.record.primary_at < saved)
        ]
        replay = PrimaryReplay(journal.ring, self._chunk_bytes, self._watch)
        for pair, error in replay.run(todo, self._tail, self._progress).items():
            self._failed(pair, PRIMARY, error)

    # ------------------------------------------------------------------------------ secondaries

    def _replay_secondaries(self) -> None:
        self._bring_to_abandoned_cuts()
        todo = [
            pair
            for pair in self._mirrored
            if self._good(pair, SECONDARY)
            and pair.record.staging != UNCOMMITTED
            and _follows(pair, self._tail)
        ]
        if todo:
            self._follow(todo, min(pair.applied for pair in todo), self._tail)

    def _bring_to_abandoned_cuts(self) -> None:
        """A resync that was not committed leaves its secondaries at their cuts; one that trailed
        when it began has to be brought there.
        """
        for pair in self._mirrored:
            uncommitted = pair.record.staging == UNCOMMITTED and self._good(pair, SECONDARY)
            if uncommitted and pair.cut is not None and pair.applied < pair.cut.sequence:
                self._follow([pair], pair.applied, pair.cut.sequence)

    def _follow(self, pairs: Sequence[Pair], position: int, until: int) -> None:
        """Follow to the end; a secondary that fails is dropped from the walk."""
        journal = self._journal
        follower = Follower(
            journal.ring, pairs, position, self._secondaries, journal.ledger.advance
        )
        while follower.position < until and follower.pairs:
            try:
                follower.step(until, self._chunk_bytes)
            except SinkError as error:
                self._failed(error.pair, SECONDARY, error.located())
                del follower.pairs[error.pair.id]
            self._progress(SECONDARIES, follower.position - position, until - position)

    def _sync_replayed(self) -> None:
        """The markers of the start may say that an image needs no older records; that has to hold
        after another power cut, too.
        """
        self._sync([pair for pair in self._mirrored if pair.secondary_dirty], SECONDARY)
        self._sync([pair for pair in self._pairs if pair.primary_dirty], PRIMARY)

    # --------------------------------------------------------------------- what absent ones miss

    def _note_what_is_missed(self) -> None:
        """A fault for each absent image whose pair cannot just wait for it, with what it lacks. An
        absent image is not a changed one: what it held it holds.
        """
        for pair in self._pairs:
            if why_absent(pair.primary) or pair in self._faults.primaries:
                pair.lacks = self._lacking(pair)
            if why := why_absent(pair.primary):
                self._absent(pair, PRIMARY, why, pair.record.primary_at)
            why = why_absent(pair.secondary)
            if why and not waits_for_its_secondary(pair):
                self._absent(pair, SECONDARY, why, pair.applied)

    def _lacking(self, pair: Pair) -> Lacks | None:
        return lacking(self._journal.ring, pair, self._tail, self._chunk_bytes, self._watch)

    def _absent(self, pair: Pair, role: str, why: str, holds: int) -> None:
        ring, watch = self._journal.ring, cast("Watch[Waited]", self._watch)
        (missed,) = backlog(ring, [pair], holds, self._tail, self._chunk_bytes, watch).values()
        if role == SECONDARY and not missed.any():
            self._journal.ledger.advance(pair.record, self._tail)
        error, side = OSError(errno.EIO, why), Side(pair, role)
        clean = self._journal.is_clean(pair.record)
        if recorded(pair, role) is None and not clean:  # what comes back may be any image
            self._faults.add(side, Fault(error))
            return
        whole = not missed.any() and clean
        self._faults.add(side, Fault(error, missed, whole))


def recorded(pair: Pair, role: str) -> Image | None:
    """What the last checkpoint knows of the image of a role."""
    record = pair.record
    return record.primary_image if role == PRIMARY else record.secondary_image


def unreachable(journal: ReadJournal, holds: int) -> str:
    """Why an image that holds the changes up to number `holds` cannot get the later ones; "" if it
    can.
    """
    if holds + 1 >= min(journal.ring.oldest, int(journal.saved["sequence"])):
        return ""
    return f"the journal no longer has record {holds + 1}, which this image lacks"


def waits_for_its_secondary(pair: Pair) -> bool:
    """Whether nothing has to be done to the secondary before it is resynced: it may be absent."""
    if pair.state == pair_states.SUSPENDED:
        return not pair.usable or pair.applied >= pair.limit(0)
    uncommitted = pair.record.staging == UNCOMMITTED
    at_cut = pair.cut is not None and pair.applied >= pair.cut.sequence
    return pair.state == pair_states.SIMPLEX or (uncommitted and at_cut)


def _follows(pair: Pair, tail: int) -> bool:
    if pair.state == pair_states.SIMPLEX:
        return False
    if pair.state == pair_states.SUSPENDED and not pair.usable:
        return False
    return pair.applied < pair.limit(tail)

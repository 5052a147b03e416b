"""What failing legs do to states, so that clients see as few errors as possible.

A failed secondary suspends its pair and its group at the number before the change that failed; the
clients see success. When a primary fails and the secondary is current, the images change roles: the
clients go on with the secondary, and see success too. The failed image is then the secondary,
SUSPENDED by its error. Where no current secondary is there to go on with, the client gets the error
of its request, and a primary that does not answer any more, or has lost what was flushed, takes
nothing further until somebody decides: the volume is not served. That costs no other volume
anything.

Everything here happens at rest: directly after the batch that met the failure, or in a step.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.core import freeze, pair_states
from duplexd.core.cut_states import CUT
from duplexd.core.markers import Regions, Swap
from duplexd.engine.cut_archive import new_id
from duplexd.engine.hung import in_place_of, leave_hung, was_left
from duplexd.images.absent import AbsentLeg
from duplexd.runtime.watch import HungError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.cut import Cut
    from duplexd.core.markers import Fail
    from duplexd.core.pair import Pair, PairChange
    from duplexd.engine.batch import Batch, SecondaryFailure
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg


class Failures:
    """The consequences of failing legs. All methods at rest.

    `swaps`: whether a pair goes on with its secondary when its primary fails; a reload replaces it.
    Each of `on_unserved` is called with a volume that is not served any more, `on_served(pair)`
    when it is again, `on_left(leg)` with an image that is not used any more, but still open,
    `on_cut(pairs, cut)` with a cut that was made, and may turn out to be consistent.
    """

    def __init__(
        self, timeline: Timeline, volumes: Volumes, archive: CutArchive, events: Events
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._archive = archive
        self._events = events
        self.swaps = True
        self.swapped = 0  # how often a pair went on with its secondary
        self.on_unserved: list[Callable[[Pair], None]] = []
        self.on_served: Callable[[Pair], None] = _nobody
        self.on_left: Callable[[Leg], None] = _nobody_has_it
        self.on_cut: Callable[[Sequence[Pair], Cut], None] = _not_settled_yet

    def after(self, batch: Batch) -> None:
        """React to what failed in a batch. Raises OSError if the journal cannot be written.

        Once the controller has failed, nothing is written to the journal: a restart replays it.
        """
        for failure in batch.failures:
            self._secondary_failed(batch, failure, failure.sequence - 1)
        for change, error in batch.primary_errors:
            self._report("primary-error", change.volume, error)
        for pair, (_change, error) in batch.dead.items():
            if not self._timeline.failed:
                self.primary_failed(pair, error)

    # ---------------------------------------------------------------------------- primaries

    def primary_failed(self, pair: Pair, error: OSError) -> None:
        """A primary is not to be used any more: go on with the secondary if it is current."""
        self._report("primary-failed", pair, error)
        if self.swaps and pair.can_lead:
            self._go_on_with_secondary(pair, error)
        else:
            self.unserved(pair, error)

    def _go_on_with_secondary(self, pair: Pair, error: OSError) -> None:
        """Its group is not suspended with it: their secondaries lack nothing."""
        primary = pair.primary
        self.exchange(pair)
        everything = {pair: pair.record.full_map()}
        self.freeze({pair}, pair, self._timeline.writer.sequence, error, {pair}, everything)
        self.said_swapped(pair, f"primary failed: {error.strerror or error}", primary)
        self.leave_failed(pair, error)

    def leave_failed(self, pair: Pair, error: OSError) -> None:
        """Use the image no more that was the primary: what lies at its path by then, perhaps on a
        new disk, is opened by the resync that brings the pair back.
        """
        failed, why = pair.copy_of, error.strerror or str(error)
        if isinstance(failed, AbsentLeg):
            return
        absent = AbsentLeg(failed.path, failed.size, why.removeprefix(f"{failed.path}: "))
        pair.set_legs(pair.primary, absent, pair.mode)
        self.on_left(failed)

    def said_swapped(self, pair: Pair, reason: str, before: Leg) -> None:
        """Count a swap, and emit it; `before` was the primary."""
        self.swapped += 1
        primary, secondary = pair.primary.path, before.path
        self._events.emit(
            "swapped", volume=pair.name, reason=reason, primary=primary, secondary=secondary
        )

    def exchange(self, pair: Pair) -> None:
        """Let the two images of a pair change roles."""
        timeline = self._timeline
        timeline.must(lambda: timeline.append(Swap([pair.id])))
        dirty = pair.primary_dirty
        pair.set_legs(pair.copy_of, pair.primary, pair.mode)
        timeline.ledger.use_secondary(pair.record, pair.copy_of.path)
        pair.primary_dirty, pair.secondary_dirty = pair.secondary_dirty, dirty
        pair.lacks = None  # it was of the other image

    def unserved(self, pair: Pair, error: OSError) -> None:
        """Neither leg is good and current: the volume gives EIO, never wrong data.

        What the journal has beyond the last checkpoint is kept for the primary, see
        `PairRecord.primary_at`.
        """
        if pair.failed:
            return
        primary, why = pair.primary, error.strerror or str(error)
        pair.failed = why if primary.path in why else f"{primary.path}: {why}"
        if isinstance(error, HungError):
            pair.set_legs(in_place_of(primary, error), pair.secondary, pair.mode)
            with suppress(OSError):  # it only tells a start why the image is newer than its records
                self._timeline.append(Regions({}, late=(pair.id,)))
        self.no_more_served(pair)
        self._events.emit("volume-not-served", volume=pair.name, error=pair.failed)

    def no_more_served(self, pair: Pair) -> None:
        """Say so to those who work on it."""
        for listener in self.on_unserved:
            listener(pair)

    def served(self, pair: Pair) -> None:
        """It has a good primary again."""
        if pair.failed:
            pair.failed, pair.lacks, pair.uncompared = "", None, False
            pair.refresh()
            self.on_served(pair)

    def _report(self, event: str, pair: Pair, error: OSError) -> None:
        why = error.strerror or str(error)
        self._events.emit(event, volume=pair.name, error=why, path=pair.primary.path)

    # --------------------------------------------------------------------------- secondaries

    def _secondary_failed(self, batch: Batch, failure: SecondaryFailure, at: int) -> None:
        """Suspend the pair and its group at number `at`, the last that its secondary holds."""
        pair = failure.pair
        members = self._volumes.group_of(pair) & failure.members
        changes = [*batch.changes, *batch.restored]
        missed = {member: _changes_after(member, changes, at) for member in members}
        if failure.lost:
            missed[pair].set_all()
        torn = {pair} if failure.torn else set()
        self.freeze(members, pair, at, failure.error, torn, missed)

    def freeze(
        self,
        members: Iterable[Pair],
        failed: Pair | None,
        at: int,
        error: OSError,
        unusable: Iterable[Pair],
        missed: Mapping[Pair, ChangeMap],
    ) -> None:
        """Suspend pairs because a secondary failed, or the journal for them, at number `at`; see
        `core/freeze.py`.
        """
        why = _with_path(error, failed)
        hung = failed is not None and (leave_hung(failed, error) or was_left(failed))
        if failed is not None and hung and failed.secondary_dirty:
            unusable, missed = {*unusable, failed}, _with_unsynced(missed, failed)
        others = {failed} if failed is not None and _may_be_another(failed, error) else set()
        for marker in freeze.plan(members, failed, at, why, unusable, missed, new_id, others):
            self._freeze_at(marker, failed, error)

    def _freeze_at(self, marker: Fail, failed: Pair | None, error: OSError) -> None:
        members = [self._volumes.by_number[number] for number in marker.volumes]
        left = {cut for member in members if (cut := _group_cut(member)) is not None}
        timeline = self._timeline
        timeline.must(lambda: timeline.append(marker))  # else its secondary would count as current
        self._events.emit(
            "suspended",
            volumes=[member.name for member in members],
            reason=pair_states.BY_ERROR if failed is not None else pair_states.BY_JOURNAL,
            cut=marker.id,
            failed=failed.name if failed is not None else "",
            error=error.strerror or str(error),
            path=_path_of(error, failed),
            at=marker.at,
        )
        for cut in left:  # void now, if it was not settled
            self._archive.announce(cut)
        made = members[0].cut
        if made is not None and made.state == CUT:
            self.on_cut(members, made)


def _nobody(_pair: Pair) -> None:
    """Nobody refuses its changes."""


def _not_settled_yet(_pairs: Sequence[Pair], _cut: Cut) -> None:
    """During a start: the end of it settles all cuts."""


def _nobody_has_it(_leg: Leg) -> None:
    """Its last reference closes it."""


def _group_cut(pair: Pair) -> Cut | None:
    """The cut with other controllers that a pair is suspended at: its failure may make it void."""
    cut = pair.cut
    at_group_cut = cut is not None and cut.members and pair.state == pair_states.SUSPENDED
    return cut if at_group_cut else None


def _changes_after(pair: Pair, changes: Sequence[PairChange], sequence: int) -> ChangeMap:
    """What those changes of the pair that come after number `sequence` touch."""
    changed = pair.new_map()
    for change in changes:
        if change.volume is pair and change.sequence > sequence:
            changed.set(change.offset, change.length)
    return changed


def _with_unsynced(missed: Mapping[Pair, ChangeMap], hung: Pair) -> dict[Pair, ChangeMap]:
    """What a secondary lacks that hangs. No sync of it can end any more, so what was written since
    the last one may be lost with its disk.
    """
    changed = hung.new_map()
    for offset, length in hung.regions.unsynced(hung.size):
        changed.set(offset, length)
    if hung in missed:
        changed.merge(missed[hung])
    return {**missed, hung: changed}


def _with_path(error: OSError, failed: Pair | None) -> str:
    """What failed, with the image's path, which some errors name themselves."""
    why, path = error.strerror or str(error), _path_of(error, failed)
    return why if not path or path in why else f"{path}: {why}"


def _may_be_another(failed: Pair, error: OSError) -> bool:
    """Whether what the journal says of a secondary may not be true of the image at its path: it is
    another one, was changed by others, or lost its end.
    """
    secondary = failed.secondary
    short = isinstance(secondary, AbsentLeg) and bool(secondary.short)
    return short or error.errno == errno.ESTALE


def _path_of(error: OSError, failed: Pair | None) -> str:
    """Of what failed: the secondary, if the error does not say otherwise."""
    if isinstance(error.filename, str):
        return error.filename
    return failed.secondary.path if failed is not None and failed.secondary is not None else ""

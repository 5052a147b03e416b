"""The state of pairs and cuts, folded from the markers of the journal.

The same code runs when a marker is written and when it is read after a restart, so the state in
memory cannot differ from what a restart would find. That is also why nothing else writes to a
`PairRecord` or a `Cut`: a restart would not know a field that was set elsewhere. A few things
change without a marker: those of `unmarked.py`, and which regions were touched (`DirtyRegions`).

`snapshot` and `restore` put all of it into a checkpoint and read it back.
"""

from __future__ import annotations

from functools import singledispatchmethod
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import (
    change_history,
    cut_states,
    delayed,
    freeze,
    growth,
    leg_differences,
    lineage,
    marker_check,
    markers,
    pair_states,
    rebuilding,
    rollback,
    snapshot,
)
from duplexd.core.cut import Cut
from duplexd.core.cut_book import CutBook, OfCuts
from duplexd.core.horizon import Horizon
from duplexd.core.invariants import broken
from duplexd.core.older_state import OlderState
from duplexd.core.pair import ONLY_THE_MAP, PairRecord
from duplexd.core.readers import Readers
from duplexd.core.scrub_state import Scrub
from duplexd.core.synced import Synced
from duplexd.core.transitions import Moving
from duplexd.core.unmarked import Unmarked
from duplexd.errors import DamageError
from duplexd.limits import TRACKED_CUTS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from duplexd.core.markers import Marker
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits

VOID = cut_states.VOID
UNCOMMITTED = "uncommitted"  # `PairRecord.staging` of a resync by map before its commit
_NONE: dict[int, int] = {}


class Place(NamedTuple):
    """Where a marker is in the journal: number, time (us since 1970), and the checksums of its
    record and of the one before it, where known.
    """

    sequence: int
    time_us: int
    crc: int | None = None
    chain: int | None = None


class Ledger(Unmarked):
    """All pairs, by number, and what is known of the controller's past. `tracked_cuts`: how many
    cuts of each volume are remembered for what changed between them; 0: none.
    """

    def __init__(self, limits: EngineLimits, tracked_cuts: int = TRACKED_CUTS_DEFAULT) -> None:
        self._limits = limits
        self.tracked_cuts = tracked_cuts
        self.pairs: dict[int, PairRecord] = {}
        self.boot = ""
        self.closed = False  # the daemon was shut down cleanly
        self.starts, self.ahead = 0, OlderState()
        self.scrub_us = 0  # since when scrubs are wanted, by checkpoints alone; 0: they are not
        self.readers = Readers(self.pairs)
        self.book = CutBook(self.pairs, limits)

    def next_id(self) -> int:
        """A number for a new volume: above those of all pairs, removed ones included."""
        return max(self.pairs, default=0) + 1

    def known(self) -> dict[str, PairRecord]:
        """The pairs that were not removed from the configuration, by name."""
        return {pair.name: pair for pair in self.pairs.values() if not pair.removed}

    @property
    def cuts(self) -> dict[str, Cut]:
        """The cuts that are remembered, oldest first."""
        return self.book.known

    def cut(self, cut_id: str) -> Cut | None:
        """The cut or mark of that id, if it is remembered or a secondary is at it."""
        return self.book.find(cut_id)

    def state_of(self, cut_id: str) -> str:
        """What the journal says of a cut, see `cut_states`."""
        cut = self.cut(cut_id)
        return cut_states.NONE if cut is None else cut.state

    # ------------------------------------------------------------------------------- folding

    def check(self, marker: Marker) -> None:
        """Before a marker is written: raises WrongStateError, see `marker_check`."""
        marker_check.check(marker, self.pairs, self.readers)

    def apply(self, place: Place, marker: Marker, current: Iterable[PairRecord] = ()) -> None:
        """Fold a marker. The secondaries of the `current` pairs hold all changes before it.

        Raises DamageError for a marker that does not fit the states (`check` refuses it before it
        is written), and if an invariant is broken after it.
        """
        for pair in current:
            self.advance(pair, place.sequence)
        try:
            self._fold(marker, place)
            if isinstance(marker, lineage.MAY_BEGIN_ANEW):
                lineage.follow(self.pairs, marker, place.time_us)
        except (KeyError, ValueError, TypeError) as error:
            raise DamageError(
                f"journal record {place.sequence}: "
                f"the marker {marker!r} is impossible here ({error!r})"
            ) from error
        if isinstance(marker, Moving):
            moved = self._of(marker.volumes)
            for pair in moved:
                if pair.state == pair_states.SUSPENDED and not pair.suspended_us:
                    pair.suspended_us = place.time_us
            if wrong := broken(moved):
                raise DamageError(f"journal record {place.sequence}: {wrong}, after {marker!r}")

    def unpack_and_apply(self, place: Place, fields: Json) -> None:
        """Fold a marker as it was read. Raises DamageError."""
        try:
            marker = markers.unpack(fields)
        except ValueError as error:
            raise DamageError(f"journal record {place.sequence}: {error}") from error
        self.apply(place, marker)

    def advance(self, pair: PairRecord, sequence: int) -> None:
        """Note that the secondary holds all changes up to `sequence`. Any thread."""
        pair.applied = max(pair.applied, sequence)

    def _of(self, numbers: Iterable[int]) -> list[PairRecord]:
        return [self.pairs[number] for number in numbers]

    def _move(self, pair: PairRecord, event: str, reason: str) -> None:
        after = pair_states.TRANSITIONS.get((pair.state, event))
        if after is None:
            raise ValueError(f"{event} of {pair.name}, which is {pair.state}")
        pair.state = after
        pair.reason = reason

    @singledispatchmethod
    def _fold(self, marker: object, _place: Place) -> None:
        raise TypeError(f"not a marker: {marker!r}")

    # ------------------------------------------------------------------ the daemon, its volumes

    @_fold.register
    def _(self, marker: markers.Open, _place: Place) -> None:
        if not self.closed:
            change_history.widen(self.pairs.values())
        self.boot, self.closed = marker.boot, False
        self.ahead = self.ahead.found(self.starts, marker.ahead)
        self.starts = self.ahead.next_start(self.starts)

    @_fold.register
    def _(self, _marker: markers.Close, _place: Place) -> None:
        self.closed = True

    @_fold.register
    def _(self, _marker: Synced, _place: Place) -> None:
        """It changes no state."""

    @_fold.register
    def _(self, marker: markers.NewVolume, place: Place) -> None:
        pair = PairRecord(marker.id, marker.name, marker.size, self._limits)
        pair.primary_at = place.sequence
        self.pairs[marker.id] = pair

    @_fold.register
    def _(self, marker: markers.Grow, place: Place) -> None:
        growth.fold(marker, self._of(marker.sizes), place.sequence)

    @_fold.register
    def _(self, marker: markers.Remove, _place: Place) -> None:
        pair = self.pairs[marker.id]
        pair.removed, pair.history = True, None

    @_fold.register
    def _(self, marker: markers.Attach, place: Place) -> None:
        for pair in self._of(marker.volumes):
            self._move(pair, pair_states.ATTACH, "")
            pair.usable, pair.differs, pair.horizon = True, None, None
            pair.scrub = Scrub(0, 0, place.time_us)
            pair.secondary_is_at(place.sequence)

    @_fold.register
    def _(self, marker: markers.Detach, _place: Place) -> None:
        for pair in self._of(marker.volumes):
            self._move(pair, pair_states.DETACH, "")
            pair.usable = False
            pair.leave_cut()
            pair.secondary_path, pair.secondary_image = "", None
            pair.differs, pair.scrub = None, Scrub()
            pair.regions.closed()

    @_fold.register
    def _(self, marker: markers.Swap, place: Place) -> None:
        for pair in self._of(marker.volumes):
            self._move(pair, pair_states.SWAP, pair.reason)
            pair.swapped, pair.swaps = not pair.swapped, pair.swaps + 1
            pair.copies_then = pair.copies
            before, after = pair.primary_image, pair.secondary_image
            pair.primary_at, pair.secondary_at = pair.secondary_at, pair.primary_at
            pair.applied = pair.secondary_at
            pair.horizon = pair.horizon and Horizon(place.sequence, place.time_us)
            if pair.state == pair_states.SUSPENDED:
                # The new primary does not get what follows the cut; the new secondary has more.
                number = place.sequence
                before, after = (image and image.taken_at(number) for image in (before, after))
                if pair.history is not None:
                    pair.history.went_back(pair.cut, pair.usable)
                pair.primary_at, pair.usable, pair.rebuildable = place.sequence, False, False
                pair.cut = Cut("", place.sequence, place.time_us, "", VOID)
                pair.changed = pair.full_map()
            pair.primary_image, pair.secondary_image = after, before

    @_fold.register
    def _(self, marker: markers.Regions, _place: Place) -> None:
        for number, regions in marker.fresh.items():
            self.pairs[number].regions.open.update(regions)

    # -------------------------------------------------------------------------------- the cuts

    @_fold.register
    def _(self, marker: markers.MakeCut, place: Place) -> None:
        cut = Cut(marker.id, place.sequence, place.time_us, marker.tag, cut_states.CUT)
        cut.group, cut.members = marker.group, tuple(marker.members)
        cut.crc, cut.chain = place.crc, place.chain
        for pair in self._of(marker.volumes):
            self._move(pair, pair_states.SUSPEND, pair_states.BY_COMMAND)
            if (last := pair.last_cut) is not None and last.state == cut_states.CONSISTENT:
                pair.good_cut_us = last.time_us
            pair.cut, pair.last_cut, pair.changed, pair.tracked_bytes = cut, cut, None, 0
            pair.unrecorded = 0
        change_history.freeze(self._of(marker.volumes), cut, self.tracked_cuts)
        self.book.remember(cut, marker.volumes)

    @_fold.register
    def _(self, marker: markers.Horizon | markers.CutAt | markers.Onward, _place: Place) -> None:
        made = delayed.fold(marker, self._of(marker.volumes), self._move, self.tracked_cuts)
        if made is not None:
            self.book.remember(made, marker.volumes)

    @_fold.register
    def _(self, marker: OfCuts, place: Place) -> None:
        self.book.fold(marker, place.sequence, place.time_us)

    @_fold.register
    def _(self, marker: markers.Reader | markers.Unread, place: Place) -> None:
        self.readers.fold(marker, place.time_us)

    @_fold.register
    def _(self, marker: markers.Rollback, place: Place) -> None:
        rollback.begin(self._of(marker.volumes), marker, place.time_us)

    @_fold.register
    def _(self, marker: markers.RolledBack, place: Place) -> None:
        for pair in rollback.end(self._of(marker.volumes), marker, place.time_us):
            pair.tracked_bytes = ONLY_THE_MAP

    @_fold.register
    def _(self, marker: markers.Differ, place: Place) -> None:
        pair = self.pairs[marker.id]
        pair.differs = leg_differences.found(pair.differs, marker.runs, *place[:2])
        if pair.history is not None:  # a backup of a cut may have what is wrong
            pair.history.widen(marker.runs, change_history.DIFFERED)
        self.book.differs(pair)

    @_fold.register
    def _(self, marker: markers.Same, _place: Place) -> None:
        for pair in self._of(marker.volumes):
            pair.differs = None

    @_fold.register
    def _(self, marker: markers.Scrubbed, _place: Place) -> None:
        self.pairs[marker.id].scrub = Scrub(*marker[1:])

    # ------------------------------------------------------------------------------- failures

    @_fold.register
    def _(self, marker: markers.Fail, place: Place) -> None:
        first = VOID if marker.unusable else cut_states.CUT
        pairs = self._of(marker.volumes)
        cut = Cut(marker.id, marker.at, freeze.time_of(marker.at, pairs, place.time_us), "", first)
        cut.why = marker.error
        self.book.remember(cut, marker.volumes)
        others = pair_states.BY_GROUP if marker.failed else pair_states.BY_JOURNAL
        for pair in pairs:
            if pair.cut is not None and pair.state == pair_states.SUSPENDED:
                self.book.lose(pair.cut, cut.why)
            reason = pair_states.BY_ERROR if pair.id in marker.failed else others
            self._move(pair, pair_states.FAIL, reason)
            pair.cut, pair.applied = cut, min(pair.applied, cut.sequence)
            pair.failed_us, pair.staging = place.time_us, ""
            pair.readers.clear()
            rebuilding.fold(pair, marker)
            if (missed := marker.missed.get(pair.id)) is not None:
                pair.tracked_bytes += missed.changed_bytes
                pair.changed = pair.merged(missed)
            self.book.differs(pair)

    @_fold.register
    def _(self, marker: markers.Missed, place: Place) -> None:
        for number, changed in marker.changed.items():
            pair = self.pairs[number]
            alone = pair.state == pair_states.SIMPLEX
            # All of a secondary that is not usable: it was lost, and the primary is what it was
            lost = not (alone or pair.usable) and changed.count == changed.grains
            if pair.history is not None and not lost:
                pair.history.merge(changed, change_history.UNCLEAN)
            if alone:
                continue
            pair.changed = pair.merged(changed)
            pair.tracked_bytes += ONLY_THE_MAP
            pair.adopted = pair.adopted or number in marker.adopted
            pair.unrecorded = pair.unrecorded or place.sequence

    # ---------------------------------------------------------------------- copies and resyncs

    @_fold.register
    def _(self, marker: markers.Copy, place: Place) -> None:
        for number, changed in marker.changed.items():
            pair = self.pairs[number]
            self._move(pair, pair_states.COPY, marker.reason)
            pair.usable, pair.copies = False, pair.copies + 1
            pair.secondary_is_at(place.sequence)
            pair.leave_cut()
            pair.changed = pair.merged(changed)
            if marker.reason == pair_states.UNCLEAN_STOP and pair.history is not None:
                pair.history.merge(changed, change_history.UNCLEAN)
            whole = pair.changed.count == pair.changed.grains
            if whole or marker.reason == pair_states.FIRST_COPY:
                pair.scrub = pair.scrub.copied_to(place.time_us)
            if pair.differs is not None and leg_differences.is_covered(
                pair.differs.runs, pair.changed
            ):
                pair.differs = pair.differs._replace(copied=True)

    @_fold.register
    def _(self, marker: markers.Copied, _place: Place) -> None:
        changed = self.pairs[marker.id].changed
        if changed is not None:
            for offset, length in marker.runs:
                changed.clear(offset, length)

    @_fold.register
    def _(self, marker: markers.Resync, place: Place) -> None:
        for pair in self._of(marker.volumes):
            at_cut = pair.applied >= pair.limit(pair.applied)
            self._move(pair, pair_states.RESYNC, pair_states.RESYNCING)
            pair.staging, pair.staged = (UNCOMMITTED if marker.how == markers.MAP else ""), 0
            if marker.how == markers.JOURNAL and pair.changed is None and at_cut:
                pair.secondary_is_at(place.sequence)  # nothing of it changed since its cut

    @_fold.register
    def _(self, marker: markers.Abandon, _place: Place) -> None:
        for pair in self._of(marker.volumes):
            reason = marker.reasons.get(pair.id, pair_states.BY_COMMAND)
            self._move(pair, pair_states.ABANDON, reason)
            pair.staging = ""

    @_fold.register
    def _(self, marker: markers.Commit, _place: Place) -> None:
        for pair in self._of(marker.volumes):
            pair.staging, pair.staged = marker.job, marker.records
            pair.secondary_is_at(marker.at)

    @_fold.register
    def _(self, marker: markers.Settled, _place: Place) -> None:
        for pair in self._of(marker.volumes):
            pair.staging = ""

    @_fold.register
    def _(self, marker: markers.Equal, place: Place) -> None:
        for pair in self._of(marker.volumes):
            self._move(pair, pair_states.EQUAL, "")
            if pair.differs is not None and pair.differs.copied:
                pair.differs = None
            pair.scrub = pair.scrub.paired(place.time_us)
            pair.usable, pair.horizon = True, None
            pair.leave_cut()

    # ---------------------------------------------------------------------------- checkpoints

    def snapshot(
        self,
        tail: int,
        mirrored: Mapping[int, bool],
        behind: Mapping[int, int] = _NONE,
        halfway: Container[int] = (),
    ) -> Json:
        """All of it, for a checkpoint at number `tail`; `mirrored`: which pairs mirror; `behind`:
        primaries that do not hold all changes, and up to which number they hold them; `halfway`:
        pairs whose secondaries are at no number. `applied` and `primary_at` are only true once the
        images were synced.
        """
        return {
            "boot": self.boot,
            "closed": self.closed,
            "starts": self.starts,
            "ahead": self.ahead.pack(),
            **({"scrub": self.scrub_us} if self.scrub_us else {}),
            "cuts": [cut.pack() for cut in self.cuts.values()],
            **({"marks": marks} if (marks := self.book.marks.pack()) else {}),
            "pairs": snapshot.take_all(self.pairs.values(), tail, mirrored, behind, halfway),
            "changes": {
                pair.id: pair.history.take()
                for pair in self.pairs.values()
                if pair.history is not None and not pair.removed
            },
        }

    @staticmethod
    def pack_snapshot(taken: Json) -> Json:
        """What `snapshot` took, with its maps as text: slow, so a worker does it."""
        packed = {**taken, "pairs": [snapshot.pack(pair) for pair in taken["pairs"]]}
        del packed["changes"]
        if taken["changes"]:
            packed["changes"] = change_history.pack_all(taken["changes"])
        return packed

    def restore(self, saved: Json) -> None:
        """The reverse of `pack_snapshot`. Raises DamageError."""
        found = snapshot.unpack_all(saved, self._limits)
        self.boot, self.closed, self.starts = found.boot, found.closed, found.starts
        self.pairs, self.ahead, self.scrub_us = found.pairs, found.ahead, found.scrub_us
        self.readers = Readers(self.pairs)
        self.book = CutBook(self.pairs, self._limits)
        self.book.known, self.book.marks = found.cuts, found.marks
        for number, history in found.changes.items():
            self.pairs[number].history = history
        self.remember_cuts(self.tracked_cuts)

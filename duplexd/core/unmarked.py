"""What changes in a `PairRecord` without a marker: the part of the ledger that a restart computes
again, or does without.

How far a secondary has come, which grains changed or are being copied: after a restart these follow
from the records of the journal, or the lack of them errs on the safe side, so that more is copied.
They are in a class of their own because everything else in the ledger is folded from markers; what
adds a method here has to say what a restart does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.backend import WRITE
from duplexd.core import change_history
from duplexd.core.change_history import ADOPTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.backend import Change
    from duplexd.core.image_record import Image
    from duplexd.core.older_state import OlderState
    from duplexd.core.pair import PairRecord


class Unmarked:
    """See above; `Ledger` has these methods. Each writes to the pair that it is given, or to
    all.
    """

    pairs: dict[int, PairRecord]
    tracked_cuts: int
    starts: int
    ahead: OlderState

    def remember_cuts(self, tracked_cuts: int) -> None:
        """From now on so many, of each volume. With 0 what was known is forgotten. What a restart
        is to remember is in its configuration.
        """
        self.tracked_cuts = tracked_cuts
        change_history.keep(self.pairs.values(), tracked_cuts)

    def is_older(self, latest: int, end: int) -> None:
        """Note that images were used up to start `latest`, of which this state knows the changes up
        to number `end` at most. A restart without this finds the same; it must be in a checkpoint
        before another record is written.
        """
        self.ahead = self.ahead.found(self.starts, latest, end)

    def exchange_keys(self, pair: PairRecord) -> None:
        """Note that the configuration names the images of a pair the other way round than before:
        each has the role that it had.
        """
        pair.swapped = not pair.swapped

    def primary_holds(self, pair: PairRecord, sequence: int) -> None:
        """Note that the primary durably holds all changes up to `sequence`."""
        pair.primary_at = max(pair.primary_at, sequence)

    def secondary_holds(self, pair: PairRecord, sequence: int) -> None:
        """Note that the secondary durably holds all changes up to `sequence`."""
        pair.secondary_at = max(pair.secondary_at, sequence)

    def secondary_lacks(self, pair: PairRecord, sequence: int) -> None:
        """Note that changes after `sequence` may not be on the secondary durably."""
        pair.applied = min(pair.applied, sequence)
        pair.secondary_at = min(pair.secondary_at, sequence)

    def follows_to_the_tail(self, pair: PairRecord) -> None:
        """Note that the secondary is not kept behind any more. Its caller lets a start compare it
        as a whole with its primary, and every start that comes after one that died would, too.
        """
        pair.horizon = None

    def track(self, pair: PairRecord, kind: int, offset: int, length: int) -> None:
        """Note a change: since the newest cut that is remembered, and, where the secondary does
        not get it, since the cut that it is at. A restart tracks it again from its record.
        """
        if pair.history is not None:
            pair.history.live.set(offset, length)
        if not pair.lags:
            return
        if pair.changed is None:
            pair.changed = pair.new_map()
        pair.changed.set(offset, length)
        if kind == WRITE:
            pair.tracked_bytes += length

    def track_all(self, pair: PairRecord, changes: Iterable[Change]) -> None:
        """The same of changes of one volume, at the least cost."""
        if pair.history is not None:
            pair.history.note(changes)
        if pair.lags:
            if pair.changed is None:
                pair.changed = pair.new_map()
            changed = pair.changed
            for change in changes:
                changed.set(change.offset, change.length)
                if change.kind == WRITE:
                    pair.tracked_bytes += change.length

    def images_fit(self, pair: PairRecord) -> None:
        """Both images are as long as the volume, durably. A restart looks again."""
        pair.growing = 0

    def adopted(self, pair: PairRecord) -> None:
        """Another image is the primary from now on. Its caller takes a checkpoint before it is
        served; until then a restart does not know the image.
        """
        pair.lineage += 1
        if pair.history is not None:
            pair.history.widen_all(ADOPTED)

    def stored(self, pair: PairRecord, files: Mapping[str, str]) -> None:
        """Maps of what changed before cuts are in files, which a checkpoint names now."""
        if pair.history is not None:
            pair.history.stored(files)

    def copying(self, pair: PairRecord, offset: int, length: int) -> None:
        """A run is about to be read from the primary: a later write sets its grains again."""
        if pair.changed is not None:
            pair.changed.clear(offset, length)

    def not_copied(self, pair: PairRecord, runs: Iterable[tuple[int, int]]) -> None:
        """Runs that were being copied are not known to be durable on the secondary."""
        if pair.changed is not None:
            for offset, length in runs:
                pair.changed.set(offset, length)

    def nothing_copied(self, pair: PairRecord) -> None:
        """Nothing of a copy is known to be on the disk: copy all of it again."""
        if pair.changed is not None:
            pair.changed.set_all()

    def use_secondary(self, pair: PairRecord, path: str) -> None:
        """Where the secondary is, for the next checkpoint; "" for none."""
        pair.secondary_path = path

    def use_images(self, pair: PairRecord, primary: Image | None, secondary: Image | None) -> None:
        """What is known of the images of both roles; None where the next checkpoint is to take the
        image that is open for its own.
        """
        pair.primary_image, pair.secondary_image = primary, secondary

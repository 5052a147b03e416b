"""The cuts and marks that are remembered, and what their markers do to them.

It belongs to the ledger, which folds all markers; no other code changes a `Cut`. It is apart
because a cut lives longer than the stay of a pair at it: verdicts, votes and grades come in when
secondaries have gone on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import cut_states, drill_record, markers, snapshot
from duplexd.core.cut import Cut
from duplexd.core.cut_states import VOID
from duplexd.core.mark_book import MarkBook
from duplexd.core.pair_states import SUSPENDED
from duplexd.core.transitions import CUT_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.core.pair import PairRecord
    from duplexd.limits import EngineLimits

Vote = markers.Ready | markers.Stood | markers.Agreed | markers.Void
OfCuts = Vote | markers.Mark | markers.Grade | markers.Drilled  # what moves no pair


class CutBook:
    """`known`: the latest cuts, oldest first; current ones, and many more. `marks`: the marks."""

    def __init__(self, pairs: Mapping[int, PairRecord], limits: EngineLimits) -> None:
        self.known: dict[str, Cut] = {}
        self.marks = MarkBook()
        self._pairs = pairs
        self._limits = limits

    def find(self, cut_id: str) -> Cut | None:
        """The cut or mark of that id, if it is remembered or a secondary is at it."""
        known = self.known.get(cut_id) or self.marks.known.get(cut_id)
        if known is not None:
            return known
        at_cuts = (pair.cut for pair in self._pairs.values() if pair.cut is not None)
        return next((cut for cut in at_cuts if cut.id == cut_id), None)

    def fold(self, marker: OfCuts, sequence: int, time_us: int) -> None:
        """What a marker at this place says of a cut. Raises ValueError, see `vote`."""
        if isinstance(marker, markers.Mark):
            self.marks.make(marker, _runs(marker.volumes), sequence, time_us)
        elif isinstance(marker, markers.Grade | markers.Drilled):
            self.tried(marker, time_us)
        elif isinstance(marker, markers.Void):
            self.void(marker, sequence, time_us)
        else:
            self.vote(marker)

    def remember(self, cut: Cut, volumes: Iterable[int] = ()) -> None:
        """One that was made, of these volumes. Beyond the limits others are forgotten, see
        `_surplus`; one of them that secondaries are at is found by their pairs.
        """
        cut.of = _runs(volumes)
        self.known[cut.id], limits = cut, self._limits
        kept, void = limits.cuts_kept_max, limits.void_cuts_kept_max
        for old in _surplus(self.known.values(), cut, kept, void):
            del self.known[old.id]

    def void(self, marker: markers.Void, sequence: int, time_us: int) -> None:
        """Aborted before it was made, or forgotten, or known."""
        if self.find(marker.cut) is None:
            self.remember(Cut(marker.cut, sequence, time_us, "", VOID))
        else:
            self.vote(marker)

    def vote(self, marker: Vote) -> None:
        """What was found of a cut, or decided. Raises ValueError if its state does not allow it."""
        cut = self.find(marker.cut)
        if cut is None:
            return
        after = cut_states.after(cut.state, CUT_EVENTS[type(marker)])
        if after is None:
            raise ValueError(f"cut {cut.id} is {cut.state}")
        cut.state = after
        if after == VOID:
            if cut.id not in self.marks.known:
                snapshot.forget_good(self._pairs.values(), cut)
            return
        if isinstance(marker, markers.Ready | markers.Stood):
            self._arrived(cut)
        if after == cut_states.CONSISTENT:
            self._doubt(cut)

    def _at(self, cut: Cut) -> Iterable[PairRecord]:
        at_it = (pair for pair in self._pairs.values() if pair.cut is cut)
        return [pair for pair in at_it if pair.state == SUSPENDED]

    def _arrived(self, cut: Cut) -> None:
        """Its secondaries are durable there. No restart writes to them: a backup may read."""
        for pair in self._at(cut):
            if pair.usable:
                pair.secondary_is_at(max(pair.applied, cut.sequence))

    def tried(self, marker: markers.Grade | markers.Drilled, time_us: int) -> None:
        """What a canary found on a cut, or a drill, which its pairs keep."""
        if isinstance(marker, markers.Drilled):
            for number in marker.volumes:
                pair = self._pairs[number]
                pair.drill = drill_record.after(pair.drill, marker, time_us)
            return
        cut = self.find(marker.cut)
        if cut is not None:
            grade = marker._asdict()
            del grade["cut"]
            cut.grade = grade

    # ------------------------------------------------------------------ what makes a cut void

    def lose(self, cut: Cut, why: str) -> None:
        """A secondary failed at a cut: void, unless it was known to be durable there before."""
        if cut_states.after(cut.state, cut_states.LOSE) == VOID != cut.state:
            cut.state, cut.why = VOID, why

    def differs(self, pair: PairRecord) -> None:
        """The legs of a pair were found to differ. The cut it is at is void, however it was called
        before: as with a canary, that was found on the secondary itself. One that is prepared is
        not decided here alone; it is void once the others agree, also if the pair has left it.
        """
        if pair.differs is not None and pair.cut is not None:
            self._doubt(pair.cut)

    def _doubt(self, cut: Cut) -> None:
        """Void if legs at it are known to differ, or were when it was prepared."""
        at_it = (pair for pair in self._pairs.values() if pair.cut is cut)
        why = [f"{pair.name}: {pair.differs.text}" for pair in at_it if pair.differs is not None]
        cut.doubt = "; ".join(why) or cut.doubt
        if cut.doubt and cut.state not in {cut_states.READY, VOID}:
            cut.state, cut.why = VOID, cut.doubt
            snapshot.forget_good(self._pairs.values(), cut)


def _runs(numbers: Iterable[int]) -> tuple[int, ...]:
    """First and last of each run: `(1, 3, 7, 7)` of 1, 2, 3, 7.

    Hundreds of cuts of a thousand volumes are in each checkpoint, and most are of all volumes.
    """
    found: list[int] = []
    for number in sorted(numbers):
        if found and number == found[-1] + 1:
            found[-1] = number
        else:
            found += [number, number]
    return tuple(found)


def _surplus(cuts: Iterable[Cut], new: Cut, kept_max: int, void_kept_max: int) -> list[Cut]:
    """What is to be forgotten for a new cut: the oldest that is decided, or else the oldest.

    Void cuts are counted on their own. A secondary that fails again and again makes one after the
    other, and those that somebody may have a backup of must not be forgotten for them.
    """
    others, void = list[Cut](), list[Cut]()
    for cut in cuts:
        (void if cut.state == cut_states.VOID else others).append(cut)
    found = void[: max(0, len(void) - void_kept_max)]
    if len(others) > kept_max:
        decided = (cut for cut in others if cut.verdict and cut is not new)
        found.append(next(decided, others[0]))
    return [cut for cut in found if cut is not new]

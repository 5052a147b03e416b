"""Which points a secondary can be brought to: what "within reach" means. Pure.

A secondary goes forwards only, by records that the journal still has. So its reach is one range of
numbers: it begins where the secondary is, and ends at the tail if the journal has everything after
that; where the journal does not lead on, the secondary can only be where it is.

The reach of several is what all of them can be brought to. A point is within reach if it is in
that range; whether it is *consistent* over several controllers is another question, which its
verdict answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.pair_states import SIMPLEX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.core.pair import PairRecord

THE_TAIL = 1 << 62  # above all numbers


class Reach(NamedTuple):
    """From number `first` to number `last`, both included. `why` it does not go on from there, and
    `before`: why not to an earlier one. With `last` below `first` there is none.
    """

    first: int
    last: int
    before: str
    why: str = ""

    def why_not(self, sequence: int) -> str:
        """Why a point at this number cannot be reached; "" if it can."""
        if self.last < self.first or sequence > self.last:
            return self.why
        return self.before if sequence < self.first else ""


def of(pair: PairRecord, at: int, oldest: int) -> Reach:
    """Of a secondary that holds every change up to number `at`: the tail, of one that mirrors.
    `oldest`: the number of the oldest record in the journal, 0 if it has none.
    """
    if why := _nowhere(pair):
        return Reach(0, -1, "", f"{pair.name}: {why}")
    before = f"{pair.name}: its secondary is at number {at}, and goes forwards only"
    if not 0 < oldest <= at + 1:
        why = f"the journal begins at number {oldest} only, after what its secondary lacks"
        return Reach(at, at, before, f"{pair.name}: {why}")
    if pair.unrecorded:
        why = f"it had changed without records by number {pair.unrecorded} (unclean stop, or adopt)"
        return Reach(at, max(at, pair.unrecorded - 1), before, f"{pair.name}: {why}")
    return Reach(at, THE_TAIL, before)


def together(reaches: Iterable[Reach]) -> Reach:
    """What all of these have in common; everything, if there are none."""
    found = Reach(0, THE_TAIL, "")
    for each in reaches:
        if each.last < each.first:
            return each
        if each.first > found.first:
            found = found._replace(first=each.first, before=each.before)
        if each.last < found.last:
            found = found._replace(last=each.last, why=each.why)
    if found.last < found.first:
        return found._replace(first=0, last=-1)
    return found


def within_reach(pair: PairRecord, at: int, sequence: int, oldest: int) -> bool:
    """Whether this secondary, which is at number `at`, can be brought to exactly `sequence`."""
    return not of(pair, at, oldest).why_not(sequence)


def _nowhere(pair: PairRecord) -> str:
    if pair.removed:
        return "it was removed from the configuration"
    if pair.state == SIMPLEX:
        return "it has no secondary"
    if not pair.usable:
        return "its secondary is at no number (it is being copied, or has failed)"
    if pair.differs is not None:
        return "its images are known to differ"
    return ""

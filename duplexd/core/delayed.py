"""Delayed secondaries: what their markers do to pairs. Pure.

A delayed secondary trails by a time, so it can still be stopped at a number that has passed. That
number is a cut like any other, but the volume has changed since: `changed` begins with what the
journal has after it, and nothing less, or a later resync would leave out what it has to copy.

A secondary that is SUSPENDED can go on to a later number that has passed (`Onward`). What changed
since its old cut is then taken for what changed since the new one: too much, but never too little,
and nothing has to be read for it.

`PairRecord.horizon` is how far such a secondary may go. It is a number in the journal and not a
time, because what a restart applies must not depend on a clock or a configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import change_history, cut_states
from duplexd.core.cut import Cut
from duplexd.core.horizon import Horizon
from duplexd.core.markers import CutAt, Onward
from duplexd.core.pair_states import BY_COMMAND, DUPLEX, ONWARD, SUSPEND
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.core import markers
    from duplexd.core.pair import PairRecord

DELAYED = "delayed"  # the mode


def fold(
    marker: markers.Horizon | markers.CutAt | markers.Onward,
    pairs: Sequence[PairRecord],
    move: Callable[[PairRecord, str, str], None],
    tracked: int,
) -> Cut | None:
    """What a marker says of these pairs; the cut that it makes. `move`: see `Ledger`; `tracked`:
    how many cuts are remembered for what changed. Raises ValueError.
    """
    if isinstance(marker, CutAt):
        for pair in pairs:
            move(pair, SUSPEND, BY_COMMAND)
        return cut(pairs, marker, tracked)
    if isinstance(marker, Onward):
        for pair in pairs:
            move(pair, ONWARD, BY_COMMAND)
        return go_on(pairs, marker, tracked)
    may_go(pairs, marker)
    return None


def cut(pairs: Sequence[PairRecord], marker: CutAt, tracked: int) -> Cut:
    """The cut that a marker makes of these pairs, which are SUSPENDED by now."""
    made = _made(pairs, marker)
    for pair in pairs:
        pair.changed, pair.tracked_bytes, pair.unrecorded = None, 0, 0
    change_history.freeze(pairs, made, tracked)
    _changed_since(pairs, marker)
    _grown_since(pairs, made)
    return made


def go_on(pairs: Sequence[PairRecord], marker: Onward, tracked: int) -> Cut:
    """The cut that SUSPENDED pairs go on to."""
    made = _made(pairs, marker)
    for pair in pairs:
        pair.failed_us = 0
    change_history.freeze_earlier(pairs, made, tracked)
    _grown_since(pairs, made)
    return made


def _made(pairs: Iterable[PairRecord], marker: CutAt | Onward) -> Cut:
    mark, group, members = marker.of
    made = Cut(marker.id, marker.at, marker.time_us, marker.tag, cut_states.CUT, group, members)
    made.mark = mark
    for pair in pairs:
        if (last := pair.last_cut) is not None and last.state == cut_states.CONSISTENT:
            pair.good_cut_us = last.time_us
        pair.cut = pair.last_cut = made
    return made


def _changed_since(pairs: Iterable[PairRecord], marker: CutAt) -> None:
    """The map of the interval before the cut was frozen with these changes in it: too much, but
    never too little.
    """
    for pair in pairs:
        since = marker.changed.get(pair.id)
        if since is None:
            continue
        pair.changed = pair.merged(since)
        pair.tracked_bytes = since.changed_bytes
        if pair.history is not None:
            pair.history.live.merge(since)


def _grown_since(pairs: Iterable[PairRecord], cut: Cut) -> None:
    """As after any cut, what is new of a volume counts as changed, see `ChangeHistory.grew`."""
    for pair in pairs:
        new = pair.size - pair.size_at(cut.sequence)
        if pair.history is not None and new:
            pair.history.widen([(pair.size - new, new)], change_history.GREW)


def may_go(pairs: Iterable[PairRecord], marker: markers.Horizon) -> None:
    """Raises ValueError for a pair that is not DUPLEX."""
    for pair in pairs:
        if pair.state != DUPLEX:
            raise ValueError(f"horizon of {pair.name}, which is {pair.state}")
        before = pair.horizon or Horizon(0, 0)
        pair.horizon = Horizon(max(before.number, marker.to), max(before.time_us, marker.time_us))


def check(marker: CutAt | Onward, pairs: Iterable[PairRecord]) -> None:
    """Before a cut of the past is written: raises WrongStateError if a secondary is beyond it."""
    for pair in pairs:
        if not pair.usable or pair.applied > marker.at:
            raise WrongStateError(
                f"{pair.name}: its secondary is at number {pair.applied}, so it cannot be suspended"
                f" at {marker.at}"
            )
        if isinstance(marker, Onward) and pair.is_cut_after(marker.at):
            raise WrongStateError(
                f"{pair.name} was cut after number {marker.at}, so its secondary cannot go there"
            )
        if isinstance(marker, Onward) and 0 < pair.unrecorded <= marker.at:
            raise WrongStateError(
                f"{pair.name} had changed without records by number {pair.unrecorded}, so it cannot"
                f" go on to {marker.at}"
            )

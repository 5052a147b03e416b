"""What is asked before a marker is written: does it fit the states, and is nobody in its way? Pure.

The ledger asks for every marker, so no part of the engine can move a pair by a way of its own. What
is refused here costs nothing: the marker has no number yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import delayed, markers, pair_states, rollback
from duplexd.core.cuttable import refuse_differing
from duplexd.core.transitions import PAIR_EVENTS, Moving
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.core.markers import Marker
    from duplexd.core.pair import PairRecord
    from duplexd.core.readers import Readers


def check(marker: Marker, pairs: Mapping[int, PairRecord], readers: Readers) -> None:
    """Raises WrongStateError if a marker does not fit the states of these pairs, or would take a
    secondary from its readers, or from a rollback.
    """
    if isinstance(marker, markers.Rollback):
        rollback.check_begin(marker, [pairs[number] for number in marker.volumes])
    elif isinstance(marker, markers.RolledBack):
        rollback.check_end(marker, [pairs[number] for number in marker.volumes])
    if not isinstance(marker, Moving):
        return
    event, moved = PAIR_EVENTS[type(marker)], [pairs[number] for number in marker.volumes]
    for pair in moved:
        if (pair.state, event) not in pair_states.TRANSITIONS:
            raise WrongStateError(f"{pair.name} is {pair.state}: {event} is not possible")
    if event in pair_states.LEAVING:
        rollback.check_event(event, moved)
        readers.refuse(marker.volumes)
    if isinstance(marker, markers.Resync):
        _refuse_trailing(moved)
    if isinstance(marker, markers.CutAt | markers.Onward):
        delayed.check(marker, moved)
    if isinstance(marker, markers.MakeCut | markers.CutAt | markers.Onward):
        differing = [pair for pair in moved if pair.differs is not None]
        if differing:
            refuse_differing(differing)


def _refuse_trailing(pairs: Iterable[PairRecord]) -> None:
    """What a resync copies is what changed since the cut: nothing would bring the changes before it
    to a secondary that is still on its way there.
    """
    for pair in pairs:
        if pair.usable and pair.applied < pair.limit(0):
            raise WrongStateError(
                f"{pair.name}: its secondary is at number {pair.applied}, and not yet at its cut, "
                f"number {pair.limit(0)}; try again when it has arrived"
            )

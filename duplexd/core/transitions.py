"""Which event of the state tables each marker is. Pure.

The ledger checks markers by these tables, and the timeline asks which markers move pairs. A marker
that moves pairs but is missing here would be folded without a check of the invariants, so a test
compares `Moving` with `PAIR_EVENTS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import cut_states, markers, pair_states

if TYPE_CHECKING:
    from duplexd.core.markers import Marker

# Of `pair_states`
PAIR_EVENTS: dict[type[Marker], str] = {
    markers.Attach: pair_states.ATTACH,
    markers.Copy: pair_states.COPY,
    markers.MakeCut: pair_states.SUSPEND,
    markers.CutAt: pair_states.SUSPEND,
    markers.Onward: pair_states.ONWARD,
    markers.Fail: pair_states.FAIL,
    markers.Resync: pair_states.RESYNC,
    markers.Abandon: pair_states.ABANDON,
    markers.Equal: pair_states.EQUAL,
    markers.Detach: pair_states.DETACH,
    markers.Swap: pair_states.SWAP,
}
# Of `cut_states`
CUT_EVENTS: dict[type[Marker], str] = {
    markers.MakeCut: cut_states.MAKE,
    markers.CutAt: cut_states.MAKE,
    markers.Onward: cut_states.MAKE,
    markers.Mark: cut_states.MAKE,
    markers.Ready: cut_states.STAND,
    markers.Stood: cut_states.ALONE,
    markers.Agreed: cut_states.AGREE,
    markers.Void: cut_states.REFUSE,
    markers.Fail: cut_states.LOSE,
}
# The markers of PAIR_EVENTS as a type: each has `volumes`
Moving = (
    markers.Attach
    | markers.Copy
    | markers.MakeCut
    | markers.CutAt
    | markers.Onward
    | markers.Fail
    | markers.Resync
    | markers.Abandon
    | markers.Equal
    | markers.Detach
    | markers.Swap
)

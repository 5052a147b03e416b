"""A secondary that failed on its way along the journal can be sent along it again. Pure.

A record says what to write, and where. So it can be applied again, whatever an image holds of it,
or of later ones: once the last record is applied, nothing is left of the failure. Without this the
image would be worthless, because it holds no state that ever existed, and it may be the only one
that is left of a volume.

That is recorded as `PairRecord.rebuildable`: such a secondary is not usable, `applied` is the
number up to which it durably holds every change, and what else it holds is in records after that.
It stays so until it is at the tail, so a second failure costs no more than the first.

Nothing of this is true of an image that was copied to from its primary, that may be another one, or
whose end was cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.pair_states import PENDING

if TYPE_CHECKING:
    from duplexd.core.markers import Fail
    from duplexd.core.pair import PairRecord


def number(pair: PairRecord) -> int | None:
    """The number from which the journal makes the secondary usable again, should it fail now; None
    if it does not.
    """
    walks = pair.state == PENDING and pair.usable and not pair.staging
    return pair.secondary_at if (walks or pair.rebuildable) and pair.secondary_image else None


def fold(pair: PairRecord, marker: Fail) -> None:
    """What a failure makes of the secondary of a pair, whose cut and `applied` it has changed."""
    pair.secondary_at = min(pair.secondary_at, pair.applied)
    if pair.id not in marker.unusable:
        return
    pair.usable, pair.rebuildable = False, pair.id in marker.rebuild
    if pair.rebuildable:
        pair.secondary_is_at(marker.rebuild[pair.id])

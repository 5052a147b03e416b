"""A rollback: volumes go back to the cut that their secondaries are at. What is not done meanwhile.
Pure.

Half-way a volume holds neither what it held nor what the cut holds. So it is closed from the marker
that begins the rollback to the one that ends it, over any number of restarts: no client reads it or
writes to it, and no command takes the secondary from its cut, because that is where the rest comes
from. A secondary that fails meanwhile leaves the cut, and a start may find no secondary configured:
then the rollback can only be abandoned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.pair_states import COPY, RESYNC, SUSPENDED, SWAP
from duplexd.core.rollback_state import ABANDONED, DONE, Rollback
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from duplexd.core.markers import Rollback as Begins
    from duplexd.core.markers import RolledBack
    from duplexd.core.pair import PairRecord

CHECK, MEASURE, COPY_ONLY, OPEN, WHOLE, ABANDON = (
    "check", "measure", "copy", "open", "whole", "abandon"
)  # fmt: skip
_KEPT_FOR_IT = frozenset({COPY, RESYNC, SWAP})  # would take the secondary from its cut


class Order(NamedTuple):
    """What a command wants. `to`: the point, as in `VOLUME@POINT`. `id`: of the rollback, where
    several controllers take part in it; "" for a new one. `force`: clients are disconnected.

        CHECK      is anything in the way?
        MEASURE    how much differs? Nothing is closed for it
        COPY_ONLY  close the volumes and let them go back
        OPEN       serve them again after that; needs no point
        WHOLE      both
        ABANDON    serve them as they are; needs no point
    """

    to: str = ""
    id: str = ""
    force: bool = False
    step: str = WHOLE


def closed(pair: PairRecord) -> str:
    """Why no client may use a volume; "" if nothing is in the way."""
    return pair.rollback.closed if pair.rollback is not None else ""


def refuse(pairs: Iterable[PairRecord]) -> None:
    """Raises WrongStateError for a volume that is half-way: its secondary stays where it is."""
    for pair in pairs:
        if why := closed(pair):
            raise WrongStateError(f"{pair.name}: {why}")


def check_event(event: str, pairs: Iterable[PairRecord]) -> None:
    """Before a marker moves these pairs. Raises WrongStateError, see `refuse`. A secondary that has
    left the configuration is not kept: what is gone is gone.
    """
    if event in _KEPT_FOR_IT:
        refuse(pair for pair in pairs if pair.state == SUSPENDED)


def check_begin(marker: Begins, pairs: Sequence[PairRecord]) -> None:
    """Before the marker that closes the volumes. Raises WrongStateError if one of them is not at
    that cut, or half-way already.
    """
    refuse(pairs)
    for pair in pairs:
        if not _is_at(pair, marker.cut):
            raise WrongStateError(f"{pair.name} is not at cut {marker.cut}")


def check_end(marker: RolledBack, pairs: Sequence[PairRecord]) -> None:
    """Before the marker that opens the volumes. Raises WrongStateError if it does not fit."""
    for pair in pairs:
        begun = pair.rollback
        if begun is None or begun.ended or begun.id != marker.id:
            raise WrongStateError(f"{pair.name} has no rollback {marker.id} that is not finished")
        if marker.whole and not _is_at(pair, begun.cut):
            raise WrongStateError(
                f"{pair.name} is not at cut {begun.cut}, so it is not rolled back"
            )


def begin(pairs: Iterable[PairRecord], marker: Begins, time_us: int) -> None:
    """Fold the marker that closes the volumes; for the ledger alone."""
    for pair in pairs:
        pair.rollback = Rollback(marker.id, marker.cut, time_us)


def end(pairs: Sequence[PairRecord], marker: RolledBack, time_us: int) -> Sequence[PairRecord]:
    """Fold the marker that opens the volumes; for the ledger alone. Returns those that hold what
    their secondaries hold: these lack nothing. A resync copies what changes from here on by the
    map, because the records since the cut lead there by a detour, and some may be lost.

    Raises ValueError for one that `check_end` would have refused.
    """
    ended = DONE if marker.whole else ABANDONED
    try:
        check_end(marker, pairs)
    except WrongStateError as error:
        raise ValueError(str(error)) from error
    for pair in pairs:
        if pair.rollback is not None:
            pair.rollback = pair.rollback._replace(time_us=time_us, ended=ended)
    return pairs if marker.whole else ()


def _is_at(pair: PairRecord, cut: str) -> bool:
    there = pair.state == SUSPENDED and pair.usable
    return there and pair.cut is not None and pair.cut.id == cut

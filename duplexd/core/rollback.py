"""A rollback: volumes go back to the cut that their secondaries are at. A restore: they go back to
a backup, which a client writes to them. What is not done meanwhile. Pure.

Half-way a volume holds neither what it held nor what the cut holds. So it is closed from the marker
that begins the rollback to the one that ends it, over any number of restarts: no client reads it or
writes to it, and no command takes the secondary from its cut, because that is where the rest comes
from. A secondary that fails meanwhile leaves the cut, and a start may find no secondary configured:
then the rollback can only be abandoned.

Of a restore the secondary is the way back. It must not get what is written half-way: a failure
would suspend it there, at a cut that looks like any other. So a restore is of pairs that do not
mirror. A rollback may take its place: then the volumes are whole again without having been open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.pair_states import COPY, ONWARD, RESYNC, SIMPLEX, SUSPENDED, SWAP
from duplexd.core.rollback_state import ABANDONED, DONE, Rollback
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from duplexd.core.markers import Rollback as Begins
    from duplexd.core.markers import RolledBack
    from duplexd.core.pair import PairRecord

CHECK, MEASURE, COPY_ONLY, OPEN, WHOLE, ABANDON, CLOSE = (
    "check", "measure", "copy", "open", "whole", "abandon", "close"
)  # fmt: skip
_APART = frozenset({SUSPENDED, SIMPLEX})
_KEPT_FOR_IT = frozenset({COPY, ONWARD, RESYNC, SWAP})  # would take the secondary from its cut


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


class RestoreOrder(NamedTuple):
    """The same of a restore from the backup of that name, which was made of `cut`.

    CHECK   is anything in the way?
    CLOSE   disconnect clients, and let only the restore write
    OPEN    serve the volumes again: all is written
    """

    backup: str
    cut: str
    id: str = ""
    force: bool = False
    step: str = CHECK


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
    """Before the marker that closes the volumes. Raises WrongStateError if one of them is half-way
    already, is not at that cut, or would mirror what is restored.
    """
    for pair in pairs:
        begun = pair.rollback
        if begun is not None and begun.unfinished and (begun.goes_back or marker.backup):
            raise WrongStateError(f"{pair.name}: {begun.closed}")
        if marker.backup:
            check_apart(pair)
        elif not _is_at(pair, marker.cut):
            raise WrongStateError(f"{pair.name} is not at cut {marker.cut}")


def check_apart(pair: PairRecord) -> None:
    """Raises WrongStateError for a pair whose secondary would get what is restored."""
    if pair.state not in _APART:
        raise WrongStateError(
            f"{pair.name} is {pair.state}: its secondary would get what is restored before all of "
            "it is there; suspend it first, or wait until it can be suspended"
        )


def check_end(marker: RolledBack, pairs: Sequence[PairRecord]) -> None:
    """Before the marker that opens the volumes. Raises WrongStateError if it does not fit."""
    for pair in pairs:
        begun = pair.rollback
        if begun is None or begun.ended or begun.id != marker.id:
            raise WrongStateError(f"{pair.name} has no rollback {marker.id} that is not finished")
        if marker.whole and begun.backup:
            check_apart(pair)
        elif marker.whole and not _is_at(pair, begun.cut):
            raise WrongStateError(
                f"{pair.name} is not at cut {begun.cut}, so it is not rolled back"
            )


def begin(pairs: Iterable[PairRecord], marker: Begins, time_us: int) -> None:
    """Fold the marker that closes the volumes; for the ledger alone."""
    for pair in pairs:
        pair.rollback = Rollback(marker.id, marker.cut, time_us, backup=marker.backup)


def end(pairs: Sequence[PairRecord], marker: RolledBack, time_us: int) -> Sequence[PairRecord]:
    """Fold the marker that opens the volumes; for the ledger alone. One that is back at its cut
    lacks nothing. Returns those of which a resync has to copy by the map, because the records since
    the cut lead to what they hold by a detour, and some may be lost. Half-way on a detour a
    secondary holds what nobody can use.

    Raises ValueError for one that `check_end` would have refused.
    """
    ended = DONE if marker.whole else ABANDONED
    try:
        check_end(marker, pairs)
    except WrongStateError as error:
        raise ValueError(str(error)) from error
    detour: list[PairRecord] = []
    for pair in pairs:
        begun = pair.rollback
        if begun is None:
            continue
        pair.rollback = begun._replace(time_us=time_us, ended=ended)
        if marker.whole and not begun.backup:
            pair.changed = None
        if marker.whole or begun.backup:
            detour.append(pair)
    return detour


def _is_at(pair: PairRecord, cut: str) -> bool:
    there = pair.state == SUSPENDED and pair.usable
    return there and pair.cut is not None and pair.cut.id == cut

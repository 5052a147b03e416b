"""Whether volumes can go back to a point: asked before anything is done, and again in the step that
begins. Nothing here changes anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.cut_states import CONSISTENT
from duplexd.core.pair_states import SUSPENDED
from duplexd.core.point import PointName
from duplexd.engine.opening import why_absent
from duplexd.errors import NotFoundError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.core.rollback import Order
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.leases import Leases
    from duplexd.engine.points import Points
    from duplexd.engine.volumes import Volumes

_LISTED = 5


class Plan(NamedTuple):
    """The cut that the pairs go back to; `unfinished`: the id of the rollback that goes on."""

    cut: Cut
    unfinished: str


class RollbackCheck:
    """Of a controller."""

    def __init__(
        self, volumes: Volumes, leases: Leases, archive: CutArchive, points: Points
    ) -> None:
        self._volumes = volumes
        self._leases = leases
        self._archive = archive
        self._points = points

    def plan(self, pairs: Sequence[Pair], order: Order) -> Plan:
        """Raises WrongStateError if one of the pairs cannot go back, or if they do not go back
        together; NotFoundError if they are at no such point.
        """
        unfinished = self.unfinished(
            [pair for pair in pairs if not is_restored(pair)]  # a rollback takes its place
        )
        cuts = {pair: self._cut(pair, order.to) for pair in pairs}
        cut = next(iter(cuts.values()))
        others = [f"{pair.name} at {each.id}" for pair, each in cuts.items() if each is not cut]
        if others:
            raise WrongStateError(
                f"{pairs[0].name} is at cut {cut.id}, {', '.join(others[:_LISTED])}: volumes go "
                "back together to one cut only"
            )
        if self._archive.verdict(cut) != CONSISTENT:
            verdict = self._archive.verdict(cut) or "undecided"
            raise WrongStateError(
                f"cut {cut.id} is {verdict}: its secondaries are no consistent copy to go back to"
            )
        return Plan(cut, unfinished)

    def refuse_users(self, pairs: Sequence[Pair]) -> None:
        """Raises WrongStateError, which names them, if clients are connected to these volumes."""
        used = [pair for pair in pairs if pair.clients]
        if used:
            listed = "; ".join(f"{pair.name} by {_peers(pair)}" for pair in used[:_LISTED])
            more = f" (and {len(used) - _LISTED} more volumes)" if len(used) > _LISTED else ""
            raise WrongStateError(
                f"clients use {listed}{more}: stop the application, unmount, and disconnect them; "
                "or disconnect them with --force, which can damage what they have mounted"
            )

    def together(self, rollback_id: str) -> list[Pair]:
        """The pairs that go back by this rollback or restore, and have not arrived."""
        return [
            pair
            for pair in self._volumes.all()
            if (rollback := pair.record.rollback) is not None
            and rollback.unfinished
            and rollback.id == rollback_id
        ]

    def unfinished(self, pairs: Sequence[Pair]) -> str:
        """The rollback or restore that these pairs, and no others, are in; "" for none."""
        ids = {
            rollback.id: rollback.cut
            for pair in pairs
            if (rollback := pair.record.rollback) is not None and rollback.unfinished
        }
        if not ids:
            return ""
        members = self.together(next(iter(ids)))
        if len(ids) > 1 or set(members) != set(pairs):
            names = " ".join(pair.name for pair in members)
            raise WrongStateError(
                f"a rollback of {names} to cut {next(iter(ids.values()))} is not finished: these go"
                " back together, and no others with them; name exactly these"
            )
        return next(iter(ids))

    def refuse_unavailable(self, pair: Pair) -> None:
        """Raises WrongStateError if it is not served for another reason than that it goes back, or
        is held.
        """
        if pair.failed:
            raise WrongStateError(f"{pair.name} is not served: {pair.failed}")
        if (hold := self._leases.holder(pair)) is not None:
            raise WrongStateError(
                f"{pair.name} is held by {hold.owner} (lease {hold.id}); try again when that ended"
            )

    def way_back(self, pair: Pair) -> str:
        """The id of the cut that a rollback could go back to now; "" if there is none."""
        here = self._points.cut_of(pair)
        good = here is not None and self._archive.verdict(here) == CONSISTENT
        return here.id if good and here is not None and pair.record.differs is None else ""

    def _cut(self, pair: Pair, to: str) -> Cut:
        """Where its secondary is, durably."""
        self.refuse_unavailable(pair)
        rollback, here = pair.record.rollback, self._points.cut_of(pair)
        if rollback is not None and rollback.goes_back:
            if here is None or here.id != rollback.cut:
                raise WrongStateError(
                    f"{pair.name}: its secondary cannot be read at cut {rollback.cut} now"
                    f"{_why(pair)}; the rollback goes on when it can, or `duplexctl rollback "
                    f"{pair.name} --abandon` opens the volume as it is, half-way"
                )
        elif here is None:
            state = f"{pair.state} {pair.reason}".strip()
            raise WrongStateError(
                f"{pair.name} is {state}: its secondary is at no cut that it could go back to"
            )
        if pair.record.differs is not None:
            raise WrongStateError(
                f"{pair.name}: {pair.record.differs.text}, so its secondary may be wrong"
            )
        if not PointName(pair.name, to).means(here, consistent=True):
            tag = f", tag {here.tag!r}" if here.tag else ""
            raise NotFoundError(
                f"{pair.name}@{to}: its secondary is at cut {here.id}{tag}, and can go back to that"
                " one only"
            )
        return here


def is_restored(pair: Pair) -> bool:
    """Whether a restore of it is not finished."""
    rollback = pair.record.rollback
    return rollback is not None and rollback.unfinished and not rollback.goes_back


def left_cut(pair: Pair, cut: Cut) -> str:
    """Why a pair is at this cut no more; "" if it is."""
    at_cut = pair.state == SUSPENDED and pair.usable and pair.cut is cut
    return "" if at_cut else f"its secondary has left cut {cut.id}{_why(pair)}"


def _why(pair: Pair) -> str:
    why = why_absent(pair.secondary) or (pair.cut.why if pair.cut is not None else "")
    return f" ({why})" if why else ""


def _peers(pair: Pair) -> str:
    peers = list(pair.clients.values())
    more = f" and {len(peers) - _LISTED} more" if len(peers) > _LISTED else ""
    return ", ".join(peers[:_LISTED]) + more

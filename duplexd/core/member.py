"""A controller as a member of cuts that it takes together with other controllers: which command it takes, and what it makes of its cut. Pure.

A coordinator sends CLOSE, CUT, OPEN, then AGREE or REFUSE; ABORT at any time. Commands may be late, twice, or of another coordinator; leases
end by themselves. What is refused raises a DuplexdError and changes nothing. All methods but `close` are called within a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.core import votes
from duplexd.errors import LeaseLostError, NotFoundError, UsageError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.gate import Lease
    from duplexd.core.pair import Pair

FENCES_OF_A_START = 1 << 32
_ENDED_KEPT = 1024


class Member:
    """Leases, and votes. `state_of` tells what the journal says of a cut, `mark` writes a marker and so moves it (see `votes.MARKERS`)."""

    __slots__ = ("_fence", "_mark", "_state_of", "ended", "leases", "opened", "start")

    def __init__(
        self, state_of: Callable[[str], str], mark: Callable[[dict[str, Any]], object]
    ) -> None:
        self._state_of = state_of
        self._mark = mark
        self.leases: dict[str, Lease] = {}  # HELD
        self.ended: dict[str, str] = {}  # how those that are not ended
        self.opened: set[str] = set()  # cuts whose holds lasted until they were opened
        self.start = 0  # how often this controller was started
        self._fence = 0

    # ------------------------------------------------------------------------------------------------------------- leases

    def close(self, lease: Lease) -> None:
        """Take a new lease. Raises with nothing done if its cut can't be made any more, or another cut of these pairs is being made."""
        if lease.cut_id:
            state = self._state_of(lease.cut_id)
            if state != votes.NONE:
                raise LeaseLostError(f"cut {lease.cut_id} is {state} here already; begin a new one")
            self.refuse_overlap(lease.pairs)
        self._renumber(lease)
        self.leases[lease.id] = lease

    def refuse_overlap(self, pairs: Sequence[Pair]) -> None:
        """Raises WrongStateError if some of these pairs are held for a group's cut: nobody else may take them out of it."""
        for other in self.leases.values():
            if other.cut_id and not set(other.pairs).isdisjoint(pairs):
                raise WrongStateError(
                    f"another suspend of these volumes is under way (lease {other.id}); try again when it is done"
                )

    def _renumber(self, lease: Lease) -> None:
        self._fence += 1
        lease.fence = self.start * FENCES_OF_A_START + self._fence

    def find(self, lease_id: str, fence: int | None) -> Lease:
        """The lease, if it is held and `fence` (where given) is its newest. Raises LeaseLostError, NotFoundError, UsageError."""
        lease = self.leases.get(lease_id)
        if lease is None:
            if lease_id in self.ended:
                why = self.ended[lease_id]
            elif fence is not None and fence <= self.start * FENCES_OF_A_START:
                why = "the daemon was started again since"
            elif any(held.cut_id == lease_id for held in self.leases.values()):
                raise UsageError(
                    f"{lease_id} is the cut that a group is held for, and no lease: only whoever holds it can cut it; "
                    "`duplexctl suspend GROUP` holds and cuts in one step"
                )
            else:
                raise NotFoundError(
                    f"{lease_id!r}: no such lease; duplexctl status shows those that hold"
                )
            raise LeaseLostError(
                f"lease {lease_id} ended before ({why}): verdict void, nothing was suspended; quiesce again"
            )
        if fence is not None and fence != lease.fence:
            raise LeaseLostError(
                f"lease {lease_id} was renewed by another (fence {lease.fence}, not {fence}); it is not yours any more"
            )
        return lease

    def renew(self, lease_id: str, fence: int | None) -> Lease:
        """Give a lease a new fencing number: whoever knows only the old one has lost it."""
        lease = self.find(lease_id, fence)
        self._renumber(lease)
        return lease

    def end(self, lease: Lease, reason: str) -> bool:
        """End a lease; False if it had ended. The caller then calls `lost`, within a step, if it has a cut."""
        if not lease.end(reason):
            return False
        del self.leases[lease.id]
        self.ended[lease.id] = reason
        while len(self.ended) > _ENDED_KEPT:
            del self.ended[next(iter(self.ended))]
        return True

    def lost(self, cut_id: str) -> None:
        """The hold of this cut has ended: unless it was opened in order, it is void."""
        if self._state_of(cut_id) == votes.CUT and cut_id not in self.opened:
            self._mark({"m": "void", "cut": cut_id})

    # ---------------------------------------------------------------------------------------------------------------- cuts

    def cut(self, lease_id: str, fence: int | None, marker: dict[str, Any]) -> Lease:
        """Make the cut of `marker` (see `core/ledger.py`) while its lease is held."""
        lease = self.find(lease_id, fence)
        if lease.cut_id != marker["id"]:
            raise UsageError(
                f"lease {lease_id} is not held for cut {marker['id']}; quiesce with the cut's id"
            )
        if self._state_of(lease.cut_id) != votes.NONE:
            raise WrongStateError(f"cut {lease.cut_id} is there already")
        self._mark(marker)
        return lease

    def may_open(self, cut_id: str, lease_id: str, fence: int | None) -> Lease:
        """The lease under which this cut was made; the caller ends it with BY_SUSPEND in the same step."""
        lease = self.find(lease_id, fence)
        if lease.cut_id != cut_id:
            raise UsageError(
                f"lease {lease_id} is held for cut {lease.cut_id or 'none'}, not {cut_id}"
            )
        if self._state_of(cut_id) != votes.CUT:
            raise WrongStateError(
                f"lease {lease_id} has no cut to open the gates after; release it, or cut first"
            )
        self.opened.add(cut_id)
        return lease

    def stood(self, cut_id: str, whole: bool) -> None:
        """The secondaries were brought to an opened cut: `whole` if all of them stand there, durably."""
        if self._state_of(cut_id) == votes.CUT and cut_id in self.opened:
            self._mark({"m": "ready" if whole else "void", "cut": cut_id})
        self.opened.discard(cut_id)

    def abort(self, cut_id: str) -> str:
        """Give a cut up, unless it was promised: the state it has then. The caller has ended its lease."""
        return self._decide(cut_id, votes.ABORT, "void")

    def agree(self, cut_id: str) -> str:
        """Every member is READY: the state it has then. Raises WrongStateError if this one is not."""
        return self._decide(cut_id, votes.AGREE, "agreed")

    def refuse(self, cut_id: str) -> str:
        """Some member is VOID: the state it has then. The caller has ended its lease."""
        return self._decide(cut_id, votes.REFUSE, "void")

    def _decide(self, cut_id: str, event: str, marker: str) -> str:
        before = self._state_of(cut_id)
        after = votes.after(before, event)
        if after is None:
            raise WrongStateError(
                f"cut {cut_id} is {before or 'not known'} here: {event} is not possible"
            )
        if after != before:
            self._mark({"m": marker, "cut": cut_id})
        return after

    def restarted(self, cut_ids: list[str]) -> None:
        """The leases of all cuts that were not READY ended with the process that gave them."""
        for cut_id in cut_ids:
            if self._state_of(cut_id) == votes.CUT:
                self._mark({"m": "void", "cut": cut_id})

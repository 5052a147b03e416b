"""A controller as a participant of group cuts, which are a two-phase commit. Pure.

A coordinator sends CLOSE, CUT, OPEN, then AGREE (commit) or REFUSE (abort); ABORT at any time.
Commands may be late, duplicated, or from another coordinator, and leases expire. So nothing here
trusts the order of commands: each checks the lease it needs, by id and fencing number, and the
state of the cut in the journal. A refused command raises a DuplexdError and changes nothing.

The commands on cuts (`cut`, `may_open`, `stood`, `abort`, `agree`, `refuse`) are called between two
batches, so that what they find and the marker they write are one position of the sequence.
tests/model explores the orders of commands on this class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from duplexd.core import cut_states
from duplexd.core.lease import TRANSITIONS, Lease
from duplexd.core.markers import Agreed, MakeCut, Mark, Marker, Ready, Void
from duplexd.errors import LeaseLostError, NotFoundError, UsageError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.core.pair import Pair

L = TypeVar("L", bound=Lease)

FENCES_OF_A_START = 1 << 32
_ENDED_KEPT = 1024


class Participant(Generic[L]):
    """The leases of a controller, and its votes on cuts.

    `state_of` gives what the journal says of a cut, `mark` writes a marker and so moves it. `start`
    is how often this controller was started: the fences of a run are above those of all earlier
    runs.
    """

    __slots__ = ("_fence", "_mark", "_state_of", "ended", "leases", "opened", "start")

    def __init__(
        self, state_of: Callable[[str], str], mark: Callable[[Marker], object], start: int = 0
    ) -> None:
        self._state_of = state_of
        self._mark = mark
        self.leases: dict[str, L] = {}  # HELD
        self.ended: dict[str, str] = {}  # why the latest ended leases ended
        self.opened: set[str] = set()  # cuts whose holds lasted until they were opened
        self.start = start
        self._fence = 0

    # ------------------------------------------------------------------------------------ leases

    def close(self, lease: L) -> None:
        """Take a new lease.

        Raises LeaseLostError if its cut can no longer be made, WrongStateError if another cut of
        these pairs is being made. A mark suspends nobody: it is in the way of nothing, and nothing
        of it.
        """
        if lease.cut_id:
            state = self._state_of(lease.cut_id)
            if state != cut_states.NONE:
                raise LeaseLostError(
                    f"cut {lease.cut_id} is {state} on this controller already; start a new cut"
                )
            if any(other.cut_id == lease.cut_id for other in self.leases.values()):
                raise WrongStateError(f"{lease.cut_id} is held for already on this controller")
            if not lease.mark:
                self.refuse_overlap(lease.pairs)
        self._renumber(lease)
        self.leases[lease.id] = lease

    def refuse_overlap(self, pairs: Sequence[Pair]) -> None:
        """Raises WrongStateError if some of these pairs are held for a group's cut."""
        for other in self.leases.values():
            if other.cut_id and not other.mark and not set(other.pairs).isdisjoint(pairs):
                raise WrongStateError(
                    f"another suspend of these volumes is in progress (lease {other.id}); "
                    "try again when it is done"
                )

    def _renumber(self, lease: L) -> None:
        self._fence += 1
        lease.fence = self.start * FENCES_OF_A_START + self._fence

    def find(self, lease_id: str, fence: int | None) -> L:
        """The lease, if it is held and `fence` (where given) is its newest.

        Raises LeaseLostError, NotFoundError, UsageError.
        """
        lease = self.leases.get(lease_id)
        if lease is None:
            if lease_id in self.ended:
                why = self.ended[lease_id]
            elif fence is not None and fence <= self.start * FENCES_OF_A_START:
                why = "the daemon was restarted since"
            elif any(held.cut_id == lease_id for held in self.leases.values()):
                raise UsageError(
                    f"{lease_id} is the cut that a group is held for, not a lease: only the "
                    "coordinator that holds the group can cut it; "
                    "`duplexctl suspend GROUP` holds and cuts in one step"
                )
            else:
                raise NotFoundError(
                    f"{lease_id!r}: no such lease; duplexctl status shows the active ones"
                )
            raise LeaseLostError(
                f"lease {lease_id} expired ({why}): verdict void, nothing was suspended; "
                "quiesce again"
            )
        if fence is not None and fence != lease.fence:
            raise LeaseLostError(
                f"lease {lease_id} was renewed by another client "
                f"(fence {lease.fence}, not {fence}); it is no longer yours"
            )
        return lease

    def renew(self, lease_id: str, fence: int | None) -> L:
        """Give a lease a new fencing number; commands with the old one are refused from now on."""
        lease = self.find(lease_id, fence)
        self._renumber(lease)
        return lease

    def end(self, lease: Lease, reason: str) -> bool:
        """End a lease; False if it had ended. The caller then calls `lost` if it has a cut."""
        after = TRANSITIONS.get((lease.state, reason))
        if after is None:
            return False
        lease.state = after
        del self.leases[lease.id]
        self.ended[lease.id] = reason
        while len(self.ended) > _ENDED_KEPT:
            del self.ended[next(iter(self.ended))]
        return True

    def lost(self, cut_id: str) -> None:
        """The hold of this cut has ended: the cut is void, unless its gates were opened first."""
        if self._state_of(cut_id) == cut_states.CUT and cut_id not in self.opened:
            self._mark(Void(cut_id))

    # -------------------------------------------------------------------------------------- cuts

    def cut(self, lease_id: str, fence: int | None, marker: MakeCut | Mark) -> L:
        """Make the cut or mark of `marker` while its lease is held."""
        lease = self.find(lease_id, fence)
        if lease.mark != isinstance(marker, Mark):
            raise RuntimeError(
                f"{marker!r} under a lease for {'a mark' if lease.mark else 'a cut'}"
            )
        if lease.cut_id != marker.id:
            raise UsageError(
                f"lease {lease_id} is not held for cut {marker.id}; quiesce with the cut's id"
            )
        if self._state_of(lease.cut_id) != cut_states.NONE:
            raise WrongStateError(f"cut {lease.cut_id} exists already")
        self._mark(marker)
        return lease

    def may_open(self, cut_id: str, lease_id: str, fence: int | None) -> L:
        """The lease under which this cut was made; the caller ends it in the same step."""
        lease = self.find(lease_id, fence)
        if lease.cut_id != cut_id:
            raise UsageError(
                f"lease {lease_id} is held for cut {lease.cut_id or 'none'}, not {cut_id}"
            )
        if self._state_of(cut_id) != cut_states.CUT:
            raise WrongStateError(
                f"lease {lease_id}: its cut was not made yet; cut before opening, or release it"
            )
        self.opened.add(cut_id)
        return lease

    def past(self, cut_id: str) -> None:
        """A cut at a mark: no gate was closed for it now, so no hold can have been lost."""
        self.opened.add(cut_id)

    def stood(self, cut_id: str, whole: bool) -> None:
        """Vote on an opened cut: `whole` if all secondaries are durable there."""
        if self._state_of(cut_id) == cut_states.CUT and cut_id in self.opened:
            self._mark(Ready(cut_id) if whole else Void(cut_id))
        self.opened.discard(cut_id)

    def abort(self, cut_id: str) -> str:
        """Abort a cut, unless it is prepared: its state then. The caller has ended its lease."""
        return self._decide(cut_id, cut_states.ABORT, Void(cut_id))

    def agree(self, cut_id: str) -> str:
        """Commit, because every member is READY: its state then.

        Raises WrongStateError if this member is not READY.
        """
        return self._decide(cut_id, cut_states.AGREE, Agreed(cut_id))

    def refuse(self, cut_id: str) -> str:
        """Abort, because some member is VOID: its state then. The caller has ended its lease."""
        return self._decide(cut_id, cut_states.REFUSE, Void(cut_id))

    def _decide(self, cut_id: str, event: str, marker: Marker) -> str:
        before = self._state_of(cut_id)
        after = cut_states.after(before, event)
        if after is None:
            raise WrongStateError(
                f"cut {cut_id} is {before or 'unknown'} here: {event} is not possible"
            )
        if after != before:
            self._mark(marker)
        return after

    def restarted(self, cut_ids: Iterable[str]) -> None:
        """After a restart: cuts that were not READY are void, their leases ended with the
        process. Not to be asked of cuts at a mark, which had none.
        """
        for cut_id in cut_ids:
            if self._state_of(cut_id) == cut_states.CUT:
                self._mark(Void(cut_id))

"""Members and coordinators with one mistake each, made by changing the real ones as little as
possible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.client import protocol
from duplexd.client.protocol import CUT_ALL, OPEN, OPENING, REFUSE, Round, Send
from duplexd.core import cut_states
from duplexd.core.lease import Lease
from duplexd.core.markers import Void
from duplexd.core.participant import Participant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from duplexd.core.markers import MakeCut, Mark

# members


class TakesLeasesThatEnded(Participant[Lease]):
    """No fencing: a command is taken whether its lease is still held or not."""

    __slots__ = ()

    def find(self, lease_id: str, fence: int | None) -> Lease:
        if lease_id in self.ended:
            return Lease(lease_id, [], "", 2.0, 0.0, lease_id)
        return super().find(lease_id, fence)

    def end(self, lease: Lease, reason: str) -> bool:
        return lease.id in self.leases and super().end(lease, reason)


class AsksTheWallClock(TakesLeasesThatEnded):
    """It compares the deadline, as a time of day, with the clock of the machine: late as it is,
    once that was set back.
    """

    stepped = False

    def find(self, lease_id: str, fence: int | None) -> Lease:
        return (
            super().find(lease_id, fence)
            if self.stepped
            else Participant.find(self, lease_id, fence)
        )


class MarksWithoutAHold(TakesLeasesThatEnded):
    """A mark suspends nobody, so nobody looks whether its gate is closed still."""

    __slots__ = ()

    def find(self, lease_id: str, fence: int | None) -> Lease:
        lease = super().find(lease_id, fence)
        lease.mark = True
        return lease


class IgnoresFences(Participant[Lease]):
    """A lease that was renewed by another obeys its old owner."""

    __slots__ = ()

    def find(self, lease_id: str, fence: int | None) -> Lease:
        return super().find(lease_id, None)


class KeepsACutWhoseLeaseWasLost(Participant[Lease]):
    """It waits for a command."""

    __slots__ = ()

    def lost(self, cut_id: str) -> None:
        pass


class KeepsACutOverARestart(Participant[Lease]):
    """The process that gave the lease is gone, the cut stays undecided."""

    __slots__ = ()

    def restarted(self, cut_ids: Iterable[str]) -> None:
        pass


class BreaksItsPromise(Participant[Lease]):
    """READY, and after a while void by itself: here, when it is started again."""

    __slots__ = ()

    def restarted(self, cut_ids: Iterable[str]) -> None:
        for cut_id in cut_ids:
            if self._state_of(cut_id) in {cut_states.CUT, cut_states.READY}:
                self._mark(Void(cut_id))


class OpensBeforeItHasCut(TakesLeasesThatEnded):
    """OPEN opens a gate whether its cut was made or not, CUT cuts behind a gate that was opened."""

    __slots__ = ()

    def may_open(self, cut_id: str, lease_id: str, fence: int | None) -> Lease:
        lease = self.find(lease_id, fence)
        self.opened.add(lease.cut_id)
        return lease

    def stood(self, cut_id: str, whole: bool) -> None:
        if self._state_of(cut_id) != cut_states.NONE:
            super().stood(cut_id, whole)

    def end(self, lease: Lease, reason: str) -> bool:
        ended = super().end(lease, reason)
        if ended and lease.cut_id not in self.opened:
            del self.ended[lease.id]  # but a lease that was lost is lost
        return ended


class PromisesTooEarly(Participant[Lease]):
    """Its vote is READY before the gate was opened under its lease: the hold may still be lost."""

    __slots__ = ()

    def cut(self, lease_id: str, fence: int | None, marker: MakeCut | Mark) -> Lease:
        lease = super().cut(lease_id, fence, marker)
        self.opened.add(lease.cut_id)
        return lease


class OpensUponAnyWord(Participant[Lease]):
    """An open that names another cut than its lease is held for is refused, but the hold counts as
    opened in order.
    """

    __slots__ = ()

    def may_open(self, cut_id: str, lease_id: str, fence: int | None) -> Lease:
        self.opened.add(self.find(lease_id, fence).cut_id)
        return super().may_open(cut_id, lease_id, fence)


class ForgetsAborts(Participant[Lease]):
    """A cut that it has not heard of is not remembered as void: a late CLOSE finds nothing."""

    __slots__ = ()

    def abort(self, cut_id: str) -> str:
        return (
            super().abort(cut_id) if self._state_of(cut_id) != cut_states.NONE else cut_states.VOID
        )


# coordinators


class _WithoutBarriers(Round):
    """Which of the two barriers of the protocol is kept: all are closed before one is cut, all are
    cut before one is opened.
    """

    __slots__ = ()
    all_closed = all_cut = True

    def replied(self, member: str, request: str, state: str | None = None) -> list[Send]:
        if self.open_requests.get(member) == request:
            if request == protocol.CLOSE and not self.all_closed:
                return self._next_of(member, CUT_ALL)
            if request == CUT_ALL and not self.all_cut:
                return self._next_of(member, OPEN)
        return super().replied(member, request, state)

    def cut(self) -> list[Send]:
        return super().cut() if self.all_closed else []

    def _next_of(self, member: str, request: str) -> list[Send]:
        self.open_requests[member] = request
        if request == CUT_ALL and self.all_cut and set(self.open_requests.values()) == {CUT_ALL}:
            self.phase = protocol.CUTTING  # from here on as ever
        if set(self.open_requests.values()) == {OPEN}:
            self.phase = OPENING
        return [Send(member, request)]


class OneAfterTheOther(_WithoutBarriers):
    """The naive order: each member is closed, cut and opened for itself."""

    __slots__ = ()
    all_closed = all_cut = False


class OpensUponItsOwnCut(_WithoutBarriers):
    """All are closed before one is cut, but each is opened as soon as it is cut itself."""

    __slots__ = ()
    all_cut = False


class CutsUponItsOwnClose(_WithoutBarriers):
    """All are cut before one is opened, but each is cut as soon as it is closed itself."""

    __slots__ = ()
    all_closed = False


class OpensAllUponTheFirstCut(Round):
    """One member has cut: OPEN to all."""

    __slots__ = ()

    def replied(self, member: str, request: str, state: str | None = None) -> list[Send]:
        if request == CUT_ALL and self.open_requests.get(member) == request:
            self.phase = OPENING
            return self._send(dict.fromkeys(self.members, OPEN))
        return super().replied(member, request, state)


class TrustsItsMemory(Round):
    """No answer in time after all were cut: it takes the cut for failed, and says so, whatever the
    members have promised.
    """

    __slots__ = ()

    def failed(self, member: str, request: str, why: str) -> list[Send]:
        if request == OPEN and self.open_requests.get(member) == request:
            self.phase = protocol.RESOLVING
            return self._send(dict.fromkeys(self.members, REFUSE))
        return super().failed(member, request, why)


class AgreesWithTheFirst(Round):
    """One member is READY and none is known to be void: it sends that one AGREE."""

    __slots__ = ()

    def replied(self, member: str, request: str, state: str | None = None) -> list[Send]:
        sends = super().replied(member, request, state)
        if request == OPEN and state == cut_states.READY and self.phase == OPENING:
            self.open_requests[member] = protocol.AGREE
            return [*sends, Send(member, protocol.AGREE)]
        return sends


# tables


def void_cuts_can_be_agreed(table: dict[tuple[str, str], str]) -> None:
    """Void is not for ever."""
    table[cut_states.VOID, cut_states.AGREE] = cut_states.CONSISTENT


def undecided_cuts_can_be_agreed(table: dict[tuple[str, str], str]) -> None:
    """A member that has promised nothing believes a coordinator."""
    table[cut_states.CUT, cut_states.AGREE] = cut_states.CONSISTENT


def promises_are_lost(table: dict[tuple[str, str], str]) -> None:
    """An image that fails after the promise takes it back."""
    table[cut_states.READY, cut_states.LOSE] = cut_states.VOID


def promises_are_aborted(table: dict[tuple[str, str], str]) -> None:
    """Who asks for an abort gets one, promise or not."""
    table[cut_states.READY, cut_states.ABORT] = cut_states.VOID


def agree_if_one_is_ready(
    resolve: Callable[[Mapping[str, str | None]], dict[str, str]],
) -> Callable[[Mapping[str, str | None]], dict[str, str]]:
    """A `protocol.resolve` that does not wait for the others."""

    def hasty(known: Mapping[str, str | None]) -> dict[str, str]:
        if cut_states.READY in known.values() and cut_states.VOID not in known.values():
            return {
                member: protocol.AGREE
                for member, state in known.items()
                if state == cut_states.READY
            }
        return resolve(known)

    return hasty

"""A coordinator: which request goes to which member next, and what is known of the outcome. Pure.

Several members need two-phase commit, because no journal orders the writes of one against those of
another. The gates do: all close before any member cuts, and none opens before all have cut.

    CLOSING     CLOSE to all: gates close, what is in flight is drained
    HELD        every gate is closed; the caller does what it wants to
    CUTTING     CUT to all: a marker in each journal, of one id
    OPENING     OPEN to all: gates open; each answers once its secondaries are durable at the cut
    RESOLVING   `resolve`, until every member that answers has the outcome
    RELEASING   RELEASE to all: gates open, nothing was cut
    DONE

What goes wrong before the first CUT leads to RELEASING: nothing was cut. What goes wrong after it,
also an answer that did not come, leads to RESOLVING. There the members' votes decide
(`core/votes.py`), never this coordinator's memory. So another one may do the same at the same
time, and a later one finishes what this one began.

One member alone needs none of this: its journal orders all its volumes, so the cut is one request.

    SUSPENDING  SUSPEND: marker, durable secondaries and verdict in one answer; no gate is closed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.cut_states import CONSISTENT, CUT, NONE, READY, VOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CLOSE, CUT_ALL, OPEN, RELEASE = "close", "cut", "open", "release"
ABORT, AGREE, REFUSE, SUSPEND = "abort", "agree", "refuse", "suspend"

CLOSING, HELD, CUTTING, OPENING = "closing", "held", "cutting", "opening"
RELEASING, RESOLVING, SUSPENDING, DONE = "releasing", "resolving", "suspending", "done"
_NEXT = {
    CLOSING: HELD,
    CUTTING: OPENING,
    OPENING: RESOLVING,
    RELEASING: DONE,
    SUSPENDING: DONE,
}
_REQUESTS = {
    CLOSING: CLOSE,
    CUTTING: CUT_ALL,
    OPENING: OPEN,
    RELEASING: RELEASE,
    SUSPENDING: SUSPEND,
}
_VOTES = {OPEN, ABORT, AGREE, REFUSE, SUSPEND}  # answers to these say what the member voted


class Send(NamedTuple):
    """A request to send."""

    member: str
    request: str


def resolve(known: Mapping[str, str | None]) -> dict[str, str]:
    """What to ask each member, by their votes (None: not known). Empty: all have the outcome."""
    states = known.values()
    if VOID in states:
        return {member: REFUSE for member, state in known.items() if state != VOID}
    if CONSISTENT in states or all(state == READY for state in states):
        return {member: AGREE for member, state in known.items() if state != CONSISTENT}
    return {member: ABORT for member, state in known.items() if state in {None, NONE, CUT}}


def outcome(known: Mapping[str, str | None]) -> str | None:
    """CONSISTENT or VOID if these votes determine it, else None."""
    states = known.values()
    if VOID in states:
        return VOID
    return CONSISTENT if CONSISTENT in states or all(state == READY for state in states) else None


class Round:
    """One cut of a group, or the settling of one.

    Methods return the requests to send; each is answered by `replied` or `failed` once.
    """

    __slots__ = ("known", "members", "open_requests", "phase", "unreached", "why")

    def __init__(self, members: Iterable[str]) -> None:
        self.members = tuple(members)
        self.phase = CLOSING
        self.open_requests: dict[str, str] = {}  # member: the request whose answer is awaited
        self.known: dict[str, str | None] = dict.fromkeys(self.members)  # votes
        self.unreached: dict[str, str] = {}  # members that did not answer the last request, and why
        self.why = ""  # what went wrong first

    @property
    def alone(self) -> bool:
        """Whether one journal orders everything."""
        return len(self.members) == 1

    # ---------------------------------------------------------------------- what the caller wants

    def close(self) -> list[Send]:
        """Begin with a hold."""
        return self._enter(CLOSING)

    def suspend(self) -> list[Send]:
        """Begin with the cut: one member alone needs no hold for it."""
        if not self.alone:
            raise ValueError(f"only one member alone needs no hold, these are {self.members}")
        return self._enter(SUSPENDING)

    def cut(self) -> list[Send]:
        """In HELD: cut, open and resolve."""
        if self.phase != HELD:
            return []
        return self._enter(SUSPENDING if self.alone else CUTTING)

    def release(self) -> list[Send]:
        """In HELD: release the holds without a cut."""
        return self._enter(RELEASING) if self.phase == HELD else []

    def used(self) -> None:
        """In HELD: another command has suspended under this hold of one member, which ended it."""
        if self.phase == HELD:
            self.phase = DONE

    def abandon(self, why: str) -> list[Send]:
        """Give up: the holds took too long, a lease was lost, the caller was interrupted.

        A member that was sent SUSPEND does it, so that answer is still waited for.
        """
        self.why = self.why or why
        if self.phase in {CLOSING, HELD}:
            return self._enter(RELEASING)
        return self._resolving() if self.phase in {CUTTING, OPENING} else []

    def settle(self) -> list[Send]:
        """Begin (again) to find out and spread the outcome of a cut that was left undecided."""
        self.unreached = {}
        self.phase = RESOLVING
        return self._resolving()

    # ---------------------------------------------------------------------- what the members say

    def replied(self, member: str, request: str, state: str | None = None) -> list[Send]:
        """A member did what `request` asked; `state` is its vote, if it was asked for one."""
        if self.open_requests.get(member) != request:
            return []  # late: something else is known by now
        del self.open_requests[member]
        if request in _VOTES:
            self.known[member] = state
        return self._advance()

    def failed(self, member: str, request: str, why: str) -> list[Send]:
        """A member refused `request`, or did not answer: nothing is known of what it did."""
        if self.open_requests.get(member) != request:
            return []
        del self.open_requests[member]
        if self.phase in {RESOLVING, RELEASING, SUSPENDING}:
            self.unreached[member] = why
            return self._advance()
        return self.abandon(f"{member}: {why}")

    # ----------------------------------------------------------------------------------- inside

    @property
    def outcome(self) -> str | None:
        """CONSISTENT or VOID if it is determined, else None."""
        return outcome(self.known)

    @property
    def untold(self) -> list[str]:
        """Members that do not have the outcome yet."""
        return [member for member, state in self.known.items() if state not in {CONSISTENT, VOID}]

    def _enter(self, phase: str) -> list[Send]:
        self.phase = phase
        return self._send(dict.fromkeys(self.members, _REQUESTS[phase]))

    def _send(self, requests: Mapping[str, str]) -> list[Send]:
        self.open_requests = dict(requests)
        return [Send(member, request) for member, request in requests.items()]

    def _advance(self) -> list[Send]:
        if self.open_requests:
            return []
        if self.phase == RESOLVING:
            return self._resolving()
        self.phase = _NEXT[self.phase]
        if self.phase == OPENING:
            return self._enter(OPENING)
        return self._resolving() if self.phase == RESOLVING else []

    def _resolving(self) -> list[Send]:
        self.phase = RESOLVING
        wanted = {
            member: request
            for member, request in resolve(self.known).items()
            if member not in self.unreached
        }
        if not wanted:
            self.phase = DONE
        return self._send(wanted)

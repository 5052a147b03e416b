"""What a controller says of a cut that it takes together with others, as a table. Pure.

A group's cut is consistent exactly if *every* member reached READY, and void exactly if *one* of them became VOID before that. READY is a
promise: who gave it no longer decides alone. So the outcome follows from what the members' journals hold, whoever asks, however often and late.

    state        what the journal says of the cut
    NONE         nothing: never heard of
    CUT          the marker is there; the hold still lasts, or the secondaries are not yet known to stand at it
    READY        cut while held, opened while held, durable: consistent if all are
    CONSISTENT   all were
    VOID         for ever
"""

from __future__ import annotations

NONE, CUT, READY, CONSISTENT, VOID = "", "cut", "ready", "consistent", "void"
STATES = (NONE, CUT, READY, CONSISTENT, VOID)

MAKE = "make"  # the cut's marker, under a lease that lasts
STAND = (
    "stand"  # the hold lasted until it was opened, and the secondaries stand at the cut, durably
)
LOSE = "lose"  # the lease was lost, the controller restarted, a secondary failed
ABORT = "abort"  # a coordinator asks: void, unless it was promised already
AGREE = "agree"  # a coordinator knows that every member is READY
REFUSE = "refuse"  # a coordinator knows that a member is VOID
EVENTS = (MAKE, STAND, LOSE, ABORT, AGREE, REFUSE)

TRANSITIONS = {
    (NONE, MAKE): CUT,
    (NONE, ABORT): VOID,  # remembered: a late command must find it
    (NONE, REFUSE): VOID,
    (CUT, STAND): READY,
    (CUT, LOSE): VOID,
    (CUT, ABORT): VOID,
    (CUT, REFUSE): VOID,
    (READY, LOSE): VOID,  # the secondary itself failed: no promise can keep it
    (READY, ABORT): READY,
    (READY, AGREE): CONSISTENT,
    (READY, REFUSE): VOID,
    (CONSISTENT, LOSE): VOID,
    (CONSISTENT, ABORT): CONSISTENT,
    (CONSISTENT, AGREE): CONSISTENT,
    (CONSISTENT, REFUSE): VOID,
    (VOID, LOSE): VOID,
    (VOID, ABORT): VOID,
    (VOID, AGREE): VOID,
    (VOID, REFUSE): VOID,
}


def after(state: str, event: str) -> str | None:
    """The state after `event`, None if it is not possible in `state`."""
    return TRANSITIONS.get((state, event))


def verdict(state: str) -> str | None:
    """What may be claimed of a cut in `state`: `consistent`, `void`, or None while that is not known."""
    return state if state in {CONSISTENT, VOID} else None

"""The states of a cut, as a table. Pure.

A verdict is final: what was called consistent never becomes void because an image fails later. That
failure changes the state of its pair, and the pair leaves the cut; the other secondaries are still
at it, and who copied them holds a consistent copy. So a cut has no verdict while it can become
void: until its secondaries are durable there. One of this controller alone is decided then.

One that is taken together with other controllers is in doubt for longer. This is two-phase commit:
READY is *prepared*, an undecided cut is *in doubt*, AGREE is *commit*, REFUSE is *abort*. The
group's cut is consistent if *every* member reached READY, and void if *one* member became VOID
before that. READY is a promise: a member that gave it no longer decides alone, not even when its
secondary fails, because others may know the cut to be consistent by then. So the outcome follows
from the members' journals alone, and every coordinator that asks finds the same one, however late
it asks.

    state        what the journal says of the cut
    NONE         nothing: the cut is not known
    CUT          the marker was written; the hold still lasts, or the secondaries are not yet known
                 to be durable at the cut, be it by command or because of a failure
    READY        cut while held, opened while held, durable: consistent if all members are READY
    CONSISTENT   all members were READY; or, of this controller alone, durable there
    VOID         final

`TRANSITIONS[state, event]` is the next state; an event that is not there is not possible.
"""

from __future__ import annotations

NONE, CUT, READY, CONSISTENT, VOID = "", "cut", "ready", "consistent", "void"
STATES = (NONE, CUT, READY, CONSISTENT, VOID)

MAKE = "make"  # the cut's marker, under a lease that lasts
STAND = "stand"  # the hold lasted until the gates were opened; the secondaries are durable there
ALONE = "alone"  # the secondaries are durable there, and no other controller has a vote
LOSE = "lose"  # the lease was lost, the controller restarted, or a secondary failed
ABORT = "abort"  # a coordinator asks for it: void, unless the cut is prepared already
AGREE = "agree"  # a coordinator knows that every member is READY
REFUSE = "refuse"  # a coordinator knows that a member is VOID, or a canary found it broken
EVENTS = (MAKE, STAND, ALONE, LOSE, ABORT, AGREE, REFUSE)

TRANSITIONS = {
    (NONE, MAKE): CUT,
    (NONE, ABORT): VOID,  # remembered, so that a late CUT is refused
    (NONE, REFUSE): VOID,
    (CUT, STAND): READY,
    (CUT, ALONE): CONSISTENT,
    (CUT, LOSE): VOID,
    (CUT, ABORT): VOID,
    (CUT, REFUSE): VOID,
    (READY, LOSE): READY,
    (READY, ABORT): READY,
    (READY, AGREE): CONSISTENT,
    (READY, REFUSE): VOID,
    (CONSISTENT, ALONE): CONSISTENT,
    (CONSISTENT, LOSE): CONSISTENT,
    (CONSISTENT, ABORT): CONSISTENT,
    (CONSISTENT, AGREE): CONSISTENT,
    (CONSISTENT, REFUSE): VOID,
    (VOID, ALONE): VOID,
    (VOID, LOSE): VOID,
    (VOID, ABORT): VOID,
    (VOID, AGREE): VOID,
    (VOID, REFUSE): VOID,
}


def after(state: str, event: str) -> str | None:
    """The state after `event`, None if it is not possible in `state`."""
    return TRANSITIONS.get((state, event))


def verdict(state: str) -> str | None:
    """The verdict on a cut in `state`: `consistent`, `void`, or None while in doubt."""
    return state if state in {CONSISTENT, VOID} else None

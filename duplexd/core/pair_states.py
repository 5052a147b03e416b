"""The states of a pair, as a table. Pure.

`TRANSITIONS[state, event]` is the next state; an event that is not there is not possible in that
state. Which fields have to agree with a state is in `invariants.py`. docs/states.md is drawn from
this file, with the comments behind the events.
"""

from __future__ import annotations

SIMPLEX, PENDING, DUPLEX, SUSPENDED = "SIMPLEX", "PENDING", "DUPLEX", "SUSPENDED"
STATES = (SIMPLEX, PENDING, DUPLEX, SUSPENDED)

ATTACH = "attach"  # a secondary that is equal already
COPY = "copy"  # copy what differs, or all; the secondary is unusable until that is done
SUSPEND = "suspend"  # a suspend by command: stop at a cut
ONWARD = "onward"  # go on from the cut to a later one, which has passed, and stop there
FAIL = "fail"  # the secondary, or another one of its group, failed: stop at a cut
RESYNC = "resync"  # follow again, from the cut
ABANDON = "abandon"  # a resync ended before it changed the secondary: back at the old cut
EQUAL = "equal"  # the secondary holds all changes
DETACH = "detach"  # the secondary was removed from the configuration
SWAP = "swap"  # the two images change roles
EVENTS = (ATTACH, COPY, SUSPEND, ONWARD, FAIL, RESYNC, ABANDON, EQUAL, DETACH, SWAP)

TRANSITIONS = {
    (SIMPLEX, ATTACH): DUPLEX,
    (SIMPLEX, COPY): PENDING,
    (PENDING, EQUAL): DUPLEX,
    (PENDING, FAIL): SUSPENDED,
    (PENDING, ABANDON): SUSPENDED,
    (PENDING, COPY): PENDING,
    (PENDING, DETACH): SIMPLEX,
    (DUPLEX, SUSPEND): SUSPENDED,
    (DUPLEX, FAIL): SUSPENDED,
    (DUPLEX, COPY): PENDING,
    (DUPLEX, DETACH): SIMPLEX,
    (DUPLEX, SWAP): DUPLEX,
    (SUSPENDED, ONWARD): SUSPENDED,
    (SUSPENDED, RESYNC): PENDING,
    (SUSPENDED, COPY): PENDING,
    (SUSPENDED, FAIL): SUSPENDED,
    (SUSPENDED, DETACH): SIMPLEX,
    (SUSPENDED, SWAP): SUSPENDED,
}

# What writes to a secondary that is at a cut, or gives it another role: not while it has a reader.
# A failure is not among them, because nobody can refuse it.
LEAVING = (COPY, ONWARD, RESYNC, DETACH, SWAP)

# Why a pair is in its state, as status shows it.
BY_COMMAND, BY_ERROR, BY_GROUP = "by command", "by secondary error", "by group freeze"
BY_JOURNAL = "by journal error"  # no image is to blame
FIRST_COPY, UNCLEAN_STOP, RESYNCING = "first copy", "unclean stop", "resync"


def after(state: str, event: str) -> str | None:
    """The state after `event`, None if it is not possible in `state`."""
    return TRANSITIONS.get((state, event))

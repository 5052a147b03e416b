"""What becomes of a leg that hangs: the pair has an absent one in its place.

A thread may be in a call on it, or between two, and has the image open, and locked, until that
returns. So the image is not closed by who gives it up. Nobody counts its users either: the last
reference to it goes when the thread ends, and an image without a reference closes itself
(`runtime/realfile.py`). Until then it cannot be opened again, which is as it should be: that thread
may still write to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.patience import Access
from duplexd.images.absent import AbsentLeg
from duplexd.runtime.watch import HungError

if TYPE_CHECKING:
    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg


def leave_hung(pair: Pair, error: OSError) -> bool:
    """If this error says that the secondary hangs, use it no more; returns whether it does. At
    rest.
    """
    secondary = pair.secondary
    if not isinstance(error, HungError) or secondary is None:
        return False
    hung = error.what.leg if isinstance(error.what, Access) else error.what
    if hung is not secondary:
        return False
    pair.set_legs(pair.primary, in_place_of(secondary, error), pair.mode)
    return True


def was_left(pair: Pair) -> bool:
    """Whether its secondary was given up before, because it hangs."""
    return isinstance(pair.secondary, AbsentLeg) and pair.secondary.busy


def in_place_of(hung: Leg, error: OSError) -> AbsentLeg:
    """What a pair has instead of an image that hangs."""
    absent = AbsentLeg(hung.path, hung.size, error.strerror or str(error))
    absent.busy = True
    return absent


def took_its_place(leg: Leg | None, hung: Leg) -> bool:
    """Whether this is the leg that a pair has in place of one that hangs."""
    return isinstance(leg, AbsentLeg) and leg.path == hung.path

"""Whether the image that a leg has open is the one that its path leads to: whoever copies it looks there, and so does a restart."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.images.leg import Leg


def misplaced(leg: Leg | None) -> str:
    """A sentence that names the path if it leads to another image than this, or to none; else "". Looks it up: for a worker."""
    if leg is None or leg.in_place():
        return ""
    return f"{leg.path}: this is not the image that the daemon has open: that one was deleted, moved or replaced"


def lost_image(leg: Leg | None) -> OSError | None:
    """The same of a secondary, as the error of one that failed: with what brings the pair back."""
    found = misplaced(leg)
    return OSError(errno.ESTALE, f"{found}; {MEND}") if found else None


MEND = "put it back and resync, or put any image of its size there, restart the daemon and resync: all of it is copied"

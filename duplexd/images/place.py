"""Whether the path of a leg still names the image that we have open, all of it.

An open file stays usable after it was deleted, moved or replaced, so the daemon itself would notice
nothing. But a backup copies what lies at the path, and so does the next start of the daemon. A
secondary whose path leads elsewhere is therefore as good as failed: what we write to it, nobody
will read. The same holds for one that was truncated: reads past its new end fail, but a write there
makes it long again, with zeroes where its content was.
"""

from __future__ import annotations

import errno
import shlex
from typing import TYPE_CHECKING

from duplexd.images.absent import AbsentLeg

if TYPE_CHECKING:
    from duplexd.images.leg import Leg

_REMEDY = "put it back, or any image of its size, and resync: then all of it is copied"


def misplaced(leg: Leg | None) -> str:
    """A sentence that names the path if it leads to another image, or to none, or to one that was
    truncated; else "".

    Looks it up in the file system: to be called in a worker.
    """
    if leg is None:
        return ""
    if isinstance(leg, AbsentLeg):
        return f"{leg.path}: {leg.why}"
    if not leg.in_place():
        return (
            f"{leg.path}: this is not the image that the daemon has open:"
            " that one was deleted, moved or replaced"
        )
    try:
        return shortened(leg)
    except OSError as error:
        return f"{leg.path}: {error.strerror}"


def shortened(leg: Leg) -> str:
    """A sentence that names the path if the open image was truncated; else "". Raises OSError.

    A primary is not to be used then, or repaired: a write behind its end makes a hole of all that
    was lost before, and clients would read zeroes there without an error. To be called in a worker.
    """
    size = leg.stamp().size
    return f"{leg.path}: {truncated(size, leg.size)}" if size < leg.size else ""


def truncated(found_bytes: int, wanted_bytes: int) -> str:
    """What to say of such an image."""
    return f"the image was truncated: it has {found_bytes} bytes, the volume {wanted_bytes}"


def to_extend(path: str, size: int) -> str:
    """What makes a file as long as its volume. Only for an image that is copied to as a whole."""
    return f"`truncate -s {size} {shlex.quote(path)}` makes it as long as the volume"


def as_lost(leg: Leg, why: str, short: bool) -> OSError:
    """The error of a secondary that failed by what `misplaced` says, with the remedy."""
    extend = f"{to_extend(leg.path, leg.size)}; resync then copies all of it"
    return OSError(errno.ESTALE, f"{why}; {extend if short else _REMEDY}")


def lost_image(leg: Leg | None) -> OSError | None:
    """The same of a secondary, looked at now. To be called in a worker."""
    if leg is None or not (why := misplaced(leg)):
        return None
    try:
        return as_lost(leg, why, why == shortened(leg))
    except OSError:
        return as_lost(leg, why, short=False)

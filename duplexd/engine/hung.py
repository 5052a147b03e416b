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


def leave_hung(pair: Pair, error: OSError) -> None:
    """If this error says that the secondary hangs, use it no more. At rest."""
    secondary = pair.secondary
    if not isinstance(error, HungError) or secondary is None:
        return
    hung = error.what.leg if isinstance(error.what, Access) else error.what
    if hung is secondary:
        absent = AbsentLeg(secondary.path, secondary.size, error.strerror or str(error))
        pair.set_legs(pair.primary, absent, pair.mode)

"""What malloc keeps of memory that was freed.

glibc gives each thread an arena of its own, up to eight for each processor, and an arena keeps the
largest piece that was freed in it. Here threads share the GIL, so they gain nothing by that; but
each thread that has once read a whole segment of the journal would keep 16 MiB and more for good.
"""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
ARENAS_MAX = 2


def few_arenas() -> None:
    """Call it before there are threads. Does nothing where there is no mallopt(3)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, ARENAS_MAX)

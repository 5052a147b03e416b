"""What malloc keeps of memory that was freed.

glibc gives each thread an arena of its own, up to eight for each processor, and an arena keeps the
largest piece that was freed in it. Here threads share the GIL, so they gain nothing by that; but
each thread that has once read a whole segment of the journal would keep 16 MiB and more for good.

A large piece comes from the kernel, and is given back to it. But glibc takes the first one that is
freed as the sign that more will follow: pieces of that size come from an arena from then on, and
the arena gives nothing back before twice as much is free at its end. After a segment of 16 MiB that
is 32 MiB, of each arena, with holes of that size between what is used. So both limits are fixed
here, which also stops glibc from raising them. Buffers of 4 MiB, which copies use one after the
other, are below them: to get one from the kernel each time takes seven times as long.
"""

from __future__ import annotations

import ctypes

from duplexd.units import MIB

# Of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
ARENAS_MAX = 2
KERNELS_BYTES_MIN = 8 * MIB  # a piece as long comes from the kernel, and returns to it
FREE_BYTES_MAX = 16 * MIB  # at the end of an arena


def keep_little() -> None:
    """Call it before there are threads. Does nothing where there is no mallopt(3)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, ARENAS_MAX)
        mallopt(_MMAP_THRESHOLD, KERNELS_BYTES_MIN)
        mallopt(_TRIM_THRESHOLD, FREE_BYTES_MAX)

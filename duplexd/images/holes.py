"""Ranges that are holes on both legs of a pair: they read as zeroes, so they are equal unread.

A sparse volume is mostly holes, and reading them costs as much as reading data: 40 s for 16 GiB,
where asking the file system takes milliseconds. `Leg.extents` lists every extent of the range it is
asked about, and a fragmented image has millions. So the range asked about begins small, doubles as
long as nothing but holes is found, and is never larger than a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.images.leg import Leg

_WINDOW_BYTES_MIN = 1 << 20
_WINDOW_BYTES_MAX = 1 << 30  # at most 131,072 extents, of a file in pieces of 4 KiB
_WINDOWS_MAX = 4096  # in one call, which holds a worker: 4 TiB in some 20 ms


def equal_holes(one: Leg, other: Leg, offset: int, end: int) -> int:
    """Up to where, from `offset` on, both legs have nothing but holes; `offset` if not even there.

    It may be less than what is true: ask again from there.
    """
    at, window = offset, _WINDOW_BYTES_MIN
    for _ in range(_WINDOWS_MAX):
        length = min(window, end - at)
        if length <= 0:
            break
        stop = at + length
        at = min(hole_until(one, at, stop), hole_until(other, at, stop))
        if at < stop:
            break
        window = min(window * 2, _WINDOW_BYTES_MAX)
    return at


def hole_until(leg: Leg, offset: int, end: int) -> int:
    """Up to where, from `offset` on and before `end`, the leg has nothing but holes."""
    extents = leg.extents(offset, end - offset)
    return next((start for start, _, is_data in extents if is_data), end)

"""Which ranges of legs are holes: they read as zeroes, so nobody has to read them.

A sparse volume is mostly holes, and reading them costs as much as reading data: 40 s for 16 GiB,
where asking the file system takes milliseconds. A fragmented image has millions of extents. So what
is listed has a limit: `first_extents` asks for a few at a time, and `equal_holes` about a range
that begins small and doubles as long as nothing but holes is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Extent
    from duplexd.images.leg import Leg

_WINDOW_BYTES_MIN = 1 << 20
_WINDOW_BYTES_MAX = 1 << 30  # at most 131,072 extents, of a file in pieces of 4 KiB
_EXTENTS_AT_ONCE = 64
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
        hole = hole_until(one, at, stop)
        at = hole_until(other, at, hole) if hole > at else at
        if at < stop:
            break
        window = min(window * 2, _WINDOW_BYTES_MAX)
    return at


def hole_until(leg: Leg, offset: int, end: int) -> int:
    """Up to where, from `offset` on and before `end`, the leg has nothing but holes."""
    extents = leg.extents(offset, end - offset)
    return next((start for start, _, is_data in extents if is_data), end)


def first_extents(
    leg: Leg,
    offset: int,
    length: int,
    over: Callable[[list[Extent]], bool],
    count_max: int = _EXTENTS_AT_ONCE,
) -> list[Extent]:
    """The extents of a range, from its start on. Fewer than all of them if `over` says so of those
    found. It is asked once there are `count_max`, and now and then before that.
    """
    at_once = min(count_max, _EXTENTS_AT_ONCE)
    found: list[Extent] = []
    end = offset + length
    while offset < end:
        piece = leg.extents(offset, end - offset, at_once)
        offset = sum(piece[-1][:2])
        join(found, piece)
        if over(found):
            break
    return found


def join(found: list[Extent], more: list[Extent]) -> None:
    """Append; the first may be the rest of the last."""
    if found and more and found[-1][2] == more[0][2]:
        start, length, is_data = found[-1]
        found[-1] = start, length + more[0][1], is_data
        more = more[1:]
    found += more

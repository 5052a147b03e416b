"""Which ranges of legs are holes: they read as zeroes, so nobody has to read them.

A sparse volume is mostly holes, and reading them costs as much as reading data: 40 s for 16 GiB,
where asking the file system takes milliseconds. `Leg.extents` lists every extent of the range it is
asked about, and a fragmented image has millions. So the range asked about begins small, doubles as
long as nothing but holes is found, and is never larger than a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Extent
    from duplexd.images.leg import Leg

_WINDOW_BYTES_MIN = 1 << 20
_WINDOW_BYTES_MAX = 1 << 30  # at most 131,072 extents, of a file in pieces of 4 KiB
_WINDOW_BYTES_FIRST = 1 << 27  # at most, of a question that begins as the last one ended
_WINDOW_EXTENTS = 256  # as many as there can be in the smallest one
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


class Window:
    """How much of a leg is asked about at once; it follows the number of extents found. Who asks
    about one range after the other keeps it, because a question has a cost of its own.
    """

    __slots__ = ("nbytes",)

    def __init__(self) -> None:
        self.nbytes = _WINDOW_BYTES_MIN

    def follow(self, extents: int) -> None:
        """So many were found in it."""
        if extents > _WINDOW_EXTENTS:
            self.nbytes = max(self.nbytes // max(2, extents // _WINDOW_EXTENTS), _WINDOW_BYTES_MIN)
        elif extents < _WINDOW_EXTENTS // 4:
            self.nbytes = min(self.nbytes * 2, _WINDOW_BYTES_MAX)


def first_extents(
    leg: Leg,
    offset: int,
    length: int,
    over: Callable[[list[Extent]], bool],
    window: Window | None = None,
) -> list[Extent]:
    """The extents of a range, from its start on. Fewer than all of them if `over` says so of those
    found; it is asked after each window.
    """
    window = window or Window()
    window.nbytes = min(window.nbytes, _WINDOW_BYTES_FIRST)
    found: list[Extent] = []
    end = offset + length
    while offset < end:
        asked = min(window.nbytes, end - offset)
        piece = leg.extents(offset, asked)
        offset += asked
        window.follow(len(piece))
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

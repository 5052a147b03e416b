"""What an image says of its extents, in the forms that replies want them.

An image lists its extents exactly, down to the blocks of its file system. READ wants few and large
pieces; BLOCK_STATUS wants the states of a metadata context. A dirty bitmap has extents of the same
form, which say whether they changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import constants as c

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Extent = tuple[int, int, bool]
"""Offset, length, whether it is data. What is not reads as zeroes."""

Status = tuple[int, int]
"""Length, and STATE_* flags of a metadata context."""

ALLOCATION_STATES = c.STATE_HOLE | c.STATE_ZERO, 0  # of extents that are no data, and that are
BITMAP_STATES = 0, c.STATE_DIRTY  # of extents that did not change, and that did
UNCHANGED_STATES = c.STATE_HOLE, 0  # the same


def without_short_holes(extents: Sequence[Extent], hole_bytes_min: int) -> list[Extent]:
    """The same range, with holes that are shorter taken as data. A range that is one hole is left
    as it is, whatever its length.
    """
    found: list[Extent] = []
    for offset, length, is_data in extents:
        as_data = is_data or length < hole_bytes_min
        if found and found[-1][2] == as_data:
            before, so_far, _ = found[-1]
            found[-1] = before, so_far + length, as_data
        else:
            found.append((offset, length, as_data))
    if len(found) == 1 and not any(is_data for _, _, is_data in extents):
        return [(*found[0][:2], False)]
    return found


def as_one(extents: Sequence[Extent]) -> list[Extent]:
    """The same range as one extent: data, unless all of it is a hole."""
    offset = extents[0][0]
    length = sum(length for _, length, _ in extents)
    return [(offset, length, any(is_data for _, _, is_data in extents))]


def statuses(
    extents: Iterable[Extent], length: int, one: bool, states: tuple[int, int] = ALLOCATION_STATES
) -> list[Status]:
    """States of up to `length` bytes, neighbours of one state joined; with `one` the first only.
    Never empty if there is an extent. A length fits 32 bits if that of the request does.
    """
    found: list[Status] = []
    for _, extent, it_is in extents:
        state = states[it_is]
        taken = min(extent, length)
        if not taken:
            break
        length -= taken
        if found and found[-1][1] == state:
            found[-1] = found[-1][0] + taken, state
        elif one and found:
            break
        else:
            found.append((taken, state))
    return found

"""Copying one piece of a primary: what is read, what need not be read, and who is to blame.

A copy meets two disks, and the operator has to replace one of them. So an error says which image
it was and at which offset, and a primary that cannot be read is never reported as its secondary's
failure: `PrimaryUnreadableError` passes through where a `SinkError` would suspend the pair.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.images.holes import equal_holes, hole_until
from duplexd.images.unreadable import BLOCK_BYTES, UnreadableError, read
from duplexd.replication.follower import SinkError
from duplexd.runtime.writeback import LostWritesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg
    from duplexd.replication.follower import WatchedSink

_UNREADABLE_BLOCKS_MAX = 64  # of one piece, found one by one
_ZEROES = bytes(512)  # what does not begin so is compared no further


class PrimaryUnreadableError(UnreadableError):
    """A primary cannot be read: not a failure of its secondary. `lost`: the image as a whole has
    failed, because its disk has lost writes.
    """

    lost: FailedLeg | None = None


class FailedLeg(NamedTuple):
    """The image of a pair, and its error."""

    pair: Pair
    leg: Leg
    error: LostWritesError


class Range(NamedTuple):
    """Bytes of a volume."""

    offset: int
    length: int


class Piece(NamedTuple):
    """What one call has done, for the next `length` bytes: `copied` of them were written, and
    `unreadable` is what the primary does not return, so that it was left out. `read`: the bytes
    went through the disks, not only through the maps of holes.
    """

    length: int
    copied: int
    read: bool = True
    unreadable: Sequence[Range] = ()


class Progress:
    """How far the copy of a pair has come: up to offset `at`. `unmarked` are the ranges whose copy
    no marker says yet, not durable either; `copied_bytes` their bytes that the disks have moved.
    """

    __slots__ = ("at", "copied_bytes", "unmarked", "unreadable")

    def __init__(self) -> None:
        self.at = 0
        self.copied_bytes = 0
        self.unmarked: list[Range] = []
        self.unreadable: list[Range] = []

    def add(self, offset: int, piece: Piece) -> None:
        """The piece at `offset` is done. Neighbours become one range: a marker says that whole
        grains are copied, and a grain may be of several pieces.
        """
        self.at = offset + piece.length
        self.copied_bytes += piece.length if piece.read else 0
        self.unreadable += piece.unreadable
        if piece.unreadable:  # its other grains are copied again by a restart only
            return
        last = self.unmarked[-1] if self.unmarked else Range(0, 0)
        if last.offset + last.length == offset and self.unmarked:
            self.unmarked[-1] = Range(last.offset, last.length + piece.length)
        else:
            self.unmarked.append(Range(offset, piece.length))

    def marked(self) -> None:
        """A marker says it."""
        self.unmarked, self.copied_bytes = [], 0


def copy_piece(sink: WatchedSink, pair: Pair, offset: int, end: int, piece_bytes: int) -> Piece:
    """Copy the primary to the sink from `offset` on: at most `piece_bytes`, or a longer range that
    is a hole on both legs.

    What is equal on the secondary is not written again, except in a resync after its disk failed:
    the page cache may then return content that is not on the disk. Raises SinkError if the sink
    fails, PrimaryUnreadableError if the primary does.
    """
    if _compares(sink, pair) and (hole := _hole(sink, pair, offset, end)):
        return Piece(hole, 0, read=False)
    length = min(piece_bytes, end - offset)
    return Piece(length, _copy(sink, pair, offset, length))


def copy_around(sink: WatchedSink, pair: Pair, offset: int, end: int, piece_bytes: int) -> Piece:
    """The same, but leave out the blocks that the primary does not return.

    A disk with one bad sector still holds everything else, and that may soon be the only copy. Of
    one that has lost writes it is not known what it holds.
    """
    try:
        return copy_piece(sink, pair, offset, end, piece_bytes)
    except PrimaryUnreadableError as error:
        if error.lost is not None:
            raise
        return _around(sink, pair, offset, min(piece_bytes, end - offset))


def _around(sink: WatchedSink, pair: Pair, offset: int, length: int) -> Piece:
    """Once this many blocks of a piece cannot be read, the rest of it is not tried: each read may
    take the disk seconds.
    """
    unreadable: list[Range] = []
    copied, at, end = 0, offset, offset + length
    while at < end:
        try:
            copied += _copy(sink, pair, at, end - at)
            break
        except PrimaryUnreadableError as error:
            bad = error.offset
        if bad > at:
            copied += _copy(sink, pair, at, bad - at)
        gone = len(unreadable) >= _UNREADABLE_BLOCKS_MAX
        at = end if gone else min(bad + BLOCK_BYTES, end)
        unreadable.append(Range(bad, at - bad))
    return Piece(length, copied, unreadable=unreadable)


def _copy(sink: WatchedSink, pair: Pair, offset: int, length: int) -> int:
    data = _read(sink, pair, offset, length)
    try:
        return _put(sink, pair, offset, data)
    except OSError as error:
        raise SinkError(pair, 0, error, offset) from error


def _compares(sink: WatchedSink, pair: Pair) -> bool:
    """Whether what the secondary returns can be relied on."""
    return not sink.moves_secondary or pair.reason != pair_states.RESYNCING


def _hole(sink: WatchedSink, pair: Pair, offset: int, end: int) -> int:
    """How many bytes from `offset` on are a hole on both; 0 if that cannot be found out."""
    primary, secondary = sink.legs.primary(pair), sink.legs.secondary(pair)
    try:
        return equal_holes(primary, secondary, offset, end) - offset
    except OSError:
        return 0  # the read that follows says which image it is


def _read(sink: WatchedSink, pair: Pair, offset: int, length: int) -> bytearray:
    leg = pair.primary
    try:
        return read(sink.legs.primary(pair), offset, length)
    except UnreadableError as error:
        of_primary = PrimaryUnreadableError(*error.args, pair.primary.path)
        of_primary.offset = error.offset
        if isinstance(error.__cause__, LostWritesError):
            of_primary.lost = FailedLeg(pair, leg, error.__cause__)
        raise of_primary from error


def _put(sink: WatchedSink, pair: Pair, offset: int, data: bytearray) -> int:
    length = len(data)
    is_zero = data.startswith(_ZEROES) and data == bytes(length)
    if sink.moves_secondary and _compares(sink, pair):
        leg = sink.legs.secondary(pair)
        if _is_hole(leg, offset, length):  # nearly all of a new image: reading it fills the cache
            if is_zero:
                return 0
        elif _holds(leg, offset, data):
            return 0
    if is_zero:
        sink.zero(pair, offset, length, False)
        return 0
    sink.write(pair, offset, data)
    return length


def _is_hole(leg: Leg, offset: int, length: int) -> bool:
    try:
        return hole_until(leg, offset, offset + length) == offset + length
    except OSError:
        return False  # the read that follows says why


def _holds(leg: Leg, offset: int, data: bytearray) -> bool:
    present = bytearray(len(data))
    leg.read_into(offset, memoryview(present))
    return present == data


def left_out(pair: Pair, unreadable: Sequence[Range]) -> PrimaryUnreadableError:
    """What was left out of a copy, as its error."""
    path, total = pair.primary.path, sum(length for _, length in unreadable)
    ends = {offset + length for offset, length in unreadable}
    starts = [offset for offset, _ in unreadable if offset not in ends]
    places = f" ({len(starts)} places in all)" if len(starts) > 1 else ""
    return PrimaryUnreadableError(
        errno.EIO,
        f"{path}: {total} bytes cannot be read at offset {starts[0]}{places}, and were not copied; "
        "write to them or replace the image, then resync",
        path,
    )

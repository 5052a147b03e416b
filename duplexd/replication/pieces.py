"""Copying one piece of a primary: what is read, what need not be read, and who is to blame.

A copy meets two disks, and the operator has to replace one of them. So an error says which image
it was and at which offset, and a primary that cannot be read is never reported as its secondary's
failure: `PrimaryUnreadableError` passes through where a `SinkError` would suspend the pair.

The maps of holes are asked first, and holes are made anew, not copied: a volume that is half full
costs half as much, and its copy takes half the room. A call takes many short runs, because to pass
one to a worker takes longer than to copy it.
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
    from collections.abc import Iterator, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg
    from duplexd.replication.follower import WatchedSink

AHEAD_BYTES = 1 << 30  # of changed grains looked at for holes at once
_PART_BYTES = 1 << 20  # read and written at once; if it is all zeroes it becomes a hole
_RUNS_MAX = 256  # copied in one call
_SPAN_BYTES = 128 << 20  # from the first to the last of them: holes are asked for all of that
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


class Staged(NamedTuple):
    """What one call has done with a change map, up to offset `at`: `changed` bytes of it were
    looked at, see `Piece` for the others.
    """

    at: int
    changed: int
    copied: int
    read: bool


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
    return Piece(length, _copy_runs(sink, pair, [Range(offset, length)]))


def copy_changed(
    sink: WatchedSink, pair: Pair, todo: ChangeMap, offset: int, piece_bytes: int
) -> Staged | None:
    """The same for the runs of a change map from `offset` on, as many as `piece_bytes` hold. None
    if there are no more.
    """
    run = todo.next_run(offset, AHEAD_BYTES)
    if run is None:
        return None
    at, end = max(run[0], offset), run[0] + run[1]
    if _compares(sink, pair) and (hole := _hole(sink, pair, at, end)):
        return Staged(at + hole, hole, 0, read=False)
    runs = _next_runs(todo, at, end, piece_bytes)
    changed = sum(length for _, length in runs)
    return Staged(sum(runs[-1]), changed, _copy_runs(sink, pair, runs), read=True)


def _next_runs(todo: ChangeMap, at: int, end: int, piece_bytes: int) -> list[Range]:
    runs, left, span_end = [Range(at, min(end - at, piece_bytes))], piece_bytes, at + _SPAN_BYTES
    while (left := left - runs[-1].length) > 0 and len(runs) < _RUNS_MAX:
        run = todo.next_run(end, left)
        if run is None or run[0] >= span_end:
            break
        end = sum(run)
        runs.append(Range(run[0], min(run[1], left)))
    return runs


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


def _copy_runs(sink: WatchedSink, pair: Pair, runs: Sequence[Range]) -> int:
    copied = 0
    for offset, length, is_data in _parts(sink, pair, runs):
        if is_data:
            copied += _copy(sink, pair, offset, length)
        else:
            _clear(sink, pair, offset, length)
    return copied


def _parts(sink: WatchedSink, pair: Pair, runs: Sequence[Range]) -> Iterator[tuple[int, int, bool]]:
    """The parts of these runs that are data of the primary, and those that are holes."""
    first, stop = runs[0].offset, sum(runs[-1])
    try:
        extents = sink.legs.primary(pair).extents(first, stop - first)
    except OSError:
        extents = [(first, stop - first, True)]  # the read that follows says why
    number = 0
    for offset, length in runs:
        at, end = offset, offset + length
        while at < end:
            start, size, is_data = extents[number]
            upto = min(end, start + size)
            if at < upto:
                yield at, upto - at, is_data
                at = upto
            if start + size <= at:
                number += 1


def _copy(sink: WatchedSink, pair: Pair, offset: int, length: int) -> int:
    copied = 0
    for at in range(offset, offset + length, _PART_BYTES):
        data = _read(sink, pair, at, min(_PART_BYTES, offset + length - at))
        try:
            copied += _put(sink, pair, at, data)
        except OSError as error:
            raise SinkError(pair, 0, error, at) from error
    return copied


def _clear(sink: WatchedSink, pair: Pair, offset: int, length: int) -> None:
    """What is a hole of the primary."""
    if _compares(sink, pair) and _is_hole(sink.legs.secondary(pair), offset, length):
        return
    try:
        sink.zero(pair, offset, length, False)
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
        return read(sink.legs.primary(pair), offset, length, sink.legs.buffers.take)
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
        elif _holds(leg, offset, data, sink.legs.buffers.take(length)):
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


def _holds(leg: Leg, offset: int, data: bytearray, present: bytearray) -> bool:
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

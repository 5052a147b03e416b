"""Comparing a piece of the two images of a pair, in a worker. Blocking.

What is a hole on both is equal unread. Of a SUSPENDED pair, grains that changed since the cut are
left out, because the secondary has to lack them. A difference is reported in blocks: what a disk
loses, it loses in blocks, and a list of single bytes would have as many entries as the image.

The disks are compared, not what memory holds of them: a block that rots under a cached page would
be found by the first reader after the page is gone, which may be the restore. Memory is left as it
is, where the system can do that (`runtime/medium.py`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.core.leg_differences import joined
from duplexd.core.patience import PRIMARY, SECONDARY
from duplexd.errors import WrongStateError
from duplexd.images.absent import AbsentLeg
from duplexd.images.holes import equal_holes
from duplexd.images.place import misplaced
from duplexd.images.unreadable import BLOCK_BYTES, read_medium
from duplexd.replication.watched import WatchedLeg
from duplexd.runtime.medium import Aligned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.core.patience import Waited
    from duplexd.images.leg import Leg
    from duplexd.runtime.watch import Watch

    Run = tuple[int, int]  # offset, length

PIECE_BYTES = 1 << 20
LARGE_PIECE_BYTES = 4 << 20  # a disk that is asked for more at once answers sooner
_BLOCKS = PIECE_BYTES // BLOCK_BYTES
_kept: deque[Aligned] = deque(maxlen=2)  # to be used again: new pages would take as long as a read


class Compared(NamedTuple):
    """Of the next `length` bytes: the runs of blocks in which the legs differ, the first byte that
    does, or None; how many of them were looked at, and how many read from each disk.
    """

    length: int
    first_difference: int | None
    looked_bytes: int
    runs: Sequence[Run] = ()
    read_bytes: int = 0


class Legs(NamedTuple):
    """The images that are compared. A reload or a swap may give the pair others meanwhile, and
    close these.
    """

    primary: Leg
    secondary: Leg

    def watched(self, pair: Pair, watch: Watch[Waited]) -> Legs:
        """The same, for a worker."""
        return Legs(
            _watched(pair, self.primary, PRIMARY, watch),
            _watched(pair, self.secondary, SECONDARY, watch),
        )

    def are_of(self, pair: Pair) -> bool:
        """Whether the pair still has them."""
        return pair.primary is self.primary and pair.secondary is self.secondary

    def check(self, pair: Pair) -> None:
        """Raises WrongStateError if the pair has others now."""
        if not self.are_of(pair):
            raise WrongStateError(
                f"{pair.name}: its images changed while they were compared; compare them again"
            )


def _watched(pair: Pair, leg: Leg, role: str, watch: Watch[Waited]) -> Leg:
    """An absent one never hangs, and stays what it is: it has the reason why it is absent."""
    return leg if isinstance(leg, AbsentLeg) else WatchedLeg(pair, leg, role, watch)


def elsewhere(legs: Legs) -> str:
    """Why a path does not name the open image; "" if both do."""
    return misplaced(legs.primary) or misplaced(legs.secondary)


def compare(
    pair: Pair, offset: int, end: int, legs: Legs, piece_bytes: int = PIECE_BYTES
) -> Compared:
    """The next piece before `end`, or a longer range that is a hole on both."""
    hole = _hole(legs, offset, end)
    if hole:
        return Compared(hole, None, hole)
    length = min(piece_bytes, end - offset)
    one, other = _buffer(), _buffer()
    for leg, buffer in zip(legs, (one, other), strict=True):
        read_medium(leg, offset, buffer.view[:length])
    changed = pair.changed if pair.state == pair_states.SUSPENDED else None
    if changed is not None and changed.overlaps(offset, length):
        found = _compare_unchanged(changed, offset, *_contents(length, one, other))
    elif one.equals(other, length):
        found = Compared(length, None, length, (), length)
    else:
        found = _differing(offset, *_contents(length, one, other))
    _kept.extend((one, other))  # not those of a thread that was given up: it has not returned
    return found


def _buffer() -> Aligned:
    try:
        return _kept.pop()
    except IndexError:
        return Aligned(LARGE_PIECE_BYTES)


def _contents(length: int, *buffers: Aligned) -> Iterator[bytes]:
    return (bytes(buffer.view[:length]) for buffer in buffers)


def _differing(offset: int, ours: bytes, theirs: bytes) -> Compared:
    blocks, length = _blocks(offset, ours, theirs), len(ours)
    at = blocks[0][0] - offset  # what is before it is equal
    block = slice(at, at + BLOCK_BYTES)
    first = offset + at + _first_difference(ours[block], theirs[block])
    return Compared(length, first, length, joined(blocks, _BLOCKS), length)


def _hole(legs: Legs, offset: int, end: int) -> int:
    """How many bytes from `offset` on are a hole on both; 0 where that cannot be found out."""
    try:
        return equal_holes(*legs, offset, end) - offset
    except OSError:
        return 0  # the read that follows says which image it is


def _compare_unchanged(changed: ChangeMap, offset: int, ours: bytes, theirs: bytes) -> Compared:
    first, looked = None, 0
    runs: list[Run] = []
    step = min(changed.grain_bytes, PIECE_BYTES)
    for at in range(0, len(ours), step):
        if changed.overlaps(offset + at, min(step, len(ours) - at)):
            continue
        mine, other = ours[at : at + step], theirs[at : at + step]
        looked += len(mine)
        if mine != other:
            runs += _blocks(offset + at, mine, other)
            if first is None:
                first = offset + at + _first_difference(mine, other)
    return Compared(len(ours), first, looked, joined(runs, _BLOCKS), len(ours))


def _blocks(offset: int, ours: bytes, theirs: bytes) -> list[Run]:
    return [
        (offset + at, min(BLOCK_BYTES, len(ours) - at))
        for at in range(0, len(ours), BLOCK_BYTES)
        if ours[at : at + BLOCK_BYTES] != theirs[at : at + BLOCK_BYTES]
    ]


def _first_difference(ours: bytes, theirs: bytes) -> int:
    both = enumerate(zip(ours, theirs, strict=True))
    return next(place for place, (mine, other) in both if mine != other)

"""Reading one leg back, to make of the other what it has to be where a change failed on one.

In a worker that is in the midst of a batch: each call is noted in its watch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.backend import WRITE, ZERO, Change
from duplexd.core.pair import PairChange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.batch import Note, SecondaryFailure
    from duplexd.images.leg import Leg
    from duplexd.runtime.watch import Watch

_BLOCK_BYTES = 4096


def heal(
    failure: SecondaryFailure, change: PairChange, watch: Watch[Note], piece_bytes: int
) -> None:
    """Restore the range of a failed change on the secondary to what the primary still has there,
    durably; note whether that succeeded.
    """
    pair, healed = failure.pair, False
    end = change.offset + change.length
    try:
        for offset in range(change.offset, end, piece_bytes):
            length = min(piece_bytes, end - offset)
            healed |= _heal_piece(pair.primary, pair.copy_of, offset, length, watch)
    except OSError:
        failure.torn = True
        return
    try:
        if healed:
            with watch.at(pair.copy_of):
                pair.copy_of.sync()
    except OSError:
        failure.torn = failure.lost = True


def _heal_piece(primary: Leg, secondary: Leg, offset: int, length: int, watch: Watch[Note]) -> bool:
    before, now = bytearray(length), bytearray(length)
    with watch.at(primary):
        primary.read_into(offset, memoryview(before))
    with watch.at(secondary):
        secondary.read_into(offset, memoryview(now))
    if before == now:
        return False
    for at in range(0, length, _BLOCK_BYTES):
        piece = before[at : at + _BLOCK_BYTES]
        if piece != now[at : at + _BLOCK_BYTES]:
            with watch.at(secondary):
                secondary.write(offset + at, piece)
    return True


def held(pair: Pair, offset: int, length: int, watch: Watch[Note]) -> PairChange | None:
    """What the primary holds there, as a change; None if it cannot be read.

    Zeroes are journaled as such: they may be a hole that could not be filled, and the journal may
    not have room for that many bytes.
    """
    data = bytearray(length)
    try:
        with watch.at(pair.primary):
            pair.primary.read_into(offset, memoryview(data))
    except OSError:
        return None
    if data.count(0) == length:
        return PairChange(NOBODY, 0, pair, ZERO, offset, length)
    return PairChange(NOBODY, 0, pair, WRITE, offset, length, data)


class _Nobody:
    """The client of changes that the engine itself makes."""

    def finished(self, changes: Sequence[Change]) -> None:
        """No connection waits for them."""


NOBODY = _Nobody()

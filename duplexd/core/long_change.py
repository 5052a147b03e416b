"""A change that is too long for one record, and its pieces. Pure.

A batch has the journal while it runs, so nothing in it may take long. A long WRITE becomes records
of a bounded length, and so does a long TRIM or WRITE_ZEROES: zeroing 4 GiB takes no time where the
file system gives up extents, and half a minute where it has to write zeroes. What it takes is known
only from trying, so the length of the next piece follows from the time of those before:

| a piece took | the next one is |
|---|---|
| less than half of `zero_seconds` | twice as long, at most `zero_bytes_max` |
| up to twice `zero_seconds` | as long |
| more | as long as would have taken that time, at least a record |

A piece is made when its turn comes, because a client may zero all of a large volume in one request.
A client that goes leaves the pieces that have begun: its change was never acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.backend import WRITE
from duplexd.core.pair import PairChange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.backend import Change
    from duplexd.limits import EngineLimits


class PieceSizes:
    """How long the next piece of a change may be. For zeroes each volume has its own length, and
    holes have one: it may be that only one of these is slow.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self._of: dict[tuple[int, bool], int] = {}  # by volume number and `allocate`

    def next(self, change: PairChange) -> int:
        """Bytes, a multiple of those of a record."""
        if change.kind == WRITE:
            return self._limits.record_bytes_max
        return self._of.get((change.volume.id, change.allocate), self._limits.zero_bytes_first)

    def took(self, piece: PairChange, seconds: float) -> None:
        """A piece of zeroes took so long."""
        limits, nbytes = self._limits, self.next(piece)
        unit, intended_s = limits.record_bytes_max, limits.zero_seconds
        if seconds > 2 * intended_s:
            fitting = int(piece.length * intended_s / seconds)
            nbytes = min(nbytes, max(fitting // unit, 1) * unit)
        elif seconds < intended_s / 2 and piece.length > nbytes - unit:
            nbytes = min(2 * nbytes, limits.zero_bytes_max)
        self._of[piece.volume.id, piece.allocate] = nbytes


class LongChange:
    """The client of the pieces of a change: calls `done` with the change when all of it is done, or
    what had begun when a piece failed.

    A piece has no FUA of its own: `done` makes the whole durable, once.
    """

    __slots__ = ("_done", "_left", "_whole", "cut")

    def __init__(self, whole: PairChange, done: Callable[[Sequence[PairChange]], None]) -> None:
        whole.own()
        self._whole = whole
        self._done = done
        self._left = whole.length  # bytes without an outcome
        self.cut = 0  # bytes of which there are pieces

    @property
    def is_cut(self) -> bool:
        """Whether there are pieces of all of it."""
        return self.cut == self._whole.length

    def piece(self, nbytes: int, unit: int) -> PairChange:
        """The next piece. Zeroes end at multiples of `unit`, which `nbytes` is one of: images give
        up whole blocks.
        """
        whole, at = self._whole, self.cut
        if whole.kind == WRITE:
            length = min(nbytes, whole.length - at)
            data = memoryview(whole.data)[at : at + length].toreadonly()
        else:
            start = whole.offset + at
            length = min((start + nbytes) // unit * unit - start, whole.length - at)
            data = memoryview(b"")
        self.cut += length
        return PairChange(
            self,
            0,
            whole.volume,
            whole.kind,
            whole.offset + at,
            length,
            data,
            False,
            whole.allocate,
        )

    def finished(self, pieces: Sequence[Change]) -> None:
        """See `Client`."""
        whole = self._whole
        for piece in pieces:
            whole.error = whole.error or piece.error
            whole.sequence = max(whole.sequence, piece.sequence)
            self._left -= piece.length
        if whole.error:
            self._cut_short()
        if not self._left:
            self._done([whole])

    def give_up(self, error: int) -> None:
        """There will be no further pieces, and the change gets this errno."""
        if not self.is_cut:
            self._whole.error = self._whole.error or error
            self._cut_short()
            if not self._left:
                self._done([self._whole])

    def _cut_short(self) -> None:
        self._left -= self._whole.length - self.cut
        self.cut = self._whole.length

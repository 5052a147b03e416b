"""What of a primary has to be written so that it holds what its secondary holds at a cut. Blocking,
in a worker.

Candidates are the grains that changed since the cut, and of these only the blocks that differ. The
journal gets no more than that, and a second rollback to the same cut writes nothing. Zeroes are
written as zeroes, so that an image stays sparse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import differing as core
from duplexd.engine.own_writes import Content
from duplexd.images.unreadable import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.core.change_map import ChangeMap
    from duplexd.engine.compare import Legs

PIECE_BYTES = 256 << 10  # compared and written at once: other volumes wait for such a batch


def pieces(changed: ChangeMap | None) -> Iterator[tuple[int, int]]:
    """The ranges to compare: all that is set in the map, whatever its grain."""
    at = 0
    while changed is not None and (run := changed.next_run(at, PIECE_BYTES)) is not None:
        offset, length = run
        at = offset + length
        for start in range(offset, at, PIECE_BYTES):
            yield start, min(PIECE_BYTES, at - start)


def differing(legs: Legs, offset: int, length: int) -> list[Content]:
    """What the secondary holds where the primary holds something else. Raises UnreadableError."""
    there = bytes(read(legs.secondary, offset, length))
    here = bytes(read(legs.primary, offset, length))
    return [
        Content(
            offset + run.offset,
            run.length,
            b"" if run.zeroes else there[run.offset : run.offset + run.length],
        )
        for run in core.differing(there, here)
    ]

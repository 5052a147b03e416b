"""How far a start is: a value, of which everybody makes their own text.

A start has stages that take very different times, and how long each takes is not known before: it
depends on the disks. So each stage has a fixed share of the whole, and a part of it by what it has
done. That is coarse, but it never goes back, and a start that hangs is seen to hang, and where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Report = Callable[[str, int, int], None]  # stage, done, total: units of the stage's own

JOURNAL = "reading the journal"
OPENING = "opening the images"
PRIMARIES = "replaying to the primaries"
SECONDARIES = "replaying to the secondaries"
FINISHING = "writing the first checkpoint"

# Where each stage begins, as a share of the whole start; it ends where the next one begins.
_BEGINS = {JOURNAL: 0.0, OPENING: 0.3, PRIMARIES: 0.35, SECONDARIES: 0.65, FINISHING: 0.95}
_STAGES = list(_BEGINS)


class Progress(NamedTuple):
    """A stage, and how much of it is done, in units of its own. `total` is 0 if it is not known."""

    stage: str
    done: int = 0
    total: int = 0

    @property
    def fraction(self) -> float:
        """Of the whole start, between 0 and 1."""
        following = _STAGES[_STAGES.index(self.stage) + 1 :]
        begin, end = _BEGINS[self.stage], _BEGINS[following[0]] if following else 1.0
        part = min(self.done / self.total, 1.0) if self.total > 0 else 0.0
        return begin + part * (end - begin)

    def __str__(self) -> str:
        return f"recovering, {int(self.fraction * 100)} % ({self.stage})"


def ignore(_stage: str, _done: int, _total: int) -> None:
    """A `Report` for a start that nobody watches."""

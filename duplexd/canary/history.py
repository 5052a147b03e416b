"""What a client remembers of its writes: when each was issued and when acknowledged. Pure.

Time is a logical clock: one counter over all writers, read at every issue, acknowledgement and
suspend. Clocks of machines would have to agree; a counter in one process cannot disagree. Each
writer has one record in flight, so both times rise along its chain, and a bisection finds a moment.

With `keep`, at least the last `keep` records of each writer are remembered; of older ones nothing
is claimed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left


class History:
    """Issue and acknowledgement times of the records of every writer."""

    __slots__ = ("_acknowledged", "_clock", "_forgotten", "_issued", "_keep", "newest")

    def __init__(self, writers: int, keep: int | None = None) -> None:
        self._clock = 0
        self._keep = keep
        self._issued = [array("Q") for _ in range(writers)]
        self._acknowledged = [array("Q") for _ in range(writers)]
        self._forgotten = [0] * writers  # records before the first of the arrays
        self.newest = (0, 0)  # writer and number of the record acknowledged last; 0: none yet

    def tick(self) -> int:
        """The next moment of the clock."""
        self._clock += 1
        return self._clock

    def issue(self, writer: int) -> int:
        """Note that the writer issues its next record now; its number."""
        issued = self._issued[writer]
        if self._keep and len(issued) > 2 * self._keep:
            del issued[: self._keep], self._acknowledged[writer][: self._keep]
            self._forgotten[writer] += self._keep
        issued.append(self.tick())
        return self._forgotten[writer] + len(issued)

    def acknowledge(self, writer: int) -> None:
        """Note that the writer's record in flight was acknowledged now."""
        acknowledged = self._acknowledged[writer]
        acknowledged.append(self.tick())
        self.newest = (writer, self._forgotten[writer] + len(acknowledged))

    def acknowledged_before(self, writer: int, moment: int) -> int:
        """Number of the writer's last record acknowledged before `moment`; 0: none known."""
        index = bisect_left(self._acknowledged[writer], moment)
        return self._forgotten[writer] + index if index else 0

    def issued_before(self, writer: int, moment: int) -> int:
        """Number of the writer's last record issued before `moment`; 0: none.

        At least the number of the last one forgotten.
        """
        return self._forgotten[writer] + bisect_left(self._issued[writer], moment)

    def issued_at(self, writer: int, number: int) -> int:
        """When the record was issued; 0 if it never was, or that is forgotten."""
        index = number - self._forgotten[writer] - 1
        issued = self._issued[writer]
        return issued[index] if 0 <= index < len(issued) else 0

    @property
    def writers(self) -> int:
        """How many chains there are."""
        return len(self._issued)

    @property
    def acknowledged(self) -> int:
        """Records acknowledged so far, all writers."""
        return sum(map(len, self._acknowledged)) + sum(self._forgotten)

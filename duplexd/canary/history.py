"""What the client remembers of its own writes: when each record was issued and when it was acknowledged. Pure.

Time is a logical clock: one counter over all writers, taken at every issue, acknowledgement and suspend. Each writer has one record in
flight, so both times only ever rise along its chain.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left


class History:
    """Issue and acknowledgement times of every record of every writer."""

    __slots__ = ("_acknowledged", "_clock", "_issued", "newest")

    def __init__(self, writers: int) -> None:
        self._clock = 0
        self._issued = [array("Q") for _ in range(writers)]
        self._acknowledged = [array("Q") for _ in range(writers)]
        self.newest = (0, 0)  # (writer, number) of the record acknowledged last, number 0: none yet

    def tick(self) -> int:
        """The next moment of the clock."""
        self._clock += 1
        return self._clock

    def issue(self, writer: int) -> int:
        """Note that the writer issues its next record now; its number."""
        self._issued[writer].append(self.tick())
        return len(self._issued[writer])

    def acknowledge(self, writer: int) -> None:
        """Note that the writer's record in flight was acknowledged now."""
        self._acknowledged[writer].append(self.tick())
        self.newest = (writer, len(self._acknowledged[writer]))

    def acknowledged_before(self, writer: int, moment: int) -> int:
        """Number of the writer's last record acknowledged before `moment`; 0: none."""
        return bisect_left(self._acknowledged[writer], moment)

    def issued_before(self, writer: int, moment: int) -> int:
        """Number of the writer's last record issued before `moment`; 0: none."""
        return bisect_left(self._issued[writer], moment)

    def issued_at(self, writer: int, number: int) -> int:
        """When the record was issued; 0 if it never was."""
        issued = self._issued[writer]
        return issued[number - 1] if number <= len(issued) else 0

    @property
    def writers(self) -> int:
        """How many chains there are."""
        return len(self._issued)

    @property
    def acknowledged(self) -> int:
        """Records acknowledged so far, all writers."""
        return sum(map(len, self._acknowledged))

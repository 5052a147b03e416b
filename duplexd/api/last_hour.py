"""How many requests the last hour had, and how long they took: a sample every ten seconds.

The daemon keeps it, so that the page needs no other program. It is bounded: a ring of floats for
each volume, 6 KiB of them, however much the volume is used. An hour is what somebody wants to see
who comes because something is slow; for more there is Prometheus.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SAMPLES = 360
SAMPLE_SECONDS = 10.0
_NOTHING = array("f", [math.nan])


class Sums(Protocol):
    """Of one operation since the start: requests answered, and the seconds they took together."""

    @property
    def requests(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class Counted(Protocol):
    """What the NBD server counts for a volume."""

    def sums(self) -> tuple[Sums, Sums]:
        """Of READs and of WRITEs."""


class Line(NamedTuple):
    """Samples of one operation, oldest first; NaN where there is none."""

    rate: list[float]  # requests a second
    seconds: list[float]  # mean time of a request


class _Ring:
    """One operation of a volume."""

    __slots__ = ("rate", "seconds", "sums")

    def __init__(self, sums: Sums, samples_max: int) -> None:
        self.sums = sums
        self.rate, self.seconds = _NOTHING * samples_max, _NOTHING * samples_max

    def note(self, at: int, sums: Sums, seconds: float) -> None:
        requests = sums.requests - self.sums.requests
        took = sums.seconds - self.sums.seconds
        self.sums = sums
        self.rate[at] = requests / seconds
        self.seconds[at] = took / requests if requests else math.nan

    def line(self, at: int) -> Line:
        return Line(list(_from(self.rate, at)), list(_from(self.seconds, at)))


def _from(ring: array[float], at: int) -> Iterator[float]:
    yield from ring[at:]
    yield from ring[:at]


class LastHour:
    """The samples of all volumes. `note` is called every `SAMPLE_SECONDS`."""

    def __init__(self, samples_max: int = SAMPLES) -> None:
        self._samples_max = samples_max
        self._at = 0  # the next sample's place
        self._rings: dict[str, tuple[_Ring, _Ring]] = {}

    def note(self, traffic: Mapping[str, Counted], seconds: float) -> None:
        """A sample of the time since the last one, which was `seconds` ago. A volume that is seen
        for the first time begins here.
        """
        for name, counted in traffic.items():
            reads, writes = counted.sums()
            rings = self._rings.get(name)
            if rings is None:
                first = _Ring(reads, self._samples_max), _Ring(writes, self._samples_max)
                self._rings[name] = first
                continue
            rings[0].note(self._at, reads, seconds)
            rings[1].note(self._at, writes, seconds)
        self._at = (self._at + 1) % self._samples_max

    def of(self, name: str) -> tuple[Line, Line] | None:
        """Reads and writes of a volume; None if it was never seen."""
        rings = self._rings.get(name)
        return None if rings is None else (rings[0].line(self._at), rings[1].line(self._at))

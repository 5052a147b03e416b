"""What the NBD server counts: plain ints, added to for each request, read when metrics are
collected.

A labelled counter of a metrics library costs a microsecond for each increment, half of what a
request costs altogether.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backend import FLUSH, TRIM, WRITE, ZERO
from duplexd.nbd import constants as c
from duplexd.runtime.histogram import SECONDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backend import Change

OPERATIONS = {
    "read": c.CMD_READ,
    "write": c.CMD_WRITE,
    "flush": c.CMD_FLUSH,
    "trim": c.CMD_TRIM,
    "write_zeroes": c.CMD_WRITE_ZEROES,
    "cache": c.CMD_CACHE,
    "block_status": c.CMD_BLOCK_STATUS,
}
TIMED = ("read", "write", "flush", "trim", "write_zeroes")
REQUEST_SECONDS = (0.00001, 0.000025, 0.00005, *SECONDS)
_COMMANDS = {
    WRITE: c.CMD_WRITE,
    ZERO: c.CMD_WRITE_ZEROES,
    TRIM: c.CMD_TRIM,
    FLUSH: c.CMD_FLUSH,
}


class Sums(NamedTuple):
    """Of one operation since the start: requests answered, and the seconds they took together."""

    requests: int
    seconds: float


class Traffic:
    """Requests taken for one volume since the start, over all connections. Lists are indexed by the
    number of the command.

    `seconds` is of requests that were answered: from when they were taken until then, what they
    waited at gates and for disks included. `timed_reads` of the READs are counted there, or will be
    because they wait for a worker; the others are answered in the wake-up that is being served.
    """

    __slots__ = ("byte_counts", "failed", "refused", "requests", "seconds", "timed_reads")

    def __init__(self) -> None:
        self.requests = [0] * 8
        self.byte_counts = [0] * 8
        self.refused = 0  # answered with an errno because the request is wrong
        self.failed = 0  # answered with an errno because storage failed
        self.timed_reads = 0
        self.seconds = [Histogram(REQUEST_SECONDS) for _ in range(8)]

    def took(self, changes: Sequence[Change]) -> None:
        """Count the time of changes that are answered now. Where all are WRITEs of one wake-up,
        `Dispatch.finished` does it in place, for all at once.
        """
        now = monotonic()
        for change in changes:
            self.seconds[_COMMANDS[change.kind]].observe(now - change.since)

    def read_took(self, seconds: float) -> None:
        """Count the time of a READ that waited for a worker."""
        self.seconds[c.CMD_READ].observe(seconds)

    def seconds_by_operation(self) -> dict[str, Histogram]:
        """Operation -> the time of its requests, for those that there have been; copies."""
        timed = ((name, self.seconds[OPERATIONS[name]]) for name in TIMED)
        return {name: seconds.copy() for name, seconds in timed if seconds.total}

    def sums(self) -> tuple[Sums, Sums]:
        """Of READs and of WRITEs."""
        reads, writes = self.seconds[c.CMD_READ], self.seconds[c.CMD_WRITE]
        return Sums(sum(reads.counts), reads.total), Sums(sum(writes.counts), writes.total)

    def by_operation(self) -> dict[str, tuple[int, int]]:
        """Operation -> (requests, bytes)."""
        return {
            name: (self.requests[number], self.byte_counts[number])
            for name, number in OPERATIONS.items()
        }

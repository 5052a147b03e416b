"""What the NBD server counts: plain ints, added to for each request, read when metrics are
collected.

A labelled counter of a metrics library costs a microsecond for each increment, half of what a
request costs altogether.
"""

from __future__ import annotations

from duplexd.nbd import constants as c

OPERATIONS = {
    "read": c.CMD_READ,
    "write": c.CMD_WRITE,
    "flush": c.CMD_FLUSH,
    "trim": c.CMD_TRIM,
    "write_zeroes": c.CMD_WRITE_ZEROES,
    "cache": c.CMD_CACHE,
    "block_status": c.CMD_BLOCK_STATUS,
}


class Traffic:
    """Requests taken for one volume since the start, over all connections. Lists are indexed by the
    number of the command.
    """

    __slots__ = ("byte_counts", "failed", "refused", "requests")

    def __init__(self) -> None:
        self.requests = [0] * 8
        self.byte_counts = [0] * 8
        self.refused = 0  # answered with an errno because the request is wrong
        self.failed = 0  # answered with an errno because storage failed

    def by_operation(self) -> dict[str, tuple[int, int]]:
        """Operation -> (requests, bytes)."""
        return {
            name: (self.requests[number], self.byte_counts[number])
            for name, number in OPERATIONS.items()
        }

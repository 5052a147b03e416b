"""Slowing down the clients of volumes whose secondaries cannot keep up, smoothly, and only theirs.

A follower that trails by more than half of the limit makes its slow pairs wait: their gates close
when something was written, and open again when the follower has worked off a part of what was
written since they were open last. That part grows from nothing, at half of the limit, to all of it,
at the limit. Beyond that, a follower that has to keep up lets nothing in, and one that has to catch
up lets in less than it works off. So writes are slowed down to what the secondary takes; each waits
about as long as what was written just before it takes to be applied, never for the whole backlog;
and other volumes notice nothing.

A write that waits for longer than a secondary may take to answer is not worth its mirror: `late` is
called, and a pair that is behind is suspended.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from duplexd.core.pair import Pair
    from duplexd.replication.seams import Gates


TOO_SLOW = "too slow: writes would have to wait for it for more than {:g} s"
CATCHES_UP = 1.5  # bytes worked off for each that is let in, beyond the limit


class Throttle:
    """The gates that one follower closes. `late` is called when they were closed for `seconds`.

    `limit_bytes` may be changed. `catches_up`: the limit is where the follower has to come to.
    """

    def __init__(
        self,
        gates: Gates,
        limit_bytes: float,
        seconds: Callable[[], float],
        late: Callable[[], None],
        catches_up: bool = False,
    ) -> None:
        self._gates = gates
        self.limit_bytes = limit_bytes
        self._catches_up = catches_up
        self._seconds = seconds
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self._opened_at = 0  # the end of the journal when the gates were open last
        self._opens_at = 0.0  # where the follower has to be for them to open
        self.closed: dict[Pair, None] = {}  # whose gates are closed, in that order

    def look(self, written: int, lag_bytes: int, slow: Callable[[], list[Pair]]) -> None:
        """The journal, now `written` bytes, grew, or the follower went on and trails by
        `lag_bytes`. `slow` gives the pairs that are to wait.
        """
        above = 2 * lag_bytes - self.limit_bytes
        if above <= 0:
            self._opened_at = written
            if self.closed:
                self.keep(())
        elif (
            self.closed
            and written - lag_bytes >= self._opens_at
            and (above < self.limit_bytes or self._catches_up)
        ):
            self._opened_at = written
            self.keep(())
        else:
            pairs = slow()
            self._close([pair for pair in pairs if pair not in self.closed])
            self.keep(pairs)
            if self._timer is None and self.closed:
                share = min(above / self.limit_bytes, CATCHES_UP if self._catches_up else 1.0)
                self._opens_at = written - lag_bytes + (written - self._opened_at) * share
                self._timer = asyncio.get_running_loop().call_later(self._seconds(), self._late)

    def _close(self, pairs: list[Pair]) -> None:
        self.closed |= dict.fromkeys(pairs)
        self._gates.close_gates(pairs)

    def keep(self, pairs: Container[Pair]) -> None:
        """Open the gates of all others."""
        opened = [pair for pair in self.closed if pair not in pairs]
        for pair in opened:
            del self.closed[pair]
        self._gates.open_gates(opened)
        if not self.closed and self._timer is not None:
            self._timer.cancel()
            self._timer = None

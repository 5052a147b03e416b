"""A connection does not outlive the certificate that it began with.

TLS asks for a certificate once, at the beginning. A mount, a hold or a stream of events that began
a day before its certificate expired would otherwise stay for as long as its client wants.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LOOK_SECONDS_MAX = 3600.0  # at the clock of the machine, which may be set


class Expiry:
    """Calls `end` at `until`, in seconds since 1970."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        until: float,
        end: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._until = until
        self._end = end
        self._now = now
        self._timer = loop.call_soon(self._look)

    def cancel(self) -> None:
        """The connection is over."""
        self._timer.cancel()

    def _look(self) -> None:
        left_s = self._until - self._now()
        if left_s <= 0:
            self._end()
        else:
            self._timer = self._loop.call_later(min(left_s, LOOK_SECONDS_MAX), self._look)

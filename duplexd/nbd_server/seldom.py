"""Log lines about clients, so few that no client can fill the disk with them.

A client that connects and leaves in a loop would cause two lines each time, gigabytes a day. Each
kind of line may come in a burst, and then at a slow rate; the next one that is written says how
many were not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.limits import NbdLimits

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")


class _Kind:
    __slots__ = ("at", "left", "omitted")

    def __init__(self, at: float, left: float) -> None:
        self.at = at
        self.left = left
        self.omitted = 0


class SeldomLog:
    """`clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float], limits: NbdLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._kinds: dict[str, _Kind] = {}  # by event: texts of this program, not of clients

    def info(self, event: str, **fields: object) -> None:
        """What happens every day."""
        if (omitted := self._omitted(event)) is not None:
            log.info(event, **fields, **omitted)

    def warning(self, event: str, **fields: object) -> None:
        """What somebody should look at."""
        if (omitted := self._omitted(event)) is not None:
            log.warning(event, **fields, **omitted)

    def _omitted(self, event: str) -> dict[str, int] | None:
        """None if the line must not be written; what it says of earlier ones that were not."""
        now, burst = self._clock(), float(self._limits.log_lines_burst)
        kind = self._kinds.setdefault(event, _Kind(now, burst))
        kind.left = min(burst, kind.left + (now - kind.at) * self._limits.log_lines_per_second)
        kind.at = now
        if kind.left < 1:
            kind.omitted += 1
            return None
        kind.left -= 1
        omitted, kind.omitted = kind.omitted, 0
        return {"omitted": omitted} if omitted else {}

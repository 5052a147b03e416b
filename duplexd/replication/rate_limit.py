"""The rate limit of copies: a leaky bucket, filled by copied bytes and drained by time. Pure."""

from __future__ import annotations


class Pace:
    """The bytes in the bucket.

    `now` is monotonic seconds; `rate` is bytes per second, None for no limit. The rate is a
    parameter of each call, because a reload may change it at any time.
    """

    __slots__ = ("_owed_bytes", "_settled_at")

    def __init__(self) -> None:
        self._owed_bytes = 0.0
        self._settled_at = 0.0

    def spend(self, length: int, now: float, rate: int | None) -> None:
        """`length` bytes were copied just now."""
        self._settle(now, rate)
        self._owed_bytes += length

    def wait_s(self, now: float, rate: int | None) -> float:
        """Seconds until the next bytes may be copied."""
        self._settle(now, rate)
        return self._owed_bytes / rate if rate else 0.0

    def _settle(self, now: float, rate: int | None) -> None:
        self._owed_bytes = (
            max(0.0, self._owed_bytes - (now - self._settled_at) * rate) if rate else 0.0
        )
        self._settled_at = now

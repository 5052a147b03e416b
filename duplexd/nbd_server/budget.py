"""Bytes that may wait, over all connections, and which connections wait for room.

A limit for each connection alone would not bound the sum, and a limit on the sum alone would let
one client take all of it; there are both. The sum is checked before a request is taken, not in the
middle of one: so a request that is larger than the limit still gets through when nothing else is
there, and nothing is ever half accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiter(Protocol):
    """A connection that stopped for want of room."""

    def resume(self) -> None:
        """Try again. If there is still no room, wait again."""


class Budget:
    """`used` of `limit_bytes`. Users ask `full` before they take more, so `used` may pass the limit
    by one wake-up's worth each.

    `call_soon` runs a function from the loop, so that room is never handed out within the call that
    made it.
    """

    __slots__ = ("_call_soon", "_scheduled", "_waiters", "full", "limit_bytes", "used")

    def __init__(self, limit_bytes: int, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.limit_bytes = limit_bytes
        self.used = 0
        self.full = False  # no more may be taken; kept, for it is asked at each wake-up
        self._call_soon = call_soon
        self._scheduled = False
        self._waiters: dict[Waiter, None] = {}  # in order of arrival

    def fits(self, length: int) -> bool:
        """There is room for `length` bytes; a single request larger than the limit has room when
        nothing else is there.
        """
        return self.used == 0 or self.used + length <= self.limit_bytes

    def add(self, delta: int) -> None:
        """Take (or, if negative, give back) bytes."""
        self.used += delta
        self.full = self.used >= self.limit_bytes
        if delta < 0 and self._waiters and not self._scheduled:
            self._scheduled = True
            self._call_soon(self._wake)

    def wait(self, waiter: Waiter) -> None:
        """`waiter.resume` is called once when bytes were given back."""
        self._waiters[waiter] = None

    def forget(self, waiter: Waiter) -> None:
        """The waiter has gone."""
        self._waiters.pop(waiter, None)

    def _wake(self) -> None:
        """The one that was first the last time comes last now. Who has much to ask for waits again
        at once: if the order stayed, those behind it would get nothing for as long as it asks.
        """
        self._scheduled = False
        if not self._waiters:
            return
        first, *others = self._waiters
        self._waiters = {}
        for waiter in (*others, first):
            waiter.resume()

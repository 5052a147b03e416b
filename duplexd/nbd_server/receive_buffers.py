"""The receive buffers of one connection: payloads stay where the socket put them until written.

A change is written after the wake-up that brought it, so what the client sends meanwhile must go
elsewhere: behind it in the same buffer, and when that is full, into another one. Nothing is done
for this at each wake-up: once no change is in flight, the buffer is filled from its start again.

Two buffers are enough as long as changes are not held up. For those that are, copying beats
keeping: a buffer is large, and what is in it may be small. So with `RECEIVE_BUFFERS_MAX` buffers in
use, changes that have not begun get copies of their payloads. One batch at a time has begun, so
that frees a buffer.

A buffer is small at first, because most connections are idle, and grows while it is full each time.
What goes beyond the small one is in the budget of all connections; without room there it does not
grow, and no more than one other is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backend import Change
    from duplexd.nbd_server.budget import Budget

RECEIVE_BUFFERS_MAX = 4
GROWTH = 4


class ReceiveBuffers:
    """Which buffers are lent to which changes. `size` is that of the buffer in use."""

    __slots__ = ("_budget", "_counted", "_lent", "_max_bytes", "_min_bytes", "size")

    def __init__(self, size: int, max_bytes: int, budget: Budget) -> None:
        self.size = self._min_bytes = size
        self._max_bytes = max_bytes
        self._budget = budget
        self._counted = 0
        self._lent: list[tuple[memoryview, Sequence[Change]]] = []

    def larger(self) -> memoryview | None:
        """A larger buffer instead of the one in use, if there may be one."""
        size = min(GROWTH * self.size, self._max_bytes)
        if size <= self.size or not self._budget.fits(size):
            return None
        self.size = size
        self._count()
        return memoryview(bytearray(size))

    def smaller(self) -> memoryview | None:
        """A buffer of the first size instead of the one in use, if that is larger. Nothing is in
        flight, so nothing is lent any more.
        """
        self._lent.clear()
        had, self.size = self.size, self._min_bytes
        self._count()
        return memoryview(bytearray(self.size)) if had > self.size else None

    def lend(self, buffer: memoryview, changes: Sequence[Change]) -> memoryview:
        """The payloads of `changes` stay in `buffer`; returns another one to receive into."""
        free = self._lend(buffer, changes)
        if free is None and len(self._lent) >= (1 if self._budget.full else RECEIVE_BUFFERS_MAX):
            self._copy_waiting()
            free = self._lend(buffer, changes)
        if free is None:
            self._lent.append((buffer, changes))
            free = self.larger()
        if free is None:
            self._count()
            free = memoryview(bytearray(self.size))
        return free

    def _count(self) -> None:
        """The budget knows all but the smallest one."""
        counted = self.size - self._min_bytes + sum(len(buffer) for buffer, _users in self._lent)
        self._budget.add(counted - self._counted)
        self._counted = counted

    def _lend(self, buffer: memoryview, changes: Sequence[Change]) -> memoryview | None:
        lent = self._lent
        for place, (other, users) in enumerate(lent):
            if type(users[0].data) is not memoryview and not in_use(users):
                lent[place] = (buffer, changes)
                if len(other) == self.size:
                    return other
                return memoryview(bytearray(self.size))  # it is of the time before a growth
        return None

    def _copy_waiting(self) -> None:
        for _buffer, changes in self._lent:
            for change in changes:
                if not change.begun:
                    change.own()


def in_use(changes: Sequence[Change]) -> bool:
    """Whether the payload of one of them is in a receive buffer still."""
    for change in changes:  # noqa: SIM110  a loop: twice as fast here as a generator
        if type(change.data) is memoryview:
            return True
    return False

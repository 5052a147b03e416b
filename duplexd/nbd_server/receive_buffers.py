"""The receive buffers of one connection: payloads stay where the socket put them until written.

A change is written after the wake-up that brought it, so what the client sends meanwhile must go
elsewhere: behind it in the same buffer, and when that is full, into another one. Nothing is done
for this at each wake-up: once no change is in flight, the buffer is filled from its start again.

Two buffers are enough as long as changes are not held up. For those that are, copying beats
keeping: a buffer is large, and what is in it may be small. So with `RECEIVE_BUFFERS_MAX` buffers in
use, changes that have not begun get copies of their payloads. One batch at a time has begun, so
that frees a buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backend import Change

RECEIVE_BUFFERS_MAX = 4


class ReceiveBuffers:
    """Which buffers are lent to which changes."""

    __slots__ = ("_lent", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._lent: list[tuple[memoryview, Sequence[Change]]] = []

    def lend(self, buffer: memoryview, changes: Sequence[Change]) -> memoryview:
        """The payloads of `changes` stay in `buffer`; returns another one to receive into."""
        free = self._lend(buffer, changes)
        if free is None and len(self._lent) >= RECEIVE_BUFFERS_MAX:
            self._copy_waiting()
            free = self._lend(buffer, changes)
        if free is None:
            self._lent.append((buffer, changes))
            free = memoryview(bytearray(self._size))
        return free

    def _lend(self, buffer: memoryview, changes: Sequence[Change]) -> memoryview | None:
        lent = self._lent
        for place, (other, users) in enumerate(lent):
            if type(users[0].data) is not memoryview and not in_use(users):
                lent[place] = (buffer, changes)
                return other
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

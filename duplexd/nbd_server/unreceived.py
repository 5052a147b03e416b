"""What a client had sent when it went away, and nobody had received.

If DISC is the last of it, all of it is done nevertheless. The socket is lost with the next reply,
so what is in it has to be kept, and it can be as much as a socket's buffer holds: some MiB of each
client, for as long as a hold lasts. So it counts in the budget of what waits. Where that has no
room, the client counts as one that has vanished: nothing of it was acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.nbd.transmission import Receiver
    from duplexd.nbd_server.budget import Budget
    from duplexd.nbd_server.sockets import Carrier


class Unreceived:
    """True while there is something. What is not taken is to be dropped."""

    __slots__ = ("_budget", "_content")

    def __init__(self, content: bytes, budget: Budget) -> None:
        self._content = memoryview(content)
        self._budget = budget
        budget.add(len(content))

    def __bool__(self) -> bool:
        return len(self._content) > 0

    def take(self, buffer: memoryview) -> int:
        """Put the next bytes into `buffer`. Returns how many."""
        count = min(len(buffer), len(self._content))
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        self._budget.add(-count)
        return count

    def drop(self) -> None:
        """Nobody takes the rest."""
        self._budget.add(-len(self._content))
        self._content = self._content[:0]


def kept(receiver: Receiver, count: int, wire: Carrier, budget: Budget) -> Unreceived | None:
    """What was just received, so many bytes, and what is in the socket, if DISC is the last of it
    and there is room.
    """
    unread = wire.unread()
    content = receiver.untaken(count) + unread
    if not receiver.says_goodbye(content) or not budget.fits(len(content)):
        return None
    wire.take_unread(len(unread))
    return Unreceived(content, budget)

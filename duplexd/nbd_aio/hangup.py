"""Notices that a client has gone while its socket is not read.

A connection over its limits is not read, so the end of its stream would go unseen. But a held
change must not outlive its connection: the client may have reconnected and written something newer.
The event loop has no callback for a hang-up of a socket that it does not read, so those are watched
by an epoll set of our own, for EPOLLRDHUP alone.

That comes when the loop comes to it. Whoever takes requests of a client before that asks the
kernel, which knows what is true at this moment: what another client sends after this one has gone
must not be overtaken by what this one had sent.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class HangupWatch:
    """Calls back once for each watched socket whose other side has closed. One epoll set, itself
    watched by the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """`unwatch` must come before the socket is closed."""
        if fd not in self._callbacks:
            self._epoll.register(fd, select.EPOLLRDHUP)  # errors and hang-ups are always reported
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Forget the socket, watched or not."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Stop watching everything."""
        self._loop.remove_reader(self._epoll.fileno())
        self._callbacks.clear()
        self._epoll.close()

    def _ready(self) -> None:
        # All at once, however long that takes: a change of one who is called later could be done
        # after it has come back and written something newer
        for fd, _events in self._epoll.poll(0, max(1, len(self._callbacks))):
            callback = self._callbacks.get(fd)
            self.unwatch(fd)
            if callback is not None:
                callback()


def asks_whether_gone(fd: int) -> Callable[[int], list[tuple[int, int]]]:
    """What asks the kernel whether the other side of a socket sends nothing more: called with 0
    milliseconds, it returns something if so. It is asked for each request, so it is a method of
    `select.poll` itself.
    """
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return poll.poll

"""The daemon's event loop: asyncio's, driven turn by turn, with a short way for what can be read.

`relay.py` makes calls between two turns, and another thread goes on with the loop when one hangs.
uvloop runs whole or not at all; to stop it and run it again for each batch of changes costs about
7 us of CPU, where a whole write took 22. A turn of asyncio costs as much, nearly all of it for
timers and callbacks, which a turn seldom has. So a turn here waits and calls the readers itself,
and asyncio's own turn is taken only if there is something for it.

This uses inner parts of asyncio that no version from 3.11 to 3.14 differs in: `_run_once`,
`_ready`, `_scheduled`, `_thread_id`, and what it registers with a selector.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import threading
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque

    from _typeshed import FileDescriptorLike

EVENTS_MAX = 256  # of one turn
_READABLE = select.EPOLLIN


class _Readers(selectors.EpollSelector):
    """A selector that knows what asyncio calls when a descriptor is readable."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, asyncio.Handle] = {}

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        return self._noted(super().register(fileobj, events, data))

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        return self._noted(super().modify(fileobj, events, data))

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self.readers.pop(key.fd, None)
        return key

    def _noted(self, key: selectors.SelectorKey) -> selectors.SelectorKey:
        reader, _writer = key.data
        if reader is None:
            self.readers.pop(key.fd, None)
        else:
            self.readers[key.fd] = reader
        return key


class TurnLoop(asyncio.SelectorEventLoop):
    """Driven by `turn`, from one thread at a time, which calls `enter` before its first turn. It
    can also be run whole, as any loop.
    """

    if TYPE_CHECKING:
        _ready: deque[asyncio.Handle]
        _scheduled: list[asyncio.TimerHandle]
        _thread_id: int | None

        def _run_once(self) -> None: ...

    def __init__(self) -> None:
        found = _Readers()
        super().__init__(found)
        self._readers = found.readers
        self._epoll = select.epoll.fromfd(os.dup(found.fileno()))

    def enter(self) -> None:
        """The calling thread drives the loop from now on."""
        self._thread_id = threading.get_ident()
        asyncio._set_running_loop(self)

    def leave(self) -> None:
        """The calling thread drives it no longer."""
        asyncio._set_running_loop(None)
        self._thread_id = None

    def turn(self, wait: bool) -> None:
        """Do what there is to do; if it is nothing, and `wait`, wait until there is something."""
        ready, timers, readers = self._ready, self._scheduled, self._readers
        due = timers[0].when() if timers else inf
        timeout_s = 0.0
        if wait and not ready:
            timeout_s = max(due - monotonic(), 0.0) if timers else -1.0
        others = False
        for fd, events in self._epoll.poll(timeout_s, EVENTS_MAX):
            reader = readers.get(fd)
            if reader is None or events != _READABLE:
                others = True  # asyncio's turn finds it again
            else:
                reader._run()
        if ready or others or due <= monotonic():
            self._run_once()

    def close(self) -> None:
        """Nothing drives it any more."""
        self._epoll.close()
        super().close()

"""The daemon's event loop: asyncio's, driven turn by turn, with a short way for common events.

`relay.py` makes calls between two turns, and another thread goes on with the loop when one hangs.
uvloop runs whole or not at all; to stop it and run it again for each batch of changes costs about
7 us of CPU, where a whole write took 22. A turn of asyncio costs as much, for timers and events in
general, of which a turn seldom has any. So a turn here does what is common itself, and asyncio's
own turn follows only when there is more.

This uses inner parts of asyncio that no version from 3.11 to 3.14 differs in: `_run_once`,
`_ready`, `_scheduled`, `_when`, `_thread_id`, `_ssock`, `_process_self_data`, and what it registers
with a selector.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import sys
import threading
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections import deque
    from collections.abc import AsyncGenerator
    from typing import Protocol

    class HasDescriptor(Protocol):
        def fileno(self) -> int: ...

    class Timer(Protocol):
        _when: float


EVENTS_MAX = 256  # of one turn
WAKES_MAX = 4096  # read at once
WAIT_SECONDS_MAX = 3600.0  # of one turn; epoll takes no more than 24 days
_READABLE, _WRITABLE = select.EPOLLIN, select.EPOLLOUT
_NOBODY = (None, None)


class _Noting(selectors.EpollSelector):
    """A selector that notes what asyncio registers: what it calls when a descriptor can be read,
    and when it can be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[int, tuple[asyncio.Handle | None, asyncio.Handle | None]] = {}

    def register(
        self, fileobj: int | HasDescriptor, events: int, data: object = None
    ) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        self.noted[key.fd] = key.data
        return key

    def modify(
        self, fileobj: int | HasDescriptor, events: int, data: object = None
    ) -> selectors.SelectorKey:
        key = super().modify(fileobj, events, data)
        self.noted[key.fd] = key.data
        return key

    def unregister(self, fileobj: int | HasDescriptor) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self.noted.pop(key.fd, None)
        return key


class TurnLoop(asyncio.SelectorEventLoop):
    """Driven by `turn`, from one thread at a time, which calls `enter` before its first turn. It
    can also be run whole, as any loop.
    """

    if TYPE_CHECKING:
        _ready: deque[asyncio.Handle]
        _scheduled: list[Timer]
        _ssock: socket.socket
        _thread_id: int | None

        def _run_once(self) -> None: ...

        def _process_self_data(self, data: bytes) -> None: ...

        def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[object, object]) -> None: ...

        def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[object, object]) -> None: ...

    def __init__(self) -> None:
        selector = _Noting()
        super().__init__(selector)
        self._noted = selector.noted
        self._epoll = select.epoll.fromfd(os.dup(selector.fileno()))

    def enter(self) -> None:
        """The calling thread drives the loop from now on."""
        self._thread_id = threading.get_ident()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)

    def leave(self) -> None:
        """The calling thread drives it no longer."""
        sys.set_asyncgen_hooks(None, None)
        asyncio._set_running_loop(None)
        self._thread_id = None

    def turn(self, wait: bool) -> None:
        """Do what there is to do; if it is nothing, and `wait`, wait until there is something."""
        ready, timers, noted = self._ready, self._scheduled, self._noted
        due = timers[0]._when if timers else inf
        timeout_s = 0.0
        if wait and not ready:
            timeout_s = due - monotonic()
            if not 0.0 <= timeout_s <= WAIT_SECONDS_MAX:
                timeout_s = 0.0 if timeout_s < 0.0 else WAIT_SECONDS_MAX
        rare = False
        found = self._epoll.poll(timeout_s, EVENTS_MAX)
        called = bool(ready and found)
        if called:
            # First what was due before: it may end the interest in an event. asyncio relies on
            # that: its `sock_accept` would take a second client, and lose it.
            self._call_ready()
        for fd, events in found:
            reader, writer = noted.get(fd, _NOBODY)
            if events == _READABLE and reader is not None:
                reader._run()
            elif events == _WRITABLE and writer is not None:
                writer._run()
            else:
                rare = True  # asyncio's turn finds it again
        if ready and not called:  # not twice in a turn: events would wait for those in between
            self._call_ready()
        if rare or due <= monotonic():
            self.call_soon(_nothing)  # it would wait otherwise, if what there was has gone
            self._run_once()

    def _call_ready(self) -> None:
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _read_from_self(self) -> None:
        """What other threads woke the loop with: in one call, where asyncio's needs two and an
        exception. More than that is read in the next turn.
        """
        try:
            data = self._ssock.recv(WAKES_MAX)
        except (BlockingIOError, InterruptedError):
            return
        self._process_self_data(data)

    def close(self) -> None:
        """Nothing drives it any more."""
        self._epoll.close()
        super().close()


def _nothing() -> None:
    """Asyncio's turn does not wait while there is a callback."""

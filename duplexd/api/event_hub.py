"""The event hub: the controller's events, to any number of listeners, none of which may block it.

A listener that reads too slowly can be blocked for, skipped, or disconnected. Blocking would stop
volumes, and one that was skipped would act on a state that never was; so it is disconnected, and
gets the whole state when it comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from duplexd.json_object import Json as Event


class Listener:
    """One reader of events: gets every event in order, or is cut off.

    `on_overflow` is called, once, when more than `limit` events wait; then the iteration ends.
    """

    __slots__ = ("_closed", "_limit", "_on_overflow", "_queue", "_wake", "overflowed")

    def __init__(self, on_overflow: Callable[[], None], limit: int) -> None:
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._limit = limit
        self._on_overflow = on_overflow
        self.overflowed = False

    def put(self, event: Event) -> None:
        if self._closed:
            return
        if len(self._queue) >= self._limit:
            self.overflowed = True
            self._queue.clear()  # none is sent: a listener must not miss one and go on
            self.close()
            self._on_overflow()
            return
        self._queue.append(event)
        self._wake.set()

    def close(self) -> None:
        """End the iteration once what is queued has been read."""
        self._closed = True
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._queue:
                yield self._queue.popleft()
            if self._closed:
                return
            self._wake.clear()
            await self._wake.wait()


class EventHub:
    """Hands each event of the controller to all listeners, in order."""

    def __init__(self, queued_max: int) -> None:
        self._queued_max = queued_max
        self.listeners: set[Listener] = set()
        self.overflows = 0

    def publish(self, event: Event) -> None:
        for listener in tuple(self.listeners):
            listener.put(event)
            if listener.overflowed:
                self.overflows += 1
                self.listeners.discard(listener)

    def subscribe(self, on_overflow: Callable[[], None]) -> Listener:
        """A new listener; `on_overflow` is called when more events wait for it than may."""
        listener = Listener(on_overflow, self._queued_max)
        self.listeners.add(listener)
        return listener

    def unsubscribe(self, listener: Listener) -> None:
        self.listeners.discard(listener)

    def close(self) -> None:
        """End every listener's stream, after the events that it has yet to read."""
        for listener in self.listeners:
            listener.close()

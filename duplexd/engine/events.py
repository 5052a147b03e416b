"""Events, for listeners: the log, the streams of the API, metrics.

They are emitted where a state changes, in the same turn of the loop, so their order is that of the
changes. That is why listeners are plain calls: a queue in between could overflow, and an event that
is dropped here would be missing everywhere. The API disconnects its clients that cannot keep up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.json_object import Json
    from duplexd.runtime.clock import Clock


class Journal(Protocol):
    """What events ask of the journal."""

    written: int


class _NoJournal:
    """Before recovery has opened it."""

    written = 0


class Events:
    """`listeners` get each event at once, in the loop: they must not block, nor change any state.

    An event has `event` (its name), `time` (seconds since 1970) and `sequence` (the last number of
    the journal, 0 before there is one) beside its own fields.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.listeners: list[Callable[[Json], None]] = []
        self.journal: Journal = _NoJournal()

    def emit(self, event: str, **fields: object) -> None:
        """Pass an event to all listeners."""
        message: Json = {
            "event": event,
            "time": self._clock.wall(),
            "sequence": self.journal.written,
            **fields,
        }
        for listener in list(self.listeners):
            listener(message)

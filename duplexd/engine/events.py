"""Events, for listeners: the log, the streams of the API, metrics.

They are emitted where a state changes, in the same turn of the loop, so their order is that of the
changes. That is why listeners are plain calls: a queue in between could overflow, and an event that
is dropped here would be missing everywhere. The API disconnects its clients that cannot keep up.

Who emits is in the middle of a step: markers are written, and the rest of it is still to be done.
So the defect of a listener is logged here, and costs neither that step nor the listeners after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.json_object import Json
    from duplexd.runtime.clock import Clock

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


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
        """Pass an event to all listeners. Raises nothing."""
        message: Json = {
            "event": event,
            "time": self._clock.wall(),
            "sequence": self.journal.written,
            **fields,
        }
        for listener in list(self.listeners):
            try:
                listener(message)
            except Exception:
                log.exception("unexpected error of a listener of events", of=event)

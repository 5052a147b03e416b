"""The end of the process, whatever hangs.

A stop answers, syncs and writes a checkpoint, and each of these may meet a disk that does not
return: then a thread is left in a system call that nothing interrupts, and the interpreter would
wait for it for ever. Each part could bound its own waiting, and one would be forgotten. So there is
one clock beside all of them: a thread that ends the process when the time is over, and says what
was not synced. Nothing acknowledged is lost by that: it is in the journal, and the next start
recovers, as after a kill.

A journal that hangs does not need all of that time: nothing of a stop can be done without it. The
event loop goes on whatever hangs, so `without_journal` looks at it there.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_NOT_STOPPED = 1

_LOOK_SECONDS = 0.5
_TOO_LONG = "the stop takes too long and is given up; the next start recovers"
_NO_JOURNAL = "the journal does not answer, and the stop is given up; the next start recovers"

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


class Deadline:
    """Ends the process `seconds` after `begin`, unless it has ended by then. `left` says what a
    stop would still have to do; it is called in another thread.
    """

    def __init__(
        self, seconds: float, left: Callable[[], str], end: Callable[[int], object] = os._exit
    ) -> None:
        self._seconds = seconds
        self._left = left
        self._end = end
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Count from now on. Later calls change nothing."""
        if self._timer is None:
            self._timer = threading.Timer(self._seconds, self._over)
            self._timer.name, self._timer.daemon = "deadline", True
            self._timer.start()

    def end(self) -> None:
        """The process goes on."""
        if self._timer is not None:
            self._timer.cancel()

    def _over(self) -> None:
        self.give_up(_TOO_LONG, self._seconds)

    def give_up(self, event: str, seconds: float) -> None:
        """End the process now."""
        try:
            log.error(event, seconds=seconds, left=self._left())
        finally:
            self._end(EXIT_NOT_STOPPED)

    async def without_journal(self, waits_s: Callable[[], float], seconds_max: float) -> None:
        """End the process once the journal has not answered for so long. `waits_s`: how long it has
        not.
        """
        while True:
            waited_s = waits_s()
            if waited_s >= seconds_max:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        self.give_up(_NO_JOURNAL, round(waited_s, 1))

"""Commands end although the journal does not answer.

A command that changes states waits until its markers are in the journal. If the disk of that hangs,
so would the command, and nobody would learn why. So its caller gets an error after a while, which
names the journal. The command itself goes on, and is done when the disk answers: it may be half-way
through opening images, and no marker that it has staged can be taken back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, cast

from duplexd.errors import TimedOutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_LOOK_SECONDS = 0.25


class Answering:
    """`waits_s`: how long the journal in `directory` has not answered by now; `seconds`: how long
    that is waited for.
    """

    def __init__(
        self, directory: str, waits_s: Callable[[], float], seconds: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._waits_s = waits_s
        self._seconds = seconds
        self._left: set[asyncio.Future[object]] = set()

    async def in_time(self, command: Awaitable[T]) -> T:
        """The result of a command. Raises what it raises; TimedOutError when the journal takes too
        long. A cancelled caller cancels it, and waits for its end.
        """
        running = asyncio.ensure_future(command)
        try:
            while not running.done():
                await asyncio.wait((running,), timeout=_LOOK_SECONDS)
                if not running.done() and self._waits_s() >= self._seconds():
                    self._leave(cast("asyncio.Future[object]", running))
                    raise TimedOutError(self._why())
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait((running,))
            raise
        return running.result()

    def _why(self) -> str:
        return (
            f"{self._directory}: the disk of the journal has not answered for {self._seconds():g} s"
            " (primary_timeout); the command goes on as soon as it does, and `duplexctl status`"
            " shows what came of it"
        )

    def _leave(self, running: asyncio.Future[object]) -> None:
        self._left.add(running)
        running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Future[object]) -> None:
        self._left.discard(running)
        if not running.cancelled():
            running.exception()  # its caller has got another error

    def stop(self) -> None:
        """End those that still wait."""
        for running in self._left:
            running.cancel()

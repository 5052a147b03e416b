"""A task of the engine that looks now and then whether there is something to do.

The configuration turns it on and off while the daemon runs. A defect in one look must neither end
the task unseen nor the daemon: it is reported as an unexpected error, and the next look comes. It
ends by itself once the controller has failed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.engine.timeline import Timeline


class Periodic:
    """`look` is called every `seconds`, the first time after that, and never twice at once."""

    def __init__(
        self, name: str, timeline: Timeline, seconds: float, look: Callable[[], Awaitable[None]]
    ) -> None:
        self._name = name
        self._timeline = timeline
        self._seconds = seconds
        self._look = look
        self._task: asyncio.Task[None] | None = None

    def enable(self, wanted: bool) -> None:
        """Begin, or cease in the middle of what it does."""
        if wanted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)
        elif not wanted and self._task is not None:
            self._task.cancel()
            self._task = None

    async def stop(self) -> None:
        """End the task, and wait for that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._timeline.failed:
            await asyncio.sleep(self._seconds)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  see above
                context = {"message": f"unexpected error in {self._name}", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

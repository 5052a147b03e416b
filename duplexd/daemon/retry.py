"""Trying again what passes by itself: an address that is not there yet, a port that is taken.

At a boot much is missing for a moment: the network's addresses, the name server, a program that a
new one replaces. A daemon that gives up at once leaves its volumes down until a person comes. So a
start tries again for a while, says what it waits for (once for each reason, in the log, in status
and to systemd), and then ends with an exit code after which systemd starts it again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.limits import DaemonLimits

T = TypeVar("T")


class Patience:
    """How long a start waits in all, whatever for. `waits` is called with each new reason."""

    def __init__(self, limits: DaemonLimits, waits: Callable[[str], None]) -> None:
        self._limits = limits
        self._waits = waits
        self._left_seconds = limits.passing_seconds_max
        self._reason = ""

    async def until_possible(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt that does not raise WrongStateError. Raises the last one
        when the time is over; any other error at once.
        """
        while True:
            try:
                return await attempt()
            except WrongStateError as error:
                await self.wait(error)

    async def wait(self, error: WrongStateError) -> None:
        """Wait until the next attempt is due. Raises the error if there is to be none."""
        if self._left_seconds <= 0:
            raise error
        if str(error) != self._reason:
            self._reason = str(error)
            self._waits(self._reason)
        self._left_seconds -= self._limits.passing_retry_seconds
        await asyncio.sleep(self._limits.passing_retry_seconds)

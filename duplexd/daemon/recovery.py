"""The start of the controller, as the process sees it: reported, and tried again where that helps.

A start changes nothing that another one could not do again, so the errors that pass, or that we can
remedy, are met by another attempt:

| error | what is done |
|---|---|
| no room on the disk of state_dir | the reserve is given back, once, and the start tried again |
| an image that another program has | tried again for a while, then left to systemd |

All others end the daemon. `recovery/` of the engine decides which images it can do without.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import structlog

from duplexd.engine.controller import start
from duplexd.engine.events import Events
from duplexd.engine.recovery.progress import Progress
from duplexd.errors import DuplexdError, WrongStateError
from duplexd.runtime.notify import notify
from duplexd.runtime.reserve import NO_ROOM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.api.starting import Starting
    from duplexd.config.daemon_file import Config
    from duplexd.daemon.retry import Patience
    from duplexd.engine.controller import Controller, Machine
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.runtime.reserve import Reserve

_LOGGED_PERCENT = 10

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


def _numbers(error: BaseException | None) -> Iterator[int | None]:
    """Of the error, and of those that it was raised from."""
    while error is not None:
        if isinstance(error, OSError):
            yield error.errno
        error = error.__cause__


class Recovery:
    """Starts one controller. `listener` gets its events from the first one on."""

    def __init__(
        self,
        config: Config,
        machine: Machine,
        limits: EngineLimits,
        starting: Starting,
        reserve: Reserve,
        listener: Callable[[Json], None],
        adopt: bool = False,
        grow: bool = True,
    ) -> None:
        self._config = config
        self._machine = machine
        self._limits = limits
        self._starting = starting
        self._reserve = reserve
        self._listener = listener
        self._adopt = adopt
        self._grow = grow
        self._shown = ("", -1)  # the stage and the percentage that were reported last

    async def run(self, patience: Patience) -> Controller:
        """The controller. Raises DuplexdError, OSError."""
        return await patience.until_possible(self._attempt)

    async def _attempt(self) -> Controller:
        try:
            return await self._start()
        except (DuplexdError, OSError) as error:
            numbers = set(_numbers(error))
            if errno.EBUSY in numbers:
                raise WrongStateError(str(error)) from error
            if not numbers & NO_ROOM or not self._reserve.release():
                raise
            log.warning("no room; the reserve is given back", error=str(error))
        return await self._start()

    async def _start(self) -> Controller:
        events = Events(self._machine.clock)
        events.listeners.append(self._listener)
        limits, report = self._limits, self._progress
        return await start(
            self._config, self._machine, events, limits, report, self._adopt, self._grow
        )

    def _progress(self, stage: str, done: int, total: int) -> None:
        """In a worker, or in the loop."""
        now = Progress(stage, done, total)
        self._starting.at(str(now), now.fraction)
        percent = int(now.fraction * 100)
        last_stage, last_percent = self._shown
        if stage == last_stage and percent <= last_percent:
            return
        notify(f"STATUS={now}")
        if stage != last_stage or percent // _LOGGED_PERCENT > last_percent // _LOGGED_PERCENT:
            log.info("recovery", progress=str(now))
        self._shown = (stage, percent)

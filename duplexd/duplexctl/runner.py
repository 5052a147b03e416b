"""Runs what a command asks of the client, and says how it ended. Loaded when a command runs.

An interrupt cancels the work, so no gate stays closed. One that comes later, when the work is done,
is remembered until the command has written its answer: what was done must not be lost.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from duplexd.client import Client
from duplexd.duplexctl.settings import StoppedError
from duplexd.errors import TimedOutError
from duplexd.known import known

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from duplexd.duplexctl.settings import Settings

T = TypeVar("T")
SILENT_SECONDS_MAX = 30.0  # of one daemon, unless --timeout says otherwise


def run(settings: Settings, work: Callable[[Client], Awaitable[T]], of_groups: bool) -> T:
    """Do `work` with the controllers of the groups file, or with the daemon behind the socket."""
    settings.interrupts.begin()
    settings.asked_groups = of_groups
    if not of_groups:
        settings.find_daemon()
    return _loop(of_groups)(_stopped_by_signals(settings, work, of_groups))


def _loop(of_groups: bool) -> Callable[[Coroutine[object, object, T]], T]:
    """While a group is cut, writes wait for this process, so it takes the faster loop.

    One request to one daemon gains less from that than it takes to import it.
    """
    if not of_groups:
        return asyncio.run
    import uvloop

    return uvloop.run


def _client(settings: Settings, of_groups: bool) -> Client:
    if of_groups:
        return Client.open(settings.groups, limits=settings.limits)
    silent_s = settings.timeout_s or SILENT_SECONDS_MAX
    limits = replace(settings.limits, answer_seconds_max=silent_s)
    return Client.local(settings.socket, limits=limits)


async def _stopped_by_signals(
    settings: Settings, work: Callable[[Client], Awaitable[T]], of_groups: bool
) -> T:
    loop, interrupts = asyncio.get_running_loop(), settings.interrupts
    task = known(asyncio.current_task(), "this runs in one")

    def stop(number: int) -> None:
        interrupts.came.append(number)
        loop.call_soon_threadsafe(task.cancel)

    interrupts.act, silent = stop, ""
    try:
        if interrupts.came:
            raise asyncio.CancelledError
        limit_s = settings.timeout_s if of_groups else None
        async with asyncio.timeout(limit_s), _client(settings, of_groups) as client:
            try:
                return await work(client)
            finally:
                settings.silent = tuple(client.silent)
                silent = ", ".join(client.silent)
    except asyncio.CancelledError:
        if not interrupts.came:
            raise
        raise StoppedError(interrupts.came[0]) from None
    except TimeoutError:
        who = f", no answer from {silent}" if silent else ""
        raise TimedOutError(
            f"not done within {settings.timeout_s:g} s{who}; no write is held;"
            " `duplexctl status` shows what was done, or allow more with --timeout"
        ) from None
    finally:
        interrupts.act = None

"""`duplexctl quiesce` of a group: keeps the hold while a command runs, or until it is told to stop, and says truthfully whether it lasted."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from duplexd.ctl.groups import run
from duplexd.ctl.hold import LEASE_VARIABLE, cannot_run
from duplexd.ctl.output import complain
from duplexd.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.client import Client
    from duplexd.ctl.options import Settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def quiesce(settings: Settings, targets: Sequence[str], hold_max_s: float | None, command: Sequence[str]) -> int:
    """Hold; the exit code. LeaseLostError if the hold was lost."""

    async def held(client: Client) -> int:
        if command:
            return await _while_it_runs(client, settings, targets, hold_max_s, command)
        return await _until_stopped(client, settings, targets, hold_max_s)

    return run(settings, held)


def _on_signals(act: Callable[[int], None]) -> None:
    """From now on; until then an interrupt gives up as that of any command does."""
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, act, number)


async def _until_stopped(client: Client, settings: Settings, targets: Sequence[str], hold_max_s: float | None) -> int:
    stopped = asyncio.Event()
    async with client.quiesce(*targets, hold_max=hold_max_s) as hold:
        _on_signals(lambda _number: stopped.set())
        line = {"event": "held", "lease": {"id": hold.cut, "cut": hold.cut, "hold_s": hold.remaining_s}}
        settings.show(line, f"lease {hold.cut}: {' '.join(targets)} held for {hold.remaining_s:.3g} s; ctrl-C releases")
        await stopped.wait()
    settings.answer({"lease": hold.cut, "verdict": "consistent", "reason": "released"}, f"lease {hold.cut}: released")
    return 0


async def _start(command: Sequence[str], lease: str) -> asyncio.subprocess.Process | int:
    """The process, or the exit code that says why there is none."""
    try:
        return await asyncio.create_subprocess_exec(*command, env={**os.environ, LEASE_VARIABLE: lease})
    except OSError as error:
        return cannot_run(command, error)


async def _while_it_runs(
    client: Client, settings: Settings, targets: Sequence[str], hold_max_s: float | None, command: Sequence[str]
) -> int:
    """The command runs to its end even if the hold is lost; SIGTERM is passed on to it, SIGINT it gets from the terminal itself."""
    child: asyncio.subprocess.Process | int | None = None

    def pass_on(number: int) -> None:
        if isinstance(child, asyncio.subprocess.Process) and child.returncode is None and number == signal.SIGTERM:
            child.send_signal(number)

    try:
        async with client.quiesce(*targets, hold_max=hold_max_s) as hold:
            _on_signals(pass_on)
            child = await _start(command, hold.cut)
            status = await child.wait() if isinstance(child, asyncio.subprocess.Process) else child
    except LeaseLostError:
        if isinstance(child, asyncio.subprocess.Process):
            if child.returncode is None:
                complain(f"the hold is lost; {command[0]} is still running")
            await child.wait()
        raise
    status = status if status >= 0 else 128 - status
    if settings.json:
        settings.answer({"lease": hold.cut, "status": status, "verdict": "consistent", "reason": "released"}, "")
    return status

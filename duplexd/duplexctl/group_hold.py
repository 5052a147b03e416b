"""`duplexctl quiesce` of a group: keeps the hold while a command runs, or until it is told to stop, and says truthfully whether it lasted."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

from duplexd.duplexctl.groups import run
from duplexd.duplexctl.hold import LEASE_VARIABLE, cannot_run
from duplexd.duplexctl.output import complain
from duplexd.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.client import Client
    from duplexd.client.hold import Hold
    from duplexd.duplexctl.options import Settings

    Json = dict[str, Any]


def quiesce(
    settings: Settings, targets: Sequence[str], hold_max_s: float | None, command: Sequence[str]
) -> int:
    """Hold; the exit code. LeaseLostError if the hold was lost."""

    async def held(client: Client) -> int:
        if command:
            return await _while_it_runs(client, settings, targets, hold_max_s, command)
        return await _until_stopped(client, settings, targets, hold_max_s)

    return run(settings, held)


def _on_signals(settings: Settings, act: Callable[[int], None]) -> None:
    """From now on; until then an interrupt gives up as that of any command does."""
    loop = asyncio.get_running_loop()
    settings.interrupts.act = lambda number: loop.call_soon_threadsafe(act, number)


async def _until_stopped(
    client: Client, settings: Settings, targets: Sequence[str], hold_max_s: float | None
) -> int:
    stopped = asyncio.Event()
    hold, held = client.quiesce(*targets, hold_max=hold_max_s), False
    try:
        async with hold:
            held = True
            _on_signals(settings, lambda _number: stopped.set())
            line = {
                "event": "held",
                "lease": {"id": hold.cut, "cut": hold.cut, "hold_s": hold.remaining_s},
            }
            settings.show(
                line,
                f"lease {hold.cut}: {' '.join(targets)} held for {hold.remaining_s:.3g} s; ctrl-C releases",
            )
            await stopped.wait()
    except LeaseLostError as lost:
        if held:
            _answer_end(settings, hold, {}, lost)
        raise
    settings.answer(
        {"lease": hold.cut, "verdict": "consistent", "reason": "released"},
        f"lease {hold.cut}: released",
    )
    return 0


async def _start(command: Sequence[str], lease: str) -> asyncio.subprocess.Process | int:
    """The process, or the exit code that says why there is none."""
    try:
        return await asyncio.create_subprocess_exec(
            *command, env={**os.environ, LEASE_VARIABLE: lease}
        )
    except OSError as error:
        return cannot_run(command, error)


async def _while_it_runs(
    client: Client,
    settings: Settings,
    targets: Sequence[str],
    hold_max_s: float | None,
    command: Sequence[str],
) -> int:
    """The command runs to its end even if the hold is lost; SIGTERM is passed on to it, SIGINT it gets from the terminal itself."""
    child: asyncio.subprocess.Process | int | None = None

    def pass_on(number: int) -> None:
        if (
            isinstance(child, asyncio.subprocess.Process)
            and child.returncode is None
            and number == signal.SIGTERM
        ):
            child.send_signal(number)

    hold = client.quiesce(*targets, hold_max=hold_max_s)
    try:
        async with hold:
            _on_signals(settings, pass_on)
            child = await _start(command, hold.cut)
            status = await child.wait() if isinstance(child, asyncio.subprocess.Process) else child
    except LeaseLostError as lost:
        if child is None:  # it was never held
            raise
        if isinstance(child, asyncio.subprocess.Process) and child.returncode is None:
            complain(f"the hold is lost; {command[0]} is still running")
        status = await child.wait() if isinstance(child, asyncio.subprocess.Process) else child
        _answer_end(settings, hold, {"status": _as_exit_code(status)}, lost)
        raise
    _answer_end(settings, hold, {"status": _as_exit_code(status)})
    return _as_exit_code(status)


def _as_exit_code(status: int) -> int:
    return status if status >= 0 else 128 - status


def _answer_end(
    settings: Settings, hold: Hold, status: Json, lost: LeaseLostError | None = None
) -> None:
    """With --json how it ended: what CMD returned is told, too, if the hold was lost."""
    if settings.json:
        settings.answer(
            {
                "lease": hold.cut,
                **status,
                "verdict": "void" if lost else "consistent",
                "reason": str(lost or "released"),
            },
            "",
        )

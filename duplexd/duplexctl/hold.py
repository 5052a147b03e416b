"""`duplexctl quiesce` keeps the hold while CMD runs, and says whether it lasted; and `release`.

CMD is waited for in a thread, so that the loss of the hold is said at once, and CMD inherits the
signals that this process ignores (the event loop's own way to start processes would reset them).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.options import Name, Seconds, WithCommand, common, targets
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.settings import Settings
from duplexd.duplexctl.texts import released_text
from duplexd.errors import DuplexdError, LeaseLostError, NotFoundError, UnreachableError
from duplexd.limits import HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX
from duplexd.printable import joined
from duplexd.runtime import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.client import Client, Hold
    from duplexd.json_object import Json

LEASE_VARIABLE = "DUPLEXD_LEASE"
EXIT_NOT_EXECUTABLE = 126
EXIT_NO_COMMAND = 127
_STDOUT = 1


@click.command(cls=WithCommand, short_help="Hold writes while CMD runs, or until interrupted.")
@click.option(
    "--hold",
    "hold_s",
    type=Seconds(maximum=HOLD_SECONDS_MAX),
    metavar="SECONDS",
    help=f"the hold ends by itself after this long, at most {HOLD_SECONDS_MAX:g}; else"
    f" {HOLD_SECONDS_DEFAULT:g}, or the group's hold_max",
)
@targets()
@common()
@click.pass_context
def quiesce(context: click.Context, targets: tuple[str, ...], hold_s: float | None) -> None:
    """Hold writes while CMD runs, or until interrupted; reads go on, and no write fails.

    CMD finds the lease in DUPLEXD_LEASE. The exit code is CMD's, or 9 if the hold was lost before
    CMD ended.
    """
    settings = context.ensure_object(Settings)
    command: list[str] = context.meta.get(WithCommand.KEY, [])
    if not command and _STDOUT in descriptors.opened:
        raise DuplexdError(
            "stdout is closed, so the lease id cannot be printed; nothing was held: open stdout, or"
            " name a command after --"
        )
    keeper = _Keeper(settings, targets, hold_s)

    async def held(client: Client) -> int:
        if command:
            return await keeper.while_it_runs(client, command)
        return await keeper.until_stopped(client)

    context.exit(run(settings, held, settings.of_groups(targets)))


class _Keeper:
    """The owner of a hold."""

    def __init__(self, settings: Settings, targets: Sequence[str], hold_s: float | None) -> None:
        self._settings = settings
        self._targets = targets
        self._hold_s = hold_s

    async def until_stopped(self, client: Client) -> int:
        """The exit code; LeaseLostError if the hold was lost."""
        over, held = asyncio.Event(), False
        hold = client.quiesce(*self._targets, hold_max=self._hold_s, on_suspended=over.set)
        try:
            async with hold:
                held = True
                self._on_signals(lambda _number: over.set())
                lease = hold.json()
                text = f"{' '.join(self._targets)} held for {lease['hold_s']:g} s; ctrl-C releases"
                self._settings.show({"event": "held", "lease": lease}, f"lease {hold.cut}: {text}")
                await over.wait()
        except LeaseLostError:
            if held:
                self._answer_end(hold, {}, lost=not hold.by_another)
            if not hold.by_another:
                raise
            return 0
        self._answer_end(hold, {}, lost=False)
        return 0

    async def while_it_runs(self, client: Client, command: Sequence[str]) -> int:
        """CMD's status; LeaseLostError if the hold was lost before CMD ended.

        CMD runs to its end even then. SIGINT it gets from the terminal; others are passed on.
        """
        child: subprocess.Popen[bytes] | None = None
        status: int | None = None

        def pass_on(number: int) -> None:
            if child is not None and child.poll() is None and number != signal.SIGINT:
                child.send_signal(number)

        hold = client.quiesce(*self._targets, hold_max=self._hold_s)
        try:
            async with hold:
                self._on_signals(pass_on)
                try:
                    environment = {**os.environ, LEASE_VARIABLE: hold.cut}
                    child = subprocess.Popen(list(command), env=environment)  # noqa: ASYNC220
                except OSError as error:
                    status = cannot_run(command, error)
                else:
                    status = await asyncio.to_thread(child.wait)
        except LeaseLostError:
            if child is None:  # it was never held
                raise
            if child.poll() is None:
                reason = f"{hold.reason}; {command[0]} is still running"
                complain(f"the hold {hold.cut} is lost: {reason}")
            code = _exit_code(await asyncio.to_thread(child.wait))
            if self._settings.json:
                self._answer_end(hold, {"status": code}, lost=True)
            raise
        code = _exit_code(status)
        if self._settings.json:
            self._answer_end(hold, {"status": code}, lost=False)
        return code

    def _on_signals(self, act: Callable[[int], None]) -> None:
        """From now on; until then an interrupt gives up as that of any command does."""
        loop = asyncio.get_running_loop()
        self._settings.interrupts.act = lambda number: loop.call_soon_threadsafe(act, number)

    def _answer_end(self, hold: Hold, status: Json, lost: bool) -> None:
        """How it ended; what CMD returned is said, too, if the hold was lost."""
        verdict = "void" if lost else "consistent"
        self._settings.answer(
            {"lease": hold.cut, **status, "verdict": verdict, "reason": hold.reason},
            f"lease {hold.cut}: {hold.reason}",
        )


def _exit_code(status: int) -> int:
    return status if status >= 0 else 128 - status


def cannot_run(command: Sequence[str], error: OSError) -> int:
    """Say why the command did not start; the exit code, as a shell has it."""
    if isinstance(error, FileNotFoundError):
        complain(f"no command {command[0]!r}")
        return EXIT_NO_COMMAND
    complain(f"cannot run {command[0]!r}: {error.strerror}")
    return EXIT_NOT_EXECUTABLE


@click.command()
@click.argument("lease", type=Name())
@common()
@click.pass_obj
def release(settings: Settings, lease: str) -> None:
    """End a hold: a lease, or what is held for cuts of a group."""
    of_groups = settings.has_groups and settings.of_groups([lease])
    settings.not_in_groups = ()  # a lease is not a target
    try:
        result = run(settings, lambda client: client.release(lease), of_groups)
    except (NotFoundError, UnreachableError):
        if of_groups or not settings.has_groups:
            raise
        # DUPLEXD_LEASE of a group's hold is the id of its cut
        result = run(settings, lambda client: client.release(lease), of_groups=True)
    text = joined(released_text(*each) for each in result.leases.items())
    text = text or f"{lease}: nothing was held"
    settings.answer(result.json(), text, done=text)

"""`duplexctl mark`: a consistent point that suspends nobody, once or again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.options import Seconds, common, targets
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.texts import hold_text, listed
from duplexd.errors import (
    DuplexdError,
    LeaseLostError,
    TimedOutError,
    UnreachableError,
    UsageError,
    WrongStateError,
)
from duplexd.limits import HOLD_SECONDS_MAX, MARK_EVERY_SECONDS_MIN
from duplexd.printable import joined, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import NoReturn

    from duplexd.client import Client, Marked
    from duplexd.duplexctl.settings import Settings

_PASSING = (UnreachableError, TimedOutError, WrongStateError, LeaseLostError)


@click.command(short_help="Mark a consistent point that one can go to later.")
@targets()
@click.option("--tag", default="", help="text to keep with the mark")
@click.option(
    "--hold-max",
    "hold_max_s",
    type=Seconds(maximum=HOLD_SECONDS_MAX),
    metavar="SECONDS",
    help="how long writes of a group may wait, instead of its hold_max",
)
@click.option(
    "--every",
    "every_s",
    type=Seconds(MARK_EVERY_SECONDS_MIN),
    metavar="SECONDS",
    help="again and again, until interrupted",
)
@common()
@click.pass_obj
def mark(
    settings: Settings,
    targets: tuple[str, ...],
    tag: str,
    hold_max_s: float | None,
    every_s: float | None,
) -> None:
    """Mark a consistent point of all targets.

    No pair is suspended, and none has to be in any state. `points --reach` lists marks.
    """
    of_groups = settings.of_groups(targets)
    if hold_max_s is not None and not of_groups:
        raise UsageError(
            "--hold-max is for groups of the groups file; one controller needs no hold to mark"
        )

    async def once(client: Client) -> Marked:
        return await client.marks.make(*targets, tag=tag, hold_max=hold_max_s)

    if every_s is not None:
        settings.wrote = True  # it ends with an interrupt, which is not a problem
        seconds = every_s
        run(settings, lambda client: _again(settings, lambda: once(client), seconds), of_groups)
    result = run(settings, once, of_groups)
    text = marked_text(result)
    settings.answer(result.json(), text, done=text)
    if result.verdict != "consistent":
        raise _void(result)


async def _again(
    settings: Settings, once: Callable[[], Awaitable[Marked]], every_s: float
) -> NoReturn:
    """What passes does not end it: it is said once, until a mark succeeds again."""
    loop, said = asyncio.get_running_loop(), ""
    due = loop.time()
    while True:
        try:
            result = await once()
            wrong = str(_void(result)) if result.verdict != "consistent" else ""
            settings.show(result.json(), marked_text(result))
        except _PASSING as error:
            wrong = str(error)
        if wrong and not said:
            complain(f"{wrong}; it is tried again every {every_s:g} s")
        said = wrong
        due = max(due + every_s, loop.time())
        await asyncio.sleep(due - loop.time())


def _void(result: Marked) -> DuplexdError:
    return LeaseLostError(
        f"the verdict is void: mark {result.mark} is no consistent point"
        f" ({printable(result.why)}); mark again"
    )


def marked_text(result: Marked) -> str:
    """What was marked, and for how long writes waited."""
    tag = f" ({printable(result.tag)})" if result.tag else ""
    names = listed(result.volumes, "volumes") or "no volumes"
    lines = [f"marked {result.group}: {result.verdict}, mark {result.mark}{tag}: {names}"]
    lines += [f"  {name} at {sequence}" for name, sequence in result.controllers.items()]
    if len(result.controllers) > 1:
        lines.append("  " + hold_text(result.hold))
    if result.untold:
        lines.append(
            f"  {' and '.join(result.untold)} did not get the verdict yet:"
            f" `duplexctl settle {result.group}`"
        )
    return joined(lines)

"""`duplexctl drill`: runs an application's own recovery on clones of a cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.cloning import Size
from duplexd.duplexctl.options import WithCommand, common, target_of
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.runner import run
from duplexd.errors import UsageError

if TYPE_CHECKING:
    from duplexd.client import Client
    from duplexd.duplexctl.settings import Settings


@click.command(cls=WithCommand, short_help="Try a cut: run CMD on writable clones of it.")
@target_of("TARGET[@POINT]")
@click.option(
    "--suspend", "suspends", is_flag=True, help="suspend first, and resync when CMD has ended"
)
@click.option(
    "--limit",
    type=Size(),
    metavar="SIZE",
    help="the most that each volume may hold of changes; clone_limit of the daemon without it",
)
@common()
@click.pass_context
def drill(context: click.Context, target: str, suspends: bool, limit: int | None) -> None:
    """Run CMD on writable clones of the cut that the targets are at, and drop them afterwards.

    CMD finds DUPLEXD_URIS (a line for each volume: its name, a blank, its NBD URI), DUPLEXD_CUT and
    DUPLEXD_TAG. It starts the application's own recovery on them, and checks. The exit code is
    CMD's, or 9 if the cut was left before CMD ended, or 1 if a request of a clone failed.
    """
    from duplexd.backup import on_clones

    settings: Settings = context.obj
    command: list[str] = context.meta.get(WithCommand.KEY, [])
    if not command:
        raise UsageError("CMD is missing: `duplexctl drill db -- /usr/local/bin/check-database`")
    of, at, point = target.partition("@")
    if at and suspends:
        raise UsageError(f"--suspend makes a new cut, and {target!r} names one: leave one out")
    plan = on_clones.Plan(of, point or "latest", suspends, limit)

    def warn(text: str) -> None:
        complain(f"warning: {text}")

    async def make(client: Client) -> int:
        return await on_clones.run(plan, command, client, warn)

    context.exit(run(settings, make, settings.of_groups((of,))))

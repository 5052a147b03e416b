"""`duplexctl backup` and `backups`: silent in cron unless there is something to say."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from duplexd.backup.steps import Step
from duplexd.duplexctl.options import Name, WithCommand, common, complete_file, targets
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.settings import StoppedError
from duplexd.duplexctl.texts import table_text
from duplexd.duplexctl.watch import progress_bars
from duplexd.errors import DuplexdError, NotFoundError, UsageError
from duplexd.limits import BackupLimits
from duplexd.printable import joined, printable
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backup.catalogue import Listed
    from duplexd.backup.retention import Part
    from duplexd.backup.run import Made, Plan
    from duplexd.backup.saved import Manifest
    from duplexd.client import Client
    from duplexd.duplexctl.settings import Settings
    from duplexd.duplexctl.watch import Show

_COLUMNS = ("TIME", "BACKUP", "TARGETS", "TAG", "VERDICT", "SIZE", "LIES ON", "STATE")
FULL_EVERY = 7


class Keep(click.ParamType[object, tuple["Part", ...]]):
    """Which backups stay: `7d,4w,6m`, or a number."""

    name = "rule"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Part, ...]:
        from duplexd.backup import retention

        try:
            return retention.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Age(click.ParamType[object, float]):
    """A time, as in the configuration: `26h`."""

    name = "age"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from duplexd.config.values import check_duration

        try:
            return check_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(cls=WithCommand, short_help="Suspend, copy, check the copies, resync.")
@targets(more="DEST")
@click.option("--tag", default="", help="text to keep with the cut and the backup")
@click.option(
    "--keep",
    type=Keep(),
    metavar="RULE",
    default=None,
    help="then remove older backups of these targets: 7d,4w,6m keeps the newest of each of 7 days,"
    " 4 weeks and 6 months; 5 keeps the newest five",
)
@click.option(
    "--incremental",
    is_flag=True,
    help="copy only what changed since the newest backup of these targets in DEST; it needs that"
    " one to be restored",
)
@click.option(
    "--full-every",
    type=click.IntRange(2, BackupLimits().chain_max),
    metavar="N",
    default=None,
    help=f"of incremental backups, make every N-th a full one (default: {FULL_EVERY})",
)
@click.option(
    "--verify",
    type=click.Choice(["changed", "full"]),
    default=None,
    help="what is read again of an incremental backup: what changed (the default), or all of it and"
    " of those that it lies on; a full one is always compared as a whole",
)
@click.option(
    "--since",
    metavar="CUT",
    default="",
    help="with -- CMD: say what changed since this cut, for a CMD that copies only that",
)
@click.option("--no-resync", is_flag=True, help="leave the pairs at the cut")
@click.option(
    "--no-verify-cut",
    is_flag=True,
    help="do not check the cut against the journal, which takes longer than all else; the copies"
    " are compared with the cut in any case",
)
@common()
@click.pass_context
def backup(
    context: click.Context,
    targets: tuple[str, ...],
    tag: str,
    keep: tuple[Part, ...] | None,
    incremental: bool,
    full_every: int | None,
    verify: str | None,
    since: str,
    no_resync: bool,
    no_verify_cut: bool,
) -> None:
    """Make a backup of the targets in the directory DEST, as qcow2 images.

    Brings the pairs to DUPLEX, suspends them at one cut, copies it, compares the copies with it,
    and resyncs, also if it fails or is interrupted. Exit code 0 only if there is a backup in DEST
    that can be restored; of the images that an incremental one lies on, --verify says what that was
    found by. With -- CMD, CMD copies instead, and there is no DEST: see docs/backup.md.
    """
    from duplexd.backup.run import Plan
    from duplexd.backup.saved import CHANGED

    settings: Settings = context.obj
    command: list[str] = context.meta.get(WithCommand.KEY, [])
    if command:
        if keep or incremental or full_every or verify:
            raise UsageError(
                "--keep, --incremental, --full-every and --verify are for backups in a DEST; CMD"
                " keeps its own, and --since tells it what changed"
            )
        plan = Plan(targets, "", tag, resync=not no_resync, since=since)
        context.exit(_own_command(settings, plan, command))
    if since:
        raise UsageError("--since is for -- CMD; in a DEST --incremental finds the older backup")
    if full_every and not incremental:
        raise UsageError("--full-every is for --incremental; without it every backup is a full one")
    if verify and not incremental:
        raise UsageError("--verify is for --incremental; a full backup is compared as a whole")
    *names, destination = targets
    if not destination:
        raise UsageError("DEST is empty; name the directory for the backups")
    if not names:
        raise UsageError(
            f"DEST is missing: `duplexctl backup {printable(destination)} /srv/backup` copies"
            f" {printable(destination)} into that directory"
        )
    each = (full_every or FULL_EVERY) if incremental else 1
    plan = Plan(
        tuple(names),
        destination,
        tag,
        keep or (),
        not no_resync,
        not no_verify_cut,
        each,
        verify or CHANGED,
    )
    _answer(settings, _made(settings, plan))


def _made(settings: Settings, plan: Plan) -> Made:
    from duplexd.backup import run as backups

    with progress_bars() as bars:
        watch = _Watch(bars)

        async def make(client: Client) -> Made:
            return await backups.run(plan, client, watch, BackupLimits())

        try:
            return run(settings, make, settings.of_groups(plan.targets))
        except StoppedError as error:
            raise StoppedError(error.number, watch.left()) from None


def _own_command(settings: Settings, plan: Plan, command: Sequence[str]) -> int:
    from duplexd.backup import own_command

    async def make(client: Client) -> int:
        watch = _Watch(lambda _name, _done, _total: None)
        return await own_command.run(plan, command, client, watch, BackupLimits())

    return run(settings, make, settings.of_groups(plan.targets))


class _Watch:
    """Bars on a terminal, one for each step; warnings in any case."""

    def __init__(self, bars: Show) -> None:
        self._bars = bars
        self._step = ""
        self._made = False

    def step(self, step: Step) -> None:
        if self._step:
            self._bars(self._step, 1, 1)
        self._step = step.value
        self._made = self._made or step is Step.RELEASE
        self._bars(self._step, 0, 1)

    def progress(self, name: str, done: int, total: int) -> None:
        self._bars(printable(name), done, total)

    def warn(self, text: str) -> None:
        complain(f"warning: {text}")

    def left(self) -> str:
        """What an interrupt leaves that did not wait for the end."""
        if not self._made:
            return "no backup was made"
        return (
            "the backup is complete; the pairs may still be at the cut, and the next run ends that"
        )


def _answer(settings: Settings, made: Made) -> None:
    """Raises what went wrong although the backup is there: the pairs are not DUPLEX, or the
    application may still be frozen.
    """
    found = made.manifest
    text = (
        f"backup {made.path}: {len(found.volumes)} volumes, {format_size(found.bytes)},"
        f" cut {found.cut}, {found.verdict}; verify-cut: {found.verify_cut}"
        f"{f'; {_lies_on(found)}' if found.base is not None else ''}"
    )
    if settings.json or sys.stdout.isatty():
        settings.answer(made.json(), printable(text), done=text)
    for error in made.faults[1:]:
        complain(str(error))
    if made.faults:
        first = made.faults[0]
        raise type(first)(f"the backup {made.path} is complete, but {first}")


def _lies_on(found: Manifest) -> str:
    compared = "all of it was" if found.verify == "full" else "what changed was"
    below = found.base.id if found.base is not None else ""
    return f"it lies on {below}, and {compared} compared"


@click.command(short_help="What is in a directory of backups, and whether it is sound.")
@click.argument("destination", metavar="DEST", type=Name(), shell_complete=complete_file)
@click.option(
    "--check",
    is_flag=True,
    help="read all images: their check-sums, and what qemu-img says of them",
)
@click.option(
    "--max-age",
    type=Age(),
    metavar="AGE",
    default=None,
    help="exit code 1 also if the newest sound backup of any targets in DEST is older: 26h, 8d",
)
@common()
@click.pass_obj
def backups(settings: Settings, destination: str, check: bool, max_age: float | None) -> None:
    """List the backups in DEST, oldest first.

    Exit code 1 if one of them cannot be restored, 3 if there is none, or no DEST.
    """
    from duplexd.backup import catalogue, freshness, programs

    found = catalogue.find(destination)
    if check:
        programs.check()
        found = asyncio.run(catalogue.check(found))
    stale = [] if max_age is None else freshness.stale(found, max_age, time.time())
    rows = [each.json() for each in found]
    answer = {"path": destination, "checked": check, "backups": rows, "stale": stale}
    settings.answer(answer, backups_text(found, check))
    if not found:
        raise NotFoundError(
            f"{printable(destination)} has no backup; `duplexctl backup TARGET DEST` makes one"
        )
    wrong = [f"{each.id}: {text}" for each in found for text in each.wrong]
    if wrong or stale:
        raise DuplexdError(joined([*wrong, *stale]))


def backups_text(found: Sequence[Listed], checked: bool) -> str:
    """A row for each."""
    if not found:
        return "no backups"
    return joined(table_text(_COLUMNS, [_row(each, checked) for each in found]))


def _row(listed: Listed, checked: bool) -> tuple[str, ...]:
    found = listed.manifest
    state = "WRONG" if listed.wrong else "checked" if checked else "complete"
    if found is None:
        return ("-", listed.id, "-", "-", "-", "-", "-", state)
    when = datetime.fromtimestamp(found.cut_time, UTC)
    return (
        f"{when:%Y-%m-%d %H:%M:%SZ}",
        listed.id,
        printable(" ".join(found.targets)),
        printable(found.tag) or "-",
        found.verdict,
        format_size(found.bytes),
        found.base.id if found.base is not None else "-",
        state,
    )

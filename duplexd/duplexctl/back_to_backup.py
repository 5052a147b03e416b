"""`duplexctl restore`: volumes get the content of a backup back, in place.

What they hold is written over, so it asks first, where somebody can answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.duplexctl import texts
from duplexd.duplexctl.back_to_cut import rolled_back_text, would_be_a_mixture
from duplexd.duplexctl.options import Name, common, complete_file, targets
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.settings import StoppedError
from duplexd.duplexctl.takeover import ask, say
from duplexd.duplexctl.watch import progress_bars
from duplexd.errors import UsageError
from duplexd.limits import BackupLimits
from duplexd.printable import joined, printable
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.backup.restore import Plan, Restored, Step
    from duplexd.client import Client
    from duplexd.duplexctl.settings import Settings
    from duplexd.duplexctl.watch import Show
    from duplexd.json_object import Json


@click.command(short_help="Let volumes go back to a backup, in place.")
@targets()
@click.option(
    "--from",
    "source",
    type=Name(),
    metavar="DEST[@BACKUP]",
    shell_complete=complete_file,
    help="the directory of the backups, and which of them: its id, its tag, or latest (default)",
)
@click.option("--dry-run", is_flag=True, help="only compare, and say how much would change")
@click.option("--force", is_flag=True, help="disconnect the clients of the volumes first")
@click.option("--no-undo", is_flag=True, help="also where there is no cut to go back to afterwards")
@click.option(
    "--abandon",
    is_flag=True,
    help="give up a restore that is not finished: the volumes are served as they are, a mixture",
)
@click.option("--yes", is_flag=True, help="do not ask, also on a terminal")
@common()
@click.pass_obj
def restore(
    settings: Settings,
    targets: tuple[str, ...],
    source: str | None,
    dry_run: bool,
    force: bool,
    no_undo: bool,
    abandon: bool,
    yes: bool,
) -> None:
    """Give volumes the content back that they have in a backup of DEST.

    Checks the backup, suspends the pairs, closes the volumes, and writes only what differs. The
    secondaries stay at the cut: `duplexctl rollback` to it undoes the restore, `duplexctl resync`
    keeps it. If it is interrupted the volumes are not served, and the same command goes on.
    """
    _check_options(source, dry_run, force, no_undo, abandon)
    of_groups = settings.of_groups(targets)
    if not (yes or dry_run):
        consequences = would_be_a_mixture if abandon else _would_be_lost
        question = "Serve them half-way?" if abandon else "Write the backup over these?"
        ask(settings, targets, of_groups, consequences, question)
    if abandon:
        given_up = run(settings, lambda client: client.rollback(*targets, abandon=True), of_groups)
        say(settings, given_up, rolled_back_text(given_up))
        return
    result = _restored(settings, targets, source or "", dry_run, force, no_undo, of_groups)
    say(settings, result, restored_text(result))


def _check_options(
    source: str | None, dry_run: bool, force: bool, no_undo: bool, abandon: bool
) -> None:
    if abandon and (source or dry_run or force or no_undo):
        raise UsageError(
            "--abandon gives a restore up; leave --from, --dry-run, --force and --no-undo out"
        )
    if not abandon and not source:
        raise UsageError("--from DEST[@BACKUP]: name the directory of the backups to restore from")


def _restored(
    settings: Settings,
    targets: tuple[str, ...],
    source: str,
    dry_run: bool,
    force: bool,
    no_undo: bool,
    of_groups: bool,
) -> Restored:
    from duplexd.backup import restore as restores

    plan = restores.Plan(targets, source, dry_run, force, not no_undo)
    with progress_bars() as bars:
        watch = _Watch(bars)

        async def work(client: Client) -> Restored:
            return await restores.run(plan, client, watch, BackupLimits())

        try:
            return run(settings, work, of_groups)
        except StoppedError as error:
            raise StoppedError(error.number, watch.left(plan)) from None


class _Watch:
    """Bars on a terminal; warnings in any case."""

    def __init__(self, bars: Show) -> None:
        self._bars = bars
        self._step: Step | None = None

    def step(self, step: Step) -> None:
        if self._step is not None:
            self._bars(self._step.value, 1, 1)
        self._step = step
        self._bars(step.value, 0, 1)

    def progress(self, name: str, done: int, total: int) -> None:
        self._bars(printable(name), done, total)

    def warn(self, text: str) -> None:
        complain(f"warning: {text}")

    def left(self, plan: Plan) -> str:
        """What an interrupt leaves."""
        from duplexd.backup.restore import Step

        if plan.dry_run or self._step in {None, Step.VERIFY}:
            return "nothing was changed"
        if self._step is Step.UNDO:
            return "nothing was written; the pairs may be suspended, `duplexctl resync` ends that"
        return (
            "the restore is not finished, and its volumes are not served: the same command goes on"
            " with it"
        )


def restored_text(result: Restored) -> str:
    """A line about the outcome, one about each volume, and what can be done next."""
    tag = f" ({printable(result.tag)})" if result.tag else ""
    backup = f"backup {result.backup}{tag}, of {texts.moment_text(result.cut_time)}"
    head = {
        "measured": f"{result.group}: a restore from {backup} would change",
        "restored": f"{result.group}: restored from {backup}",
        "not finished": f"{result.group}: NOT FINISHED: the same command goes on",
    }[result.outcome]
    return joined([head, *_lines(result), *_next(result)])


def _lines(result: Restored) -> Iterator[str]:
    measured = result.outcome == "measured"
    key, what = ("differing_bytes", "differ") if measured else ("written_bytes", "written")
    rows = result.volumes
    if len(rows) > texts.LISTED_MAX:
        size = format_size(sum(row[key] for row in rows))
        yield f"  {texts.volumes_text(len(rows))}: {size} {what}"
        rows = [row for row in rows if not row["served"]]
    for row in rows:
        compared = f"{format_size(row[key])} of {format_size(row['compared_bytes'])} {what}"
        yield f"  {row['name']}: {compared}{'' if row['served'] else ', NOT SERVED'}"


def _next(result: Restored) -> Iterator[str]:
    if result.left_out:
        others = ", ".join(result.left_out[: texts.LISTED_MAX])
        yield f"  NOT AT ONE POINT with {printable(others)}, which the backup has, too"
    if result.outcome != "restored":
        return
    if result.undo:
        yield f"  undo: duplexctl rollback TARGET --to {result.undo}; keep: duplexctl resync TARGET"
    else:
        yield "  there is no cut to go back to"


def _would_be_lost(volumes: Sequence[Json]) -> str:
    return joined(
        f"{volume['name']}: what it holds now, {format_size(volume['size'])}, is written over where"
        " the backup differs"
        for volume in volumes
    )

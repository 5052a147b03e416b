"""`duplexctl rollback`: volumes go back to the cut that their secondaries are at.

What came after the cut is lost by it, so it asks first, where somebody can answer.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from duplexd.duplexctl import texts
from duplexd.duplexctl.options import Name, common, targets
from duplexd.duplexctl.output import put
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.takeover import ask, say
from duplexd.errors import UsageError
from duplexd.printable import joined, printable
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.client import RolledBack
    from duplexd.duplexctl.settings import Settings
    from duplexd.duplexctl.watch import Show
    from duplexd.json_object import Json


@click.command(short_help="Let volumes go back to the cut of their secondaries.")
@targets()
@click.option("--to", type=Name(), metavar="POINT", help="the cut: its id, its tag, or latest")
@click.option("--dry-run", is_flag=True, help="only compare, and say how much would change")
@click.option("--force", is_flag=True, help="disconnect the clients of the volumes first")
@click.option(
    "--abandon",
    is_flag=True,
    help="give up a rollback that is not finished: the volumes are served as they are, a mixture",
)
@click.option("--yes", is_flag=True, help="do not ask, also on a terminal")
@common()
@click.pass_obj
def rollback(
    settings: Settings,
    targets: tuple[str, ...],
    to: str | None,
    dry_run: bool,
    force: bool,
    abandon: bool,
    yes: bool,
) -> None:
    """Give volumes the content back that their secondaries have, at the cut where they are.

    What was written after the cut is lost. No client may use the volumes meanwhile. If it is
    interrupted they are not served, and the same command goes on.
    """
    _check_options(to, dry_run, force, abandon)
    of_groups = settings.of_groups(targets)
    if not (yes or dry_run):
        question = "Serve them half-way?" if abandon else "Go back, and lose these changes?"
        consequences = would_be_a_mixture if abandon else _would_be_lost
        ask(settings, targets, of_groups, consequences, question)
    result = _go_back(settings, targets, to or "", dry_run, force, abandon, of_groups)
    say(settings, result, rolled_back_text(result))


def _check_options(to: str | None, dry_run: bool, force: bool, abandon: bool) -> None:
    if abandon and (to or dry_run or force):
        raise UsageError("--abandon gives a rollback up; leave --to, --dry-run and --force out")
    if not abandon and not to:
        raise UsageError("--to POINT: name the cut to go back to, by its id, its tag, or latest")


def _go_back(
    settings: Settings,
    targets: tuple[str, ...],
    to: str,
    dry_run: bool,
    force: bool,
    abandon: bool,
    of_groups: bool,
) -> RolledBack:
    from duplexd.duplexctl.watch import progress_bars

    with progress_bars() as bars:

        def show(controller: str, line: Json) -> None:
            _show_line(settings, controller, line, bars)

        settings.done = "the rollback goes on in the daemon"
        return run(
            settings,
            lambda client: client.rollback(
                *targets, to=to, dry_run=dry_run, force=force, abandon=abandon, progress=show
            ),
            of_groups,
        )


def _show_line(settings: Settings, controller: str, line: Json, bars: Show) -> None:
    if settings.json:
        put(json.dumps({**line, "controller": controller}))
        settings.wrote = True
    else:
        bars(line["name"], line["done_bytes"], line["total_bytes"])


def rolled_back_text(result: RolledBack) -> str:
    """A line about the outcome, and one about each volume; of many, how much it was in all."""
    tag = f" ({printable(result.tag)})" if result.tag else ""
    head = {
        "measured": f"{result.group}: a rollback to cut {result.cut}{tag} would change",
        "rolled back": f"{result.group}: rolled back to cut {result.cut}{tag}",
        "abandoned": f"{result.group}: no rollback is unfinished; one that was given up has left "
        "a mixture of the cut and of what came after it",
        "not finished": f"{result.group}: NOT FINISHED: the same command goes on",
    }[result.outcome]
    return joined([head, *_lines(result)])


def _lines(result: RolledBack) -> Iterator[str]:
    rows, measured = result.volumes, result.outcome == "measured"
    key = "differing_bytes" if measured else "written_bytes"
    if len(rows) > texts.LISTED_MAX:
        size = format_size(sum(row[key] for row in rows))
        yield f"  {texts.volumes_text(len(rows))}: {size} {'differ' if measured else 'written'}"
        rows = [row for row in rows if not row["served"]]
    for row in rows:
        compared = format_size(row["compared_bytes"])
        what = f"{format_size(row[key])} of {compared} that changed since it"
        served = "" if row["served"] else ", NOT SERVED"
        if result.outcome == "abandoned":
            yield f"  {row['name']}: {'served' if row['served'] else 'NOT SERVED'}"
        else:
            yield f"  {row['name']}: {what}{' written' if not measured else ''}{served}"


def _would_be_lost(volumes: Sequence[Json]) -> str:
    lines = []
    for volume in volumes:
        with suppress(KeyError, TypeError):  # it is at no cut: the command says so itself
            cut = volume["secondary"]["cut"]
            size = format_size(volume.get("changed_bytes") or 0)
            since = texts.moment_text(cut["time"])
            lines.append(f"{volume['name']}: what was written since {since}, up to {size}")
    return joined(lines)


def would_be_a_mixture(volumes: Sequence[Json]) -> str:
    lines = []
    for volume in volumes:
        rollback = volume.get("rollback") or {}
        if rollback.get("state") in {"running", "ready", "stopped"}:
            of = f"in backup {rollback['backup']}" if rollback.get("backup") else ""
            lines.append(
                f"{volume['name']}: partly as {of or 'at cut ' + rollback['cut']}, partly as after"
                " it: what is on it is likely to be damaged"
            )
    return joined(lines)

"""`duplexctl canary`: runs a canary over a group until it is told to stop, and says what it found."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duplexd.canary.members import find
from duplexd.canary.observer import Canary
from duplexd.client import survey
from duplexd.client.http import Http
from duplexd.config import groups_file as group_file
from duplexd.config.groups_file import ControllerEntry, Groups
from duplexd.duplexctl.options import Name, Settings, common, complete_group
from duplexd.errors import ConfigurationError, LeaseLostError, UsageError
from duplexd.limits import CANARY_RECORDS_PER_SECOND_DEFAULT, CANARY_RECORDS_PER_SECOND_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.canary.members import Member

    Json = dict[str, Any]

_LOCAL = "local"


@click.command(short_help="Write dependent records through NBD; grade each cut by them.")
@click.argument("group", type=Name(), metavar="GROUP", shell_complete=complete_group)
@click.option("--rate", type=click.IntRange(1, CANARY_RECORDS_PER_SECOND_MAX), default=CANARY_RECORDS_PER_SECOND_DEFAULT, show_default=True, metavar="N",
              help="records a second, over all volumes together")  # fmt: skip
@click.option(
    "--overwrite",
    is_flag=True,
    help="write to ALL volumes of the group and destroy what they hold: for test volumes only",
)
@common()
@click.pass_obj
def canary(settings: Settings, group: str, rate: int, overwrite: bool) -> int:
    """Write dependent records to reserved volumes of a group the whole time, and grade each cut by what its secondaries hold."""
    if settings.of_groups([group]) if overwrite else settings.group_is_meant([group]):
        groups = group_file.load(settings.groups)
    elif overwrite:
        groups, group = (
            Groups(controllers={_LOCAL: ControllerEntry(socket=Path(settings.socket))}),
            f"{_LOCAL}:{group}",
        )
    else:
        raise UsageError(
            f"{group} is no group of {settings.groups}: only there volumes are reserved for a canary; see docs/canary.md"
        )
    targets = canary_targets(groups, group, overwrite, settings.groups)

    def show(report: Json) -> None:
        settings.show({"time": time.time(), **report}, report_text(report))

    broken = asyncio.run(_run(groups, targets, show, rate, overwrite))
    return LeaseLostError.exit_code if broken else 0


def canary_targets(
    groups: Groups, name: str, overwrite: bool, path: str | Path
) -> dict[str, list[str]]:
    """What to write to, by controller: the volumes reserved for it, or with `overwrite` all of the group's.

    Raises NotFoundError; ConfigurationError unless each controller of the group has a reserved volume.
    """
    group = groups.resolve([name])
    if overwrite:
        return {controller: list(targets) for controller, targets in group.members.items()}
    reserved: dict[str, list[str]] = {}
    for member in group.canary:
        controller, _, volume = member.partition(":")
        reserved.setdefault(controller, []).append(volume)
    if missing := [controller for controller in group.members if controller not in reserved]:
        wanted = ", ".join(
            f'"{volume}"'
            for volume in [*group.canary, *(f"{controller}:canary" for controller in missing)]
        )
        raise ConfigurationError(
            f"{path}: groups.{name}.canary: no volume is reserved for a canary on {', '.join(missing)}; make a small volume there "
            f"(1MiB, with a secondary), and name it: canary = [{wanted}]"
        )
    return reserved


async def _run(
    groups: Groups,
    targets: dict[str, list[str]],
    show: Callable[[Json], None],
    rate: int,
    overwrite: bool,
) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    links = {
        name: Http(name, groups.controllers[name], any_name=name == _LOCAL) for name in targets
    }
    try:
        survey.raise_all(await survey.identify(links))
        members = await asyncio.gather(
            *(
                _member(links[name], groups.controllers[name], names)
                for name, names in targets.items()
            )
        )
        running = Canary(members, show, rate, overwrite)
        await running.run(stop)
    finally:
        for link in links.values():
            link.close()
    return running.broken_cuts


async def _member(link: Http, entry: ControllerEntry, targets: list[str]) -> Member:
    host = entry.url.where.host if entry.url else None
    return await find(link, targets, host, entry.nbd)


def report_text(report: Json) -> str:
    """A report in words."""
    detail = report.get("detail", "")
    match report["event"]:
        case "running":
            return f"writing {report['records_per_second']:g} records a second to {', '.join(report['volumes'])}"
        case "interrupted":
            return f"interrupted: {detail}; the chains begin anew"
        case "graded":
            found = f"{report['records']} records"
            return f"cut {report['cut']}: " + (
                f"consistent ({found})"
                if report["consistent"]
                else f"BROKEN, now void ({found}): {detail}"
            )
        case "not_graded":
            return f"cut {report['cut']}: not graded: {detail}"
        case _:
            return f"cut {report['cut']}: the grade was not taken: {detail}"

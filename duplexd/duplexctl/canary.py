"""`duplexctl canary`: runs a canary over a group until interrupted, and says what it found."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from duplexd.canary.members import find
from duplexd.canary.observer import Canary
from duplexd.client import survey
from duplexd.duplexctl.documents import document
from duplexd.duplexctl.options import Name, common, complete_group
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.takeover import ask
from duplexd.errors import ConfigurationError, LeaseLostError, UsageError, WrongStateError
from duplexd.limits import CANARY_RECORDS_PER_SECOND_DEFAULT, CANARY_RECORDS_PER_SECOND_MAX
from duplexd.printable import joined, printable
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from duplexd.canary.members import Member
    from duplexd.client import Client
    from duplexd.client.http import Http
    from duplexd.config.groups import Directory, Place
    from duplexd.duplexctl.settings import Settings
    from duplexd.json_object import Json


@click.command(short_help="Write dependent records through NBD; grade each cut by them.")
@click.argument("group", type=Name(), metavar="GROUP", shell_complete=complete_group)
@click.option(
    "--rate",
    type=click.IntRange(1, CANARY_RECORDS_PER_SECOND_MAX),
    default=CANARY_RECORDS_PER_SECOND_DEFAULT,
    show_default=True,
    metavar="N",
    help="records a second, over all volumes together",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="write to ALL volumes of the group and destroy what they hold: for test volumes only",
)
@click.option("--yes", is_flag=True, help="do not ask before it overwrites, also on a terminal")
@common()
@click.pass_obj
def canary(settings: Settings, group: str, rate: int, overwrite: bool, yes: bool) -> int:
    """Write dependent records to reserved volumes of a group, and grade each cut by them.

    The records are written the whole time; a cut is graded by those that its secondaries hold. No
    volume is written to that a client is connected to.
    """
    of_groups = settings.of_groups([group]) if overwrite else settings.group_is_meant([group])
    if not of_groups and not overwrite:
        raise UsageError(
            f"{group} is not a group of {settings.groups}: only there volumes are reserved for a"
            f" canary; see {document('canary.md')}"
        )

    if overwrite and not yes:
        ask(settings, (group,), of_groups, would_be_overwritten, "Overwrite these volumes?")

    def show(report: Json) -> None:
        settings.show({"time": time.time(), **report}, printable(report_text(report)))

    async def work(client: Client) -> int:
        named = canary_targets(client.groups, group, overwrite, settings.groups)
        return await _run(
            client,
            settings,
            named,
            lambda members: Canary(members, show, rate, overwrite),
            reserved=not overwrite,
        )

    broken = run(settings, work, of_groups)
    return LeaseLostError.exit_code if broken else 0


def canary_targets(
    groups: Directory, name: str, overwrite: bool, path: str | Path
) -> dict[str, list[str]]:
    """What to write to, by controller: reserved volumes, or with `overwrite` all of the group's.

    Raises NotFoundError; ConfigurationError unless each controller of the group has a reserved
    volume.
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
            f"{path}: groups.{name}.canary: no volume is reserved for a canary on"
            f" {', '.join(missing)}; make a small volume there (1MiB, with a secondary), and name"
            f" it: canary = [{wanted}]"
        )
    return reserved


async def _run(
    client: Client,
    settings: Settings,
    targets: dict[str, list[str]],
    running: Callable[[list[Member]], Canary],
    reserved: bool,
) -> int:
    """Write until interrupted; how many cuts were broken. `reserved`: to no volume but those."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    settings.interrupts.act = lambda _number: loop.call_soon_threadsafe(stop.set)
    links = client.links_to(targets)
    survey.raise_all(await survey.identify(links))
    places = client.groups.controllers
    members = await asyncio.gather(
        *(_member(links[name], places[name], names) for name, names in targets.items())
    )
    if reserved:
        check_reserved(members, targets)
    wanted = {member.name: member.volumes for member in members}
    statuses, errors = await survey.try_status(links, wanted)
    survey.raise_all(errors)
    check_unused(survey.volumes(statuses))
    canary = running(members)
    await canary.run(stop)
    return canary.broken_cuts


def check_reserved(members: Iterable[Member], targets: Mapping[str, Sequence[str]]) -> None:
    """A controller decides what a name of a group means, but not which volumes are reserved.

    Raises ConfigurationError.
    """
    for member in members:
        if others := [name for name in member.volumes if name not in targets[member.name]]:
            raise ConfigurationError(
                f"{member.name}: {printable(', '.join(others))} would be written to, and is not"
                " named in `canary` of the groups file; name volumes there, not groups"
            )


def check_unused(volumes: Mapping[str, Json]) -> None:
    """Nobody else's data is overwritten: who is connected has mounted it, or is about to.

    Raises WrongStateError.
    """
    used = [
        f"{name} ({each['connections']})" for name, each in volumes.items() if each["connections"]
    ]
    if used:
        raise WrongStateError(
            f"clients are connected to {printable(', '.join(used))}, and a canary would overwrite"
            " what they use; disconnect them, or reserve other volumes"
        )


def would_be_overwritten(volumes: Sequence[Json]) -> str:
    """What `--overwrite` destroys."""
    lines = (f"{each['name']}: all {format_size(each['size'])} is lost" for each in volumes)
    return joined(lines)


async def _member(link: Http, place: Place, targets: list[str]) -> Member:
    host = place.url.where.host if place.url else None
    return await find(link, targets, host, place.nbd)


def report_text(report: Json) -> str:
    """A report in words."""
    detail = report.get("detail", "")
    match report["event"]:
        case "running":
            rate = f"{report['records_per_second']:g} records a second"
            return f"writing {rate} to {', '.join(report['volumes'])}"
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
            return f"cut {report['cut']}: the controller rejected the grade: {detail}"

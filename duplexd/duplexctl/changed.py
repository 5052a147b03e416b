"""`duplexctl changes`: what changed between two cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.options import common, targets
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.texts import verdict_text
from duplexd.printable import joined, printable
from duplexd.units import format_size

if TYPE_CHECKING:
    from duplexd.client.results import Changes
    from duplexd.duplexctl.settings import Settings
    from duplexd.json_object import Json


@click.command(short_help="What changed between two cuts, or since one of them.")
@targets()
@click.option("--since", required=True, metavar="CUT", help="the older cut: its id, tag or latest")
@click.option("--until", metavar="CUT", help="the newer one; without it: until now")
@common()
@click.pass_obj
def changes(settings: Settings, targets: tuple[str, ...], since: str, until: str | None) -> None:
    """What changed between two cuts, or since one of them; with --json all extents.

    Blocks outside of the extents hold the same at both points.
    """
    of_groups = settings.of_groups(targets)
    found = run(
        settings, lambda client: client.changes(*targets, since=since, until=until), of_groups
    )
    for name in ("since", "until"):
        if len({row[name]["cut"] for row in found.volumes}) > 1:
            complain(
                f"warning: --{name}: it is not one cut for all volumes, so what changed does not"
                " belong together; give the id of a cut that was made of all of them"
            )
    settings.answer(found.json(), changes_text(found))


def changes_text(changes: Changes) -> str:
    """Some lines for each volume."""
    return joined(line for row in changes.volumes for line in _lines(row))


def _lines(row: Json) -> list[str]:
    changed, size = format_size(row["changed_bytes"]), format_size(row["size"])
    where = f"from {_point(row['since'])} to {_point(row['until'])}"
    extents = len(row["extents"])
    in_extents = f"{extents} extent{'' if extents == 1 else 's'}"
    grain = format_size(row["grain_bytes"])
    first = f"{printable(row['name'])}: {changed} of {size} changed {where}"
    why = [f"    counts more than what changed: {printable(each)}" for each in row["why"]]
    return [f"{first}, in {in_extents} of {grain} and more", *why]


def _point(point: Json) -> str:
    if point.get("cut") is None:
        return f"now (number {point['sequence']})"
    tag = f" ({printable(point['tag'])})" if point["tag"] else ""
    void = f" {verdict_text('void')}" if point.get("verdict") == "void" else ""
    return f"cut {point['cut']}{tag}{void}"

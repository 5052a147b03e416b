"""`duplexctl points` and `release-reader`: what can be read or reached, and who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.columns import output_option, rows_text
from duplexd.duplexctl.options import Name, common, targets
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.texts import clock, table_text, verdict_text
from duplexd.errors import UnreachableError, WrongStateError
from duplexd.printable import joined, printable

if TYPE_CHECKING:
    from duplexd.client import Kept, Points
    from duplexd.duplexctl.settings import Settings

_COLUMNS = ("VOLUME", "VERDICT", "CUT", "TAG", "READERS", "WHERE")


_REACH_COLUMNS = ("TIME", "POINT", "KIND", "VERDICT", "TAG", "CONTROLLERS", "WITHIN REACH")


@click.command(short_help="What can be read of cuts, or which points can be reached.")
@targets()
@click.option("--reach", is_flag=True, help="all cuts and marks that are kept; which are in reach")
@output_option
@common()
@click.pass_obj
def points(settings: Settings, targets: tuple[str, ...], reach: bool, columns: str | None) -> None:
    """What can be read of the targets' cuts, and at which NBD addresses.

    With --json: the manifest of a backup, with the cut's certificate. Exit code 5 if not all
    targets can be read at one cut that is consistent.

    With --reach: the cuts and marks that are kept, and to which of them the secondaries can be
    brought still.
    """
    of_groups = settings.of_groups(targets)
    if reach:
        kept = run(settings, lambda client: client.marks.points(*targets), of_groups)
        shown = kept.json()
        text = rows_text(shown["points"], columns) if columns else reach_text(kept)
        settings.answer(shown, text)
        if kept.unreachable:
            raise UnreachableError("; ".join(kept.unreachable.values()))
        return
    found = run(settings, lambda client: client.points(*targets), of_groups)
    text = rows_text(found.volumes, columns) if columns else points_text(found)
    settings.answer(found.json(), text)
    if found.cut is None:
        why = [f"{row['name']}: {row['why']}" for row in found.volumes if row["why"]]
        raise WrongStateError(printable("; ".join(why) or "the volumes are at different cuts"))
    if found.verdict != "consistent":
        raise WrongStateError(f"cut {found.cut} is {found.verdict or 'in doubt'}")


def points_text(found: Points) -> str:
    """A row for each volume."""
    rows = [
        (
            row["name"],
            row["verdict"] or "-",
            row["cut"] or "-",
            printable(row["tag"]) or "-",
            printable(", ".join(row["readers"])) or "-",
            row["why"] or next(iter(row["uris"]), row["export"]),
        )
        for row in found.volumes
    ]
    return joined(table_text(_COLUMNS, rows))


def reach_text(kept: Kept) -> str:
    """A row for each point, newest last."""
    rows = [
        (
            clock(point.time, "seconds"),
            point.cut,
            point.kind,
            verdict_text(point.verdict),
            printable(point.tag) or "-",
            " ".join(f"{name}@{sequence}" for name, sequence in point.controllers.items()),
            "yes" if point.within_reach else f"no: {printable(point.why)}",
        )
        for point in kept.points
    ]
    return joined(table_text(_REACH_COLUMNS, rows)) if rows else "no points"


@click.command("release-reader", short_help="End a named reader of a cut.")
@targets()
@click.argument("name", type=Name())
@common()
@click.pass_obj
def release_reader(settings: Settings, targets: tuple[str, ...], name: str) -> None:
    """End a reader that `suspend --reader NAME` began. What it copies is no backup any more.

    The secondaries stay at their cut; a resync is possible when no other reader is left.
    """
    of_groups = settings.of_groups(targets)
    ended = run(settings, lambda client: client.release_reader(*targets, reader=name), of_groups)
    text = f"reader {printable(name)} of {' '.join(ended.volumes)}: ended"
    settings.answer(ended.json(), text, done=text)

"""`duplexctl clone`, `clones` and `drop-clone`: cuts that can be written to, without a trace."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from duplexd.core.clone import NAME_PATTERN
from duplexd.duplexctl.columns import output_option, rows_text
from duplexd.duplexctl.options import Name, common, target_of, targets
from duplexd.duplexctl.output import complain
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.texts import table_text
from duplexd.printable import joined, printable
from duplexd.units import format_size, parse_size

if TYPE_CHECKING:
    from duplexd.client.results import Cloned, Clones
    from duplexd.duplexctl.settings import Settings

_COLUMNS = ("CLONE", "VOLUME", "CUT", "CHANGED", "LIMIT", "CLIENTS", "SINCE", "EXPORT")


class Size(click.ParamType[object, int]):
    """Bytes, as in the configuration."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            return value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CloneName(click.ParamType[object, str]):
    """What a clone may be called."""

    name = "name"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        import re

        if not re.fullmatch(NAME_PATTERN, str(value)):
            self.fail(
                f"{value!r} is not a name; expected 1 to 128 letters, digits, '.', '_' or '-', not"
                " '-' first",
                param,
                ctx,
            )
        return str(value)


@click.command(short_help="Make a cut writable, apart from its secondaries.")
@target_of("TARGET[@POINT]")
@click.option("--name", required=True, type=CloneName(), metavar="NAME", help="what to call it")
@click.option(
    "--limit",
    type=Size(),
    metavar="SIZE",
    help="the most that each volume may hold of changes; clone_limit of the daemon without it",
)
@common()
@click.pass_obj
def clone(settings: Settings, target: str, name: str, limit: int | None) -> None:
    """Make writable NBD exports VOLUME@POINT+NAME of a volume or a group at one cut.

    POINT is the id of a cut, its tag, or latest, which is the default. Changes go to a sparse file
    on the daemon's state disk; the secondaries stay as they are. While it is there it reads the
    cut, so a resync is refused. It ends with `drop-clone`, or with the daemon.
    """
    of, _, point = target.partition("@")
    made = run(
        settings,
        lambda client: client.clones.make(
            of, point=point or "latest", name=name, limit_bytes=limit
        ),
        settings.of_groups((of,)),
    )
    if made.verdict != "consistent":
        complain(f"warning: cut {made.cut} is {made.verdict or 'in doubt'}: no backup")
    settings.answer(made.json(), cloned_text(made), done=f"clone {name} was made")


def cloned_text(made: Cloned) -> str:
    """A line for each volume."""
    return joined(
        f"{printable(row['name'])}: {printable(next(iter(row['uris']), row['export']))}"
        for row in made.volumes
    )


@click.command(short_help="The clones that there are.")
@targets(required=False)
@output_option
@common()
@click.pass_obj
def clones(settings: Settings, targets: tuple[str, ...], columns: str | None) -> None:
    """The clones of the targets, by default all; what they hold, and how many clients they have."""
    found = run(settings, lambda client: client.clones.show(*targets), settings.of_groups(targets))
    text = rows_text(found.clones, columns) if columns else clones_text(found)
    settings.answer(found.json(), text)


def clones_text(found: Clones) -> str:
    """A row for each."""
    if not found.clones:
        return "no clones"
    rows = [
        (
            row["name"],
            printable(row["volume"]),
            row["cut"],
            format_size(row["used_bytes"]),
            format_size(row["limit_bytes"]),
            str(row["connections"]),
            datetime.fromtimestamp(row["since"], UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            printable(row["export"]),
        )
        for row in found.clones
    ]
    faults = [
        f"{row['volume']}: a request of clone {row['name']} failed: {row['first_fault']}"
        for row in found.clones
        if row.get("first_fault")
    ]
    return joined([*table_text(_COLUMNS, rows), *map(printable, faults)])


@click.command("drop-clone", short_help="End a clone; its changes are gone.")
@targets()
@click.argument("name", type=Name())
@common()
@click.pass_obj
def drop_clone(settings: Settings, targets: tuple[str, ...], name: str) -> None:
    """End the clone NAME of the targets. Its clients are disconnected, its changes are gone.

    The secondaries stay at their cut, and are as they were before the clone.
    """
    of_groups = settings.of_groups(targets)
    ended = run(settings, lambda client: client.clones.drop(*targets, name=name), of_groups)
    text = f"clone {printable(name)} of {' '.join(ended.volumes)}: dropped"
    settings.answer(ended.json(), text, done=text)

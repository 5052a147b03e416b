"""`duplexctl repair`: the places where the legs of a pair are known to differ become equal.

The option that says which image is right has no default. There is nothing that a program could
guess it by, and the wrong guess destroys the one good copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.duplexctl.options import common, targets
from duplexd.duplexctl.runner import run
from duplexd.duplexctl.takeover import say
from duplexd.printable import joined
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.duplexctl.settings import Settings
    from duplexd.json_object import Json

_SHOWN_MAX = 8  # ranges of a volume


@click.command(short_help="Make legs that differ equal again.")
@targets()
@click.option(
    "--from",
    "source",
    type=click.Choice(["primary", "secondary"]),
    required=True,
    help="the image that is right; the other one gets its content",
)
@click.option("--dry-run", is_flag=True, help="only show which places would be written")
@common()
@click.pass_obj
def repair(settings: Settings, targets: tuple[str, ...], source: str, dry_run: bool) -> None:
    """Repair the places in which a verify or a scrub found that the legs of a pair differ.

    From the secondary, the content of the volume changes under its clients: stop them first.
    """
    of_groups = settings.of_groups(targets)
    result = run(
        settings, lambda client: client.repair(*targets, source=source, dry_run=dry_run), of_groups
    )
    say(settings, result, repaired_text(result.volumes, result.no_difference))


def repaired_text(rows: Sequence[Json], others: Sequence[str] = ()) -> str:
    """What was written where, of each volume; and those that there was nothing to do for."""
    lines = [line for row in rows for line in _lines(row)]
    return joined([*lines, *(f"{name}: no difference is recorded" for name in others)])


def _lines(row: Json) -> Iterator[str]:
    done = "repaired, the legs are equal there" if row["repaired"] else "would be repaired"
    size = format_size(row["bytes"])
    yield f"{row['name']}: {size} {done}, from the {row['from']} {row['path']}"
    for offset, length in row["ranges"][:_SHOWN_MAX]:
        yield f"  {format_size(length)} at byte {offset}"
    if len(row["ranges"]) > _SHOWN_MAX:
        yield f"  and {len(row['ranges']) - _SHOWN_MAX} more places"

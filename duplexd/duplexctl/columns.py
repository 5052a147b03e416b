"""`--output COLUMNS`: chosen fields, a row for each volume or cut, for scripts.

Tables are for people: their columns give way to the width of a screen, and sizes are rounded. Here
each value is exact, as `--json` has it, between tabs and without a head, so that `cut -f`, `read`
and `awk` take it apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from duplexd.errors import UsageError
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    from duplexd.json_object import Json

    F = TypeVar("F", bound=Callable[..., object])


def output_option(function: F) -> F:
    """The option, of commands that show rows."""
    return click.option(
        "--output",
        "columns",
        metavar="COLUMNS",
        help="fields of --json, with commas between them (name,state,secondary.cut.id): a row each,"
        " with tabs, without a head",
    )(function)


def rows_text(rows: Sequence[Json], columns: str) -> str:
    """The rows; raises UsageError for a column that none of them has, or could have: what a null
    may hold another time, as `secondary.cut` of a pair that is at none, is not known.
    """
    names = columns.split(",")
    known = dict.fromkeys(key for row in rows for key in _keys(row))
    nulls = {key for key in known if all(_value(row, key) is None for row in rows)}
    missing = [name for name in names if rows and name not in known]
    if unknown := [name for name in missing if nulls.isdisjoint(_above(name))]:
        raise UsageError(
            f"--output {unknown[0]}: no such column; expected some of {', '.join(known)}"
        )
    return "\n".join("\t".join(_text(_value(row, name)) for name in names) for row in rows)


def _keys(row: Json, above: str = "") -> Iterator[str]:
    for key, value in row.items():
        yield above + key
        if isinstance(value, dict):
            yield from _keys(value, f"{above}{key}.")


def _above(name: str) -> Iterator[str]:
    """The columns that a column is in."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _value(row: Json, name: str) -> object:
    value: object = row
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_text, value)) or "-"
    if isinstance(value, dict):
        return ",".join(f"{key}={_text(each)}" for key, each in value.items()) or "-"
    return printable(str(value)).replace("\t", " ") or "-"

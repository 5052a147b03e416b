"""A table of the status on a terminal: what gives way when it is wider than the screen, and in
which order.

A row that is folded cannot be read down its column, and a name that is cut off cannot be typed. So
names, states and reasons stay. First the columns go that say nothing of any volume, then tags
become shorter, then they go, at last the id of a cut, which `duplexctl cuts` shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Row = tuple[str, ...]

_GAP = 2
_KEPT = {"VOLUME", "SIZE", "STATE", "SECONDARY"}
_TAG_CHARACTERS = (200, 24, 8, 0)  # one form of a cell after the other
FORMS = len(_TAG_CHARACTERS) + 1


def cut_cell(verdict: str, cut_id: str, tag: str, age: str, form: int) -> str:
    """`VOID cut 9f2c.. (nightly), 3 h old`, in one of its forms; the last has no id."""
    if form >= len(_TAG_CHARACTERS):
        return f"{verdict}cut {age} old"
    most = _TAG_CHARACTERS[form]
    short = tag if len(tag) <= most else f"{tag[: max(0, most - 3)]}..."
    shown = f" ({printable(short)})" if tag and most else ""
    return f"{verdict}cut {cut_id}{shown}, {age} old"


def fitted(
    columns: Row, rows_of: Callable[[int], Sequence[Row]], width: int
) -> tuple[Row, list[Row]]:
    """Columns and rows in the longest form that fits; `rows_of` makes the rows of a form."""
    for form in range(FORMS - 1):
        head, rows = _without_empty(columns, rows_of(form))
        if _width([head, *rows]) <= width:
            return head, rows
    return _without_empty(columns, rows_of(FORMS - 1))


def _without_empty(columns: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    said = [
        index
        for index, column in enumerate(columns)
        if column in _KEPT or any(row[index] not in {"-", "0"} for row in rows)
    ]
    head, *rest = [tuple(row[index] for index in said) for row in (columns, *rows)]
    return head, rest


def _width(rows: Sequence[Row]) -> int:
    widths = [max(len(printable(cell)) for cell in cells) for cells in zip(*rows, strict=True)]
    return sum(widths) + _GAP * (len(widths) - 1)

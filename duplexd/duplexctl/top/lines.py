"""Lines of a screen: texts with a style each, and tables that fit a width. Pure.

Widths are those of a terminal, where a character may take two columns or none. A style is a name of
`STYLES`; what it looks like is said there alone, and without colour nothing is lost, because no
line relies on it. Several names, with a space between them, add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Sequence

STYLES = {
    "": "",
    "good": "green",
    "warning": "yellow",
    "error": "bold red",
    "dim": "dim",
    "strong": "bold",
    "head": "bold cyan",
    "bar": "reverse",
    "marked": "reverse",
}
_DOTS = ".."


class Span(NamedTuple):
    """A text in one style."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


class Column(NamedTuple):
    """`right`: numbers. Of columns that do not fit, those of the highest `gives_way` go first; 0
    never does. `idle`: what its cells say that say nothing; a column of such cells is left out.
    """

    head: str
    gives_way: int
    right: bool = True
    idle: str = ""


def style_of(names: str) -> str:
    """What rich calls it."""
    return " ".join(STYLES[name] for name in names.split())


def line(text: str, style: str = "") -> Line:
    """One style all along."""
    return (Span(text, style),)


def text_of(spans: Line) -> str:
    """Without styles."""
    return "".join(span.text for span in spans)


def fit(text: str, width: int, right: bool = False) -> str:
    """Exactly this wide: padded, or cut with two dots at its end."""
    found = cell_len(text)
    if found > width:
        dots = _DOTS if width > 2 * len(_DOTS) else ""
        return set_cell_size(text, width - len(dots)) + dots
    return " " * (width - found) + text if right else text + " " * (width - found)


def cut(spans: Line, width: int) -> Line:
    """At most this wide."""
    shown: list[Span] = []
    for span in spans:
        room = width - sum(cell_len(each.text) for each in shown)
        if cell_len(span.text) > room:
            return (*shown, Span(fit(span.text, room), span.style)) if room > 0 else tuple(shown)
        shown.append(span)
    return tuple(shown)


def wrapped(text: str, width: int, lines_max: int) -> list[str]:
    """At most so many lines, broken at spaces where that can be; a long word is cut off."""
    lines: list[str] = []
    words = text.split(" ")
    while words:
        taken = words.pop(0)
        while words and cell_len(f"{taken} {words[0]}") <= width:
            taken += f" {words.pop(0)}"
        if words and len(lines) == lines_max - 1:
            taken = " ".join([taken, *words])
            words = []
        lines.append(fit(taken, width) if cell_len(taken) > width else taken)
    return lines


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Span]], width: int, indent: int = 2
) -> tuple[Line, list[Line]]:
    """The head and the rows, with as many columns as fit. The first column is as wide as its
    longest cell, or as what the others leave of the screen; it never has less than eight.
    """
    kept = [
        index
        for index, column in enumerate(columns)
        if not column.idle or any(row[index].text != column.idle for row in rows)
    ]
    widths = [
        max([cell_len(column.head), *(cell_len(row[index].text) for row in rows)])
        for index, column in enumerate(columns)
    ]

    def room() -> int:
        return width - indent - sum(widths[index] + 1 for index in kept[1:])

    while room() < min(widths[0], _NAME_MIN) and len(kept) > 1:
        last = max(kept[1:], key=lambda index: (columns[index].gives_way, index))
        if not columns[last].gives_way:
            break
        kept.remove(last)
    # a long name is cut only where the columns that matter leave it no more
    while room() < widths[0] and (spare := _most_spare(columns, kept)) is not None:
        kept.remove(spare)
    widths[kept[0]] = max(1, min(widths[0], room()))
    head = tuple(Span(columns[index].head, "head") for index in kept)
    return (
        _row(head, columns, kept, widths, indent),
        [_row([row[i] for i in kept], columns, kept, widths, indent) for row in rows],
    )


_NAME_MIN = 8
_SPARE = 3  # from here on a column gives way to a whole name


def _most_spare(columns: Sequence[Column], kept: Sequence[int]) -> int | None:
    last = max(kept[1:], key=lambda index: (columns[index].gives_way, index), default=None)
    return last if last is not None and columns[last].gives_way >= _SPARE else None


def _row(
    cells: Sequence[Span],
    columns: Sequence[Column],
    kept: Sequence[int],
    widths: Sequence[int],
    indent: int,
) -> Line:
    spans = [Span(" " * indent)]
    for number, (cell, index) in enumerate(zip(cells, kept, strict=True)):
        gap = " " if number else ""
        spans.append(Span(gap + fit(cell.text, widths[index], columns[index].right), cell.style))
    return tuple(spans)

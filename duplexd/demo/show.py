"""What the demo prints: a table that grows, with rich on a terminal, in plain lines otherwise.

rich is imported late: `duplexd run` must not pay for it, and a pipe gets no control sequences.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table as RichTable

# Title in three lines, and width: 79 characters in all.
_COLUMNS = (
    (("", "", "cut"), 4),
    (("write pause", "client / daemon", "ms"), 15),
    (("", "writes", "held"), 6),
    (("", "", "verdict"), 10),
    (("broken:", "group", "cut"), 7),
    (("broken:", "one by", "one"), 7),
    (("", "bytes", "changed"), 8),
    (("copied", "by the", "resync"), 8),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One round."""

    cut: str
    pause_ms: float
    held_ms: float
    writes_held: int
    verdict: str
    group_broken: int
    group_faults: int
    naive_broken: int
    changed: str
    copied: str

    def cells(self) -> list[str]:
        """Texts in the order of the columns."""
        pause = f"{self.pause_ms:.1f} / {self.held_ms:.1f}"
        group = (
            str(self.group_broken)
            if self.group_faults == self.group_broken
            else f"{self.group_faults} faults"
        )
        return [
            self.cut,
            pause,
            str(self.writes_held),
            self.verdict,
            group,
            str(self.naive_broken),
            self.changed,
            self.copied,
        ]


def say(text: str) -> None:
    """A line for people, at once."""
    print(text, flush=True)


class Table:
    """Use it as a context manager; rows appear when they are added."""

    def __init__(self) -> None:
        self._rich: RichTable | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            self._open()
        else:
            for line in range(3):
                self._plain([title[line] for title, _ in _COLUMNS])
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, row: Row) -> None:
        """Show one more row."""
        if self._rich is None or self._live is None:
            self._plain(row.cells())
            return
        cells = row.cells()
        cells[4] = f"[{'red' if row.group_faults else 'green'}]{cells[4]}[/]"
        cells[5] = f"[{'yellow' if row.naive_broken else 'default'}]{cells[5]}[/]"
        self._rich.add_row(*cells)
        self._live.refresh()

    def _open(self) -> None:
        from rich.live import Live
        from rich.table import Table as RichTable

        self._rich = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title, width in _COLUMNS:
            self._rich.add_column("\n".join(title), justify="right", no_wrap=True, min_width=width)
        self._live = Live(self._rich, auto_refresh=False)
        self._live.start(refresh=True)

    @staticmethod
    def _plain(cells: list[str]) -> None:
        say("  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True)))

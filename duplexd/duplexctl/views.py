"""What people see of a status: plain text, and tables in colour where there is a terminal.

Rows are computed apart from how they are drawn. A screen has few lines, so volumes that are simply
DUPLEX are left out first: a thousand healthy pairs must not hide the one that failed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from duplexd.duplexctl import faults
from duplexd.duplexctl.narrow import cut_cell, fitted
from duplexd.duplexctl.output import put, writing
from duplexd.duplexctl.texts import age_text, copy_text, cut_text, group_text, listed, table_text
from duplexd.errors import UnreachableError, error_of
from duplexd.printable import joined, printable
from duplexd.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from duplexd.json_object import Json

    Row = tuple[str, ...]

COLUMNS: Row = ("VOLUME", "SIZE", "STATE", "REASON", "CLIENTS", "SECONDARY", "CHANGED", "COPY")
_NOT_SERVED = "NOT SERVED"  # in place of the state
_STYLES = {
    "DUPLEX": "green",
    "SUSPENDED": "yellow",
    "PENDING": "magenta",
    "SIMPLEX": "dim",
    "NOT": "bold red",
}
_LINES_MIN = 6  # of each controller, however many there are
_RESERVED_LINES = 6  # controller, header, what was left out, a blank line, the prompt


def on_terminal() -> bool:
    """Is the output for a person, in colour?"""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def screen_lines() -> int | None:
    """How many lines the reader has; None: no limit, as it is not a screen."""
    return shutil.get_terminal_size((80, 40)).lines if sys.stdout.isatty() else None


def screen_columns() -> int | None:
    """The width of the reader's terminal; None: no limit, as it is none."""
    return shutil.get_terminal_size((80, 40)).columns if sys.stdout.isatty() else None


def console(stderr: bool = False) -> Console:
    """Where to draw. With NO_COLOR nothing is bold either."""
    from rich.console import Console

    return Console(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto")


def secondary_text(volume: Json, form: int | None = None) -> str:
    """`form`: on a terminal, see `narrow`; it has the age of a cut, too."""
    secondary = volume.get("secondary")
    if not secondary:
        return "-"
    if not secondary.get("usable"):
        return "not usable"
    cut, at = secondary.get("cut"), f"at {secondary.get('as_of_sequence')}"
    if volume["state"] == "SUSPENDED":
        if form is None or not cut or cut.get("canary"):
            return cut_text(cut) or at
        verdict = cut_text({**cut, "tag": ""}).partition("cut ")[0]
        return cut_cell(verdict, cut["id"], cut.get("tag") or "", age_text(cut["time"]), form)
    if volume["state"] == "PENDING":  # a resync by map leaves its old point only at its end
        return f"{at}, not current"
    lag = secondary.get("lag_bytes") or 0
    if delay := secondary.get("delay"):
        back, wanted = format_duration(delay["back_s"]), format_duration(delay["wanted_s"])
        return f"back to {back} ago, delay {wanted}"
    return f"{format_size(lag)} behind" if lag else "current"


def volume_row(volume: Json, form: int | None = None) -> Row:
    state = volume["state"] if faults.served(volume) else _NOT_SERVED
    state += " held" if volume.get("held") else ""
    changed = volume.get("changed_bytes") or 0
    return (
        volume["name"],
        format_size(volume["size"]),
        state,
        volume.get("reason") or "-",
        str(volume.get("connections", 0)),
        secondary_text(volume, form),
        format_size(changed) if changed else "-",
        copy_text(volume.get("copy")),
    )


def remarkable(volume: Json) -> bool:
    """Is there more to say of it than that all is well?"""
    fault = faults.summary([volume]) or volume.get("swapped")
    return bool(volume["state"] != "DUPLEX" or volume.get("held") or volume.get("copy") or fault)


def _choose(volumes: list[Json], room: int) -> tuple[list[Json], list[str]]:
    """The volumes that get a row, and a sentence about the others.

    The unremarkable ones are left out first.
    """
    if len(volumes) <= room:
        return volumes, []
    shown = [volume for volume in volumes if remarkable(volume)]
    shown = sorted(shown, key=lambda volume: not faults.summary([volume]))[:room]
    names = {volume["name"] for volume in shown}
    counts = Counter(volume["state"] for volume in volumes if volume["name"] not in names)
    rest = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    count = f"{sum(counts.values())} of {len(volumes)} volumes not listed"
    return shown, [f"{count} ({rest}); name one, or use --all"]


def head_line(status: Json) -> str:
    controller = status["controller"]
    journal = controller["journal"]
    needed = journal.get("pinned_bytes")  # of a journal, most is used in good times, too
    needed = journal["used_bytes"] if needed is None else needed
    used = f"{format_size(needed)} of {format_size(journal['size_bytes'])}"
    if starting := controller.get("starting"):
        return f"STARTING: {starting['text']}: controller {controller['name']}, no volume is served"
    worst = faults.of_controller(controller)
    if not worst and (found := faults.summary(status["volumes"])):
        worst = f"DEGRADED: {found}: "
    return (
        f"{worst}controller {controller['name']}, sequence {controller['sequence']},"
        f" journal {used} from {journal['oldest_sequence']}"
    )


def fault_lines(status: Json, room: int) -> list[str]:
    return _fit(faults.lines(status["volumes"]), room, "faults")


def group_lines(status: Json, room: int) -> list[str]:
    lines = [
        f"group {group['name']}: {group.get('state') or '-'}: {listed(group['volumes'], 'volumes')}"
        for group in status["groups"]
    ]
    return _fit(lines, room, "groups")


def lease_lines(status: Json, room: int) -> list[str]:
    lines = [
        f"lease {lease['id']}: {len(lease.get('volumes', ()))} volumes held,"
        f" {lease.get('remaining_s') or 0:.1f} s left, owner {lease.get('owner')}"
        for lease in status["leases"]
    ]
    return _fit(lines, room, "leases")


def reader_lines(status: Json, room: int) -> list[str]:
    """Who keeps secondaries at their cuts."""
    lines = [
        f"{volume['name']}: read at its cut by {', '.join(each['name'] for each in readers)}"
        for volume in status["volumes"]
        if (readers := volume.get("readers"))
    ]
    return _fit(lines, room, "volumes that are read")


def _fit(lines: list[str], room: int, what: str) -> list[str]:
    return (
        lines
        if len(lines) <= room
        else [*lines[: room - 1], f"{len(lines) - room + 1} more {what}; use --all"]
    )


class View(Protocol):
    """What can be shown as plain text, and in colour."""

    def text(self) -> str: ...

    def renderable(self, watched: bool = False) -> RenderableType:
        """For rich.

        `watched`: a screen that can't be scrolled, whatever its size, loses volumes first.
        """


class ControllerView:
    """The status of one controller cut down to a screen of `lines` lines (None: whole)."""

    def __init__(
        self, status: Json, lines: int | None, width: int | None = None, details: bool = False
    ) -> None:
        """`width`: of a terminal; `details`: two lines more of each volume."""
        whole = lines is None
        lines = lines or 0
        self.head = head_line(status)
        self.tail = fault_lines(status, 1 << 30 if whole else max(2, lines // 3))
        self.tail += group_lines(status, 1 << 30 if whole else max(2, lines // 4))
        self.tail += lease_lines(status, 1 << 30 if whole else max(2, lines // 6))
        self.tail += reader_lines(status, 1 << 30 if whole else max(2, lines // 6))
        room = 1 << 30 if whole else max(1, lines - _RESERVED_LINES - len(self.tail))
        chosen, left_out = _choose(status["volumes"], room)
        self.columns, self.rows = COLUMNS, [volume_row(volume) for volume in chosen]
        if width is not None and chosen:
            self.columns, self.rows = fitted(
                COLUMNS, lambda form: [volume_row(volume, form) for volume in chosen], width
            )
        more = [line for volume in chosen for line in faults.details(volume)] if details else []
        self.tail = left_out + self.tail + more

    def text(self) -> str:
        return joined(
            [self.head, *(table_text(self.columns, self.rows) if self.rows else []), *self.tail]
        )

    def renderable(self, watched: bool = False) -> RenderableType:
        """See `View`."""
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            table.add_column(
                column,
                justify="right" if column in {"SIZE", "CHANGED", "CLIENTS"} else "left",
                no_wrap=watched or column != "SECONDARY",
            )
        state = self.columns.index("STATE")
        for row in self.rows:
            table.add_row(
                *(
                    line_of(
                        cell,
                        False,
                        _STYLES.get(cell.partition(" ")[0], "") if index == state else "",
                    )
                    for index, cell in enumerate(row)
                )
            )
        head, tables, tail = (
            line_of(self.head, watched, "bold"),
            [table] if self.rows else [],
            [line_of(line, watched) for line in self.tail],
        )
        return Group(head, *tail, *tables) if watched else Group(head, *tables, *tail)


class StatusView:
    """What a command answers, cut down to a screen of `lines` lines (None: whole).

    A table for each controller; then what is not there, and groups that span controllers: those of
    one daemon are in its own table.
    """

    def __init__(
        self,
        status: Json,
        lines: int | None,
        of_groups: bool,
        width: int | None = None,
        details: bool = False,
    ) -> None:
        count = max(1, len(status["controllers"]))
        groups = status["groups"] if of_groups else []
        room = lines
        if lines is not None and of_groups:
            room = max(_LINES_MIN, (lines - len(groups)) // count)
        self.views = [
            ControllerView(each, room, width, details) for each in status["controllers"].values()
        ]
        self.tail = [
            _absent_text(name, why, status["exit_codes"][name])
            for name, why in status["unreachable"].items()
        ]
        self.tail += [group_text(group) for group in groups]

    def text(self) -> str:
        tail = [joined(self.tail)] if self.tail else []
        return "\n\n".join([view.text() for view in self.views] + tail)

    def renderable(self, watched: bool = False) -> RenderableType:
        """See `View`."""
        from rich.console import Group

        tail = [line_of(line, watched) for line in self.tail]
        parts = [view.renderable(watched) for view in self.views]
        if not tail and len(parts) == 1:
            return parts[0]
        spaced = [each for part in parts for each in (part, line_of("", watched))]
        return Group(*tail, line_of("", watched), *spaced) if watched else Group(*spaced, *tail)


def _absent_text(controller: str, why: str, exit_code: int) -> str:
    """Why there is nothing to show of a controller."""
    title = error_of({"exit_code": exit_code}).title
    if exit_code == UnreachableError.exit_code:
        title = "not reachable"
    return f"controller {controller}: {title.upper()}: {why.removeprefix(f'{controller}: ')}"


def line_of(text: str, watched: bool, style: str = "") -> Text:
    """A line, for rich; one that is watched is cut off at the edge of the screen.

    It must not push others out at the bottom.
    """
    from rich.text import Text

    return Text(
        printable(text),
        style=style,
        no_wrap=watched or None,
        overflow="ellipsis" if watched else None,
    )


def show(view: View) -> None:
    """In colour where there is a terminal. Raises OutputError."""
    if not on_terminal():
        put(view.text())
        return
    shown = view.renderable()
    with writing():
        console().print(shown)

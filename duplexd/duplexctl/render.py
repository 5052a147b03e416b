"""What people see: plain text, and tables in colour where there is a terminal. Rows are computed apart from how they are drawn."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from duplexd.duplexctl.output import put, writing
from duplexd.errors import DuplexdError
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.text import Text

    Json = dict[str, Any]
    Row = tuple[str, ...]

COLUMNS: Row = ("VOLUME", "SIZE", "STATE", "REASON", "CLIENTS", "SECONDARY", "CHANGED", "COPY")
_STYLES = {"DUPLEX": "green", "SUSPENDED": "yellow", "PENDING": "magenta", "SIMPLEX": "dim"}
LISTED_MAX = 20  # volumes of a command of which each is told; of more, those that went wrong are, and the others counted
_RESERVED_LINES = 6  # controller, header, what was left out, a blank line, the prompt


def on_terminal() -> bool:
    """Is the output for a person, in colour?"""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def screen_lines() -> int | None:
    """How many lines the reader has; None: as many as there are, for it is no screen."""
    return shutil.get_terminal_size((80, 40)).lines if sys.stdout.isatty() else None


def console(stderr: bool = False) -> Console:
    """Where to draw. With NO_COLOR nothing is bold either."""
    from rich.console import Console

    return Console(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto")


def secondary_text(volume: Json) -> str:
    secondary = volume.get("secondary")
    if not secondary:
        return "-"
    if not secondary.get("usable"):
        return "not usable"
    if volume["state"] == "SUSPENDED":
        return cut_text(secondary.get("cut")) or f"at {secondary.get('as_of_sequence')}"
    lag = secondary.get("lag_bytes") or 0
    return f"{format_size(lag)} behind" if lag else "current"


def printable(text: str) -> str:
    """A tag may hold anything: nothing of it moves the cursor of whoever looks."""
    return "".join(character if character.isprintable() else "?" for character in text)


def cut_text(cut: Json | None) -> str:
    """`cut 9f2c.. (nightly)`; a cut that is void is never shown without that word."""
    if cut is None:
        return ""
    verdict = {"consistent": "", "void": "VOID ", None: "not yet durable, "}.get(
        cut["verdict"], f"{cut['verdict']} "
    )
    graded = graded_text([cut["canary"]] if cut.get("canary") else [])
    return (
        f"{verdict}cut {cut['id']}"
        + (f" ({printable(cut['tag'])})" if cut.get("tag") else "")
        + (f", canary: {graded}" if graded else "")
    )


def graded_text(grades: list[Json]) -> str:
    """What canaries found on the secondaries of a cut, in a word; nothing if none looked."""
    if not grades:
        return ""
    return "consistent" if all(grade["consistent"] for grade in grades) else "BROKEN"


def copy_text(copy: Json | None) -> str:
    """`42 % of 1.0 GiB, 12 s left`."""
    if not copy:
        return "-"
    total = copy.get("total_bytes") or 0
    text = f"{100 * copy['done_bytes'] // total if total else 100} % of {format_size(total)}"
    eta = copy.get("eta_s")
    return text if eta is None else f"{text}, {eta:.0f} s left"


def volume_row(volume: Json) -> Row:
    state = volume["state"] + (" held" if volume.get("held") else "")
    changed = volume.get("changed_bytes") or 0
    return (
        volume["name"],
        format_size(volume["size"]),
        state,
        volume.get("reason") or "-",
        str(volume.get("connections", 0)),
        secondary_text(volume),
        format_size(changed) if changed else "-",
        copy_text(volume.get("copy")),
    )


def remarkable(volume: Json) -> bool:
    """Is there more to say of it than that all is well?"""
    return bool(volume["state"] != "DUPLEX" or volume.get("held") or volume.get("copy"))


def _choose(volumes: list[Json], room: int) -> tuple[list[Json], list[str]]:
    """The volumes that get a row, and a sentence about the others: the unremarkable ones are left out first."""
    if len(volumes) <= room:
        return volumes, []
    shown = [volume for volume in volumes if remarkable(volume)][:room]
    names = {volume["name"] for volume in shown}
    counts = Counter(volume["state"] for volume in volumes if volume["name"] not in names)
    rest = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return shown, [
        f"{sum(counts.values())} of {len(volumes)} volumes not listed ({rest}); name one, or use --all"
    ]


def head_line(status: Json) -> str:
    controller = status["controller"]
    journal = controller["journal"]
    used = f"{format_size(journal['used_bytes'])} of {format_size(journal['size_bytes'])}"
    failed = f"FAILED: {controller['failed']}: " if controller.get("failed") else ""
    return f"{failed}controller {controller['name']}, sequence {controller['sequence']}, journal {used} from {journal['oldest_sequence']}"


def group_lines(status: Json, room: int) -> list[str]:
    lines = []
    for group in status["groups"]:
        members = group["volumes"]
        names = " ".join(members[:6]) + (
            f" ... ({len(members)} volumes)" if len(members) > 6 else ""
        )
        lines.append(f"group {group['name']}: {group.get('state') or '-'}: {names}")
    return _fit(lines, room, "groups")


def lease_lines(status: Json, room: int) -> list[str]:
    lines = [
        f"lease {lease['id']}: {len(lease.get('volumes', ()))} volumes held, {lease.get('remaining_s') or 0:.1f} s left, owner {lease.get('owner')}"
        for lease in status["leases"]
    ]
    return _fit(lines, room, "leases")


def _fit(lines: list[str], room: int, what: str) -> list[str]:
    return (
        lines
        if len(lines) <= room
        else [*lines[: room - 1], f"{len(lines) - room + 1} more {what}; use --all"]
    )


class View(Protocol):
    """What can be shown as plain text, and in colour."""

    def text(self) -> str: ...

    def renderable(self, watched: bool = False) -> Any:
        """For rich. `watched`: a screen that can't be scrolled, whatever its size, loses volumes first."""


class StatusView:
    """A status cut down to a screen of `lines` lines (None: whole)."""

    def __init__(self, status: Json, lines: int | None) -> None:
        whole = lines is None
        lines = lines or 0
        self.head = head_line(status)
        self.tail = group_lines(status, 1 << 30 if whole else max(2, lines // 4))
        self.tail += lease_lines(status, 1 << 30 if whole else max(2, lines // 6))
        room = 1 << 30 if whole else max(1, lines - _RESERVED_LINES - len(self.tail))
        chosen, left_out = _choose(status["volumes"], room)
        self.rows = [volume_row(volume) for volume in chosen]
        self.tail = left_out + self.tail

    def text(self) -> str:
        return "\n".join(
            [self.head, *(table_text(COLUMNS, self.rows) if self.rows else []), *self.tail]
        )

    def renderable(self, watched: bool = False) -> Any:
        """See `View`."""
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in COLUMNS:
            table.add_column(
                column,
                justify="right" if column in {"SIZE", "CHANGED", "CLIENTS"} else "left",
                no_wrap=watched or column != "REASON",
            )
        for row in self.rows:
            table.add_row(
                *(
                    line_of(cell, False, _STYLES.get(cell.split()[0], "") if index == 2 else "")
                    for index, cell in enumerate(row)
                )
            )
        head, tables, tail = (
            line_of(self.head, watched, "bold"),
            [table] if self.rows else [],
            [line_of(line, watched) for line in self.tail],
        )
        return Group(head, *tail, *tables) if watched else Group(head, *tables, *tail)


def line_of(text: str, watched: bool, style: str = "") -> Text:
    """A line, for rich; one that is watched is cut off at the edge of the screen: it must not push others out at the bottom."""
    from rich.text import Text

    return Text(
        text, style=style, no_wrap=watched or None, overflow="ellipsis" if watched else None
    )


def table_text(columns: Row, rows: Sequence[Row]) -> list[str]:
    """Columns in plain text."""
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [columns, *rows]
    ]


def show_status(status: Json, whole: bool) -> None:
    show(StatusView(status, None if whole else screen_lines()))


def show(view: View) -> None:
    """In colour where there is a terminal. Raises OutputError."""
    if not on_terminal():
        put(view.text())
        return
    shown = view.renderable()
    with writing():
        console().print(shown)


def suspended_text(result: Json) -> str:
    """One line about a cut."""
    places = ", ".join(f"{name} at {sequence}" for name, sequence in result["controllers"].items())
    hold = result["hold"]
    names = result["volumes"]
    what = " ".join(names[:6]) + (f" ... ({len(names)} volumes)" if len(names) > 6 else "")
    state = "already suspended" if result.get("already") else "suspended"
    tag = f", tag {result['tag']!r}" if result.get("tag") else ""
    pause = f"; writes waited {1000 * hold['seconds_max']:.1f} ms at most, {hold['writes_held']} were held"
    return f"{state} {what}: {result['verdict']}, cut {result['cut']} ({places}){tag}{'' if result.get('already') else pause}"


_HOW = {
    "journal": "resync by journal",
    "map": "resync by change map",
    "copy": "full copy",
    "already": "already DUPLEX or on its way",
}


def _volumes(count: int) -> str:
    return "1 volume" if count == 1 else f"{count} volumes"


def resync_text(result: Json) -> str:
    rows = result["volumes"]
    if len(rows) <= LISTED_MAX:
        return "\n".join(f"{row['name']}: {_HOW.get(row['how'], row['how'])}" for row in rows)
    counts = Counter(row["how"] for row in rows)
    return "\n".join(f"{_volumes(count)}: {_HOW.get(how, how)}" for how, count in counts.items())


def resync_done_text(row: Json) -> str:
    reason = f" ({row['reason']})" if row.get("reason") else ""
    return (
        f"{row['name']}: {row['state']}{reason}, {format_size(row.get('copied_bytes') or 0)} copied"
    )


def resync_done_texts(result: Json) -> str:
    rows = result["volumes"]
    if len(rows) <= LISTED_MAX:
        return "\n".join(map(resync_done_text, rows))
    failed = [row for row in rows if row["state"] != "DUPLEX"]
    copied = sum(row.get("copied_bytes") or 0 for row in rows if row["state"] == "DUPLEX")
    return "\n".join(
        [
            *map(resync_done_text, failed),
            f"{_volumes(len(rows) - len(failed))}: DUPLEX, {format_size(copied)} copied",
        ]
    )


def check_resynced(result: Json) -> None:
    """Raises DuplexdError if a resync that was waited for failed."""
    if not result["ok"]:
        failed = [row for row in result["volumes"] if row["state"] != "DUPLEX"]
        names = " ".join(row["name"] for row in failed)
        errors = "; ".join(dict.fromkeys(row["error"] for row in failed if row.get("error")))
        why = (
            f": {errors}; put that right and resync again"
            if errors
            else f"; `duplexctl status {names}` says why"
        )
        raise DuplexdError(f"not DUPLEX: {names}{why}")


def check_verified(result: Json) -> None:
    """Raises DuplexdError if legs differ."""
    if any(row.get("why") for row in result["volumes"]):
        raise DuplexdError(
            "an image is not where it is looked for: docs/operations.md, 'When something fails', says what mends that"
        )
    if not result["equal"]:
        raise DuplexdError(
            "the legs differ; suspend and resync does not mend this: docs/operations.md, 'Legs that differ', says what does"
        )


def verified_text(row: Json) -> str:
    compared = format_size(row.get("compared_bytes") or 0)
    if row["equal"]:
        return f"{row['name']}: the legs are equal ({compared} compared)"
    if row.get("why"):
        return f"{row['name']}: NOT EQUAL: {row['why']}"
    return f"{row['name']}: THE LEGS DIFFER, first at byte {row.get('first_difference')} ({compared} compared)"


def verified_texts(result: Json) -> str:
    """A line for each volume; if they are many, for those that are not equal, and one about the others."""
    rows = result["volumes"]
    if len(rows) <= LISTED_MAX:
        return "\n".join(map(verified_text, rows))
    equal = [row for row in rows if row["equal"]]
    compared = format_size(sum(row.get("compared_bytes") or 0 for row in equal))
    return "\n".join(
        [verified_text(row) for row in rows if not row["equal"]]
        + [f"{_volumes(len(equal))}: the legs are equal ({compared} compared)"]
    )


def event_text(event: Json) -> str:
    """One line about an event, with whatever it has."""
    if event["event"] == "state":
        return head_line(event["status"])
    fields = {
        key: value
        for key, value in event.items()
        if key not in {"event", "time", "volumes"} and value is not None
    }
    volumes = event.get("volumes") or []
    if volumes:
        fields["volumes"] = ",".join(map(str, volumes[:6])) + (
            f",... ({len(volumes)})" if len(volumes) > 6 else ""
        )
    return " ".join(
        [
            _clock(event.get("time")),
            event["event"],
            *(f"{key}={value}" for key, value in fields.items()),
        ]
    ).strip()


def _clock(moment: object) -> str:
    if isinstance(moment, int | float):
        from datetime import UTC, datetime

        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return str(moment or "")

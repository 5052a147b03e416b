"""What people see of groups over several controllers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.duplexctl.render import StatusView, graded_text, line_of, printable, table_text
from duplexd.errors import UnreachableError, error_of

if TYPE_CHECKING:
    from duplexd.client import Cut, Cuts, Suspended

    Json = dict[str, Any]

_LISTED = 6
_TAG_CHARACTERS = 24
_MILLISECONDS = 1000


def suspended_text(result: Suspended) -> str:
    """A line about the cut, one about each controller, one about how long writes waited. Void is never called otherwise."""
    names = result.volumes
    what = " ".join(names[:_LISTED]) + (
        f" ... ({len(names)} volumes)" if len(names) > _LISTED else ""
    )
    state = "already suspended" if result.already else "suspended"
    tag = f", tag {result.tag!r}" if result.tag else ""
    lines = [
        f"{state} {result.group}: {result.verdict}, cut {result.cut}{tag}: {what or 'no volumes'}"
    ]
    lines += [f"  {name} at {sequence}" for name, sequence in result.controllers.items()]
    if not result.already:
        lines.append("  " + _hold_text(result))
    if result.left:
        lines.append(f"  NOT there any more: {' '.join(result.left)}")
    if result.untold:
        lines.append(
            f"  {' and '.join(result.untold)} could not be told yet: `duplexctl settle {result.group}`"
        )
    return "\n".join(lines)


def _hold_text(result: Suspended) -> str:
    hold = result.hold
    waits = ", ".join(
        f"{name} {_MILLISECONDS * value:.1f} ms"
        for name, value in (("max", hold.seconds_max), ("p50", hold.p50_s), ("p99", hold.p99_s))
    )
    limit = "within" if hold.within_limit else "OVER"
    return f"writes waited {waits}; {hold.writes_held} were held; {limit} the limit of {hold.hold_max_s:g} s"


def verdict_text(verdict: str | None) -> str:
    """`consistent`, `VOID` or `undecided`."""
    return {"void": "VOID", None: "undecided"}.get(verdict, str(verdict))


def settled_text(cut: Cut) -> str:
    """One line about a cut and its members."""
    states = ", ".join(
        f"{name}: {state or ('not cut' if state == '' else 'not known')}"
        for name, state in cut.states.items()
    )
    return f"cut {cut.cut}: {verdict_text(cut.verdict)} ({states})"


def released_text(lease: str, released: bool) -> str:
    """One line about a hold."""
    return f"lease {lease}: " + ("released" if released else "had ended already")


def cuts_text(cuts: Cuts) -> str:
    """A table, newest last."""
    rows = [
        (
            _clock(cut.time),
            cut.cut,
            verdict_text(cut.verdict),
            printable(cut.group) or "-",
            _short(printable(cut.tag)) or "-",
            graded_text(list(cut.canary.values())) or "-",
            " ".join(f"{name}@{sequence}" for name, sequence in cut.controllers.items()),
        )
        for cut in cuts.cuts
    ]
    return (
        "\n".join(
            table_text(("TIME", "CUT", "VERDICT", "GROUP", "TAG", "CANARY", "CONTROLLERS"), rows)
        )
        if rows
        else "no cuts"
    )


def _short(text: str) -> str:
    return text if len(text) <= _TAG_CHARACTERS else text[: _TAG_CHARACTERS - 3] + "..."


def _clock(moment: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def group_text(group: Json) -> str:
    """`group db: SUSPENDED: consistent, cut 9f2c..: alpha:data beta:wal`."""
    members = group["members"]
    names = " ".join(members[:_LISTED]) + (
        f" ... ({len(members)} members)" if len(members) > _LISTED else ""
    )
    verdict = ""
    if group["state"] == "SUSPENDED":
        verdict = f" {verdict_text(group['verdict'])}, cut {group['cut']}:"
    elif group["verdict"] is not None:
        verdict = f" {verdict_text(group['verdict'])}, not at one cut:"
    missing = f" (not there: {' '.join(group['missing'])})" if group.get("missing") else ""
    return f"group {group['name']}: {group['state']}:{verdict} {names}{missing}"


def _absent_text(controller: str, why: str, exit_code: int) -> str:
    """Why there is nothing to show of a controller."""
    title = (
        "not reachable"
        if exit_code == UnreachableError.exit_code
        else error_of({"exit_code": exit_code}).title
    )
    return f"controller {controller}: {title.upper()}: {why.removeprefix(f'{controller}: ')}"


def with_controller(controller: str, line: Json) -> Json:
    """A line of a stream with its volumes named `controller:volume`."""
    return line | {
        "volumes": [row | {"name": f"{controller}:{row['name']}"} for row in line["volumes"]]
    }


class GroupsView:
    """A status of several controllers cut down to a screen of `lines` lines (None: whole)."""

    def __init__(self, status: Json, lines: int | None) -> None:
        count = max(1, len(status["controllers"]))
        room = None if lines is None else max(_LISTED, (lines - len(status["groups"])) // count)
        self.views = [StatusView(each, room) for each in status["controllers"].values()]
        self.tail = [
            _absent_text(name, why, status["exit_codes"][name])
            for name, why in status["unreachable"].items()
        ]
        self.tail += [group_text(group) for group in status["groups"]]

    def text(self) -> str:
        return "\n\n".join(
            [view.text() for view in self.views] + (["\n".join(self.tail)] if self.tail else [])
        )

    def renderable(self, watched: bool = False) -> Any:
        """See `View`."""
        from rich.console import Group

        parts = [
            part for view in self.views for part in (view.renderable(watched), line_of("", watched))
        ]
        tail = [line_of(line, watched) for line in self.tail]
        return Group(*tail, line_of("", watched), *parts) if watched else Group(*parts, *tail)

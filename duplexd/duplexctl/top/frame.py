"""A whole screen: what goes where, and what gives way on a small one. Pure.

From the top: the controller, whether it is well, what is not, the rows or the details of what is
open, the latest cuts, the keys. Room is given in the order of what an operator must not miss: first
one line of health, then rows, then more health, then cuts. What is selected is always on it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from duplexd.duplexctl.texts import group_text
from duplexd.duplexctl.top import details, listing
from duplexd.duplexctl.top.lines import Span, cut, line, text_of, wrapped
from duplexd.duplexctl.top.overview import ERROR
from duplexd.duplexctl.top.position import GROUP, VOLUME, Item, marked
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.duplexctl.top.lines import Line
    from duplexd.duplexctl.top.overview import Alert, Cut, GroupRow, Overview
    from duplexd.duplexctl.top.position import Position

WHOLE = 1 << 16  # lines, or columns, where there is no screen to fit
_CUTS_MAX = 5
_ALERT_LINES_MAX = 3  # of one alert
_HELP = (
    "up, down, j, k     select a volume or a group; scroll the details of a volume",
    "Page Up, Page Down, Home, End",
    "Enter              open it",
    "Esc, b             back",
    "s                  sort by health, name, requests, latency (p99), lag",
    "q, ctrl-C          quit",
    "",
    "READ99, WRITE99    99 of 100 requests took at most this long",
    "READ B, WRITE B    bytes a second, in units of 1024",
    "LAST CUT           the age of the last consistent cut",
    "AT IT              volumes whose secondaries are at that cut",
    "Rates are those between the last two looks. Any key goes back.",
)


class _Body(NamedTuple):
    """What is open. `fixed` lines stay, `moving` ones scroll so that `at` is among those shown;
    `items` can be selected.
    """

    title: str
    alerts: Sequence[Alert]
    fixed: Sequence[Line]
    moving: Sequence[Line]
    at: int
    items: int
    cuts: Sequence[Cut]


def frame(seen: Overview, position: Position, width: int, height: int) -> list[Line]:
    """At most `height` lines of at most `width` columns."""
    if position.helping:
        body = _Body("keys", (), (), [line(each) for each in _HELP], 0, 0, ())
    else:
        body = _body(seen, position, width, height < WHOLE)
    top = [_title(seen, body.title, width), *_verdict(seen, width)]
    keys = [_keys(position, body)] if height < WHOLE else []
    room = max(0, height - len(top) - len(keys))
    alerts = _alerts(body.alerts, width, room - len(body.fixed) - 1)
    cuts = _cuts(body.cuts, width, room - len(alerts) - len(body.fixed) - len(body.moving))
    left = max(0, room - len(alerts) - len(cuts) - len(body.fixed))
    moving = list(body.moving[_first(body, left) :][:left])
    shown = [*top, *alerts, *body.fixed, *moving, *cuts]
    if keys:
        shown = [*shown[: max(0, height - 1)], *[line("")] * (height - 1 - len(shown)), *keys]
    return [cut(each, width) for each in shown[:height]]


def plain(seen: Overview, position: Position, width: int = WHOLE) -> list[str]:
    """The same as text, without an end at the bottom."""
    return [text_of(each).rstrip() for each in frame(seen, position, width, WHOLE)]


# -------------------------------------------------------------------------------- top and bottom


def _title(seen: Overview, title: str, width: int) -> Line:
    name = f"duplexd {seen.controller}" + (f" > {title}" if title else "")
    right = _clock(seen.time)
    if seen.journal_bytes is not None:
        pinned = seen.journal_pinned_bytes
        used = "" if pinned is None else f"{format_size(pinned)} of "
        right = f"number {seen.sequence}  journal {used}{format_size(seen.journal_bytes)}  {right}"
    if len(name) + len(right) + 2 > width:
        right = _clock(seen.time)
    gap = max(2, (80 if width == WHOLE else width) - len(name) - len(right))
    return (Span(name, "strong"), Span(" " * gap + right, "dim"))


def _clock(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


def _verdict(seen: Overview, width: int) -> list[Line]:
    """Whether all is well, in one line; why the daemon does not answer, in up to three."""
    if seen.silent:
        lines = wrapped(f"{seen.silent}; this is as of {_clock(seen.time)}", width, 3)
        return [line(each, "error") for each in lines]
    count = f"{len(seen.volumes)} volume{'' if len(seen.volumes) == 1 else 's'}"
    errors = sum(alert.severity == ERROR for alert in seen.alerts)
    missing = [line(each, "warning") for each in seen.missing]
    if seen.alerts:
        counts = [(errors, "error"), (len(seen.alerts) - errors, "warning")]
        texts = [f"{n} {name}{'' if n == 1 else 's'}" for n, name in counts if n]
        style = "error" if errors else "warning"
        return [line(f"NOT WELL: {', '.join(texts)}, {count}", style), *missing]
    if seen.well:
        return [line(f"well: {count}", "good"), *missing]
    return [line(f"HEALTH NOT KNOWN, {count}", "warning"), *missing]


def _keys(position: Position, body: _Body) -> Line:
    if position.helping:
        return line("any key: back", "bar")
    back = "Esc back  " if position.trail else ""
    select = f"up/down select  Enter open  s sort ({position.sort})  " if body.items else ""
    scroll = "" if body.items else "up/down scroll  "
    return line(f"{back}{select}{scroll}? help  q quit ", "bar")


# ------------------------------------------------------------------------------------------ body


def _body(seen: Overview, position: Position, width: int, marking: bool) -> _Body:
    at = position.at
    if at is None:
        return _rows(seen, position, width, marking, seen.alerts, seen.groups)
    if at.kind == GROUP:
        group = seen.group(at.name)
        if group is None:
            return _gone(at)
        alerts = [each for each in seen.alerts if each.volume in {*group.volumes, ""}]
        return _rows(seen, position, width, marking, alerts, (), group)
    row = seen.volume(at.name)
    if row is None:
        return _gone(at)
    alerts = [each for each in seen.alerts if each.volume in {row.name, ""}]
    lines = details.lines(seen, row, width)
    scrolled = min(position.scrolled, len(lines) - 1)
    return _Body(f"{VOLUME} {at.name}", alerts, (), lines[scrolled:], 0, 0, ())


def _gone(at: Item) -> _Body:
    text = f"there is no {at.kind} {at.name} any more"
    return _Body(f"{at.kind} {at.name}", (), (), [line(text, "warning")], 0, 0, ())


def _rows(
    seen: Overview,
    position: Position,
    width: int,
    marking: bool,
    alerts: Sequence[Alert],
    groups: Sequence[GroupRow],
    group: GroupRow | None = None,
) -> _Body:
    rows = listing.shown_volumes(seen, position)
    items = listing.items(seen, position)
    head, lines = listing.volumes(rows, seen.trusted, width)
    fixed, moving = [head], list(lines)
    if group is not None:
        told = {"name": group.name, "state": group.state, "cut": group.cut}
        said = group_text({**told, "verdict": group.verdict, "members": group.volumes})
        fixed.insert(0, line(said, "" if group.state == "DUPLEX" else "warning"))
    at = marked(position, items)
    if groups:
        group_head, group_lines = listing.groups(groups, width)
        if at >= len(lines):
            at += 1  # the head of the groups is no item
        moving += [group_head, *group_lines]
    if items and marking:
        moving[at] = _marked(moving[at])
    name = group.name if group is not None else ""
    title, cuts = f"group {name}" if name else "", seen.cuts_made_of(name)
    return _Body(title, alerts, fixed, moving, at, len(items), cuts)


def _marked(spans: Line) -> Line:
    """The row that is selected: by a sign, too, for terminals without colour."""
    first, *rest = spans
    sign = Span(">" + first.text[1:], "marked")
    return (sign, *(Span(each.text, f"{each.style} marked") for each in rest))


def _first(body: _Body, room: int) -> int:
    """The first of the moving lines that is shown: the selected one is in the middle, if it can."""
    return max(0, min(body.at - room // 2, len(body.moving) - room))


def _alerts(alerts: Sequence[Alert], width: int, room: int) -> list[Line]:
    """Up to a third of the room; how many more there are, if there are."""
    most = max(1, room // 3) if room > 0 else 0
    lines: list[Line] = []
    for number, alert in enumerate(alerts):
        where = f"{alert.volume}: " if alert.volume else ""
        style = "error" if alert.severity == ERROR else "warning"
        texts = wrapped(f"{alert.severity.upper()}: {where}{alert.text}", width, _ALERT_LINES_MAX)
        left = len(alerts) - number
        if len(lines) + len(texts) > most - (left > 1):
            texts = texts[: max(0, most - len(lines))] if left == 1 else []
            more = f"{left} more; `duplexctl health` lists them"
            return [*lines, *(line(each, style) for each in texts or [more])][:most]
        lines += [line(each, style) for each in texts]
    return lines


def _cuts(cuts: Sequence[Cut], width: int, room: int) -> list[Line]:
    """The latest, if there is room for a head and one of them beside all that is more urgent."""
    most = min(_CUTS_MAX, room - 2)
    if most < 1 or not cuts:
        return []
    head, rows = listing.cuts(cuts[:most], width)
    return [line(""), head, *rows]

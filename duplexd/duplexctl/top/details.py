"""All that there is to say of one volume and its pair, as lines that may be more than a screen has.
Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.drill_record import FAILED
from duplexd.duplexctl import faults
from duplexd.duplexctl.texts import cut_text
from duplexd.duplexctl.top import listing, words
from duplexd.duplexctl.top.lines import Column, Span, line, table
from duplexd.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.duplexctl.top.lines import Line
    from duplexd.duplexctl.top.overview import Overview, VolumeRow
    from duplexd.json_object import Json

_OPERATIONS = (
    Column("OPERATION", 0, right=False),
    Column("REQUESTS/s", 0),
    Column("BYTES/s", 1),
    Column("MEAN", 2),
    Column("P50", 3),
    Column("P99", 1),
)
_BAR_WIDTH = 32
CUTS_MAX = 8
_ROLES = ("primary", "secondary")


def lines(seen: Overview, row: VolumeRow, width: int) -> list[Line]:
    """The screen of a volume, without its frame."""
    return [*_state(seen, row), *_images(row), *_work(row, width), *_cuts(seen, row, width)]


def _state(seen: Overview, row: VolumeRow) -> Iterator[Line]:
    reason = f" {row.reason}" if row.reason else ""
    yield (
        Span(words.state_text(row), listing.state_style(row, seen.trusted)),
        Span(f"{reason}, {format_size(row.size)}, mode {row.details.get('mode') or '-'},"),
        Span(f" {row.clients} client{'' if row.clients == 1 else 's'}"),
    )
    if row.copy is not None:
        yield line(f"copy {words.bar(row.copy.part, _BAR_WIDTH)} {_copied(row)}", "warning")


def _copied(row: VolumeRow) -> str:
    if row.copy is None:
        return ""
    left = f", {row.copy.left_s:.0f} s left" if row.copy.left_s is not None else ""
    return f"{words.percent(row.copy.part)} of {format_size(row.copy.total_bytes)}{left}"


def _images(row: VolumeRow) -> Iterator[Line]:
    for role in _ROLES:
        leg = row.details.get(role) or {}
        if not leg:
            continue
        yield line(f"{role} {leg.get('path') or '-'}")
        if why := faults.leg_error(row.details, role):
            yield line(f"  {why}", "error")
    if row.details.get("secondary"):
        yield from _secondary(row, row.details["secondary"])


def _secondary(row: VolumeRow, secondary: Json) -> Iterator[Line]:
    if not row.usable:
        yield line("  not usable: it is not a copy of any point in time", "error")
        return
    behind = f", {words.lag_text(row)} behind" if row.lag_bytes else ""
    yield line(f"  as of number {secondary.get('as_of_sequence')}{behind}")
    if row.cut is not None:
        style = listing.verdict_style(row.cut.verdict)
        yield line(f"  {cut_text(secondary['cut'])}, {format_duration(row.cut.age_s)} old", style)
    if row.changed_bytes:
        yield line(f"  {format_size(row.changed_bytes)} to copy in a resync by change map")
    age = "not known" if row.cut_age_s is None else f"{format_duration(row.cut_age_s)} ago"
    yield line(f"  last consistent cut: {age}")
    failed = (row.details.get("last_drill") or {}).get("outcome") == FAILED
    yield line(f"  last drill: {row.drill}", "warning" if failed else "")


def _work(row: VolumeRow, width: int) -> Iterator[Line]:
    yield line("")
    names = {"read": None, "write": None} | dict.fromkeys(row.operations)
    head, rows = table(_OPERATIONS, [_operation(row, name) for name in names], width)
    yield from (head, *rows)
    if row.errors:
        yield line(f"  {row.errors:.0f} requests answered with an error since the start", "warning")


def _operation(row: VolumeRow, name: str) -> list[Span]:
    rate = row.rate(name)
    return [
        Span(name),
        Span(words.count_text(rate.requests_s)),
        Span(words.size_text(rate.bytes_s)),
        Span(words.time_text(rate.mean_s)),
        Span(words.time_text(rate.p50_s, rate.above_s)),
        Span(words.p99_text(rate)),
    ]


def _cuts(seen: Overview, row: VolumeRow, width: int) -> Iterator[Line]:
    of_it = seen.cuts_made_of(row.name)[:CUTS_MAX]
    if of_it:
        head, rows = listing.cuts(of_it, width)
        yield from (line(""), head, *rows)

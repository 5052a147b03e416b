"""The tables of volumes, groups and cuts, and the order of their rows. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.duplexctl import faults
from duplexd.duplexctl.texts import verdict_text
from duplexd.duplexctl.top import words
from duplexd.duplexctl.top.lines import Column, Span, fit, table
from duplexd.duplexctl.top.overview import ERROR, WARNING, rank
from duplexd.duplexctl.top.position import GROUP, VOLUME, Item
from duplexd.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.duplexctl.top.lines import Line
    from duplexd.duplexctl.top.overview import Cut, GroupRow, Overview, VolumeRow
    from duplexd.duplexctl.top.position import Position

    Head = tuple[Line, list[Line]]

_VOLUMES = (
    Column("VOLUME", 0, right=False),
    Column("STATE", 0, right=False),
    Column("READ/s", 2),
    Column("WRITE/s", 1),
    Column("READ B", 6),
    Column("WRITE B", 5),
    Column("READ99", 4),
    Column("WRITE99", 3),
    Column("SECONDARY", 1, right=False),
    Column("LAST CUT", 7, idle=words.UNKNOWN),
)
_GROUPS = (
    Column("GROUP", 0, right=False),
    Column("STATE", 0, right=False),
    Column("VERDICT", 1, right=False, idle=words.UNKNOWN),
    Column("CUT", 3, right=False, idle=words.UNKNOWN),
    Column("VOLUMES", 5, right=False),
)
_CUTS = (
    Column("CUT", 0, right=False),
    Column("VERDICT", 0, right=False),
    Column("AGE", 0),
    Column("TAG", 1, right=False, idle=words.UNKNOWN),
    Column("AT IT", 5, right=False, idle=words.UNKNOWN),
)
_TAG_CHARACTERS_MAX = 24
_NAMES_CHARACTERS_MAX = 32
_SEVERE = {ERROR: "error", WARNING: "warning"}


def _slowest(row: VolumeRow) -> float:
    return max((rate.p99_s or 0.0 for rate in row.operations.values()), default=0.0)


def _requests(row: VolumeRow) -> float:
    return sum(rate.requests_s or 0.0 for rate in row.operations.values())


_ORDERS: dict[str, Callable[[VolumeRow], tuple[float, ...]]] = {
    "health": lambda row: (
        rank(row.severity),
        not faults.summary([row.details]),  # before what a whole machine has, as one file system
        row.state == "DUPLEX",
    ),
    "name": lambda _row: (),
    "requests": lambda row: (-_requests(row),),
    "latency": lambda row: (-_slowest(row),),
    "lag": lambda row: (-row.lag_bytes, -(row.lag_s or 0.0)),
}


def shown_volumes(seen: Overview, position: Position) -> list[VolumeRow]:
    """Those of the group that is open, or all; in the order that was chosen, then by name."""
    rows: Iterable[VolumeRow] = seen.volumes
    if position.at is not None and position.at.kind == GROUP:
        group = seen.group(position.at.name)
        names = set(group.volumes) if group else set()
        rows = [row for row in rows if row.name in names]
    order = _ORDERS[position.sort]
    return sorted(rows, key=lambda row: (*order(row), row.name))


def items(seen: Overview, position: Position) -> list[Item]:
    """What can be selected: volumes, then groups; nothing beside the details of a volume."""
    at = position.at
    if at is not None and at.kind == VOLUME:
        return []
    found = [Item(VOLUME, row.name) for row in shown_volumes(seen, position)]
    return found + [Item(GROUP, row.name) for row in seen.groups] if at is None else found


def state_style(row: VolumeRow, trusted: bool) -> str:
    """Green is DUPLEX alone, if health was asked and has nothing to say against it."""
    if not row.served:
        return "error"
    if row.severity:
        return _SEVERE[row.severity]
    if row.state == "DUPLEX":
        return "good" if trusted and row.usable and not row.held else ""
    return "dim" if row.state == "SIMPLEX" else "warning"


def verdict_style(verdict: str | None) -> str:
    """Never green: a cut that is consistent may be too old to be worth anything."""
    return {"void": "error", None: "warning"}.get(verdict, "")


def volumes(rows: Sequence[VolumeRow], trusted: bool, width: int) -> Head:
    """Head and rows."""
    return table(_VOLUMES, [_volume(row, trusted) for row in rows], width)


def _volume(row: VolumeRow, trusted: bool) -> list[Span]:
    read, write = row.rate("read"), row.rate("write")
    behind = verdict_style(row.cut.verdict) if row.cut is not None and not row.copy else ""
    age = words.UNKNOWN if row.cut_age_s is None else format_duration(row.cut_age_s)
    return [
        Span(row.name),
        Span(words.state_text(row), state_style(row, trusted)),
        Span(words.count_text(read.requests_s)),
        Span(words.count_text(write.requests_s)),
        Span(words.size_text(read.bytes_s)),
        Span(words.size_text(write.bytes_s)),
        Span(words.p99_text(read)),
        Span(words.p99_text(write)),
        Span(words.secondary_text(row), behind),
        Span(age),
    ]


def groups(rows: Sequence[GroupRow], width: int) -> Head:
    """Head and rows."""
    return table(_GROUPS, [_group(row) for row in rows], width)


def _group(row: GroupRow) -> list[Span]:
    suspended = row.state == "SUSPENDED"
    known = suspended or row.verdict is not None
    state = _SEVERE.get(row.severity, "warning" if row.state != "DUPLEX" else "")
    return [
        Span(row.name),
        Span(row.state, state),
        Span(
            verdict_text(row.verdict) if known else words.UNKNOWN,
            verdict_style(row.verdict) if known else "",
        ),
        Span(row.cut or words.UNKNOWN),
        Span(_names(row.volumes)),
    ]


def cuts(rows: Sequence[Cut], width: int) -> Head:
    """Head and rows."""
    return table(_CUTS, [_cut(row) for row in rows], width)


def _cut(row: Cut) -> list[Span]:
    return [
        Span(row.id),
        Span(verdict_text(row.verdict), verdict_style(row.verdict)),
        Span(format_duration(row.age_s)),
        Span(_short(row.tag, _TAG_CHARACTERS_MAX) or words.UNKNOWN),
        Span(_names(row.volumes)),
    ]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else fit(text, most).rstrip()


def _names(names: Sequence[str]) -> str:
    return _short(" ".join(names), _NAMES_CHARACTERS_MAX) or words.UNKNOWN

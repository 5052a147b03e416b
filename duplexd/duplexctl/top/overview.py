"""What there is to see: rows of volumes, groups and cuts, and what is not well. Pure.

It is made of two moments (one, if rates do not matter yet) and of what keeps the daemon from
answering, if anything does. `trusted` decides about green: it is false as soon as the daemon does
not answer, or its health is not known, or something is wrong with the whole controller.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from duplexd.duplexctl import faults
from duplexd.duplexctl.texts import drill_text
from duplexd.duplexctl.top.figures import Figures
from duplexd.duplexctl.top.rates import NO_RATES, rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.duplexctl.top.moment import Moment
    from duplexd.duplexctl.top.rates import Rate, Rates
    from duplexd.json_object import Json

_NO_FIGURES = Figures()
ERROR, WARNING = "error", "warning"
_RANK = {ERROR: 0, WARNING: 1, "": 2}


class Alert(NamedTuple):
    """A line of health. `volume` is empty for the controller."""

    severity: str
    volume: str
    text: str


class Cut(NamedTuple):
    """`verdict`: consistent, void, or None while it is not settled."""

    id: str
    verdict: str | None
    tag: str
    age_s: float
    group: str = ""
    volumes: tuple[str, ...] = ()  # whose secondaries are at it


class Copy(NamedTuple):
    """`part`: between 0 and 1."""

    part: float
    total_bytes: int
    left_s: float | None


class VolumeRow(NamedTuple):
    """A volume. `severity`: of the worst thing that health says of it, or of the controller."""

    name: str
    size: int
    state: str
    reason: str
    severity: str
    served: bool
    held: bool
    clients: int
    usable: bool  # the secondary; False if there is none
    lag_bytes: int
    lag_s: float | None
    changed_bytes: int
    cut: Cut | None  # that its secondary is at
    cut_age_s: float | None  # of the last consistent one
    drill: str  # how the last one ended, in words
    copy: Copy | None
    operations: Mapping[str, Rate]
    other: Rate  # of operations that are not in that
    errors: float | None  # requests answered with an error since the daemon's start
    details: Json  # its row of the status

    def rate(self, operation: str) -> Rate:
        """Of one operation."""
        return self.operations.get(operation, self.other)


class GroupRow(NamedTuple):
    """A group. `verdict`: of the cut that all of it is at."""

    name: str
    volumes: tuple[str, ...]
    state: str
    severity: str
    cut: str | None
    verdict: str | None


class Overview(NamedTuple):
    """All of it. `sequence` and the journal are those of the controller if it is one. `silent`: why
    the daemon does not answer, and since when in seconds; the figures are then the last ones.
    """

    controller: str  # the name; of several with commas
    sequence: int | None
    journal_bytes: int | None
    journal_pinned_bytes: int | None
    time: float
    alerts: tuple[Alert, ...]
    volumes: tuple[VolumeRow, ...]
    groups: tuple[GroupRow, ...]
    cuts: tuple[Cut, ...]  # newest first
    cuts_of: str  # see `cuts_made_of`
    missing: tuple[str, ...]
    silent: str
    trusted: bool

    @property
    def well(self) -> bool | None:
        """Whether nothing is wrong; None if nobody can say."""
        if self.alerts:
            return False
        return True if self.trusted else None

    def cuts_made_of(self, name: str) -> tuple[Cut, ...]:
        """Those of a volume or a group, or of all if the name is empty; none until they came."""
        return self.cuts if self.cuts_of == name else ()

    def volume(self, name: str) -> VolumeRow | None:
        return next((row for row in self.volumes if row.name == name), None)

    def group(self, name: str) -> GroupRow | None:
        return next((row for row in self.groups if row.name == name), None)


def overview(before: Moment | None, now: Moment, silent: str, time: float) -> Overview:
    """`time`: seconds since 1970, now; that of the moment may lie back."""
    status = now.status
    several = len(status["controllers"]) + len(status["unreachable"]) > 1
    alerts = tuple(_alert(each, several) for each in now.findings or ())
    wholly = any(not alert.volume for alert in alerts)
    worst = _worst(alerts)
    known, at_it = _Known(before, now), _at_it(status["volumes"])
    controller = status["controller"] or {}
    journal = controller.get("journal") or {}
    groups = tuple(_group(row, worst) for row in status["groups"])
    return Overview(
        controller=", ".join(each["controller"]["name"] for each in status["controllers"].values()),
        sequence=controller.get("sequence"),
        journal_bytes=journal.get("size_bytes"),
        journal_pinned_bytes=journal.get("pinned_bytes"),
        time=now.time,
        alerts=alerts,
        volumes=tuple(_volume(row, worst, known, time) for row in status["volumes"]),
        groups=groups,
        cuts=tuple(_cut(cut, time, at_it.get(cut["id"], ())) for cut in now.cuts),
        cuts_of=now.cuts_of,
        missing=tuple(now.missing),
        silent=silent,
        trusted=not silent and now.findings is not None and not wholly,
    )


class _Known:
    """The figures of all controllers, by volume."""

    def __init__(self, before: Moment | None, now: Moment) -> None:
        seconds = now.at - before.at if before else 0.0
        old = before.figures if before else {}
        self._figures = now.figures
        self._rates = {
            prefix: rates(old.get(prefix), figures, seconds)
            for prefix, figures in now.figures.items()
        }

    def of(self, row: Json) -> tuple[Rates, Figures]:
        """Those of the controller of a volume."""
        prefix = "" if "" in self._rates else f"{row['controller']}:"
        return self._rates.get(prefix, NO_RATES), self._figures.get(prefix, _NO_FIGURES)


def _alert(finding: Json, several: bool) -> Alert:
    """Of several controllers, one that is meant as a whole is named."""
    whose = f"{finding['controller']}: " if several and not finding["volume"] else ""
    return Alert(finding["severity"], finding["volume"], whose + finding["text"])


def _at_it(volumes: Sequence[Json]) -> dict[str, tuple[str, ...]]:
    """By cut, whose secondaries are at it."""
    found: dict[str, tuple[str, ...]] = {}
    for row in volumes:
        cut = (row.get("secondary") or {}).get("cut")
        if cut and row["state"] == "SUSPENDED":
            found[cut["id"]] = (*found.get(cut["id"], ()), row["name"])
    return found


def _worst(alerts: tuple[Alert, ...]) -> dict[str, str]:
    """The severity of the worst thing said of each volume; errors come first."""
    worst: dict[str, str] = {}
    for alert in sorted(alerts, key=lambda alert: _RANK[alert.severity]):
        worst.setdefault(alert.volume, alert.severity)
    return worst


def rank(severity: str) -> int:
    """For sorting: the worst first."""
    return _RANK[severity]


def _volume(row: Json, worst: Mapping[str, str], known: _Known, time: float) -> VolumeRow:
    name, secondary = row["name"], row.get("secondary") or {}
    done, figures = known.of(row)
    cut_time = _number(row.get("consistent_cut_time"))
    cut = secondary.get("cut") if row["state"] == "SUSPENDED" else None
    return VolumeRow(
        name=name,
        size=row["size"],
        state=row["state"],
        reason=row.get("reason") or "",
        severity=worst.get(name) or (ERROR if faults.summary([row]) else ""),
        served=faults.served(row),
        held=bool(row.get("held")),
        clients=row.get("connections") or 0,
        usable=bool(secondary.get("usable")),
        lag_bytes=secondary.get("lag_bytes") or 0,
        lag_s=_number(figures.lag_seconds.get(name)),
        changed_bytes=row.get("changed_bytes") or 0,
        cut=_cut(cut, time) if cut else None,
        cut_age_s=None if cut_time is None else time - cut_time,
        drill=drill_text(row.get("last_drill"), time),
        copy=_copy(row.get("copy")),
        operations=done.of.get(name, {}),
        other=done.other,
        errors=_number(figures.errors.get(name)),
        details=row,
    )


def _group(row: Json, worst: Mapping[str, str]) -> GroupRow:
    found = {worst[name] for name in row["volumes"] if name in worst}
    return GroupRow(
        row["name"],
        tuple(row["volumes"]),
        row.get("state") or "-",
        min(found, key=rank, default=""),
        row.get("cut"),
        row.get("verdict"),
    )


def _cut(cut: Json, time: float, at_it: tuple[str, ...] = ()) -> Cut:
    return Cut(
        cut["id"],
        cut.get("verdict"),
        cut.get("tag") or "",
        time - cut["time"],
        cut.get("group") or "",
        at_it,
    )


def _copy(copy: Json | None) -> Copy | None:
    if not copy:
        return None
    total = copy["total_bytes"]
    return Copy(copy["done_bytes"] / total if total else 1.0, total, copy.get("eta_s"))


def _number(value: object) -> float | None:
    """What is not a finite number is not known."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)

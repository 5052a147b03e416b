"""What is to be reached, and what a run says of it. Pure.

A row is one line of the table in docs/performance.md. Its figures are of rounds: in each round all
servers do the same work once, one right after the other. So a ratio is taken within a round, and
the median over rounds is given: what else the machine does changes between rounds, and hits all
servers of a round alike. The ratio of two medians would compare different moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS = "duplexd"
NBDKIT, QEMU_NBD, MIRROR = "nbdkit", "qemu-nbd", "qemu mirror"


class Measure(NamedTuple):
    """One server in one round: the figure in the row's unit, and CPU time of the server in us for
    each request (for each MiB where whole images are copied; 0 where it is not measured).
    """

    value: float
    cpu_us: float = 0.0


Measured = dict[str, list[Measure]]  # server: one measure a round


class Goal(NamedTuple):
    """At least `figure` times what `peer` does. Without a peer: the limit of duplexd's own."""

    figure: float
    peer: str = ""


@dataclass(frozen=True)
class Row:
    """`limit`: the goals are upper limits of duplexd's figure, else lower ones of ratios."""

    name: str
    unit: str
    goals: tuple[Goal, ...] = ()
    limit: bool = False

    @property
    def to_reach(self) -> str:
        if self.limit:
            return " ".join(f"≤ {goal.figure:g} {self.unit}" for goal in self.goals)
        return ", ".join(f"≥ {goal.figure:g} x {goal.peer}" for goal in self.goals)


class Spread(TypedDict):
    """Of several rounds. The quartiles say how far half of them are apart."""

    median: float
    low: float
    high: float


class ServerResult(TypedDict):
    rounds: list[float]
    value: Spread
    cpu_us: Spread


class RowResult(TypedDict):
    """As it is in the JSON file."""

    row: str
    unit: str
    to_reach: str
    reached: bool | None
    servers: dict[str, ServerResult]
    ratios: dict[str, Spread]
    note: str


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles; of fewer than four values the lowest and the highest."""
    ordered = sorted(values)
    outer = len(ordered) // 4
    return {"median": median(ordered), "low": ordered[outer], "high": ordered[-1 - outer]}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of ours to theirs, round by round."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def summarize(row: Row, measured: Mapping[str, Sequence[Measure]], note: str = "") -> RowResult:
    """The result of a row."""
    values = {name: [one.value for one in measures] for name, measures in measured.items()}
    against = {
        name: ratios(values[OURS], series)
        for name, series in values.items()
        if name != OURS and OURS in values
    }
    return {
        "row": row.name,
        "unit": row.unit,
        "to_reach": row.to_reach,
        "reached": _reached(row, values, against),
        "servers": {
            name: {
                "rounds": values[name],
                "value": spread(values[name]),
                "cpu_us": spread([one.cpu_us for one in measures]),
            }
            for name, measures in measured.items()
        },
        "ratios": against,
        "note": note,
    }


def _reached(
    row: Row, values: Mapping[str, Sequence[float]], against: Mapping[str, Spread]
) -> bool | None:
    """None where nothing was asked for, or not all was measured."""
    if not row.goals or OURS not in values:
        return None
    if row.limit:
        return all(median(values[OURS]) <= goal.figure for goal in row.goals)
    if any(goal.peer not in against for goal in row.goals):
        return None
    return all(against[goal.peer]["median"] >= goal.figure for goal in row.goals)


def figure(value: float) -> str:
    """With three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def described(result: RowResult) -> str:
    """One line for the terminal."""
    servers = ", ".join(
        f"{name} {figure(server['value']['median'])}" for name, server in result["servers"].items()
    )
    against = ", ".join(
        f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}) x {name}"
        for name, ratio in result["ratios"].items()
    )
    verdict = {True: "reached", False: "NOT REACHED", None: ""}[result["reached"]]
    goal = f"[{result['to_reach']}: {verdict or 'not known'}]" if result["to_reach"] else ""
    parts = [f"{result['row']}: {servers} {result['unit']}", against, goal, result["note"]]
    return "; ".join(part for part in parts if part)

"""Figures and states as a narrow column says them. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from duplexd.duplexctl.texts import verdict_text
from duplexd.units import KIB, format_duration

if TYPE_CHECKING:
    from duplexd.duplexctl.top.overview import Cut, VolumeRow
    from duplexd.duplexctl.top.rates import Rate

UNKNOWN = "-"
_LAG_SECONDS_MIN = 1.0  # less is what a look may be late itself


def count_text(value: float | None) -> str:
    """`-`, `0`, `7.5`, `740`, `12.3k`, `4.1M`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.1f}{unit}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def size_text(value: float | None) -> str:
    """`-`, `0`, `512`, `1.5K`, `12.0M`: bytes in binary units."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for unit in ("", "K", "M", "G"):
        if round(value) < 1000:
            return f"{value:.1f}{unit}" if unit else f"{value:.0f}"
        value /= KIB
    return f"{value:.1f}T"


def time_text(value: float | None, above_s: float | None = None) -> str:
    """`-`, `85us`, `1.2ms`, `340ms`, `2.5s`; `>30s` above the last bound of a histogram."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return f">{above_s:g}s" if above_s is not None else UNKNOWN
    if value < 1e-3:
        return f"{value * 1e6:.0f}us"
    if value < 1:
        return f"{value * 1e3:.1f}ms" if value < 1e-2 else f"{value * 1e3:.0f}ms"
    return f"{value:.1f}s"


def p99_text(rate: Rate) -> str:
    """How long the slowest hundredth took at least."""
    return time_text(rate.p99_s, rate.above_s)


def bar(part: float, width: int) -> str:
    """`[####----]`."""
    inner = max(1, width - 2)
    done = min(inner, max(0, int(part * inner)))
    return f"[{'#' * done}{'-' * (inner - done)}]"


def percent(part: float) -> str:
    """Rounded down: 100 % is all of it."""
    return f"{math.floor(100 * min(1.0, max(0.0, part)))} %"


def state_text(row: VolumeRow) -> str:
    """`NOT SERVED` in place of a state that is of no use then."""
    state = row.state if row.served else "NOT SERVED"
    return f"{state} held" if row.held else state


def cut_word(cut: Cut) -> str:
    """`VOID, 3 h old`."""
    return f"{verdict_text(cut.verdict)}, {format_duration(cut.age_s)} old"


def secondary_text(row: VolumeRow) -> str:
    """What the secondary is worth: how far it is behind, copied, or which cut it is at."""
    if row.state == "SIMPLEX":
        return UNKNOWN
    if row.copy is not None:
        left = f", {row.copy.left_s:.0f} s left" if row.copy.left_s is not None else ""
        return f"copy {percent(row.copy.part)}{left}"
    if not row.usable:
        return "not usable"
    if row.cut is not None:
        return cut_word(row.cut)
    if row.state != "DUPLEX":
        return "not current"
    return f"{lag_text(row)} behind" if row.lag_bytes else "current"


def lag_text(row: VolumeRow) -> str:
    """`1.2M`, or `1.2M, 3s` once that is old."""
    late = row.lag_s is not None and row.lag_s >= _LAG_SECONDS_MIN
    return size_text(row.lag_bytes) + (f", {row.lag_s:.0f}s" if late else "")

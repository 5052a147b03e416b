"""Medians, ratios, the table and the JSON object of a run. Pure."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from duplexd.units import MIB
from tests.bench.loads import LOADS, Load, Measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Results = dict[str, dict[str, list[Measure]]]  # load name, server name: one measure a round


def summarize(results: Results) -> list[dict[str, Any]]:
    """One object a load: per server the median, all rounds, CPU; and the ratios of duplexd to each
    other server, round by round.
    """
    return [_summarize_load(load, results[load.name]) for load in LOADS if load.name in results]


def _summarize_load(load: Load, servers: Mapping[str, Sequence[Measure]]) -> dict[str, Any]:
    values = {
        name: [load.value(measure) for measure in measures] for name, measures in servers.items()
    }
    summary: dict[str, Any] = {"load": load.name, "unit": load.unit, "servers": {}, "ratios": {}}
    for name, series in values.items():
        cpu = median(measure.cpu_us for measure in servers[name])
        summary["servers"][name] = {
            "median": median(series),
            "rounds": series,
            "cpu_us_per_request": cpu,
        }
        if name != "duplexd" and "duplexd" in values:
            pairs = zip(values["duplexd"], series, strict=True)
            summary["ratios"][name] = median(ours / theirs for ours, theirs in pairs)
    return summary


def table(loads: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Lines: figures per server, ratios of duplexd to the others, CPU per request."""
    others = [name for name in names if name != "duplexd"]
    titles = [
        "",
        "",
        *names,
        *(f"x {name}" for name in others),
        *(f"CPU us {name}" for name in names),
    ]
    rows = [titles]
    for entry in loads:
        figures = [f"{entry['servers'][name]['median']:,.0f}" for name in names]
        ratios = [
            f"{entry['ratios'][name]:.2f}" if name in entry["ratios"] else "-" for name in others
        ]
        cpu = [f"{entry['servers'][name]['cpu_us_per_request']:.1f}" for name in names]
        rows.append([entry["load"], entry["unit"], *figures, *ratios, *cpu])
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def describe_pause(pause: Mapping[str, Any]) -> list[str]:
    """Lines for one number and size of controllers."""
    wait, usual = _three(pause["suspend_wait_ms"]), _three(pause["suspend_usual_wait_ms"])
    first = (
        f"{pause['controllers']} x {pause['volumes']} volumes suspended {pause['suspends']} times, "
        f"{pause['void']} void, ms (p50 / p99 / max): write pause "
        f"{_three(pause['suspend_pause_ms'])} by the daemons; longest write {wait} by the clients, "
        f"{usual} without a suspend; "
        f"command {_three(pause['suspend_command_ms'], 0)}; peak RSS "
        f"{pause['peak_rss_bytes'] / MIB:.0f} MiB"
    )
    if "plain_pause_ms" not in pause:
        return [first]
    added = [
        pause[f"suspend_{name}_ms"]["p50"] - pause[f"plain_{name}_ms"]["p50"]
        for name in ("pause", "wait")
    ]
    second = (
        f"    by the controller's own command: write pause {_three(pause['plain_pause_ms'])}; "
        f"longest write {_three(pause['plain_wait_ms'])}; "
        f"the coordinator adds (p50) {added[0]:+.2f}, {added[1]:+.2f}"
    )
    return [first, second]


def _three(figures: Mapping[str, float], digits: int = 2) -> str:
    return " / ".join(f"{figures[name]:.{digits}f}" for name in ("p50", "p99", "max"))

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
    """One object a load: per server the median, all rounds, CPU; and the ratios of duplexd to each other server, round by round."""
    return [_summarize_load(load, results[load.name]) for load in LOADS if load.name in results]


def _summarize_load(load: Load, servers: Mapping[str, Sequence[Measure]]) -> dict[str, Any]:
    values = {name: [load.value(measure) for measure in measures] for name, measures in servers.items()}
    summary: dict[str, Any] = {"load": load.name, "unit": load.unit, "servers": {}, "ratios": {}}
    for name, series in values.items():
        cpu = median(measure.cpu_us for measure in servers[name])
        summary["servers"][name] = {"median": median(series), "rounds": series, "cpu_us_per_request": cpu}
        if name != "duplexd" and "duplexd" in values:
            pairs = zip(values["duplexd"], series, strict=True)
            summary["ratios"][name] = median(ours / theirs for ours, theirs in pairs)
    return summary


def table(loads: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Lines: figures per server, ratios of duplexd to the others, CPU per request."""
    others = [name for name in names if name != "duplexd"]
    titles = ["", "", *names, *(f"x {name}" for name in others), *(f"CPU us {name}" for name in names)]
    rows = [titles]
    for entry in loads:
        figures = [f"{entry['servers'][name]['median']:,.0f}" for name in names]
        ratios = [f"{entry['ratios'][name]:.2f}" if name in entry["ratios"] else "-" for name in others]
        cpu = [f"{entry['servers'][name]['cpu_us_per_request']:.1f}" for name in names]
        rows.append([entry["load"], entry["unit"], *figures, *ratios, *cpu])
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def describe_cut(figures: Mapping[str, Any]) -> str:
    """A line for one group size."""
    ours, daemon, command = figures["client_pause_ms"], figures["daemon_pause_ms"], figures["command_ms"]
    usual = figures["longest_write_without_cut_ms"]
    return (
        f"group cut, {figures['volumes']} volumes, {figures['cuts']} times (median / max, ms): write pause {ours['median']:.1f} / {ours['max']:.1f} "
        f"by the client, {daemon['median']:.1f} / {daemon['max']:.1f} by the daemon; longest write without a cut {usual['median']:.1f} / "
        f"{usual['max']:.1f}; command {command['median']:.0f} / {command['max']:.0f}; peak RSS {figures['peak_rss_bytes'] / MIB:.0f} MiB"
    )

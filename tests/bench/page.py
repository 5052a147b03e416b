"""The table of docs/performance.md, as text. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.rows import OURS, figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.bench.rows import Row, RowResult, Spread

NOT_MEASURED = "not measured yet"
WORST_CELLS = 10


def measured_on(basis: Mapping[str, object], load: float) -> str:
    """A sentence for the figures' origin."""
    return (
        f"Commit {basis['commit']}, Linux {basis['kernel']}, {basis['file system']}, "
        f"{basis['processor']}; {basis['python']}, {basis['nbdkit']}, {basis['qemu']} "
        f"by {basis['qemu_aio']}. "
        f"{basis['rounds']} rounds of {basis['seconds']} s; "
        f"load average of the machine before a part at most {load}."
    )


def table(
    rows: Sequence[Row],
    cells: Sequence[Row],
    results: Mapping[str, RowResult],
    origin: str = "",
) -> str:
    """Markdown: to reach and reached; then the figures behind it; then the grid's worst cells."""
    parts = [origin] if origin else []
    parts.append("\n".join(_reached(rows, cells, results)))
    if measured := [results[row.name] for row in rows if row.name in results]:
        parts.append("\n".join(_figures(measured)))
    if worst := _worst(cells, results):
        parts.append("\n".join(_grid(worst)))
    return "\n\n".join(parts)


def _reached(
    rows: Sequence[Row], cells: Sequence[Row], results: Mapping[str, RowResult]
) -> Iterator[str]:
    yield "| work | to reach | reached | |"
    yield "|---|---|---|---|"
    for row in rows:
        result = results.get(row.name)
        found, verdict = _verdict(result) if result else (NOT_MEASURED, "")
        yield f"| {row.name} | {row.to_reach} | {found} | {verdict} |"
    measured = [results[cell.name] for cell in cells if cell.name in results]
    found, verdict = NOT_MEASURED, ""
    if measured:
        good = sum(bool(one["reached"]) for one in measured)
        found, verdict = f"{good} of {len(measured)} cells", _word(good == len(measured))
    yield f"| 512 B to 32 MiB, 1 to 8 connections | {cells[0].to_reach} | {found} | {verdict} |"


def _verdict(result: RowResult) -> tuple[str, str]:
    if result["ratios"]:
        found = ", ".join(
            f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}) x {peer}"
            for peer, ratio in result["ratios"].items()
            if peer in result["to_reach"]
        )
    else:
        found = f"{_spread(result['servers'][OURS]['value'])} {result['unit']}"
    return found, _word(result["reached"])


def _word(reached: bool | None) -> str:
    return {True: "yes", False: "**no**", None: ""}[reached]


def _spread(values: Spread) -> str:
    if values["low"] == values["high"]:
        return figure(values["median"])
    return f"{figure(values['median'])} ({figure(values['low'])}-{figure(values['high'])})"


def _figures(results: Sequence[RowResult]) -> Iterator[str]:
    yield "| work | server | median (quartiles) | | CPU |"
    yield "|---|---|---|---|---|"
    for result in results:
        for name, server in result["servers"].items():
            cpu_us = server["cpu_us"]["median"]
            cpu = f"{figure(cpu_us)} us" if cpu_us else ""
            yield (
                f"| {result['row']} | {name} | {_spread(server['value'])} | {result['unit']} "
                f"| {cpu} |"
            )


def _worst(cells: Sequence[Row], results: Mapping[str, RowResult]) -> list[tuple[float, str]]:
    found = []
    for cell in cells:
        if (result := results.get(cell.name)) and result["ratios"]:
            (ratio,) = result["ratios"].values()
            found.append((ratio["median"], cell.name))
    return sorted(found)[:WORST_CELLS]


def _grid(worst: Sequence[tuple[float, str]]) -> Iterator[str]:
    yield f"The {len(worst)} lowest cells of the grid:"
    yield ""
    yield "| work | x nbdkit |"
    yield "|---|---|"
    for ratio, name in worst:
        yield f"| {name} | {ratio:.2f} |"

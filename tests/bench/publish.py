"""Writes what a run found: docs/performance.md, its picture, and a line of history.jsonl.

Of the page only what is between the marks is written; the prose around it is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.page import measured_on, table
from tests.bench.picture import draw
from tests.bench.run_file import Basis, PartResult, Run, now
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.bench.rows import Row, RowResult

PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "performance.svg"
HISTORY = Path(__file__).with_name("history.jsonl")
BEGIN, END = "<!-- table: written by make bench -->", "<!-- end of the table -->"


def publish(run: Run, rows: Sequence[Row], cells: Sequence[Row]) -> None:
    """`rows` are in the order of the table, whether they are measured or not; `cells` those of the
    grid, of which the page has one line. Raises SystemExit if the figures are none to be published.
    """
    if run.basis["small"]:
        raise SystemExit("figures of --small are not published; run without it")
    results = {result["row"]: result for result in run.results()}
    origin = measured_on(run.basis, run.load_average())
    PAGE.write_text(replaced(PAGE.read_text(), table(rows, cells, results, origin)))
    drawn = [results[row.name] for row in rows if row.name in results]
    PICTURE.write_text(draw(drawn, origin.partition(";")[0]))
    with HISTORY.open("a") as history:
        history.write(json.dumps(line(run.basis, run.parts)) + "\n")
    print(f"written: {PAGE}, {PICTURE}, {HISTORY}")


def replaced(page: str, text: str) -> str:
    """The page with another table between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def line(basis: Basis, parts: Mapping[str, PartResult]) -> dict[str, object]:
    """What the history keeps: medians, and what they were measured on."""
    rows: dict[str, object] = {}
    for part in parts.values():
        rows |= {result["row"]: dict(_kept(result)) for result in part["rows"]}
    return {"time": now(), **basis, "rows": rows}


def _kept(result: RowResult) -> Iterator[tuple[str, object]]:
    yield "unit", result["unit"]
    yield "reached", result["reached"]
    for name, server in result["servers"].items():
        value, cpu_us = server["value"]["median"], server["cpu_us"]["median"]
        yield name, {"value": round(value, 3), "cpu_us": round(cpu_us, 2)}

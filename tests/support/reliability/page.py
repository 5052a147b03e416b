"""docs/reliability.md and docs/health.md: their tables are rows as measured; the text around them
is written by hand.

`python -m tests.support.reliability.page` runs every case and replaces the tables; with words,
the cases that have one of them in their names.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.daemon import ROOT
from tests.support.reliability.cases import CASES, FAILING_START, JOURNAL, PRIMARY, SECONDARY
from tests.support.reliability.failing_start import measure_start
from tests.support.reliability.health_row import HealthRow
from tests.support.reliability.measure import Row, measure
from tests.support.reliability.unwell import OTHER, WAYS, measure_way

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.reliability.cases import Case
    from tests.support.reliability.measure import Measured

AnyRow = Row | HealthRow
PAGE = ROOT / "docs" / "reliability.md"
HEALTH_PAGE = ROOT / "docs" / "health.md"
PARTS = (PRIMARY, SECONDARY, JOURNAL)
HEALTH_PARTS = (*PARTS, OTHER)
HEAD = ("what fails", "clients see", "state of the pair", "health", "log", "metrics", "resolved by")
HEALTH_HEAD = ("what is wrong", "`status`", "`health`", "`/readyz`", "log", "alerts")


def table(rows: Sequence[AnyRow]) -> str:
    """Rows of one part."""
    head = HEALTH_HEAD if isinstance(rows[0], HealthRow) else HEAD
    lines = [head, tuple("---" for _ in head), *(row[1:] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def begin(part: str) -> str:
    return f"<!-- measured: {part} -->"


END = "<!-- end -->"


def documented(page: str) -> dict[tuple[str, str], Row]:
    """The rows of docs/reliability.md."""
    return {(part, cells[0]): Row(part, *cells) for part, cells in _cells(page, PARTS)}


def documented_health(page: str) -> dict[tuple[str, str], HealthRow]:
    """The rows of docs/health.md."""
    return {(part, cells[0]): HealthRow(part, *cells) for part, cells in _cells(page, HEALTH_PARTS)}


def _cells(page: str, parts: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for part in parts:
        section = page.partition(begin(part))[2].partition(END)[0]
        for line in section.strip().splitlines()[2:]:
            yield part, [cell.strip() for cell in line.strip("|").split(" | ")]


def replaced(page: str, part: str, rows: Sequence[AnyRow]) -> str:
    """The page with another table of a part."""
    before, mark, rest = page.partition(begin(part))
    _, end, after = rest.partition(END)
    assert mark, f"the page has no table of the {part}"
    assert end, f"the table of the {part} has no end"
    return f"{before}{mark}\n\n{table(rows)}\n\n{end}{after}" if rows else page


async def measured(case: Case, directory: Path) -> Measured:
    """The rows of a case."""
    measures = measure_start if case.trigger == FAILING_START else measure
    return await measures(case, directory)


def main(words: list[str]) -> None:
    """Run the cases, or those with one of the words in their names. A row that could not be
    measured is taken out, and says why.
    """
    rows = documented(PAGE.read_text())
    health = documented_health(HEALTH_PAGE.read_text())

    def wanted(name: str) -> bool:
        return not words or any(word in name for word in words)

    for case in filter(lambda case: wanted(case.name), CASES):
        key = case.part, case.fault
        with tempfile.TemporaryDirectory() as directory, _said(case.name):
            rows.pop(key, None)
            health.pop(key, None)
            rows[key], health[key] = asyncio.run(measured(case, Path(directory)))
    for way in filter(lambda way: wanted(way.fault), WAYS):
        with tempfile.TemporaryDirectory() as directory, _said(way.fault):
            health.pop((OTHER, way.fault), None)
            health[OTHER, way.fault] = asyncio.run(measure_way(way, Path(directory)))
    cases = [(case.part, case.fault) for case in CASES]
    ways = [(OTHER, way.fault) for way in WAYS]
    _write(PAGE, PARTS, [rows[key] for key in cases if key in rows])
    _write(HEALTH_PAGE, HEALTH_PARTS, [health[key] for key in [*cases, *ways] if key in health])


@contextlib.contextmanager
def _said(name: str) -> Iterator[None]:
    try:
        yield
    except (AssertionError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)


def _write(path: Path, parts: Sequence[str], rows: Sequence[AnyRow]) -> None:
    page = path.read_text()
    for part in parts:
        page = replaced(page, part, [row for row in rows if row.part == part])
    path.write_text(page)


if __name__ == "__main__":
    main(sys.argv[1:])

"""docs/reliability.md: its tables are rows as measured; the text around them is written by hand.

`python -m tests.support.reliability.page` runs every case and replaces the tables; with words,
the cases that have one of them in their names.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.support.daemon import ROOT
from tests.support.reliability.cases import CASES, JOURNAL, PRIMARY, SECONDARY
from tests.support.reliability.measure import Row, measure

PAGE = ROOT / "docs" / "reliability.md"
HEAD = ("what fails", "clients see", "state of the pair", "health", "log", "metrics", "resolved by")


def table(rows: list[Row]) -> str:
    """Rows of one part."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row[1:] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def begin(part: str) -> str:
    return f"<!-- measured: {part} -->"


END = "<!-- end -->"


def documented(page: str) -> dict[tuple[str, str], Row]:
    """The rows of the page."""
    found = {}
    for part in (PRIMARY, SECONDARY, JOURNAL):
        section = page.partition(begin(part))[2].partition(END)[0]
        for line in section.strip().splitlines()[2:]:
            row = Row(part, *(cell.strip() for cell in line.strip("|").split(" | ")))
            found[row.part, row.fault] = row
    return found


def replaced(page: str, part: str, rows: list[Row]) -> str:
    """The page with another table of a part."""
    before, mark, rest = page.partition(begin(part))
    _, end, after = rest.partition(END)
    assert mark, f"{PAGE} has no table of the {part}"
    assert end, f"the table of the {part} has no end"
    return f"{before}{mark}\n\n{table(rows)}\n\n{end}{after}"


def main(words: list[str]) -> None:
    """Run the cases, or those with one of the words in their names. A row that could not be
    measured is taken out, and says why.
    """
    page = PAGE.read_text()
    rows = documented(page)
    for case in CASES:
        if words and not any(word in case.name for word in words):
            continue
        rows.pop((case.part, case.fault), None)
        with tempfile.TemporaryDirectory() as directory:
            try:
                rows[case.part, case.fault] = asyncio.run(measure(case, Path(directory)))
            except (AssertionError, OSError) as error:
                print(f"{case.name}: {error}", file=sys.stderr)
    for part in (PRIMARY, SECONDARY, JOURNAL):
        order = [(case.part, case.fault) for case in CASES if case.part == part]
        page = replaced(page, part, [rows[key] for key in order if key in rows])
    PAGE.write_text(page)


if __name__ == "__main__":
    main(sys.argv[1:])

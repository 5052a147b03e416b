"""What a run leaves in docs/: the table, the picture, the history."""

from __future__ import annotations

from xml.etree.ElementTree import fromstring

import pytest

from tests.bench.__main__ import GRID, PARTS
from tests.bench.page import NOT_MEASURED, table
from tests.bench.picture import draw
from tests.bench.publish import BEGIN, END, PAGE, replaced
from tests.bench.rows import MIRROR, NBDKIT, OURS, Goal, Measure, Row, RowResult, summarize

ROW = Row("4 KiB random write", "1/s", (Goal(4, MIRROR), Goal(1.5, NBDKIT)))
CELLS = [Row(f"cell {number}", "1/s", (Goal(0.3, NBDKIT),)) for number in range(3)]


def result(row: Row, **values: float) -> RowResult:
    return summarize(row, {name: [Measure(value, 7.5)] for name, value in values.items()})


MEASURED = result(ROW, **{OURS: 30000, MIRROR: 10000, NBDKIT: 8000})


def test_a_row_has_what_is_to_reach_and_what_was() -> None:
    lines = table([ROW], CELLS, {ROW.name: MEASURED}).splitlines()
    assert lines[2] == (
        "| 4 KiB random write | ≥ 4 x qemu mirror, ≥ 1.5 x nbdkit "
        "| 3.00 (3.00-3.00) x qemu mirror, 3.75 (3.75-3.75) x nbdkit | **no** |"
    )
    assert "| 4 KiB random write | duplexd | 30,000 | 1/s | 7.5 us |" in lines


def test_a_row_that_was_not_measured_says_so() -> None:
    text = table([ROW], CELLS, {})
    assert text.count(NOT_MEASURED) == 2
    assert "server" not in text


def test_the_grid_is_one_line_and_its_lowest_cells() -> None:
    results = {
        cell.name: result(cell, **{OURS: ours, NBDKIT: 10.0})
        for cell, ours in zip(CELLS, (9.0, 2.0, 5.0), strict=True)
    }
    lines = table([], CELLS, results).splitlines()
    assert lines[2].endswith("| ≥ 0.3 x nbdkit | 2 of 3 cells | **no** |")
    assert lines[-3:] == ["| cell 1 | 0.20 |", "| cell 2 | 0.50 |", "| cell 0 | 0.90 |"]


def test_the_page_of_the_repository_has_every_row() -> None:
    text = PAGE.read_text()
    missing = [
        row.name
        for part in PARTS.values()
        if part is not GRID
        for row in part.rows
        if f"| {row.name} | {row.to_reach} |" not in text
    ]
    assert not missing, "docs/performance.md lacks rows; `make bench ARGS=--publish` writes them"


def test_only_the_table_of_the_page_is_replaced() -> None:
    assert replaced(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"
    with pytest.raises(ValueError, match="lacks the marks"):
        replaced("a page", "new")


def test_the_picture_has_a_bar_for_each_server_of_a_row() -> None:
    picture = fromstring(draw([MEASURED], "Linux <6>"))  # noqa: S314  our own text
    bars = [one for one in picture.iter() if one.tag.endswith("rect") and one.get("x") == "300"]
    lengths = [float(bar.get("width", "")) for bar in bars]
    assert lengths == [468.8, 156.2, 125.0]  # 3.75, 1.25 and 1 of 4 in 500


def test_the_picture_leaves_out_what_nbdkit_does_not_do() -> None:
    alone = result(Row("memory", "MiB", (Goal(100),), limit=True), duplexd=50.0)
    assert "memory" not in draw([alone], "")

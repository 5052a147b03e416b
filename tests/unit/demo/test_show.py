"""The demo's table: plain lines of one width where nobody watches."""

import pytest

from duplexd.demo.show import Row, Table

ROW = Row("12", 3.25, 0.5, 4, "consistent", 0, 0, 17, "1.2 MiB", "1.0 MiB")


def test_plain_table_lines_up_and_shows_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    with Table() as table:
        table.add(ROW)
    lines = capsys.readouterr().out.splitlines()
    assert {len(line) for line in lines} == {79}
    assert lines[-1].split() == [
        "12",
        "3.2",
        "/",
        "0.5",
        "4",
        "consistent",
        "0",
        "17",
        "1.2",
        "MiB",
        "1.0",
        "MiB",
    ]


def test_faults_that_are_no_broken_dependencies_show_too() -> None:
    row = Row("12", 3.25, 0.5, 4, "void", 1, 3, 0, "0 B", "0 B")
    assert "3 faults" in row.cells()

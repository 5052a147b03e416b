"""docs/journal.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from duplexd.journal.format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from duplexd.journal.scan import DAMAGE, END, TORN

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "journal.md").read_text()
# `test_scan.py` holds these against `judge`
VERDICTS = [END, TORN, TORN, DAMAGE]


def test_sizes_are_those_of_the_format() -> None:
    assert f"a header of {RECORD_HEADER_BYTES} bytes" in TEXT
    assert f"0        {SEGMENT_HEADER_BYTES}  " in TEXT


def test_the_verdicts_are_those_of_the_decision_table() -> None:
    _, _, rest = TEXT.partition("| behind the last record that counts |")
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in rest.split("\n\n")[0].splitlines()[2:]
    ]
    assert [row[1].removeprefix("the ") for row in rows] == VERDICTS


def test_the_files_it_points_to_are_there() -> None:
    for path in ("duplexd/journal/format.py", "duplexd/core/markers.py"):
        assert f"](../{path})" in TEXT
        assert (ROOT / path).is_file()

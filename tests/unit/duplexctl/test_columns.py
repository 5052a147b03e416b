"""Rows for scripts: exact values between tabs, without a head."""

from __future__ import annotations

import pytest

from duplexd.duplexctl.columns import rows_text
from duplexd.errors import UsageError

ROWS = [
    {
        "name": "data",
        "size": 1048577,
        "held": False,
        "secondary": {"cut": {"id": "9f"}},
        "of": ["a"],
    },
    {"name": "a\tb", "size": 0, "held": True, "secondary": None, "of": []},
]


def test_each_value_is_exact_and_in_its_place() -> None:
    found = rows_text(ROWS, "size,name,held,secondary.cut.id,of")
    assert found == "1048577\tdata\tfalse\t9f\ta\n0\ta\\tb\ttrue\t-\t-"


def test_a_column_that_there_is_not_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"--output nmae: no such column; expected .*name, size"):
        rows_text(ROWS, "nmae")


def test_of_no_rows_nothing_is_said() -> None:
    assert rows_text([], "name") == ""

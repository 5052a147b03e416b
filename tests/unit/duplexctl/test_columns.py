"""Rows for scripts: exact values between tabs, without a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.duplexctl.columns import rows_text
from duplexd.errors import UsageError

if TYPE_CHECKING:
    from duplexd.json_object import Json

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


def test_what_is_in_a_null_is_there_another_time() -> None:
    """A script that asks for the cut does not fail while no pair is at one."""
    rows: list[Json] = [
        {"name": "data", "secondary": {"cut": None}},
        {"name": "wal", "secondary": None},
    ]
    assert rows_text(rows, "name,secondary.cut.id") == "data\t-\nwal\t-"
    with pytest.raises(UsageError, match=r"--output secondary.cat.id: no such column"):
        rows_text(rows, "secondary.cat.id")
    with pytest.raises(UsageError, match=r"--output secondary.cut.id: no such column"):
        rows_text([{"secondary": {"cut": {"sequence": 1}}}, *rows], "secondary.cut.id")


def test_of_no_rows_nothing_is_said() -> None:
    assert rows_text([], "name") == ""

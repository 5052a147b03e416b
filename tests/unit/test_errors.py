from __future__ import annotations

import re
from pathlib import Path

import pytest

from duplexd import errors
from duplexd.errors import DuplexdError

ROOT = Path(__file__).resolve().parents[2]
CODES = ROOT / "docs" / "exit-codes.md"


def classes() -> list[type[DuplexdError]]:
    found = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, DuplexdError)
    ]
    return sorted(found, key=lambda each: (each.exit_code, each.http_status, each.title))


def table() -> list[str]:
    lines = [
        "| exit code | HTTP status | title | meaning |",
        "|---|---|---|---|",
        "| 0 | 200 | ok | It was done, or was so already. |",
    ]
    for each in classes():
        meaning = (each.__doc__ or "").splitlines()[0]
        lines.append(f"| {each.exit_code} | {each.http_status} | {each.title} | {meaning} |")
    return lines


def test_the_table_in_the_docs_is_that_of_the_code() -> None:
    documented = [line for line in CODES.read_text().splitlines() if line.startswith("|")]
    assert documented == table(), "docs/exit-codes.md must hold:\n" + "\n".join(table())


@pytest.mark.parametrize("each", classes(), ids=lambda each: each.__name__)
def test_an_error_has_a_code_a_status_and_a_line_of_documentation(each: type[DuplexdError]) -> None:
    assert 1 <= each.exit_code <= 10
    assert 400 <= each.http_status <= 599
    assert each.title == each.title.lower()
    assert re.fullmatch(r"[^\n]+\.", (each.__doc__ or "").splitlines()[0])
    assert str(each("one line")) == "one line"


def test_every_promised_exit_code_has_an_error() -> None:
    promised = {
        1: "failed",
        2: "usage",
        3: "not found",
        4: "permission",
        5: "state",
        6: "configuration",
        7: "reachable",
        8: "timed",
        9: "lease",
        10: "checked",
    }
    assert {each.exit_code for each in classes()} == set(promised)

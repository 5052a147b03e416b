"""Odd and malformed inputs: duplexd and three other servers answer as docs/nbd-odd-inputs.md says.

`python -m tests.support.prober.page` makes the table of that page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import ROOT
from tests.support.prober.page import ask, differs, documented, inputs
from tests.support.prober.peers import DUPLEXD, PEERS, SERVERS

if TYPE_CHECKING:
    from pathlib import Path

INPUTS_MIN = 300


def test_the_page_has_every_input() -> None:
    assert list(documented()) == list(inputs())
    assert len(inputs()) >= INPUTS_MIN


def test_duplexd_answers_as_documented(tmp_path: Path) -> None:
    expected = {key: row[DUPLEXD] for key, row in documented().items()}
    assert ask(DUPLEXD, tmp_path, inputs().values()) == expected


@pytest.mark.parametrize("peer", PEERS)
def test_others_answer_as_documented(peer: str, tmp_path: Path) -> None:
    rows = documented()
    comparable = [odd for odd in inputs().values() if not odd.racing]
    expected = {
        (odd.beginning, odd.name): rows[odd.beginning, odd.name][peer] for odd in comparable
    }
    assert ask(peer, tmp_path, comparable) == expected


def test_where_duplexd_differs_from_all_others_the_page_says_why() -> None:
    assert not [key for key, row in documented().items() if differs(row) and not row["why"]]


def test_the_page_on_nbd_has_the_same_answers() -> None:
    """Its comparison is a part of this page."""
    page = (ROOT / "docs" / "nbd.md").read_text()
    text = page.partition("## Beside other servers")[2].partition("\n## ")[0]
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    expected = documented()
    assert len(rows) > 20
    for where, name, *answers in rows:
        assert answers == [expected[where, name][server] for server in SERVERS]

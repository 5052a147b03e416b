"""Real parts: one part of a real daemon fails, fio writes and verifies meanwhile, and a row of
docs/reliability.md says what was seen. The page is compared with what is measured here;
`python -m tests.support.reliability.page` writes it anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.reliability.cases import CASES, Case
from tests.support.reliability.measure import measure
from tests.support.reliability.page import PAGE, documented

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_page_says_what_a_failing_part_does(case: Case, tmp_path: Path) -> None:
    measured = await measure(case, tmp_path)
    print(" | ".join(measured))
    row = documented(PAGE.read_text()).get((case.part, case.fault))
    assert row == measured, (
        "run `python -m tests.support.reliability.page`, and read the difference"
    )


def test_the_page_has_no_other_rows() -> None:
    rows = documented(PAGE.read_text())
    assert list(rows) == [(case.part, case.fault) for case in CASES]

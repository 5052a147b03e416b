"""Real parts: one part of a real daemon fails, fio writes and verifies meanwhile, and a row of
docs/reliability.md says what was seen. The page is compared with what is measured here;
`python -m tests.support.reliability.page` writes it anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.reliability.cases import CASES, PRIMARY, SECONDARY, Case
from tests.support.reliability.clients import Load
from tests.support.reliability.measure import (
    check_content,
    good_soon,
    prepare,
    resync,
)
from tests.support.reliability.page import (
    HEALTH_PAGE,
    PAGE,
    documented,
    documented_health,
    measured,
)
from tests.support.reliability.rig import rig

if TYPE_CHECKING:
    from pathlib import Path


AGAIN = "run `python -m tests.support.reliability.page`, and read the difference"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_page_says_what_a_failing_part_does(case: Case, tmp_path: Path) -> None:
    row_now, health = await measured(case, tmp_path)
    print(" | ".join(row_now))
    print(" | ".join(health))
    row = documented(PAGE.read_text()).get((case.part, case.fault))
    assert row == row_now, AGAIN
    well = documented_health(HEALTH_PAGE.read_text()).get((case.part, case.fault))
    assert well == health, AGAIN


def test_the_page_has_no_other_rows() -> None:
    rows = documented(PAGE.read_text())
    assert list(rows) == [(case.part, case.fault) for case in CASES]


@pytest.mark.parametrize("part", [PRIMARY, SECONDARY])
async def test_sigterm_ends_the_daemon_while_an_image_hangs(tmp_path: Path, part: str) -> None:
    """Before anything was given up. What was acknowledged is there after the next start."""
    with rig(tmp_path) as broken:
        kept = await prepare(broken)
        stuck = broken.disks[part].hang("", broken.pattern(part))
        load = Load(broken)
        try:
            await asyncio.to_thread(stuck.wait_met)
            await asyncio.to_thread(broken.daemon.stop)
        finally:
            load.end()
        stuck.lift()
        await asyncio.to_thread(broken.daemon.start)
        assert await good_soon(broken) or await resync(broken)
        await check_content(broken, kept)

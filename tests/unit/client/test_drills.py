"""Drills of several controllers: recorded on all of them, or the drill does not pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.backup.on_clones import Plan, run
from duplexd.errors import WrongStateError
from tests.support.fake_member import problem
from tests.unit.client.members import CUT, left, members

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fake_member import FakeMember


def at_a_cut(controllers: list[FakeMember]) -> None:
    left(controllers, "consistent", "consistent")
    for member in controllers:
        member.controller["nbd"] = ["tcp:127.0.0.1:10809"]


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("false", 1)])
async def test_all_controllers_record_it_under_one_id(
    tmp_path: Path, command: str, code: int
) -> None:
    warned: list[str] = []
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        at_a_cut(controllers)
        assert await run(Plan("db"), [command], client, warned.append) == code
    reports = [report for member in controllers for report in member.engine.drills.reports]
    assert [(each.cut, each.exit_code) for each in reports] == [(CUT, code)] * 2
    assert len({each.id for each in reports}) == 1
    assert warned == []


async def test_one_that_does_not_record_it_makes_a_pass_none(tmp_path: Path) -> None:
    warned: list[str] = []
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        at_a_cut(controllers)
        controllers[1].plant["drills"] = problem(409, 5, "data has no clone any more")
        with pytest.raises(WrongStateError, match="has no clone any more"):
            await run(Plan("db"), ["true"], client, warned.append)
        assert "not all controllers have recorded it" in warned.pop()
        assert await run(Plan("db"), ["false"], client, warned.append) == 1
        assert "beta" in warned.pop()

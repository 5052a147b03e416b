"""Readers of a cut of several controllers, and what a backup learns of the cut."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from duplexd.client import hooking
from duplexd.errors import UnreachableError, WrongStateError
from duplexd.runtime.hooks import HookRun
from tests.support.fake_member import HANG_UP, problem
from tests.unit.client.members import CUT, left, members

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from duplexd.client.member import Plan
    from duplexd.client.results import Suspended


async def test_a_reader_begins_on_all_controllers(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        result = await client.suspend("db", reader="nightly")
    assert result.reader == "nightly"
    assert [member.engine.readers for member in controllers] == [{"nightly": {"data"}}] * 2


async def test_a_reader_whose_answer_was_lost_is_ended_there_too(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        beta = controllers[1]

        async def begun_and_hung_up() -> str:
            await beta.engine.add_reader(["data"], "nightly", beta.cut)
            return HANG_UP

        beta.plant["readers"] = begun_and_hung_up
        with pytest.raises(UnreachableError, match=r"at cut \w{16}, but no reader 'nightly' began"):
            await client.suspend("db", reader="nightly")
    assert [member.engine.readers for member in controllers] == [{}, {}]


async def test_a_reader_that_does_not_begin_hides_no_hook_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = HookRun("after_suspend", "db", "failed", 0.1, 1, "not thawed", "exit code 1")

    async def around(_plan: Plan, cut: Callable[[], Awaitable[Suspended]]) -> Suspended:
        return replace(await cut(), hooks=[frozen.json()])

    monkeypatch.setattr(hooking, "around", around)
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["readers"] = problem(409, 5, "not at that cut")
        with pytest.raises(WrongStateError, match=r"not at that cut; after_suspend .* not thawed"):
            await client.suspend("db", reader="nightly")


async def test_a_cut_that_one_controller_calls_void_has_no_other_verdict(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "void")
        found = await client.points("db")
    assert (found.cut, found.verdict) == (CUT, "void")


@pytest.mark.parametrize("states", [("ready", "consistent"), ("consistent", "ready")])
async def test_a_cut_that_one_controller_has_in_doubt_has_the_verdict_of_the_others(
    tmp_path: Path, states: tuple[str, str]
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, *states)
        found = await client.points("db")
    assert (found.cut, found.verdict) == (CUT, "consistent")

"""Clones of several controllers: made on all of them, or on none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.errors import NotFoundError, UnreachableError, WrongStateError
from tests.support.fake_member import HANG_UP, problem
from tests.unit.client.members import CUT, left, members

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_clone_is_made_at_one_cut_on_all_controllers(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "consistent")
        made = await client.clones.make("db", point="latest", name="test")
        found = await client.clones.show("db")
        dropped = await client.clones.drop("db", name="test")
        with pytest.raises(NotFoundError, match="no clone 'test'"):
            await client.clones.drop("db", name="test")
    assert (made.cut, made.verdict) == (CUT, "consistent")
    assert [row["name"] for row in made.volumes] == ["alpha:data", "beta:data"]
    assert [row["volume"] for row in found.clones] == ["alpha:data", "beta:data"]
    assert dropped.volumes == ["alpha:data", "beta:data"]
    assert [member.engine.clones.made for member in controllers] == [{}, {}]


async def test_one_that_refuses_leaves_no_clone_on_the_others(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "consistent")
        controllers[1].engine.clones.made["test"] = ["data"]  # somebody else's
        controllers[1].plant["clones"] = problem(409, 5, "has a clone 'test' already")
        with pytest.raises(WrongStateError, match="already"):
            await client.clones.make("db", point=CUT, name="test")
    assert [member.engine.clones.made for member in controllers] == [{}, {"test": ["data"]}]


async def test_one_whose_answer_was_lost_is_dropped_there_too(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "consistent")
        beta = controllers[1]

        async def made_and_hung_up() -> str:
            await beta.engine.clones.make(["data"], CUT, "test")
            beta.plant.pop("clones", None)
            return HANG_UP

        beta.plant["clones"] = made_and_hung_up
        with pytest.raises(UnreachableError):
            await client.clones.make("db", point=CUT, name="test")
    assert [member.engine.clones.made for member in controllers] == [{}, {}]


@pytest.mark.parametrize(
    ("verdicts", "point", "error", "text"),
    [
        (("consistent", "void"), "latest", WrongStateError, "is void; no clone was made"),
        (("ready", "ready"), "latest", WrongStateError, "in doubt"),
        (("consistent", "consistent"), "monday", NotFoundError, "not at 'monday'"),
        (("consistent", ""), "latest", WrongStateError, "no clone was made"),
    ],
)
async def test_latest_and_tags_are_those_of_a_consistent_cut_of_all(
    tmp_path: Path, verdicts: tuple[str, str], point: str, error: type[Exception], text: str
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, *verdicts)
        with pytest.raises(error, match=text):
            await client.clones.make("db", point=point, name="test")
    assert [member.engine.clones.made for member in controllers] == [{}, {}]


async def test_a_void_cut_is_cloned_by_its_id_and_called_void(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "void")
        made = await client.clones.make("db", point=CUT, name="test")
    assert made.verdict == "void"


async def test_held_clones_are_lost_with_one_of_two_that_have_one_name(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "consistent")
        async with client.clones.held("db", point="latest", name="test") as held:
            assert await held.why_lost() == ""
            del controllers[1].engine.clones.made["test"]
            assert await held.why_lost() == "the cut was left"
    assert [member.engine.clones.made for member in controllers] == [{}, {}]

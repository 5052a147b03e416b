"""What changed between two cuts, over several controllers: each answers for its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.errors import NotFoundError, UnreachableError
from tests.support.fake_changes import GRAIN
from tests.unit.client.members import members

if TYPE_CHECKING:
    from pathlib import Path


async def test_volumes_of_all_controllers_are_called_as_targets_are(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.engine.changes.why = ["a swap gave up changes"]
        found = await client.changes("db", since="monday", until="tuesday")
    assert [row["name"] for row in found.volumes] == ["alpha:data", "beta:data"]
    assert (found.changed_bytes, found.exact) == (8 * GRAIN, False)
    assert "next_offset" not in found.volumes[0]


async def test_extents_of_several_answers_are_put_together(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        alpha.engine.changes.most = 1
        found = await client.changes("db", since="monday")
    assert [each["offset"] for each in found.volumes[0]["extents"]] == [0, 4 * GRAIN, 9 * GRAIN]


async def test_further_answers_are_about_the_cut_of_the_first_one(tmp_path: Path) -> None:
    """Another cut of that tag may be made between two answers."""
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        changes = alpha.engine.changes
        changes.most = 1

        async def another() -> None:
            if changes.asked:
                changes.cuts.append("monday")

        alpha.plant["changes"] = another
        found = await client.changes("db", since="monday")
    first = found.volumes[0]["since"]["cut"]
    assert changes.asked == ["monday", first, first]


async def test_one_controller_that_does_not_know_the_cut_answers_for_all(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.engine.changes.cuts = ["tuesday"]
        with pytest.raises(NotFoundError, match="'monday' is not a cut"):
            await client.changes("db", since="monday")


async def test_a_controller_whose_answers_do_not_end_is_left(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", changes_answers_max=5) as (client, (alpha,)):
        alpha.engine.changes.most = 0
        with pytest.raises(UnreachableError, match="do not come to an end"):
            await client.changes("db", since="monday")

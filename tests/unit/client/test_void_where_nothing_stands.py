"""A cut that its member called consistent, and that became void on another whose secondaries stand there no more: settle finds it all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.client.members import members
from tests.unit.client.test_settle import CUT, left, states

if TYPE_CHECKING:
    from pathlib import Path


async def test_settle_tells_the_one_that_still_calls_it_consistent(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "void", "consistent")
        alpha = controllers[0]
        alpha.volumes = dict.fromkeys(
            alpha.volumes, "DUPLEX"
        )  # its secondary failed, was replaced, and follows
        (cut,) = (await client.settle("db")).cuts
        assert (cut.cut, cut.verdict) == (CUT, "void")
        assert states(controllers) == ["void", "void"]


async def test_a_cut_that_some_have_left_stays_what_it_is(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "consistent")
        alpha = controllers[0]
        alpha.volumes = dict.fromkeys(alpha.volumes, "DUPLEX")
        assert (await client.settle("db")).cuts == []
        assert states(controllers) == ["consistent", "consistent"]


async def test_one_that_a_member_has_forgotten_stays_what_it_is(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "", "consistent")
        assert (await client.settle("db")).cuts == []
        assert states(controllers) == ["", "consistent"]

"""Swap and adopt, of one controller and of several: one request each, and each says what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError, TimedOutError, WrongStateError
from tests.support.fake_member import HANG_UP, SILENT, problem
from tests.unit.client.members import members

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_swap_of_several_controllers_is_one_request_to_each(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        done = await client.swap("db")
        assert [row["name"] for row in done.volumes] == ["alpha:data", "beta:data"]
        assert all(row["swapped"] for row in done.volumes)
        assert (done.failed, done.exit_codes) == ({}, {})
        assert [each.asked for each in controllers] == [["healthz", "swap"]] * 2


async def test_options_reach_every_controller(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        for each in controllers:
            each.engine.volumes["data"] = "SUSPENDED"
        await client.swap("db", roll_forward=True, keep_to="/srv/kept")
        assert [each.engine.kept_to for each in controllers] == [["/srv/kept"]] * 2


@pytest.mark.parametrize(
    ("planted", "exit_code"), [(problem(409, 5, "data is PENDING"), 5), (HANG_UP, 7)]
)
async def test_one_that_refuses_does_not_hide_what_the_others_did(
    tmp_path: Path, planted: object, exit_code: int
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["swap"] = planted
        done = await client.swap("db")
        assert [row["name"] for row in done.volumes] == ["alpha:data"]
        assert done.exit_codes == {"beta": exit_code}
        assert done.failed["beta"].startswith("beta: ")


async def test_if_all_refuse_that_is_raised_with_every_reason(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        for each in controllers:
            each.engine.volumes["data"] = "PENDING"
        with pytest.raises(WrongStateError, match=r"alpha: data is PENDING; beta: data is PENDING"):
            await client.swap("db")


async def test_nothing_is_swapped_where_another_controller_answers(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.controller["name"] = "gamma"
        beta.name = "gamma"
        with pytest.raises(ConfigurationError, match="gamma"):
            await client.swap("db")
        assert alpha.engine.swapped == set()


async def test_a_controller_that_falls_silent_is_noticed(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", answer_seconds_max=0.1) as (client, (alpha,)):

        async def silent() -> str:
            alpha.plant["healthz"] = SILENT
            return SILENT

        alpha.plant["swap"] = silent
        with pytest.raises(TimedOutError, match="it may still be done"):
            await client.swap("db")


async def test_an_adopt_names_volumes_as_in_targets(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, _)):
        alpha.engine.refused["data"] = "another image"
        done = await client.adopt("db")
        assert {row["name"]: row["already"] for row in done.volumes} == {
            "alpha:data": False,
            "beta:data": True,
        }


async def test_cuts_go_by_number_where_a_clock_was_set_back(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        shown = []
        for number, (cut, time) in enumerate(zip("abc", (30.0, 10.0, 20.0), strict=True), start=1):
            alpha.engine.cuts.remember(cut * 16, "consistent", [])
            row = alpha.engine.cuts.show(cut * 16)
            shown.append(row | {"sequence": number, "time": time})
        alpha.plant["cuts"] = (200, {"cuts": shown[::-1]})
        assert [cut.cut[0] for cut in (await client.cuts()).cuts] == ["a", "b", "c"]

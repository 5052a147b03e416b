"""The status of a group one of whose controllers can't be shown: the others are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ForbiddenError, NotFoundError
from tests.support.fake_member import HANG_UP, SILENT, FakeMember, problem
from tests.unit.client.members import members

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def hung(beta: FakeMember) -> None:
    beta.plant["status"] = beta.plant["healthz"] = SILENT


def broken(beta: FakeMember) -> None:
    beta.plant["status"] = beta.plant["healthz"] = HANG_UP


def forbidden(beta: FakeMember) -> None:
    beta.plant["status"] = problem(403, 4, "it needs the role observe")


def another(beta: FakeMember) -> None:
    beta.controller["name"] = "delta"


def another_without_the_volume(beta: FakeMember) -> None:
    another(beta)
    beta.plant["status"] = problem(404, 3, "no volume 'data'")


def the_same(beta: FakeMember) -> None:
    beta.controller["name"] = "alpha"


def ill(beta: FakeMember) -> None:
    beta.plant["status"] = problem(500, 1, "a bug")


def busy(beta: FakeMember) -> None:
    beta.plant["status"] = (*problem(429, 1, "others ask so much"), ("retry-after", "5"))


TROUBLE: dict[str, tuple[Callable[[FakeMember], None], int, str]] = {
    "hung": (hung, 7, "beta: no answer within 10 s"),
    "busy": (busy, 8, "beta: busy: "),
    "broken": (broken, 7, "beta: broke off at "),
    "forbidden": (forbidden, 4, "beta: it needs the role observe"),
    "another": (
        another,
        6,
        "controllers.beta of the groups file leads to a controller that calls itself 'delta'",
    ),
    "another without the volume": (
        another_without_the_volume,
        6,
        "controllers.beta of the groups file leads to",
    ),
    "the same": (
        the_same,
        6,
        (
            "controllers.beta and controllers.alpha of the groups file are the same"
            " controller, 'alpha'"
        ),
    ),
    "ill": (ill, 1, "beta: a bug"),
}


@pytest.mark.parametrize("name", TROUBLE)
async def test_the_others_are_shown(tmp_path: Path, name: str) -> None:
    plant, exit_code, why = TROUBLE[name]
    async with members(tmp_path, "alpha", "beta", "gamma") as (client, controllers):
        plant(controllers[1])
        for status in (await client.status("db"), await client.status()):
            assert list(status.controllers) == ["alpha", "gamma"]
            assert status.exit_codes == {"beta": exit_code}
            assert status.unreachable["beta"].startswith(why)
            assert [(group.state, group.verdict) for group in status.groups] == [("UNKNOWN", None)]


@pytest.mark.parametrize("name", ["hung", "broken"])
async def test_with_nobody_to_show_it_still_says_who_does_not_answer(
    tmp_path: Path, name: str
) -> None:
    async with members(tmp_path, "beta") as (client, (beta,)):
        TROUBLE[name][0](beta)
        status = await client.status("db")
        assert (status.controllers, status.exit_codes) == ({}, {"beta": 7})


async def test_with_nobody_to_show_a_refusal_is_an_error(tmp_path: Path) -> None:
    async with members(tmp_path, "beta") as (client, (beta,)):
        forbidden(beta)
        with pytest.raises(ForbiddenError, match="the role observe"):
            await client.status("db")


async def test_a_volume_that_is_not_there_is_an_error_even_if_another_does_not_answer(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        hung(beta)
        alpha.plant["status"] = problem(404, 3, "'data': no such volume or group")
        with pytest.raises(NotFoundError, match=r"^alpha: 'data': no such volume or group$"):
            await client.status("db")

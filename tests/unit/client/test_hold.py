"""`async with client.quiesce(...)` holds, renews, suspends and releases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import (
    ForbiddenError,
    LeaseLostError,
    NotFoundError,
    UsageError,
    WrongStateError,
)
from tests.support.fake_member import SILENT, problem
from tests.unit.client.members import members, until

if TYPE_CHECKING:
    from pathlib import Path


async def test_within_the_block_all_is_held_and_suspend_cuts_there(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        async with client.quiesce("db") as hold:
            assert all(member.held for member in controllers)
            assert 1.5 < hold.remaining_s <= 2.0
            result = await hold.suspend(tag="nightly")
            assert hold.remaining_s == 0
        assert (result.verdict, result.cut, result.tag) == ("consistent", hold.cut, "nightly")
        assert not any(member.held for member in controllers)


async def test_leaving_the_block_releases(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        async with client.quiesce("db"):
            pass
        assert all(
            member.asked[-1] == "release" and not member.held and not member.states
            for member in controllers
        )


async def test_an_error_in_the_block_releases_and_is_passed_on(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        with pytest.raises(ZeroDivisionError):
            async with client.quiesce("db"):
                raise ZeroDivisionError
        assert not any(member.held for member in controllers)


async def test_released_before_the_block_ends_nothing_more_can_be_done_with_it(
    tmp_path: Path,
) -> None:
    async with (
        members(tmp_path, "alpha", "beta") as (client, controllers),
        client.quiesce("db") as hold,
    ):
        await hold.release()
        assert not any(member.held for member in controllers)
        with pytest.raises(LeaseLostError, match="it was released"):
            await hold.suspend()
        with pytest.raises(LeaseLostError):
            await hold.renew(1.0)


async def test_cancelled_from_outside_it_is_released_and_the_cancellation_goes_on(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):

        async def work() -> None:
            async with client.quiesce("db"):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await until(lambda: all(member.held for member in controllers))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not any(member.held for member in controllers)


async def test_cancelled_while_the_gates_close_nothing_stays_held(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant["quiesce"] = SILENT

        async def work() -> None:
            async with client.quiesce("db"):
                raise AssertionError

        task = asyncio.create_task(work())
        await until(lambda: alpha.held)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not alpha.held


@pytest.mark.usefixtures("unmeasured")
async def test_renewed_it_lasts_longer_under_new_fences(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        async with client.quiesce("db", hold_max=0.5) as hold:
            await hold.renew(5.0)
            assert hold.remaining_s > 3
            await asyncio.sleep(0.6)
            result = await hold.suspend()
        assert result.verdict == "consistent"
        assert [member.bodies["renew"] for member in controllers] == [
            {"hold_s": 5.0, "fence": 7}
        ] * 2
        assert [member.bodies["open"]["fence"] for member in controllers] == [8, 8]


async def test_not_renewed_by_one_it_is_lost(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant["renew"] = problem(410, 9, "renewed by another")
        with pytest.raises(LeaseLostError, match="could not be renewed: beta: renewed by another"):
            async with client.quiesce("db") as hold:
                await hold.renew(1.0)
        assert not alpha.held


async def test_it_lasts_ten_seconds_at_most(tmp_path: Path) -> None:
    async with (
        members(tmp_path, "alpha", "beta") as (client, controllers),
        client.quiesce("db") as hold,
    ):
        for seconds in (10.1, 0.0, -1.0):
            with pytest.raises(UsageError, match="at most 10 s in all"):
                await hold.renew(seconds)
        assert all(member.held for member in controllers)


async def test_a_hold_that_was_not_entered_holds_nothing(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, _):
        with pytest.raises(WrongStateError, match="async with"):
            await client.quiesce("db").suspend()


async def test_release_of_a_group_from_elsewhere(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        assert (await client.release("db")).leases == {}
        lease = {"id": "L", "cut": "c" * 16, "volumes": ["data"]}
        alpha.plant["status"] = (200, alpha.status() | {"leases": [lease]})
        assert (await client.release("db")).leases == {"c" * 16: True}
        assert (await client.release("c" * 16)).leases == {"c" * 16: True}
        assert alpha.asked.count("release") == beta.asked.count("release") == 2


async def test_release_of_a_hold_that_has_ended_is_not_an_error_and_of_none_is_one(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.engine.had("c" * 16)
        assert (await client.release("c" * 16)).leases == {"c" * 16: False}
        with pytest.raises(NotFoundError, match="no cut that any controller"):
            await client.release("d" * 16)
        alpha.plant["unlease"] = problem(403, 4, "it needs the role operate")
        with pytest.raises(ForbiddenError, match="the role operate"):
            await client.release("d" * 16)


BAD_TAGS = {"too long": "x" * 201, "no UTF-8": "\udcff"}


@pytest.mark.parametrize("tag", BAD_TAGS.values(), ids=BAD_TAGS)
async def test_a_hold_survives_such_a_tag(tmp_path: Path, tag: str) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        async with client.quiesce("db") as hold:
            with pytest.raises(UsageError, match="tag"):
                await hold.suspend(tag)
            assert all(member.held for member in controllers)
            result = await hold.suspend("x" * 200)
        assert result.verdict == "consistent"

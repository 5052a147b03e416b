"""A hold that somebody else released on a member: nothing is held there any more, so the owner must hear of it at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import LeaseLostError
from tests.unit.client.members import HANG_UP, members, problem

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_block_ends_at_once_and_all_other_gates_open(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (alpha, beta)):

        async def work() -> None:
            async with client.quiesce("db"):
                beta.end("released")
                await asyncio.sleep(60)

        async with asyncio.timeout(5):
            with pytest.raises(
                LeaseLostError, match="beta: the hold was lost: released by somebody else"
            ):
                await work()
        assert not alpha.held


async def test_a_block_that_noticed_nothing_is_told_at_its_end(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (_, beta)):

        async def work() -> None:
            async with client.quiesce("db") as hold:
                beta.end("released")
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(0.5)
                assert hold.remaining_s == 0

        with pytest.raises(LeaseLostError):
            await work()


async def test_a_block_that_waited_for_nothing_is_told_at_its_end(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (alpha, beta)):
        with pytest.raises(LeaseLostError, match="the hold of db was lost: beta: "):
            async with client.quiesce("db"):
                beta.end("released")
        assert not alpha.held


@pytest.mark.parametrize("trouble", [HANG_UP, problem(500, 1, "no")])
async def test_it_is_told_also_if_another_member_does_not_answer_then(
    tmp_path: Path, trouble: object
) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (alpha, beta)):

        async def after_that() -> str | None:
            await asyncio.sleep(0.2)
            return None

        async def work() -> None:
            async with client.quiesce("db"):
                alpha.plant["release"] = trouble
                beta.plant["release"] = after_that
                beta.end("released")

        with pytest.raises(LeaseLostError, match="the hold of db was lost: beta: "):
            await work()


async def test_an_error_of_the_block_is_told_even_if_the_hold_was_lost_unnoticed(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (_, beta)):

        async def work() -> None:
            async with client.quiesce("db"):
                beta.end("released")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await work()


async def test_released_once_more_by_its_owner_it_is_lost(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (alpha, beta)):
        async with client.quiesce("db") as hold:
            beta.end("released")
            with pytest.raises(LeaseLostError):
                await hold.release()
        assert not alpha.held


async def test_released_everywhere_nothing_is_cut_and_suspend_says_so(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, controllers):
        async with client.quiesce("db") as hold:
            for member in controllers:
                member.end("released")
            with pytest.raises(
                LeaseLostError, match=r"the hold of db was lost: .*; nothing was suspended"
            ):
                await hold.suspend()
        assert all(set(member.volumes.values()) == {"DUPLEX"} for member in controllers)

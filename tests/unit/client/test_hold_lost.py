"""A hold that is lost: its owner learns of it at once, and every other gate opens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import LeaseLostError
from tests.support.fake_member import HANG_UP, problem
from tests.unit.client.members import members, until

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_lost_hold_ends_what_the_block_waits_for(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):

        async def work() -> None:
            async with client.quiesce("db"):
                beta.end("deadline")
                await asyncio.sleep(60)

        with pytest.raises(
            LeaseLostError,
            match=(
                "the hold of db was lost: beta: the hold was lost: deadline; "
                "nothing that was done under it counts"
            ),
        ):
            await work()
        assert not alpha.held
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@pytest.mark.parametrize("reason", [HANG_UP, "stopping"])
async def test_a_hold_that_was_lost_unnoticed_is_reported_at_the_end(
    tmp_path: Path, reason: str
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):

        async def work() -> None:
            async with client.quiesce("db") as hold:
                beta.end(reason)
                with pytest.raises(asyncio.CancelledError):
                    await until(lambda: hold.remaining_s == 0)

        with pytest.raises(LeaseLostError):
            await work()


@pytest.mark.usefixtures("unmeasured")
async def test_its_time_is_over(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        with pytest.raises(LeaseLostError, match=r"after [0-9.]+ s"):
            async with client.quiesce("db", hold_max=0.1):
                await asyncio.sleep(60)
        assert not any(member.held for member in controllers)


async def test_a_block_that_takes_too_long_says_so(tmp_path: Path, unmeasured: None) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=0.3) as (client, _):
        with pytest.raises(
            LeaseLostError,
            match=r"allow a longer hold_max .* if what is done meanwhile takes that long",
        ):
            async with client.quiesce("db"):
                await asyncio.sleep(60)


async def test_a_member_that_breaks_off_is_named_once(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):

        async def work() -> None:
            async with client.quiesce("db"):
                beta.end(HANG_UP)
                await asyncio.sleep(60)

        with pytest.raises(
            LeaseLostError,
            match=(
                r"^the hold of db was lost: beta: the hold was lost: broke off at [^;]*;"
                r" see its log; nothing"
            ),
        ):
            await work()


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


async def test_a_block_that_noticed_nothing_is_reported_at_its_end(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (_, beta)):

        async def work() -> None:
            async with client.quiesce("db") as hold:
                beta.end("released")
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(0.5)
                assert hold.remaining_s == 0

        with pytest.raises(LeaseLostError):
            await work()


async def test_a_block_that_waited_for_nothing_is_reported_at_its_end(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (alpha, beta)):
        with pytest.raises(LeaseLostError, match="the hold of db was lost: beta: "):
            async with client.quiesce("db"):
                beta.end("released")
        assert not alpha.held


@pytest.mark.parametrize("trouble", [HANG_UP, problem(500, 1, "no")])
async def test_it_is_reported_also_if_another_member_does_not_answer_then(
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


async def test_an_error_of_the_block_is_reported_even_if_the_hold_was_lost_unnoticed(
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
                LeaseLostError,
                match=r"of db was lost: .*; nothing that was done under it counts",
            ):
                await hold.suspend()
        assert all(set(member.volumes.values()) == {"DUPLEX"} for member in controllers)

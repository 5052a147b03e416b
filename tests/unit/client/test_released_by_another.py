"""A hold that somebody else released on a member: nothing is held there any more, so the owner must hear of it at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import LeaseLostError
from tests.unit.client.members import members

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_block_ends_at_once_and_all_other_gates_open(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", hold_max=10.0) as (client, (alpha, beta)):

        async def work() -> None:
            async with client.quiesce("db"):
                beta.end("released")
                await asyncio.sleep(60)

        async with asyncio.timeout(5):
            with pytest.raises(LeaseLostError, match="beta: the hold was lost: released"):
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

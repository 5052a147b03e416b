"""Comparing and reading legs that hang: an error that names the image."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.engine.difference_record import DifferenceRecord
from duplexd.engine.verify import Verification
from duplexd.errors import TimedOutError
from duplexd.limits import EngineLimits
from tests.unit.hanging.worlds import LONG, SHORT, hanging
from tests.unit.replication.fakes import World
from tests.unit.replication.test_resync import Replication

if TYPE_CHECKING:
    from tests.unit.hanging.worlds import Hanging


def verification(world: Hanging) -> Verification:
    parts = world.parts
    followers = Replication(World()).followers  # it is not asked: both pairs mirror
    record = DifferenceRecord(parts.timeline, parts.archive, parts.events, 64)
    return Verification(
        parts.timeline, parts.leases, followers, world.calls, record, EngineLimits()
    )


@pytest.mark.parametrize(("side", "path"), [(0, "/a/data.img"), (1, "/b/data.img")])
async def test_a_leg_that_hangs_ends_it_with_its_path(side: int, path: str) -> None:
    async with hanging() as world:
        world.legs["data"][side].hang("read_into")
        with pytest.raises(TimedOutError, match=f"{path}: the disk has not answered"):
            await verification(world).verify([world.pair()], None)


async def test_another_volume_is_compared_meanwhile() -> None:
    async with hanging() as world:
        world.calls.patience = LONG
        world.legs["data"][0].hang("read_into")
        stuck = asyncio.ensure_future(verification(world).verify([world.pair()], None))
        await world.legs["data"][0].hung()
        result = await verification(world).verify([world.pair("wal")], None)
        assert result["equal"]
        assert not stuck.done()
        world.calls.patience = SHORT
        with pytest.raises(TimedOutError):
            await stuck

"""A path that hangs costs the image nothing, and keeps no other path from being looked at."""

from __future__ import annotations

import asyncio
import threading

from duplexd.core.pair_states import DUPLEX
from duplexd.engine.image_places import ImagePlaces
from duplexd.limits import EngineLimits
from tests.support.hanging_leg import PATIENCE_SECONDS, HangingLeg
from tests.unit.hanging.worlds import hanging


class MovedLeg(HangingLeg):
    """One whose path leads to another image."""

    def in_place(self, path: str = "") -> bool:
        return False


class StuckPath(HangingLeg):
    """One whose path is on a disk that hangs, as often as it is looked at."""

    def __init__(self, leg: HangingLeg) -> None:
        super().__init__(leg)
        self.answers = threading.Event()
        self.looks = 0

    def in_place(self, path: str = "") -> bool:
        self.looks += 1
        return self.answers.wait(PATIENCE_SECONDS)


async def test_a_path_that_hangs_is_given_up_and_the_image_stays_in_use() -> None:
    async with hanging() as world:
        places = ImagePlaces(
            world.parts.volumes, world.calls, world.failed_legs, world.parts.events, EngineLimits()
        )
        stuck, moved = StuckPath(world.legs["data"][1]), MovedLeg(world.legs["wal"][0])
        pair, other = world.pair("data"), world.pair("wal")
        pair.set_legs(pair.primary, stuck, pair.mode)
        other.set_legs(moved, other.secondary, other.mode)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await places.look()
            await places.look()
        assert "not the image" in places.error(moved)
        assert places.error(stuck) == ""
        assert (pair.state, pair.secondary) == (DUPLEX, stuck)
        assert stuck.looks == 1, "each look would cost a thread"
        stuck.answers.set()

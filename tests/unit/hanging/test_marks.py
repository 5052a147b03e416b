"""Marks of images that hang while they are written: those of other images go on."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from duplexd.core.pair_states import SUSPENDED
from duplexd.images.probe import Mark
from tests.support.hanging_leg import PATIENCE_SECONDS, HangingLeg
from tests.unit.hanging.worlds import LONG, Hanging, ended, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PRIMARY, SECONDARY = 0, 1


class StuckMark(HangingLeg):
    """The next mark that is written hangs until `release`, those after it do not."""

    def __init__(self, leg: HangingLeg, device: str = "") -> None:
        super().__init__(leg)
        self.device = device
        self.stuck = True
        self.goes_on = threading.Event()

    def write_mark(self, mark: bytes, durable: bool) -> bool:
        if self.stuck:
            self.stuck = False
            self._hung.release()
            self.goes_on.wait(PATIENCE_SECONDS)
        return super().write_mark(mark, durable)

    def release(self) -> None:
        super().release()
        self.goes_on.set()


class World(Hanging):
    """Of which all images have their marks, from a checkpoint."""

    async def written(self) -> None:
        """All images were written to since their last sync, and the journal is synced."""
        for name in ("data", "wal"):
            self.parts.send(name, 0, b"x" * 4096)
        await self.parts.timeline.durable()

    def stick(self, name: str, role: int, device: str = "") -> StuckMark:
        pair, (primary, secondary) = self.pair(name), self.legs[name]
        stuck = StuckMark(primary if role == PRIMARY else secondary, device)
        self.legs[name] = (stuck, secondary) if role == PRIMARY else (primary, stuck)
        pair.set_legs(*self.legs[name], pair.mode)
        return stuck

    def is_marked(self, name: str, role: int) -> bool:
        """With all that is durable."""
        mark = Mark.unpack(self.parts.images[name][role].mark)
        return mark is not None and mark.number == self.parts.writer.synced


@asynccontextmanager
async def marked(*stuck: tuple[str, int, str]) -> AsyncIterator[tuple[World, list[StuckMark]]]:
    """The world, and those of its images whose next mark hangs, which lie on that device."""
    async with ended(World()) as world:
        world.calls.patience = LONG
        legs = [world.stick(*each) for each in stuck]
        for leg in legs:
            leg.stuck = False
        for _ in range(2):
            await world.written()
            await world.checkpointer.checkpoint()
        for leg in legs:
            leg.stuck = True
        yield world, legs


async def test_one_that_hangs_is_left_out_at_once_and_comes_in_again() -> None:
    async with marked(("data", SECONDARY, "")) as (world, (stuck,)):
        others = ("data", PRIMARY), ("wal", PRIMARY), ("wal", SECONDARY)
        for _ in range(3):
            await world.written()
            await world.numbers.look()
            await until(lambda: all(world.is_marked(*each) for each in others))
            assert not world.is_marked("data", SECONDARY)
        stuck.release()
        await world.numbers.over([stuck])
        await world.written()
        await world.numbers.look()
        await until(lambda: world.is_marked("data", SECONDARY))


async def test_two_that_hang_stand_for_their_disk() -> None:
    stuck = (("data", PRIMARY, "a"), ("data", SECONDARY, "a"), ("wal", PRIMARY, "a"))
    async with marked(*stuck) as (world, legs):
        legs[2].stuck = False
        await world.written()
        await world.numbers.look()
        await until(lambda: world.is_marked("wal", PRIMARY))
        await world.written()
        await world.numbers.look()
        await until(lambda: world.is_marked("wal", SECONDARY))
        assert not world.is_marked("wal", PRIMARY)
        for leg in legs:
            leg.release()
        await world.numbers.over(legs)
        await world.written()
        await world.numbers.look()
        await until(lambda: all(world.is_marked("data", role) for role in (PRIMARY, SECONDARY)))


async def test_an_image_with_a_new_id_does_not_get_its_former_one_again() -> None:
    async with marked(("wal", PRIMARY, "")) as (world, (stuck,)):
        stuck.stuck, record = False, world.pair("wal").record
        assert record.primary_image is not None
        record.primary_image = record.primary_image._replace(id="of an earlier start")
        await world.written()
        await world.checkpointer.checkpoint()
        stuck.stuck = True
        await world.written()
        await world.numbers.look()
        await stuck.hung()
        record.primary_image = None  # as of an adopt
        secondary = world.parts.images["wal"][SECONDARY]
        before = secondary.syncs
        checkpoint = asyncio.ensure_future(world.checkpointer.checkpoint())
        await until(lambda: secondary.syncs > before)
        await asyncio.wait({checkpoint}, timeout=0.2)
        stuck.release()
        await checkpoint
        await world.numbers.over([stuck])
        mark = Mark.unpack(stuck.read_mark())
        assert mark is not None
        image = world.pair("wal").record.primary_image
        assert image is not None
        assert mark.id == image.id != "of an earlier start"


async def test_a_cut_is_not_there_before_a_mark_is_on_it_that_was_on_its_way() -> None:
    async with marked(("data", SECONDARY, "")) as (world, (stuck,)):
        await world.written()
        await world.numbers.look()
        await stuck.hung()
        world.pair().record.state = SUSPENDED
        syncing = asyncio.ensure_future(world.checkpointer.sync_secondaries([world.pair()]))
        await asyncio.wait({syncing}, timeout=0.2)
        before = stuck.read_mark()
        stuck.release()
        await syncing
        assert stuck.read_mark() != before, "it was still on its way"
        assert world.is_marked("data", SECONDARY)
        at_cut = stuck.read_mark()
        await world.written()
        await world.numbers.look()
        await until(lambda: world.is_marked("data", PRIMARY))
        assert stuck.read_mark() == at_cut

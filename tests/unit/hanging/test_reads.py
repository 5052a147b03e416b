"""Reads while a leg hangs: answered by the other one, or ended, and nothing else waits."""

from __future__ import annotations

import asyncio
import errno
from typing import ClassVar

from duplexd.core.markers import MakeCut
from duplexd.core.pair_states import SUSPENDED
from duplexd.core.patience import Patience
from duplexd.images.absent import AbsentLeg
from duplexd.runtime.watch import HungError
from tests.unit.hanging.worlds import LONG, SHORT, hanging, until

DATA = b"\x5a" * 4096
OTHER = b"\xa5" * 4096


async def test_a_thousand_reads_of_a_primary_that_hangs_do_not_stop_those_of_others() -> None:
    async with hanging() as world:
        world.parts.send("data", 0, DATA)
        world.parts.send("wal", 0, OTHER)
        world.parts.timeline.append(MakeCut("00", "", [1]))
        primary, _ = world.legs["data"]
        world.calls.patience = LONG
        primary.hang("read_into")
        stuck = [world.start_read("data", 0, 4096) for _ in range(1000)]
        await primary.hung()
        assert await world.start_read("wal", 0, 4096) == (0, OTHER)
        assert not any(read.done() for read in stuck)
        world.calls.patience = SHORT
        answers = await asyncio.gather(*stuck)
        assert {number for number, _ in answers} == {errno.ETIMEDOUT}


class Counted(Patience):
    """Counts what is looked at."""

    looks: ClassVar[list[str]] = []

    def seconds(self, use: str) -> float:
        self.looks.append(use)
        return super().seconds(use)


async def test_a_look_at_a_thousand_reads_is_at_those_that_a_thread_has_begun() -> None:
    """The loop looks four times a second, and each time others would wait for it."""
    async with hanging() as world:
        primary, _ = world.legs["data"]
        primary.hang("read_into")
        stuck = [world.start_read("data", 0, 4096) for _ in range(1000)]
        await primary.hung()
        Counted.looks.clear()
        world.calls.patience = Counted(LONG.secondary_s, LONG.primary_s)
        await until(lambda: len(Counted.looks) > 1)
        assert len(Counted.looks) < 100
        world.calls.patience = SHORT
        assert set(await asyncio.gather(*stuck)) == {(0, bytes(4096))}


async def test_a_read_of_a_primary_that_hangs_comes_from_the_secondary() -> None:
    async with hanging() as world:
        world.parts.send("data", 0, DATA)
        primary, _ = world.legs["data"]
        primary.hang("read_into")
        assert await world.start_read("data", 0, 4096) == (0, DATA)
        assert world.primaries == [], "it may only be slow"


async def test_reads_that_follow_go_to_the_secondary_at_once_while_the_primary_hangs() -> None:
    async with hanging() as world:
        primary, _ = world.legs["data"]
        primary.hang("read_into")
        await world.start_read("data", 0, 4096)
        asked = primary.calls["read_into"]
        await world.start_read("data", 0, 4096)
        assert primary.calls["read_into"] == asked


async def test_a_primary_that_answers_again_is_asked_again() -> None:
    async with hanging() as world:
        primary, secondary = world.legs["data"]
        primary.hang("read_into")
        await world.start_read("data", 0, 4096)
        primary.release()
        secondary.fail("read_into")
        assert (await world.start_read("data", 0, 4096))[0] == 0


async def test_what_a_late_thread_reads_is_not_what_was_sent() -> None:
    """It reads what was written after the read was answered."""
    async with hanging() as world:
        world.parts.send("data", 0, DATA)
        primary, _ = world.legs["data"]
        primary.hang("read_into")
        answers: list[bytearray] = []
        world.reads.read(world.pair(), 0, 4096, 0, lambda _number, content: answers.append(content))
        await until(lambda: bool(answers))
        world.parts.send("data", 0, OTHER)
        primary.release()
        assert await asyncio.to_thread(primary.left.acquire, timeout=60)
        assert (await world.start_read("data", 0, 4096))[1] == OTHER
        assert bytes(answers[0]) == DATA


async def test_a_primary_that_hangs_for_its_whole_time_has_failed() -> None:
    async with hanging() as world:
        primary, _ = world.legs["data"]
        primary.hang("read_into")
        await world.start_read("data", 0, 4096)
        await until(lambda: bool(world.primaries))
        ((name, error),) = world.primaries
        assert name == "data"
        assert isinstance(error, HungError)


async def test_a_secondary_that_hangs_where_it_has_to_answer_is_suspended_with_its_group() -> None:
    async with hanging() as world:
        primary, secondary = world.legs["data"]
        primary.fail("read_into", errno.EREMOTEIO)
        secondary.hang("read_into")
        assert (await world.start_read("data", 0, 4096))[0] == errno.EREMOTEIO
        data, wal = world.pair("data"), world.pair("wal")
        assert (data.state, wal.state) == (SUSPENDED, SUSPENDED)
        assert data.cut is wal.cut
        assert data.usable, "a read leaves nothing half done"
        assert isinstance(data.secondary, AbsentLeg)
        assert "has not answered for 0.3 s" in data.secondary.why


async def test_queued_reads_of_a_disk_that_hangs_hold_no_buffers() -> None:
    async with hanging() as world:
        world.parts.timeline.append(MakeCut("00", "", [1]))
        primary, _ = world.legs["data"]
        primary.hang("read_into")
        stuck = [world.start_read("data", 0, 4096) for _ in range(100)]
        await primary.hung()
        await asyncio.gather(*stuck)
        primary.release()
        await world.workers.of(primary).run(lambda: None)
        assert primary.calls["read_into"] < 10, "those that were answered are not begun"

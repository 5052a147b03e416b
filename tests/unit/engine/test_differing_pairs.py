"""What is not done with a pair whose legs are known to differ: swaps, and reads of those places."""

from __future__ import annotations

import asyncio
import errno

import pytest

from duplexd.core.markers import Differ
from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.errors import WrongStateError
from tests.support.bad_sectors import BadSectors
from tests.support.fault_leg import FaultLeg
from tests.unit.engine.cores import MIB, Core, new_disk, run, running, settings

BLOCK = 4096
OLD, NEW = b"\x01" * BLOCK, b"\x02" * BLOCK


async def differing(core: Core, offset: int = 0) -> None:
    """Known to differ in one block."""
    core.pair().copy_of.write(offset, b"\xee")
    assert not (await core.controller.verify(["data"]))["equal"]


async def test_a_swap_is_refused_with_the_place_and_what_to_do() -> None:
    async with running() as core:
        await differing(core, BLOCK)
        before = core.pair().primary
        with pytest.raises(WrongStateError, match=r"first at byte 4096.*duplexctl repair data"):
            await core.controller.swap(["data"], False, None, False)
        assert core.pair().primary is before


async def test_a_swap_that_accepts_the_differences_is_done_and_they_stay_known() -> None:
    async with running() as core:
        await differing(core)
        before = core.pair().primary
        await core.controller.swap(["data"], False, None, False, accept_differences=True)
        assert core.pair().primary is not before
        assert core.pair().state == DUPLEX
        assert core.pair().record.differs is not None


@pytest.mark.parametrize(("forward", "lose"), [(True, False), (False, True)])
async def test_nor_is_a_suspended_secondary_promoted(forward: bool, lose: bool) -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        await differing(core)
        with pytest.raises(WrongStateError, match="the legs differ"):
            await core.controller.swap(["data"], forward, None, lose)
        assert core.pair().state == SUSPENDED
        await core.controller.swap(["data"], forward, None, lose, accept_differences=True)


async def test_a_suspended_secondary_that_differs_is_not_said_to_be_rebuildable() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        (before, *_) = core.controller.status()["volumes"]
        assert before["rebuild"]["possible"]
        await differing(core)
        (after, *_) = core.controller.status()["volumes"]
        assert not after["rebuild"]["possible"]


async def test_a_cut_of_a_secondary_that_differs_is_no_answer_to_a_suspend() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        assert (await core.controller.suspend(["data"], existing=True))["already"]
        await differing(core)
        with pytest.raises(WrongStateError, match="the legs differ in 1 place"):
            await core.controller.suspend(["data"], existing=True)


async def test_a_resync_that_is_waited_for_says_where_the_legs_still_differ() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        await differing(core)
        await core.controller.resync(["data"])
        (row,) = (await core.controller.resync_wait(["data"]))["volumes"]
        assert row["state"] == DUPLEX
        assert row["differs"].startswith("the legs differ in 1 place")


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_swap_is_refused_too_if_they_are_found_to_differ_while_it_waits(mode: str) -> None:
    async with running({"data": mode, "wal": "sync"}) as core:
        await core.write("data", 0, OLD)
        await core.until(lambda: core.pair().mirrors or core.equal())
        core.pair().copy_of.write(0, b"\xee")
        pair, before = core.pair(), core.pair().primary
        swapping = asyncio.ensure_future(core.controller.swap(["wal", "data"], False, None, False))
        await core.until(lambda: core.pair("wal").record.swapped)

        def find() -> None:
            core.controller.timeline.append(Differ(pair.id, [(0, BLOCK)]))

        core.controller.timeline.when_at_rest(find)
        with pytest.raises(WrongStateError, match=r"data: the legs differ.*swapped: wal"):
            await swapping
        assert pair.primary is before


async def test_a_primary_that_refuses_a_write_does_not_give_way_to_it() -> None:
    async with running() as core:
        await core.write("data", 0, OLD)
        await differing(core, BLOCK)
        primary, _ = core.faulty()
        primary.fail("write", errno.EIO)
        assert await core.write("data", 0, NEW) == errno.EIO
        assert core.pair().primary is primary
        assert core.named("swapped") == []


async def test_a_primary_that_cannot_be_synced_leaves_the_volume_unserved_instead() -> None:
    async with running() as core:
        await core.write("data", 0, OLD)
        await differing(core, BLOCK)
        primary, _ = core.faulty()
        primary.fail("sync", errno.EIO)
        await core.controller.checkpointer.checkpoint()
        await core.until(lambda: bool(core.pair().failed))
        assert core.pair().primary is primary
        await core.controller.swap(["data"], False, None, False, accept_differences=True)
        assert not core.pair().failed, "the operator has said that it is good enough"


def test_nor_does_a_start_without_the_primary_take_it() -> None:
    disk = new_disk()

    async def find() -> None:
        core = await Core.begin(disk, settings())
        await core.write("data", 0, OLD)
        await differing(core, BLOCK)
        await core.controller.stop()

    async def look() -> None:
        disk.take("/a/data.img")
        core = await Core.begin(disk, settings())
        assert core.pair().failed
        assert core.pair().primary.path == "/a/data.img"
        await core.controller.stop()

    run(find())
    run(look())


async def test_a_place_that_differs_is_not_read_from_the_secondary_and_others_are() -> None:
    async with running() as core:
        await core.write("data", 0, OLD + OLD)
        await differing(core)
        pair = core.pair()
        primary, secondary = BadSectors(pair.primary, 0, BLOCK), FaultLeg(pair.copy_of)
        pair.set_legs(primary, secondary, pair.mode)
        assert (await core.read("data", 0, BLOCK))[0] == errno.EIO
        assert await core.read("data", BLOCK, BLOCK) == (0, OLD)
        await core.until(lambda: bool(core.named("range-repaired")))
        assert [event["offset"] for event in core.named("range-repaired")] == [BLOCK]


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
def test_an_unclean_stop_copies_nothing_over_what_differs(power: bool) -> None:
    disk, wrong = new_disk(), 3 * MIB + 8192  # a block that no start looks at

    async def begin() -> None:
        core = await Core.begin(disk, settings())
        assert await core.write("data", 0, NEW) == 0
        core.pair().primary.write(wrong, b"\xee")  # the secondary has the only good one
        core.pair().primary.sync()
        assert not (await core.controller.verify(["data"]))["equal"]
        assert await core.write("data", 2 * MIB, NEW) == 0  # in the same region, which is open
        await core.controller.timeline.durable()
        await core.crash(power)

    async def after() -> None:
        core = await Core.begin(disk, settings())
        await core.until(lambda: core.pair().state == DUPLEX)
        assert core.image("data", "b")[wrong] == 0
        assert core.pair().record.differs is not None
        with pytest.raises(WrongStateError, match="repair"):
            await core.controller.suspend(["data"])
        await core.controller.repair(["data"], "secondary", dry_run=False)
        assert core.equal()
        assert (await core.read("data", wrong, 1))[1] == b"\0"
        assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"
        await core.controller.stop()

    run(begin())
    run(after())

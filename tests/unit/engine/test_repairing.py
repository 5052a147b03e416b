"""Repairing the places where legs are known to differ, from either image."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.markers import Copy
from duplexd.core.pair_states import DUPLEX, PENDING
from duplexd.engine.compare import Compared, Legs
from duplexd.engine.difference_record import Comparison
from duplexd.errors import DuplexdError, TimedOutError, UsageError, WrongStateError
from duplexd.limits import EngineLimits
from tests.support.bad_sectors import BadSectors
from tests.support.fault_leg import FaultLeg
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.markers import Marker
    from duplexd.core.pair import Pair

BLOCK = 4096
GOOD = bytes(range(256)) * 16
modes = pytest.mark.parametrize("mode", ["sync", "async"])
sources = pytest.mark.parametrize("source", ["primary", "secondary"])


async def differing(core: Core, *offsets: int) -> None:
    """Blocks of the secondary hold something else, and that is known."""
    for offset in offsets or (MIB + BLOCK,):
        assert await core.write("data", offset, GOOD) == 0
    await core.until(lambda: core.pair().mirrors or core.equal())
    for offset in offsets or (MIB + BLOCK,):
        core.pair().copy_of.write(offset + 7, b"\xee")
    assert not (await core.controller.verify(["data"]))["equal"]


def block(core: Core, side: str, offset: int = MIB + BLOCK) -> bytes:
    return core.image("data", side)[offset : offset + BLOCK]


@modes
async def test_from_the_primary_the_secondary_gets_what_the_primary_holds(mode: str) -> None:
    async with running({"data": mode}) as core:
        await differing(core)
        result = await core.controller.repair(["data"], "primary", dry_run=False)
        (row,) = result["volumes"]
        assert (row["ranges"], row["bytes"], row["path"]) == (
            [[MIB + BLOCK, BLOCK]],
            BLOCK,
            "/a/data.img",
        )
        assert block(core, "a") == block(core, "b") == GOOD
        assert (core.pair().state, core.pair().record.differs) == (DUPLEX, None)
        assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"


@modes
async def test_from_the_secondary_the_volume_gets_what_the_secondary_holds(mode: str) -> None:
    async with running({"data": mode}) as core:
        await differing(core)
        right = block(core, "b")
        await core.controller.repair(["data"], "secondary", dry_run=False)
        assert block(core, "a") == block(core, "b") == right
        assert (await core.read("data", MIB + BLOCK, BLOCK))[1] == right
        assert core.pair().record.differs is None
        assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"


@modes
@sources
async def test_writes_that_go_on_meanwhile_are_on_both_legs(mode: str, source: str) -> None:
    async with running({"data": mode}) as core:
        await differing(core, 0, MIB)
        repairing = asyncio.ensure_future(core.controller.repair(["data"], source, dry_run=False))
        changes = [core.send("data", place * 512, bytes([place + 1]) * 512) for place in range(16)]
        await repairing
        for change in changes:
            assert await core.answer(change) == 0
        expected = b"".join(bytes([place + 1]) * 512 for place in range(8))
        assert (await core.read("data", 0, BLOCK))[1] == expected
        await core.until(core.equal)


async def test_the_pair_is_no_backup_while_it_is_repaired_from_the_primary() -> None:
    async with running() as core:
        await differing(core)
        secondary, seen = core.secondary(), []
        repairing = asyncio.ensure_future(
            core.controller.repair(["data"], "primary", dry_run=False)
        )
        await core.until(lambda: core.pair().state == PENDING)
        (volume,) = core.controller.status()["volumes"]
        seen.append(volume["secondary"]["usable"])
        await repairing
        assert seen == [False]
        assert secondary.calls["write"] > 0


@sources
async def test_what_a_scrub_finds_elsewhere_meanwhile_stays_recorded(source: str) -> None:
    async with running() as core:
        await differing(core, 0)
        pair, parts = core.pair(), core.controller.comparisons
        legs, piece = Legs(pair.primary, pair.copy_of), parts.verification.piece
        elsewhere = (2 * MIB, BLOCK)

        async def found_meanwhile(*args: object) -> Compared:
            await parts.record.differ(Comparison(pair, legs), [elsewhere])
            return await piece(*args)  # type: ignore[arg-type]

        pair.copy_of.write(elsewhere[0], b"\xee")
        parts.verification.piece = found_meanwhile  # type: ignore[assignment,method-assign]
        await core.controller.repair(["data"], source, dry_run=False)
        assert pair.record.differs is not None
        assert elsewhere in pair.record.differs.runs


@sources
async def test_a_dry_run_says_the_places_and_changes_nothing(source: str) -> None:
    async with running() as core:
        await differing(core)
        before, images = (
            core.controller.sequence,
            (core.image("data", "a"), core.image("data", "b")),
        )
        (row,) = (await core.controller.repair(["data"], source, dry_run=True))["volumes"]
        assert (row["repaired"], row["ranges"]) == (False, [[MIB + BLOCK, BLOCK]])
        assert (core.image("data", "a"), core.image("data", "b")) == images
        assert core.controller.sequence == before
        assert core.pair().record.differs is not None


@sources
async def test_nothing_is_repaired_where_nothing_is_recorded(source: str) -> None:
    async with running() as core:
        with pytest.raises(WrongStateError, match=r"nothing to repair; `duplexctl verify data`"):
            await core.controller.repair(["data"], source, dry_run=False)


@sources
async def test_a_suspended_pair_has_to_be_resynced_first(source: str) -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        core.pair().copy_of.write(MIB, b"\xee")
        assert not (await core.controller.verify(["data"]))["equal"]
        with pytest.raises(
            WrongStateError, match=r"data is SUSPENDED.*duplexctl resync --wait data"
        ):
            await core.controller.repair(["data"], source, dry_run=False)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        await core.controller.repair(["data"], source, dry_run=False)
        assert core.equal()


@sources
async def test_of_several_pairs_those_that_differ_are_repaired_and_the_others_named(
    source: str,
) -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await differing(core)
        result = await core.controller.repair(["data", "wal"], source, dry_run=False)
        assert [row["name"] for row in result["volumes"]] == ["data"]
        assert result["no_difference"] == ["wal"]
        assert core.pair().record.differs is None


async def test_from_the_secondary_a_volume_that_a_lease_holds_is_refused_with_its_owner() -> None:
    async with running() as core:
        await differing(core)
        before, hold = block(core, "a"), await core.controller.quiesce(["data"], 5.0, "backup")
        with pytest.raises(WrongStateError, match="data is held by backup"):
            await core.controller.repair(["data"], "secondary", dry_run=False)
        assert block(core, "a") == before
        core.controller.leases.release(hold.id)
        await core.controller.repair(["data"], "secondary", dry_run=False)
        assert core.equal()


async def test_from_the_secondary_a_lease_that_begins_meanwhile_is_waited_for() -> None:
    async with running() as core:
        await differing(core, MIB, 2 * MIB)
        own, controller = core.controller.own_writes, core.controller
        write, held = own.write, list[str]()

        async def quiesced(
            pair: Pair, offset: int, data: bytearray, good: Callable[[], bool]
        ) -> bool:
            if not held:
                held.append((await controller.quiesce(["data"], 5.0, "backup")).id)
            return await write(pair, offset, data, good)

        own.write = quiesced  # type: ignore[method-assign]
        before = block(core, "a", MIB)
        repairing = asyncio.ensure_future(controller.repair(["data"], "secondary", dry_run=False))
        await core.until(lambda: held != [])
        for _ in range(20):
            await asyncio.sleep(0)
        read: list[str] = []
        core.disk.met = lambda operation, path: read.append(f"{operation} {path}")
        await asyncio.sleep(1)
        assert read.count("read /b/data.img") == 0, "it is looked at again and again"
        assert block(core, "a", MIB) == before
        assert not repairing.done()
        controller.leases.release(held[0])
        await repairing
        assert core.equal()


async def test_another_source_than_the_two_is_refused() -> None:
    async with running() as core:
        with pytest.raises(UsageError, match='expected "primary" or "secondary"'):
            await core.controller.repair(["data"], "both", dry_run=False)


async def test_a_disk_that_keeps_nothing_leaves_the_record() -> None:
    class Forgetful(FaultLeg):
        def write(self, offset: int, data: object) -> None:
            """It says yes."""

    async with running() as core:
        await differing(core)
        pair = core.pair()
        pair.set_legs(pair.primary, Forgetful(pair.copy_of), pair.mode)
        with pytest.raises(DuplexdError, match="the legs still differ after the repair"):
            await core.controller.repair(["data"], "primary", dry_run=False)
        assert pair.record.differs is not None


async def test_a_block_that_the_secondary_cannot_give_leaves_the_record_and_the_volume() -> None:
    async with running() as core:
        await differing(core)
        pair, before = core.pair(), block(core, "a")
        pair.set_legs(pair.primary, BadSectors(pair.copy_of, MIB + BLOCK), pair.mode)
        with pytest.raises(DuplexdError, match=f"cannot be read at offset {MIB + BLOCK}"):
            await core.controller.repair(["data"], "secondary", dry_run=False)
        assert pair.record.differs is not None
        assert block(core, "a") == before
        assert await core.write("data", 0, GOOD) == 0


async def test_a_primary_that_does_not_take_it_leaves_the_record() -> None:
    async with running() as core:
        core.refuse_swaps()
        await differing(core)
        primary, _ = core.faulty()
        primary.fail("write", errno.EIO)
        with pytest.raises(DuplexdError, match="could not be written"):
            await core.controller.repair(["data"], "secondary", dry_run=False)
        assert core.pair().record.differs is not None


@sources
async def test_an_async_secondary_that_trails_holds_the_writes_no_longer_than_a_lease(
    source: str,
) -> None:
    limits = dataclasses.replace(EngineLimits(), recheck_hold_seconds=0.05)
    async with running({"data": "async"}, limits=limits) as core:
        await differing(core)
        async with core.controller.followers.stepping:  # its follower waits
            core.send("data", 0, GOOD)
            await core.turns()
            with pytest.raises(TimedOutError, match="trails too far behind"):
                await core.controller.repair(["data"], source, dry_run=False)
            assert await core.write("data", 0, GOOD) == 0
        assert core.pair().record.differs is not None


@modes
async def test_a_repair_that_the_journal_has_no_room_for_leaves_the_pair_as_it_was(
    mode: str,
) -> None:
    async with running({"data": mode}) as core:
        await differing(core)
        timeline = core.controller.timeline
        append = timeline.append

        def no_room(marker: Marker) -> int:
            if isinstance(marker, Copy):
                raise OSError(errno.ENOSPC, "No space left on device")
            return append(marker)

        timeline.append = no_room  # type: ignore[method-assign]
        with pytest.raises(DuplexdError, match="could not begin: No space left"):
            await core.controller.repair(["data"], "primary", dry_run=False)
        timeline.append = append  # type: ignore[method-assign]
        assert (core.pair().state, core.pair().record.differs is None) == (DUPLEX, False)
        assert await core.write("data", 0, GOOD) == 0
        await core.until(lambda: block(core, "b", 0) == GOOD)
        await core.controller.repair(["data"], "primary", dry_run=False)
        assert core.equal()


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
def test_a_repair_that_a_crash_ends_is_continued_and_then_they_are_equal(power: bool) -> None:
    disk = new_disk()

    async def begin() -> None:
        core = await Core.begin(disk, settings())
        await differing(core)
        repairing = asyncio.ensure_future(
            core.controller.repair(["data"], "primary", dry_run=False)
        )
        await core.until(lambda: core.pair().state == PENDING)
        await core.controller.timeline.durable()
        await core.crash(power)
        await asyncio.gather(repairing, return_exceptions=True)

    async def go_on() -> None:
        core = await Core.begin(disk, settings())
        await core.until(lambda: core.pair().state == DUPLEX)
        assert core.equal()
        assert core.pair().record.differs is None
        await core.controller.stop()

    run(begin())
    run(go_on())


@sources
async def test_a_volume_that_a_reload_removes_meanwhile_is_not_written_to(source: str) -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await differing(core)
        await core.controller.checkpointer.checkpoint()
        pair, at_rest = core.pair(), core.controller.followers.until

        async def removed(there: Callable[[], bool]) -> None:
            core.controller.followers.until = at_rest  # type: ignore[method-assign]
            await at_rest(there)
            await core.controller.reload(settings({"wal": "sync"}))

        core.controller.followers.until = removed  # type: ignore[assignment,method-assign]
        with pytest.raises(DuplexdError):
            await core.controller.repair(["data"], source, dry_run=False)
        assert pair.record.removed
        assert (pair.state, core.controller.failed) == (DUPLEX, "")
        assert await core.write("wal", 0, GOOD) == 0


async def test_more_than_the_journal_holds_is_repaired_from_the_secondary() -> None:
    async with running(size=24 * MIB, journal="16MiB") as core:
        core.pair().copy_of.write(0, b"\xee" * 24 * MIB)
        assert not (await core.controller.verify(["data"]))["equal"]
        checkpoint = core.controller.checkpointer.checkpoint

        async def slowly() -> None:
            await asyncio.sleep(0.3)
            await checkpoint()

        core.controller.checkpointer.checkpoint = slowly  # type: ignore[method-assign]
        await core.controller.repair(["data"], "secondary", dry_run=False)
        assert core.equal()
        assert core.pair().record.differs is None


def test_a_start_knows_the_secondary_that_was_repaired_after_a_checkpoint() -> None:
    disk = new_disk()

    async def begin() -> None:
        core = await Core.begin(disk, settings())
        core.pair().copy_of.write(0, b"\xee" * SIZE)
        assert not (await core.controller.verify(["data"]))["equal"]
        for _ in range(2):  # the last one looks at what differs, too
            assert await core.write("data", 0, GOOD) == 0
            await core.controller.checkpointer.checkpoint()
        await core.controller.repair(["data"], "primary", dry_run=False)
        await core.controller.stop()

    async def after() -> None:
        core = await Core.begin(disk, settings())
        assert core.pair().state == DUPLEX, core.pair().reason
        await core.controller.stop()

    run(begin())
    run(after())

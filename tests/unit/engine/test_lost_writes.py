"""Disks that have lost writes which had succeeded: found by a read, before any sync."""

from __future__ import annotations

import errno

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.runtime.writeback import LostWritesError
from tests.support.lost_writes import LostWrites
from tests.unit.engine.cores import SIZE, running

DATA = bytes(range(256)) * 16
EVERYTHING_LOST = LostWritesError(errno.EIO, "the disk has lost writes")


async def test_a_read_comes_from_the_secondary_which_takes_the_place_of_such_a_primary() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair, secondary = core.pair(), core.pair().secondary
        pair.set_legs(LostWrites(pair.primary), secondary, pair.mode)
        assert await core.read("data", 0, len(DATA)) == (0, DATA)
        await core.until(lambda: pair.primary is secondary)
        assert (pair.state, pair.usable) == (SUSPENDED, False)
        (event,) = core.named("primary-failed")
        assert event["error"] == "the disk has lost writes"
        assert core.named("range-repaired") == []


async def test_a_resync_brings_it_back_with_all_that_it_lost() -> None:
    async with running() as core:
        pair = core.pair()
        assert await core.write("data", 0, b"x" * pair.size) == 0
        pair.set_legs(LostWrites(pair.primary), pair.secondary, pair.mode)
        await core.read("data", 0, len(DATA))
        await core.until(lambda: pair.state == SUSPENDED)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert pair.state == DUPLEX
        assert pair.copied_bytes == pair.size, "what seems to be equal is in memory only"
        assert core.equal()


async def test_such_a_primary_without_a_current_secondary_gives_errors_not_old_content() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        assert await core.write("data", 0, DATA) == 0
        await core.controller.suspend(["data"])
        pair = core.pair()
        pair.set_legs(LostWrites(pair.primary), pair.secondary, pair.mode)
        assert await core.read("data", 0, len(DATA)) == (errno.EIO, b"")
        await core.until(lambda: bool(pair.failed))
        assert await core.write("wal", 0, DATA) == 0, "no other volume notices"


async def test_such_a_primary_that_a_resync_reads_is_not_called_good_any_more() -> None:
    """Else clients get errors from a volume whose status says that all is well."""
    async with running() as core:
        await core.controller.suspend(["data"])
        for _ in range(3):  # by map: the journal is longer than that
            assert await core.write("data", 0, b"x" * SIZE) == 0
        pair, cut = core.pair(), core.pair().cut
        pair.set_legs(LostWrites(pair.primary), pair.secondary, pair.mode)
        (report,) = (await core.controller.resync(["data"]))["volumes"]
        assert report["how"] == "map"
        await core.until(lambda: bool(pair.failed) and pair.state == SUSPENDED)
        assert (pair.cut, pair.usable) == (cut, True)


async def test_such_a_primary_that_a_copy_reads_is_not_called_good_any_more() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair = core.pair()
        core.controller.failed_legs.found(pair, pair.copy_of, EVERYTHING_LOST)
        await core.until(lambda: pair.state == SUSPENDED)
        pair.set_legs(LostWrites(pair.primary), pair.secondary, pair.mode)
        await core.controller.resync(["data"])
        await core.until(lambda: bool(pair.failed) and pair.state == SUSPENDED)
        assert not pair.usable


async def test_such_a_primary_that_a_comparison_reads_is_replaced_by_its_secondary() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair, secondary = core.pair(), core.pair().secondary
        pair.set_legs(LostWrites(pair.primary), secondary, pair.mode)
        result = await core.controller.verify(["data"])
        (found,) = result["volumes"]
        assert (result["equal"], found["why"]) == (
            False,
            "/a/data.img: cannot be read at offset 0: the disk has lost writes",
        )
        await core.until(lambda: pair.primary is secondary)
        assert core.named("primary-failed")[0]["path"] == "/a/data.img"


async def test_such_a_secondary_that_a_scrub_reads_is_suspended() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair = core.pair()
        pair.set_legs(pair.primary, LostWrites(pair.copy_of), pair.mode)
        scrubs = core.controller.comparisons.scrubs
        core.clock.now += 3601
        scrubs.take(3600.0, 1 << 40)
        await scrubs.look()
        assert (pair.state, pair.usable) == (SUSPENDED, False)


async def test_such_a_secondary_is_suspended_and_copied_as_a_whole() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair = core.pair()
        core.controller.failed_legs.found(pair, pair.copy_of, EVERYTHING_LOST)
        await core.until(lambda: pair.state == SUSPENDED)
        assert not pair.usable
        assert pair.changed is not None
        assert pair.changed.changed_bytes == pair.size


async def test_such_a_secondary_can_be_read_again_once_it_was_resynced() -> None:
    async with running() as core:
        pair = core.pair()
        pair.set_legs(pair.primary, LostWrites(pair.copy_of), pair.mode)
        assert await core.write("data", 0, DATA) == 0
        await core.controller.checkpointer.checkpoint()
        assert (pair.state, pair.usable) == (SUSPENDED, False)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert pair.state == DUPLEX
        content = bytearray(len(DATA))
        pair.copy_of.read_into(0, memoryview(content))
        assert content == DATA

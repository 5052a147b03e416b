"""Ranges that a primary cannot read are written anew from a current secondary."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.core.pair_states import DUPLEX
from tests.support.bad_sectors import BadSectors
from tests.support.fault_leg import FaultLeg
from tests.unit.engine.cores import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Change
    from duplexd.images.leg import Leg
    from tests.unit.engine.cores import Core

DATA = bytes(range(256)) * 64
BLOCK = 4096


class WatchedReads(FaultLeg):
    """Calls `then` after each read."""

    __slots__ = ("then",)

    def __init__(self, leg: Leg) -> None:
        super().__init__(leg)
        self.then: Callable[[], None] = lambda: None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        super().read_into(offset, buffer)
        self.then()


def with_bad_sectors(core: Core, *bad: int) -> tuple[BadSectors, FaultLeg]:
    """The legs of "data", with blocks of the primary that cannot be read."""
    pair = core.pair()
    primary, secondary = BadSectors(pair.primary, *bad), FaultLeg(pair.copy_of)
    legs: tuple[Leg, Leg] = primary, secondary
    pair.set_legs(*legs, pair.mode)
    return primary, secondary


async def test_a_bad_range_is_read_from_the_secondary_and_written_anew_and_counted() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        primary, _ = with_bad_sectors(core, BLOCK)
        assert await core.read("data", 0, len(DATA)) == (0, DATA)
        await core.until(lambda: not primary.bad)
        await core.until(lambda: bool(core.named("range-repaired")))
        (event,) = core.named("range-repaired")
        assert (event["offset"], event["length"]) == (BLOCK, BLOCK), "only what was bad"
        assert core.pair().repaired_bytes == BLOCK
        primary_now = bytearray(len(DATA))
        primary.read_into(0, memoryview(primary_now))
        assert primary_now == DATA
        assert core.pair().state == DUPLEX


async def test_neighbouring_bad_blocks_are_one_range() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        with_bad_sectors(core, 0, BLOCK, 3 * BLOCK)
        await core.read("data", 100, len(DATA) - 200)
        await core.until(lambda: len(core.named("range-repaired")) == 2)
        ranges = [(event["offset"], event["length"]) for event in core.named("range-repaired")]
        assert ranges == [(0, 2 * BLOCK), (3 * BLOCK, BLOCK)]


async def test_a_write_that_comes_meanwhile_is_not_overwritten_with_older_content() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair, newer = core.pair(), b"\xee" * BLOCK
        changes: list[Change] = []
        primary = BadSectors(pair.primary, BLOCK)
        secondary = WatchedReads(pair.copy_of)
        pair.set_legs(primary, secondary, pair.mode)

        def write_meanwhile() -> None:
            if secondary.calls["read_into"] == 2:
                changes.append(core.send("data", BLOCK, newer))  # the content has been read

        secondary.then = write_meanwhile
        await core.read("data", 0, len(DATA))
        await core.until(lambda: bool(changes))
        assert await core.answer(changes[0]) == 0
        await core.until(lambda: bool(core.named("range-repaired")))
        assert await core.read("data", BLOCK, BLOCK) == (0, newer)
        assert not primary.bad
        assert core.equal()


async def test_a_range_of_a_pair_without_a_current_secondary_is_left_and_nothing_fails() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        await core.controller.suspend(["data"])
        primary, _ = with_bad_sectors(core, BLOCK)
        assert (await core.read("data", 0, len(DATA)))[0] == errno.EIO
        await core.turns()
        assert primary.bad
        assert not core.controller.failed
        assert not core.pair().failed
        assert await core.write("data", 0, DATA) == 0


async def test_a_primary_that_cannot_be_written_anew_either_gives_way_to_the_secondary() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair = core.pair()
        primary = FaultLeg(BadSectors(pair.primary, BLOCK))
        pair.set_legs(primary, pair.secondary, pair.mode)
        secondary = pair.secondary
        primary.fail("write", errno.EIO)
        assert await core.read("data", 0, len(DATA)) == (0, DATA)
        await core.until(lambda: pair.primary is secondary)
        assert core.named("range-repaired") == []
        assert await core.read("data", 0, len(DATA)) == (0, DATA)


async def test_a_primary_that_takes_the_range_and_cannot_read_it_gives_way_too() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair = core.pair()
        primary = FaultLeg(pair.primary)
        pair.set_legs(primary, pair.secondary, pair.mode)
        secondary = pair.secondary
        primary.fail("read_into", errno.EIO)
        assert await core.read("data", 0, len(DATA)) == (0, DATA)
        await core.until(lambda: pair.primary is secondary)
        assert core.named("range-repaired") == []
        (event,) = core.named("primary-failed")
        assert "cannot be read, although they were written anew" in event["error"]
        assert await core.read("data", 0, len(DATA)) == (0, DATA)


async def test_what_a_truncated_primary_lost_is_not_written_anew_by_pieces() -> None:
    """The first piece would make it long again, with zeroes before it that can be read."""
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        with_bad_sectors(core, BLOCK)
        core.disk.shorten("/a/data.img", BLOCK)
        assert await core.read("data", 0, len(DATA)) == (0, DATA)
        await core.until(lambda: core.pair().primary.path == "/b/data.img")
        assert core.named("range-repaired") == []
        (event,) = core.named("primary-failed")
        assert "the image was truncated: it has 4096 bytes" in event["error"]
        assert await core.read("data", 0, len(DATA)) == (0, DATA)


class CachedBadSectors(BadSectors):
    """A disk that does not take the blocks, below a page cache that does: they can be read until
    they are written back.
    """

    __slots__ = ()

    def write_back(self, offset: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")


async def test_a_range_that_only_the_page_cache_took_is_not_called_repaired() -> None:
    async with running() as core:
        assert await core.write("data", 0, DATA) == 0
        pair, secondary = core.pair(), core.pair().secondary
        pair.set_legs(CachedBadSectors(pair.primary, BLOCK), secondary, pair.mode)
        assert await core.read("data", 0, len(DATA)) == (0, DATA)
        await core.until(lambda: pair.primary is secondary)
        assert core.named("range-repaired") == []
        assert pair.repaired_bytes == 0
        (event,) = core.named("primary-failed")
        assert "cannot be written anew" in event["error"]

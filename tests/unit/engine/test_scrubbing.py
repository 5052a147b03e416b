"""Scrubs: which pair is compared when, how far it is, and what becomes of what is found."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.core.scrub_state import Scrub
from duplexd.errors import TimedOutError
from duplexd.limits import EngineLimits
from tests.support.bad_sectors import BadSectors
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from duplexd.core.pair import Pair
    from duplexd.engine.compare import Compared, Legs

EVERY_S, RATE = 3600.0, 1 << 40
# Looked for by hand, and marked after each piece
LIMITS = dataclasses.replace(EngineLimits(), scrub_look_seconds=3600.0, scrub_mark_bytes=MIB)


async def due(core: Core, **pairs: str) -> None:
    """Data in both legs, so that there is something to read; and the time has come."""
    for name in pairs or {"data": "sync"}:
        for place in range(0, SIZE, MIB):
            assert await core.write(name, place, b"\x55" * 4096) == 0
    core.clock.now += EVERY_S + 1
    core.controller.comparisons.scrubs.take(EVERY_S, RATE)


async def scrub(core: Core) -> None:
    await core.controller.comparisons.scrubs.look()
    await core.controller.timeline.durable()


def state(core: Core, name: str = "data") -> Scrub:
    return core.pair(name).record.scrub


def now_us(core: Core) -> int:
    return int(core.clock.wall() * 1e6)


async def test_a_pair_that_is_due_is_compared_as_a_whole() -> None:
    async with running(limits=LIMITS) as core:
        await due(core)
        await scrub(core)
        assert state(core) == Scrub(0, 0, now_us(core))
        assert [core.named(event) != [] for event in ("scrub-started", "scrub-ended")] == [True] * 2
        assert core.named("legs-differ") == []


async def test_before_it_is_due_nothing_is_compared() -> None:
    async with running(limits=LIMITS) as core:
        core.controller.comparisons.scrubs.take(EVERY_S, RATE)
        await scrub(core)
        assert core.named("scrub-started") == []


async def test_the_pair_that_waits_longest_is_first_and_one_at_a_time() -> None:
    async with running({"data": "sync", "wal": "sync"}, limits=LIMITS) as core:
        await due(core)
        await scrub(core)
        await scrub(core)
        await scrub(core)
        assert [event["volume"] for event in core.named("scrub-ended")] == ["data", "wal"]


async def test_a_difference_is_recorded_and_the_rest_compared_too() -> None:
    async with running(limits=LIMITS) as core:
        await due(core)
        core.pair().copy_of.write(MIB, b"\xee")
        core.pair().copy_of.write(3 * MIB, b"\xee")
        await scrub(core)
        differs = core.pair().record.differs
        assert differs is not None
        assert differs.runs == ((MIB, 4096), (3 * MIB, 4096))
        assert state(core).done_us == now_us(core)


async def test_a_scrub_that_finds_nothing_ends_no_earlier_record() -> None:
    async with running(limits=LIMITS) as core:
        await due(core)
        core.pair().copy_of.write(MIB, b"\xee")
        await core.controller.verify(["data"])
        core.pair().copy_of.write(MIB, b"\x55")
        await scrub(core)
        assert core.pair().record.differs is not None


async def test_a_block_that_cannot_be_read_is_reported_and_the_scrub_goes_on_behind_it() -> None:
    async with running(limits=LIMITS) as core:
        await due(core)
        pair = core.pair()
        pair.copy_of.write(3 * MIB, b"\xee")
        pair.set_legs(pair.primary, BadSectors(pair.copy_of, MIB), pair.mode)
        await scrub(core)
        (event,) = core.named("scrub-error")
        assert f"cannot be read at offset {MIB}" in event["error"]
        assert pair.record.differs is not None
        (volume,) = core.controller.status()["volumes"]
        assert volume["scrub"]["error"] == event["error"]


async def test_what_a_scrub_could_not_read_is_said_until_another_pass_has_ended() -> None:
    def said(core: Core) -> str:
        (volume,) = core.controller.status()["volumes"]
        return str(volume["scrub"]["error"])

    async with running(limits=LIMITS) as core:
        await due(core)
        pair, good = core.pair(), core.pair().copy_of
        pair.set_legs(pair.primary, BadSectors(good, MIB), pair.mode)
        await scrub(core)
        pair.set_legs(pair.primary, good, pair.mode)
        core.clock.now += EVERY_S
        looking = asyncio.ensure_future(core.controller.comparisons.scrubs.look())
        await core.until(lambda: state(core).under_way)
        assert f"cannot be read at offset {MIB}" in said(core)
        await core.until(looking.done)
        assert said(core) == ""


def test_what_a_scrub_could_not_read_is_said_after_a_restart_until_another_pass_reads_it() -> None:
    disk = new_disk()

    def said(core: Core) -> str:
        (volume,) = core.controller.status()["volumes"]
        return str(volume["scrub"]["error"])

    async def first() -> None:
        core = await Core.begin(disk, settings(), limits=LIMITS)
        await due(core)
        pair = core.pair()
        pair.set_legs(pair.primary, BadSectors(pair.copy_of, MIB), pair.mode)
        await scrub(core)
        await core.crash(False)

    async def second() -> None:
        core = await Core.begin(disk, settings(), limits=LIMITS)
        await core.until(lambda: core.pair().state == "DUPLEX")
        assert f"cannot be read at offset {MIB}" in said(core)
        core.clock.now += EVERY_S  # of this run it begins anew
        await due(core)
        await scrub(core)
        assert said(core) == ""
        await core.controller.stop()

    run(first())
    run(second())


async def test_since_when_scrubs_are_wanted_is_said_and_stays_until_they_are_not() -> None:
    async with running(limits=LIMITS) as core:

        def wanted() -> float | None:
            (volume,) = core.controller.status()["volumes"]
            at: float | None = volume["scrub"]["wanted_time"]
            return at

        take = core.controller.comparisons.scrubs.take
        assert wanted() is None
        take(EVERY_S, RATE)
        first = core.clock.wall()
        core.clock.now += 100.0
        take(2 * EVERY_S, RATE)
        assert wanted() == first
        take(None, RATE)
        assert wanted() is None


async def test_a_suspended_pair_waits() -> None:
    async with running(limits=LIMITS) as core:
        await due(core)
        await core.controller.suspend(["data"])
        await scrub(core)
        assert core.named("scrub-started") == []


def test_after_a_restart_it_goes_on_where_it_was() -> None:
    disk = new_disk()

    async def first() -> None:
        core = await Core.begin(disk, settings(), limits=LIMITS)
        await due(core)
        scrubbing = asyncio.ensure_future(core.controller.comparisons.scrubs.look())
        await core.until(lambda: state(core).at >= MIB)
        scrubbing.cancel()
        await asyncio.gather(scrubbing, return_exceptions=True)
        await core.controller.stop()

    async def second() -> None:
        core = await Core.begin(disk, settings(), limits=LIMITS)
        before = state(core)
        assert MIB <= before.at < SIZE
        core.pair().copy_of.write(0, b"\xee")  # in what is compared already
        core.controller.comparisons.scrubs.take(EVERY_S, RATE)
        await scrub(core)
        assert not state(core).under_way
        assert core.named("scrub-ended")
        assert core.pair().record.differs is None, "it began anew"
        await core.controller.stop()

    run(first())
    run(second())


async def test_it_ceases_when_it_is_not_wanted_any_more() -> None:
    async with running(limits=LIMITS) as core:
        await due(core)
        core.controller.comparisons.scrubs.take(None, RATE)
        await scrub(core)
        assert core.named("scrub-started") == []


async def test_the_task_looks_by_itself() -> None:
    limits = dataclasses.replace(LIMITS, scrub_look_seconds=0.0)
    async with running(limits=limits) as core:
        await due(core)
        await core.until(lambda: core.named("scrub-ended") != [])


async def test_a_volume_that_a_reload_removes_is_compared_no_further() -> None:
    async with running({"data": "sync", "wal": "sync"}, limits=LIMITS) as core:
        await due(core)
        pair, verification = core.pair(), core.controller.comparisons.verification
        piece, seen = verification.piece, list[int]()

        async def removed(pair: Pair, legs: Legs, at: int, end: int) -> Compared:
            seen.append(at)
            if len(seen) == 1:
                await core.controller.reload(settings({"wal": "sync"}))
            return await piece(pair, legs, at, end)

        verification.piece = removed  # type: ignore[assignment,method-assign]
        await scrub(core)
        assert pair.record.removed
        assert len(seen) == 1
        assert core.named("scrub-error") == core.named("scrub-ended") == []


async def test_a_pair_that_is_disturbed_again_and_again_keeps_no_other_from_its_scrub() -> None:
    async with running({"data": "sync", "wal": "sync"}, limits=LIMITS) as core:
        await due(core, data="sync", wal="sync")
        verification = core.controller.comparisons.verification
        piece = verification.piece

        async def disturbed(pair: Pair, legs: Legs, at: int, end: int) -> Compared:
            if pair.name == "data" and at >= MIB:
                raise TimedOutError("its secondary trails too far behind")
            return await piece(pair, legs, at, end)

        verification.piece = disturbed  # type: ignore[assignment,method-assign]
        for _ in range(2):
            with suppress(TimedOutError):
                await scrub(core)
        assert state(core).under_way
        assert [event["volume"] for event in core.named("scrub-ended")] == ["wal"]


async def test_a_disk_that_cannot_be_read_at_all_is_read_no_faster_than_any_other() -> None:
    async with running(limits=LIMITS) as core:
        await due(core)
        pair = core.pair()
        pair.set_legs(pair.primary, BadSectors(pair.copy_of, *range(0, SIZE, MIB)), pair.mode)
        core.controller.comparisons.scrubs.take(EVERY_S, 10 * MIB)
        began = asyncio.get_running_loop().time()
        await scrub(core)
        assert asyncio.get_running_loop().time() - began >= SIZE / (10 * MIB) * 0.9

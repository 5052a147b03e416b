"""Comparing legs: planted differences are found, changes under way are not, changed grains are
skipped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.engine.compare import LARGE_PIECE_BYTES, PIECE_BYTES, Compared, Legs
from duplexd.engine.difference_record import Comparison
from duplexd.errors import TimedOutError, WrongStateError
from duplexd.limits import EngineLimits
from tests.support.bad_sectors import BadSectors
from tests.support.fault_leg import FaultLeg
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg

    Look = Callable[[Pair, Legs, int, int], Awaitable[Compared]]

GRAIN = 64 << 10


def plant(core: Core, offset: int, name: str = "data") -> None:
    """Change a byte of the secondary, unseen by the daemon."""
    core.pair(name).copy_of.write(offset, b"\xee")


async def test_equal_legs_are_equal() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await core.write("data", 12345, b"something")
        result = await core.controller.verify(["data", "wal"])
        assert result["equal"]
        assert [
            (volume["name"], volume["equal"], volume["compared_bytes"])
            for volume in result["volumes"]
        ] == [("data", True, SIZE), ("wal", True, SIZE)]


@pytest.mark.parametrize(
    "offset", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 777, SIZE - 1]
)
async def test_a_planted_difference_is_found_where_it_is(offset: int) -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        plant(core, offset)
        result = await core.controller.verify(["data", "wal"])
        assert not result["equal"]
        assert [volume["first_difference"] for volume in result["volumes"]] == [offset, None]
        assert not core.controller.leases.held


async def test_of_what_has_changed_as_a_whole_since_its_cut_nothing_is_said() -> None:
    """Not that the legs are equal: another one may have anything there."""
    async with running({"data": "sync", "wal": "sync"}) as core:
        await core.controller.suspend(["data", "wal"])
        for offset in range(0, SIZE, MIB):
            await core.write("data", offset, bytes([1]) * MIB)
        plant(core, MIB)
        result = await core.controller.verify(["data", "wal"])
        rows = [(row["equal"], row["compared_bytes"]) for row in result["volumes"]]
        assert (rows, result["equal"]) == ([(None, 0), (True, SIZE)], None)
        plant(core, 0, "wal")
        result = await core.controller.verify(["data", "wal"])
        rows = [(row["equal"], row["first_difference"]) for row in result["volumes"]]
        assert (rows, result["equal"]) == ([(None, None), (False, 0)], False)


class Rotten(BadSectors):
    """A disk whose content has changed below a page cache that still shows zeroes."""

    __slots__ = ("cached",)

    def __init__(self, leg: Leg) -> None:
        super().__init__(leg)
        self.cached = set(range(0, leg.size, PIECE_BYTES))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        super().read_into(offset, buffer)
        if offset // PIECE_BYTES * PIECE_BYTES in self.cached:
            buffer[:] = bytes(len(buffer))

    def read_medium(self, offset: int, buffer: memoryview) -> None:
        super().read_into(offset, buffer)


@pytest.mark.parametrize("role", ["primary", "secondary"])
async def test_a_difference_of_the_disks_is_found_below_the_page_cache(role: str) -> None:
    async with running() as core:
        pair = core.pair()
        rotten = Rotten(pair.primary if role == "primary" else pair.copy_of)
        rotten.write(2 * PIECE_BYTES, b"\xee")
        if role == "primary":
            pair.set_legs(rotten, pair.copy_of, pair.mode)
        else:
            pair.set_legs(pair.primary, rotten, pair.mode)
        result = await core.controller.verify(["data"])
        assert result["volumes"][0]["first_difference"] == 2 * PIECE_BYTES


async def test_of_several_differences_the_first_is_named() -> None:
    async with running() as core:
        plant(core, 3 * PIECE_BYTES)
        plant(core, PIECE_BYTES + 5)
        (volume,) = (await core.controller.verify(["data"]))["volumes"]
        assert volume["first_difference"] == PIECE_BYTES + 5


async def test_legs_that_are_not_at_their_paths_are_not_equal_whatever_they_hold() -> None:
    async with running() as core:
        core.disk.take("/b/data.img")
        result = await core.controller.verify(["data"])
        assert not result["equal"]
        (volume,) = result["volumes"]
        assert volume["first_difference"] is None
        assert "/b/data.img" in volume["why"]


async def test_what_changed_since_the_cut_is_skipped_and_the_rest_is_not() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        await core.write("data", 3 * GRAIN + 5, b"changed")
        (volume,) = (await core.controller.verify(["data"]))["volumes"]
        assert (volume["equal"], volume["changed_bytes"], volume["compared_bytes"]) == (
            True,
            GRAIN,
            SIZE - GRAIN,
        )
        plant(core, 3 * GRAIN + 100)
        assert (await core.controller.verify(["data"]))["equal"]
        plant(core, 4 * GRAIN)
        (volume,) = (await core.controller.verify(["data"]))["volumes"]
        assert volume["first_difference"] == 4 * GRAIN


async def test_changes_under_way_to_an_async_secondary_are_waited_for() -> None:
    async with running({"data": "async"}) as core:
        for place in range(30):
            core.send("data", place * 4096, bytes([place + 1]) * 4096)
        assert (await core.controller.verify(["data"]))["equal"]


async def test_a_pair_on_its_way_to_its_cut_is_waited_for_too() -> None:
    async with running({"data": "async"}) as core:
        async with core.controller.followers.stepping:  # its follower waits
            await core.write("data", 0, b"on its way")
            suspending = asyncio.ensure_future(core.controller.suspend(["data"]))
            await core.until(lambda: core.pair().state == "SUSPENDED")
            verifying = asyncio.ensure_future(core.controller.verify(["data"]))
            await core.turns(200)
            assert not verifying.done()
        assert (await verifying)["equal"]
        assert (await suspending)["verdict"] == "consistent"


async def test_a_secondary_that_does_not_arrive_is_not_called_different() -> None:
    limits = dataclasses.replace(EngineLimits(), recheck_hold_seconds=0.02)
    async with running({"data": "async"}, limits=limits) as core:
        async with core.controller.followers.stepping:  # its follower waits
            await core.write("data", 0, b"on its way")
            with pytest.raises(TimedOutError, match="data: its secondary trails"):
                await core.controller.verify(["data"])
        assert not core.controller.leases.held


async def test_a_pair_that_is_resynced_meanwhile_is_not_called_different() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        for place in range(8):
            await core.write("data", place * 500_000, b"changed")
        verifying = asyncio.ensure_future(core.controller.verify(["data"]))
        await core.controller.resync(["data"])
        outcome: object = (await asyncio.gather(verifying, return_exceptions=True))[0]
        assert isinstance(outcome, WrongStateError) or (
            isinstance(outcome, dict) and outcome["equal"]
        ), outcome
        await core.controller.resync_wait(["data"])
        assert (await core.controller.verify(["data"]))["equal"]


async def test_a_controller_that_fails_meanwhile_keeps_nobody_waiting() -> None:
    async with running({"data": "async"}) as core:
        async with core.controller.followers.stepping:  # its follower waits
            await core.write("data", 0, b"on its way")
            verifying = asyncio.ensure_future(core.controller.verify(["data"]))
            await core.until(lambda: bool(core.controller.leases.held))
            core.controller.timeline.fail("the reason")
            async with asyncio.timeout(1):
                (volume,) = (await verifying)["volumes"]
            assert volume["first_difference"] == 0
        assert not core.controller.leases.held


async def test_a_difference_under_load_is_still_found() -> None:
    async with running() as core:
        plant(core, 2 * PIECE_BYTES)
        going = True

        async def load() -> None:
            while going:
                await core.write("data", 0, b"load" * 100)
                await asyncio.sleep(0)

        task = asyncio.ensure_future(load())
        result = await core.controller.verify(["data"])
        going = False
        await task
        assert result["volumes"][0]["first_difference"] == 2 * PIECE_BYTES


async def test_only_duplex_and_suspended_pairs_are_compared() -> None:
    async with running({"data": "sync", "alone": ""}) as core:
        with pytest.raises(WrongStateError, match="alone is SIMPLEX"):
            await core.controller.verify(["data", "alone"])


async def test_a_secondary_that_is_not_usable_is_not_compared() -> None:
    """Whatever it holds, it is a copy of no moment."""
    async with running() as core:
        core.secondary().fail("sync", errno.EIO, times=1)
        await core.write("data", 0, b"changed")
        await core.controller.suspend(["data"])
        await core.until(lambda: not core.pair().usable)
        with pytest.raises(WrongStateError, match=r"not usable until it was copied: /b/data.img"):
            await core.controller.verify(["data"])


async def test_a_secondary_that_is_gone_is_named_though_it_is_not_usable_either() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        core.disk.take("/b/data.img")
        await core.controller.suspend(["data"])
        await core.until(lambda: not core.pair().usable)
        result = await core.controller.verify(["data", "wal"])
        data, wal = result["volumes"]
        assert (data["equal"], data["compared_bytes"], wal["equal"]) == (False, 0, True)
        assert data["why"].startswith("/b/data.img: ")


async def test_a_secondary_that_fails_meanwhile_is_not_called_equal() -> None:
    async with running() as core:
        await core.write("data", 0, b"x" * 4096)
        secondary = core.secondary()

        def fail(operation: str) -> None:
            if operation == "read_into":
                core.pair().record.state = SUSPENDED
                core.pair().record.usable = False

        secondary.delay = fail
        with pytest.raises(WrongStateError, match="not usable until it was copied"):
            await core.controller.verify(["data"])
        secondary.delay = None
        core.pair().record.state, core.pair().record.usable = DUPLEX, True


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("bad", [0, 5 * 4096, SIZE - 4096])
async def test_a_leg_that_cannot_be_read_is_named_with_the_offset(side: str, bad: int) -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        pair = core.pair()
        await core.write("data", bad, b"x" * 4096)
        legs = [pair.primary, pair.copy_of]
        legs["ab".index(side)] = BadSectors(legs["ab".index(side)], bad)
        pair.set_legs(legs[0], legs[1], pair.mode)
        result = await core.controller.verify(["data", "wal"])
        data, wal = result["volumes"]
        assert not result["equal"]
        assert (data["equal"], data["first_difference"]) == (False, None)
        assert data["why"] == (
            f"/{side}/data.img: cannot be read at offset {bad}: Input/output error"
        )
        assert wal["equal"], "one that cannot be read does not keep the others from being compared"


async def test_a_read_error_that_does_not_come_again_is_none() -> None:
    async with running() as core:
        await core.write("data", 0, b"x" * 4096)
        core.secondary().fail("read_into", errno.EIO, times=1)
        assert (await core.controller.verify(["data"]))["equal"]


@pytest.mark.parametrize("error", [0, errno.EBADF])
async def test_images_that_were_exchanged_meanwhile_are_compared_again(error: int) -> None:
    """A reload closes the old ones."""
    async with running() as core:
        await core.write("data", 0, b"x" * 4096)
        pair, leg = core.pair(), core.secondary()

        def reload(operation: str) -> None:
            if operation == "read_into":
                pair.set_legs(pair.primary, FaultLeg(leg), pair.mode)
                if error:
                    leg.fail("read_into", error)

        leg.delay = reload
        with pytest.raises(WrongStateError, match="its images changed while they were compared"):
            await core.controller.verify(["data"])
        leg.delay = None
        leg.heal()


async def test_holes_of_both_legs_are_not_read() -> None:
    async with running(size=64 * MIB) as core:
        await core.write("data", 32 * MIB, b"x" * 4096)
        primary, secondary = core.faulty()
        (volume,) = (await core.controller.verify(["data"]))["volumes"]
        assert (volume["equal"], volume["compared_bytes"]) == (True, 64 * MIB)
        assert secondary is not None
        assert primary.calls["read_into"] == secondary.calls["read_into"] == 1


async def test_what_is_equal_is_read_in_large_pieces() -> None:
    async with running(size=2 * LARGE_PIECE_BYTES) as core:
        for offset in range(0, 2 * LARGE_PIECE_BYTES, PIECE_BYTES):
            await core.write("data", offset, b"x" * 4096)
        primary, secondary = core.faulty()
        assert (await core.controller.verify(["data"]))["equal"]
        assert secondary is not None
        assert primary.calls["read_into"] == secondary.calls["read_into"] == 2


async def test_of_a_large_piece_that_differs_only_a_small_one_is_held() -> None:
    class Noting(BadSectors):
        def read_medium(self, offset: int, buffer: memoryview) -> None:
            if core.controller.leases.held:
                held.append((offset, len(buffer)))
            super().read_medium(offset, buffer)

    held: list[tuple[int, int]] = []
    async with running() as core:
        pair = core.pair()
        await core.write("data", 0, b"x" * 4096)
        await core.write("data", 2 * PIECE_BYTES, b"x" * 4096)
        plant(core, 2 * PIECE_BYTES)
        pair.set_legs(Noting(pair.primary), pair.copy_of, pair.mode)
        (volume,) = (await core.controller.verify(["data"]))["volumes"]
        assert volume["first_difference"] == 2 * PIECE_BYTES
        assert held == [(2 * PIECE_BYTES, PIECE_BYTES)]


async def test_what_differs_before_a_block_that_cannot_be_read_is_found() -> None:
    async with running() as core:
        pair, bad = core.pair(), 2 * PIECE_BYTES
        await core.write("data", bad, b"x" * 4096)
        plant(core, 0)
        pair.set_legs(pair.primary, BadSectors(pair.copy_of, bad), pair.mode)
        (volume,) = (await core.controller.verify(["data"]))["volumes"]
        assert volume["first_difference"] == 0
        assert f"cannot be read at offset {bad}" in volume["why"]
        assert recorded(core) == [(0, 4096)]


async def test_progress_ends_at_the_size() -> None:
    async with running() as core:
        seen: list[tuple[str, int, int]] = []
        await core.controller.verify(
            ["data"], lambda name, done, total: seen.append((name, done, total))
        )
        assert seen[-1] == ("data", SIZE, SIZE)
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


# -------------------------------------------------------------------- what was found is recorded


async def differing(core: Core) -> None:
    """A pair that is known to differ in the second block of its second piece."""
    plant(core, PIECE_BYTES + 5000)
    assert not (await core.controller.verify(["data"]))["equal"]


RUN = (PIECE_BYTES + 4096, 4096)


def recorded(core: Core) -> list[tuple[int, int]]:
    differs = core.pair().record.differs
    return [] if differs is None else list(differs.runs)


async def test_where_legs_differ_is_recorded_and_said() -> None:
    async with running() as core:
        await differing(core)
        assert recorded(core) == [RUN]
        (volume,) = core.controller.status()["volumes"]
        assert volume["differs"]["ranges"] == [list(RUN)]
        assert not volume["secondary"]["usable"]
        (event,) = core.named("legs-differ")
        assert (event["offset"], event["bytes"]) == RUN


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
def test_a_restart_does_not_forget_it(power: bool) -> None:
    disk = new_disk()

    async def find() -> None:
        core = await Core.begin(disk, settings())
        await differing(core)
        await core.crash(power)

    async def look() -> None:
        core = await Core.begin(disk, settings())
        assert recorded(core) == [RUN]
        await core.controller.stop()

    run(find())
    run(look())


async def test_more_places_than_are_kept_become_one() -> None:
    limits = dataclasses.replace(EngineLimits(), differing_runs_max=2)
    async with running(limits=limits) as core:
        for place in (0, 2, 8):
            plant(core, place * 4096)
        await core.controller.verify(["data"])
        assert recorded(core) == [(0, 9 * 4096)]


async def test_a_verify_that_finds_all_equal_ends_the_record() -> None:
    async with running() as core:
        await differing(core)
        await core.write("data", RUN[0], bytes(RUN[1]))  # this makes both legs equal
        assert recorded(core) == [RUN], "but nobody has looked"
        assert (await core.controller.verify(["data"]))["equal"]
        assert recorded(core) == []
        assert core.named("legs-equal")


async def test_a_verify_that_leaves_out_the_place_does_not_call_the_legs_equal() -> None:
    async with running() as core:
        await differing(core)
        core.controller.failures.freeze(
            {core.pair()}, None, core.controller.sequence, OSError(5, "x"), (), {}
        )
        await core.write("data", RUN[0], b"changed since the cut")
        (volume,) = (await core.controller.verify(["data"]))["volumes"]
        assert (volume["equal"], volume["first_difference"]) == (False, RUN[0])
        assert volume["differences"] == [list(RUN)]
        assert recorded(core) == [RUN]


async def test_a_comparison_that_nobody_waits_for_any_more_has_recorded_what_it_found() -> None:
    async with running() as core:
        plant(core, 0)
        verifying = asyncio.ensure_future(core.controller.verify(["data"]))
        await core.until(lambda: bool(recorded(core)))
        verifying.cancel()
        await asyncio.gather(verifying, return_exceptions=True)
        assert recorded(core) == [(0, 4096)]


async def test_a_pair_that_differs_is_not_suspended_nor_is_its_group() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await differing(core)
        before = core.controller.sequence
        with pytest.raises(WrongStateError, match="data: the legs differ in 1 place"):
            await core.controller.suspend(["wal", "data"])
        assert core.states() == {"data": DUPLEX, "wal": DUPLEX}
        assert core.controller.sequence == before


async def test_no_hold_is_taken_for_a_group_cut_that_cannot_be_made() -> None:
    async with running() as core:
        await differing(core)
        with pytest.raises(WrongStateError, match="the legs differ"):
            await core.controller.quiesce(["data"], 1.0, "owner", "cafe000000000001")
        assert not core.controller.leases.held


async def test_the_cut_at_which_it_is_found_is_called_consistent_no_more() -> None:
    async with running() as core:
        cut = await core.controller.suspend(["data"])
        assert cut["verdict"] == "consistent"
        await differing(core)
        assert core.controller.cuts.show(cut["cut"])["verdict"] == "void"
        assert core.controller.status()["volumes"][0]["consistent_cut_time"] is None


async def test_an_image_that_a_failure_froze_is_said_to_be_frozen_and_how_to_go_on() -> None:
    async with running() as core:
        core.controller.failures.freeze(
            {core.pair()}, core.pair(), core.controller.sequence, OSError(5, "x"), (), {}
        )
        core.disk.take("/b/data.img")
        (volume,) = (await core.controller.verify(["data"]))["volumes"]
        assert "SUSPENDED (by secondary error), so its secondary is frozen" in volume["why"]
        assert "duplexctl resync data" in volume["why"]


def at_piece(core: Core, offset: int, meanwhile: Callable[[], Awaitable[object]]) -> None:
    """Do this when a verify comes to this place, once."""
    verification = core.controller.comparisons.verification
    to_do = [meanwhile]

    def with_it(look: Look) -> Look:
        async def looking(pair: Pair, legs: Legs, at: int, end: int) -> Compared:
            if at == offset and to_do:
                await to_do.pop()()
            return await look(pair, legs, at, end)

        return looking

    large, small = with_it(verification._large_piece), with_it(verification.piece)
    verification._large_piece = large  # type: ignore[assignment,method-assign]
    verification.piece = small  # type: ignore[assignment,method-assign]


async def test_what_another_finds_behind_a_verify_stays_recorded() -> None:
    async with running() as core:
        pair = core.pair()

        async def find() -> None:
            plant(core, 0)
            another = Comparison(pair, Legs(pair.primary, pair.copy_of))
            await core.controller.comparisons.record.differ(another, [(0, 4096)])

        await core.write("data", PIECE_BYTES, b"no hole")
        at_piece(core, PIECE_BYTES, find)
        assert not (await core.controller.verify(["data"]))["equal"]
        assert recorded(core) == [(0, 4096)]


async def test_what_was_repaired_behind_a_verify_is_not_recorded_again() -> None:
    async with running() as core:
        plant(core, 0)
        await core.write("data", PIECE_BYTES, b"no hole")
        at_piece(
            core, PIECE_BYTES, lambda: core.controller.repair(["data"], "primary", dry_run=False)
        )
        await core.controller.verify(["data"])
        assert core.equal()
        assert recorded(core) == []


async def test_all_that_a_verify_had_found_when_it_was_stopped_is_recorded() -> None:
    async with running() as core:
        plant(core, 0)
        plant(core, PIECE_BYTES)
        await core.write("data", 2 * PIECE_BYTES, b"no hole")
        stopped = asyncio.Event()

        async def stop() -> None:
            stopped.set()
            await asyncio.Event().wait()

        at_piece(core, 2 * PIECE_BYTES, stop)
        verifying = asyncio.ensure_future(core.controller.verify(["data"]))
        await stopped.wait()
        verifying.cancel()
        await asyncio.gather(verifying, return_exceptions=True)
        assert recorded(core) == [(0, 4096), (PIECE_BYTES, 4096)]

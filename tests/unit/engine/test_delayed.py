"""Delayed secondaries in a controller: they stay behind, through everything but a power cut."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.core.past_point import PastCut, PastPoint
from duplexd.errors import NotFoundError, WrongStateError
from duplexd.limits import EngineLimits
from duplexd.replication import delayed_walk
from duplexd.runtime.writeback import LostWritesError
from duplexd.units import KIB
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from tests.sim.disk import SimDisk

DELAYED = {"data": "delayed 60s"}
BOTH = {"data": "delayed 60s", "wal": "delayed 60s"}
BLOCK = 4096


async def fill(core: Core, *letters: str, name: str = "data", apart_s: float = 10.0) -> list[float]:
    """Write a block of each letter, one behind the other; the time after each."""
    times = []
    for place, letter in enumerate(letters):
        assert await core.write(name, place * BLOCK, letter.encode() * BLOCK) == 0
        times.append(core.clock.wall())
        core.clock.now += apart_s
    return times


def held(core: Core | SimDisk, name: str = "data") -> str:
    """The letters that the secondary has."""
    disk = core.disk if isinstance(core, Core) else core
    image = disk.read_file(f"/b/{name}.img")
    return "".join(chr(image[at]) for at in range(0, SIZE, BLOCK) if image[at])


async def soon(true: Callable[[], bool]) -> None:
    """Wait, in the time of the loop, until it is true."""
    for _ in range(600):
        if true():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come true in 60 s")


async def settle(core: Core) -> None:
    """Long enough for everything that is due."""
    await soon(lambda: core.pair().record.horizon is not None)
    await asyncio.sleep(3.0)


async def test_a_change_reaches_the_secondary_when_it_is_old_enough() -> None:
    async with running(DELAYED) as core:
        await fill(core, "a", "b", apart_s=40.0)
        await soon(lambda: held(core) == "a")
        await settle(core)
        assert held(core) == "a"
        core.clock.now += 40.0
        await soon(lambda: held(core) == "ab")


async def test_status_says_how_far_back_one_can_go() -> None:
    async with running(DELAYED) as core:
        await fill(core, "a", "b", apart_s=40.0)
        await soon(lambda: held(core) == "a")
        secondary = core.controller.status()["volumes"][0]["secondary"]
        assert secondary["delay"]["wanted_s"] == 60.0
        assert secondary["delay"]["back_s"] >= 60.0
        assert not secondary["delay"]["shortened"]
        assert secondary["usable"]
        assert secondary["lag_bytes"] > BLOCK


async def test_what_a_suspend_at_a_time_leaves_is_the_state_of_then() -> None:
    async with running(DELAYED) as core:
        times = await fill(core, "a", "b", "c")
        result = await core.controller.suspend(["data"], at=PastCut(PastPoint(time=times[1])))
        assert result["verdict"] == "consistent"
        assert held(core) == "ab"
        assert result["time"] == pytest.approx(times[1])
        assert core.pair().state == SUSPENDED
        assert core.controller.status()["volumes"][0]["changed_bytes"] > 0


async def test_a_secondary_that_fails_on_the_way_can_still_go_there() -> None:
    async with running(DELAYED) as core:
        times = await fill(core, "a", "b", "c")
        core.secondary().fail("reserve", errno.ENOSPC, times=1)
        result = await core.controller.suspend(["data"], at=PastCut(PastPoint(time=times[1])))
        assert result["verdict"] == "void"
        shown = core.controller.status()["volumes"][0]["secondary"]
        assert shown["as_of_time"] == shown["cut"]["time"] <= times[1]
        assert shown["error_time"] == pytest.approx(core.clock.wall())
        onward = PastCut(PastPoint(time=times[1]), onward=True)
        result = await core.controller.suspend(["data"], at=onward)
        assert result["verdict"] == "consistent"
        assert held(core) == "ab"


async def test_one_that_fails_holds_what_is_as_old_as_its_delay() -> None:
    async with running(DELAYED) as core:
        times = await fill(core, "a", "b", apart_s=40.0)
        await soon(lambda: held(core) == "a")
        core.secondary().fail("reserve", errno.ENOSPC)
        core.clock.now += 40.0
        await soon(lambda: core.pair().state == SUSPENDED)
        secondary = core.controller.status()["volumes"][0]["secondary"]
        assert times[0] <= secondary["as_of_time"] <= times[1]


async def test_a_resync_after_it_copies_what_changed_since_that_time() -> None:
    async with running(DELAYED) as core:
        times = await fill(core, "a", "b", "c")
        await core.controller.suspend(["data"], at=PastCut(PastPoint(time=times[0])))
        await fill(core, "d")
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.pair().state == DUPLEX
        assert core.equal()
        assert held(core) == "dbc"


async def test_a_suspend_at_a_number_is_exact() -> None:
    async with running(BOTH) as core:
        await fill(core, "a", name="data")
        await fill(core, "x", name="wal")
        number = core.controller.timeline.written
        await fill(core, "b", name="data")
        result = await core.controller.suspend(
            ["data", "wal"], at=PastCut(PastPoint(sequence=number))
        )
        assert result["controllers"]["alpha"] == number
        assert (held(core), held(core, "wal")) == ("a", "x")


async def test_a_suspend_of_one_leaves_the_others_behind() -> None:
    async with running(BOTH) as core:
        await fill(core, "a", name="data")
        await fill(core, "x", name="wal")
        await core.controller.suspend(["data"])
        assert held(core) == "a"
        await asyncio.sleep(3.0)
        assert held(core, "wal") == ""
        core.clock.now += 60.0
        await soon(lambda: held(core, "wal") == "x")


async def test_volumes_of_different_delays_are_cut_at_one_number() -> None:
    async with running({"data": "delayed 60s", "wal": "delayed 5s"}) as core:
        await fill(core, "a", name="data")
        await soon(lambda: core.pair("wal").applied > core.pair().applied)
        await fill(core, "x", name="wal", apart_s=0.0)
        number = core.controller.timeline.written
        await fill(core, "b", name="data", apart_s=0.0)
        result = await core.controller.suspend(
            ["data", "wal"], at=PastCut(PastPoint(sequence=number))
        )
        assert result["verdict"] == "consistent"
        assert {core.pair(name).applied for name in ("data", "wal")} == {number}
        assert (held(core), held(core, "wal")) == ("a", "x")


async def test_a_mark_is_a_point_to_go_to() -> None:
    async with running(BOTH) as core:
        await fill(core, "a", name="data")
        await core.controller.mark(["data", "wal"], "hourly")
        await fill(core, "x", name="wal")
        mark = await core.controller.mark(["data", "wal"], "hourly")
        await fill(core, "b", name="data")
        with pytest.raises(NotFoundError, match="no such mark"):
            await core.controller.suspend(["data"], at=PastCut(PastPoint(mark="daily")))
        result = await core.controller.suspend(
            ["data", "wal"], at=PastCut(PastPoint(mark="hourly"))
        )
        assert result["controllers"]["alpha"] == mark["sequence"]
        assert result["time"] == mark["time"]
        assert (held(core), held(core, "wal")) == ("a", "x")


async def test_a_mark_of_another_volume_is_no_point() -> None:
    async with running(BOTH) as core:
        mark = await core.controller.mark(["data"], "")
        with pytest.raises(WrongStateError, match="was not made of wal"):
            await core.controller.suspend(["data", "wal"], at=PastCut(PastPoint(mark=mark["id"])))


async def test_marks_alone_do_not_fill_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delayed_walk, "IDLE_BYTES_MAX", 16 * KIB)
    async with running({"data": "delayed 1h"}) as core:
        await fill(core, "a")
        await soon(lambda: core.pair().record.horizon is not None)
        core.clock.now += 3600.0
        await soon(lambda: held(core) == "a")
        for _ in range(80):
            await core.controller.mark(["data"], "t" * 190)
        floor = core.controller.followers.floor()
        core.clock.now += 3600.0
        await soon(lambda: core.controller.followers.floor() > floor)


# ------------------------------------------------------------------------------------- refused


async def test_a_point_that_the_secondary_is_beyond_is_refused_with_the_earliest() -> None:
    async with running(DELAYED) as core:
        times = await fill(core, "a", "b", apart_s=70.0)
        await soon(lambda: held(core) == "ab")
        before = core.pair().applied
        for point in (PastPoint(time=times[0] - 1), PastPoint(sequence=2)):
            with pytest.raises(WrongStateError, match=f"earliest point is number {before}, 20"):
                await core.controller.suspend(["data"], at=PastCut(point))
        assert core.pair().state == DUPLEX


async def test_a_point_that_has_not_come_is_refused() -> None:
    async with running(DELAYED) as core:
        with pytest.raises(WrongStateError, match="has not come yet"):
            await core.controller.suspend(
                ["data"], at=PastCut(PastPoint(time=core.clock.wall() + 1))
            )
        with pytest.raises(WrongStateError, match="does not exist yet"):
            await core.controller.suspend(["data"], at=PastCut(PastPoint(sequence=1 << 40)))


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_one_that_is_not_delayed_has_no_past(mode: str) -> None:
    async with running({"data": mode, "wal": "delayed 60s"}) as core:
        with pytest.raises(WrongStateError, match="data is in another mode"):
            await core.controller.suspend(["data", "wal"], at=PastCut(PastPoint(sequence=5)))


async def test_a_cut_that_stands_is_the_answer_only_if_it_is_that_point() -> None:
    async with running(DELAYED) as core:
        await fill(core, "a", "b")
        number = core.controller.timeline.written
        suspend = core.controller.suspend
        first = await suspend(["data"], at=PastCut(PastPoint(sequence=number)))
        for existing in (False, True):
            point = PastPoint(sequence=number - 1)
            with pytest.raises(WrongStateError, match="suspended already"):
                await suspend(["data"], at=PastCut(point), existing=existing)
        again = await suspend(["data"], at=PastCut(PastPoint(sequence=number)))
        assert (again["cut"], again["already"]) == (first["cut"], True)


async def test_a_delayed_pair_is_not_compared() -> None:
    async with running(DELAYED) as core:
        await fill(core, "a")
        with pytest.raises(WrongStateError, match="delayed"):
            await core.controller.verify(["data"])
        await core.controller.suspend(["data"])
        assert (await core.controller.verify(["data"]))["equal"]


# ------------------------------------------------------------------------------------ restarts


@pytest.mark.parametrize("clean", [True, False])
def test_a_restart_leaves_it_behind(clean: bool) -> None:
    disk = new_disk()

    async def first() -> list[float]:
        core = await Core.begin(disk, settings(DELAYED))
        await core.controller.checkpointer.checkpoint()
        times = await fill(core, "a", "b", "c")
        await soon(lambda: core.pair().record.horizon is not None)
        if clean:
            await core.controller.stop()
        else:
            await core.crash(power=False)
        return times

    async def second(times: list[float]) -> None:
        async with running(DELAYED, disk=disk) as core:
            assert core.pair().state == DUPLEX
            assert held(core) == ""
            core.clock.now = times[-1] - 1_795_000_000.0
            result = await core.controller.suspend(["data"], at=PastCut(PastPoint(time=times[1])))
            assert (result["verdict"], held(core)) == ("consistent", "ab")

    times = run(first())
    run(second(times))


def test_after_a_power_cut_it_is_compared_and_current() -> None:
    disk = new_disk()

    async def first() -> None:
        core = await Core.begin(disk, settings(DELAYED))
        await core.controller.checkpointer.checkpoint()
        await fill(core, "a", "b", "c")
        await core.flush()
        await soon(lambda: core.pair().record.horizon is not None)
        await core.crash(power=True)

    async def second() -> None:
        async with running(DELAYED, disk=disk) as core:
            await soon(lambda: core.pair().state == DUPLEX)
            assert held(core) == "abc"
            assert core.equal()

    run(first())
    run(second())


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_start_with_another_mode_brings_it_along(mode: str) -> None:
    disk = new_disk()

    async def first() -> None:
        async with running(DELAYED, disk=disk) as core:
            await fill(core, "a", "b")
            await soon(lambda: core.pair().record.horizon is not None)

    async def second() -> None:
        assert held(disk) == ""
        async with running({"data": mode}, disk=disk) as core:
            await soon(lambda: core.pair().state == DUPLEX)
            assert (core.pair().mode, core.pair().record.horizon) == (mode, None)
            await core.write("data", 5 * BLOCK, b"c" * BLOCK)
            await soon(lambda: held(core) == "abc")
            assert core.equal()

    run(first())
    run(second())


# --------------------------------------------------------------------------------------- others


async def test_a_full_journal_brings_it_along_early_and_says_so() -> None:
    limits = dataclasses.replace(EngineLimits(), follower_chunk_bytes=64 * KIB)
    async with running({"data": "delayed 1h"}, journal="16MiB", limits=limits) as core:
        for place in range(40):
            change = core.send("data", place % 4 * 1024 * KIB, b"x" * 1000 * KIB)
            await soon(lambda change=change: change in core.peer.answers)  # type: ignore[misc]
            assert change.error == 0
        await soon(lambda: core.pair().applied > 10)
        delay = core.controller.status()["volumes"][0]["secondary"]["delay"]
        assert delay["shortened"]


async def test_a_swap_brings_it_along_at_once() -> None:
    async with running(DELAYED) as core:
        await fill(core, "a", "b")
        await core.controller.swap(["data"], False, None, False)
        assert core.pair().primary.path == "/b/data.img"
        assert held(core) == "ab"
        await core.write("data", 5 * BLOCK, b"c" * BLOCK)
        number = core.controller.timeline.written
        core.clock.now += 61
        await soon(lambda: core.pair().applied >= number)
        assert core.image("data", "a") == core.image("data", "b")


async def test_a_reload_takes_another_delay() -> None:
    async with running(DELAYED) as core:
        await fill(core, "a", "b", apart_s=20.0)
        await settle(core)
        assert held(core) == ""
        changes = await core.controller.reload(settings({"data": "delayed 10s"}))
        assert changes == ["volume data: delay is now '10s'"]
        await soon(lambda: held(core) == "ab")


async def test_a_suspend_that_comes_while_the_delay_changes_gets_to_its_cut() -> None:
    async with running(DELAYED) as core:
        await settle(core)
        await fill(core, "a", "b", apart_s=1.0)
        point = PastPoint(sequence=core.controller.timeline.written)
        async with core.controller.followers.trailing.standing([core.pair()]):
            reload = asyncio.create_task(core.controller.reload(settings({"data": "delayed 10s"})))
            await asyncio.sleep(1.0)  # so it is next, and then the suspend
            suspend = asyncio.create_task(core.controller.suspend(["data"], at=PastCut(point)))
            await asyncio.sleep(1.0)
        assert await reload == ["volume data: delay is now '10s'"]
        async with asyncio.timeout(60):
            assert (await suspend)["verdict"] == "consistent"
        assert held(core) == "ab"


async def test_a_reload_refuses_another_mode_while_it_is_behind() -> None:
    async with running(DELAYED) as core:
        with pytest.raises(WrongStateError, match=r"suspend data.*reload, then.*resync data"):
            await core.controller.reload(settings({"data": "sync"}))
        await core.controller.suspend(["data"])
        await core.controller.reload(settings({"data": "sync"}))
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.pair().mirrors


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_reload_makes_a_pair_delayed(mode: str) -> None:
    async with running({"data": mode}) as core:
        await fill(core, "a")
        await soon(lambda: held(core) == "a")
        await core.controller.reload(settings(DELAYED))
        await fill(core, "b")
        await settle(core)
        assert held(core) == "a"
        core.clock.now += 61
        await soon(lambda: held(core) == "b")


async def test_a_pair_joins_no_walk_that_is_about_to_pass_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volumes = {"data": "delayed 1h", "wal": "delayed 60s"}
    async with running(volumes) as core:
        await settle(core)
        await fill(core, "a", "b", "c", name="wal", apart_s=0.0)
        trailing, timeline = core.controller.followers.trailing, core.controller.timeline
        (theirs,) = [walk for walk in trailing._walks if walk.delay_s == 3600.0]
        durable, at_last, waits = timeline.durable, asyncio.Event(), asyncio.Event()

        async def slowly(*numbers: int) -> None:
            if not waits.is_set():
                waits.set()
                await at_last.wait()
            await durable(*numbers)

        monkeypatch.setattr(timeline, "durable", slowly)
        horizon = core.pair("wal").record.horizon
        assert horizon is not None
        assert horizon.number >= theirs.horizon
        moves = asyncio.create_task(theirs._allow(timeline.written, timeline.now_us()))
        await waits.wait()
        await core.controller.reload(settings(dict.fromkeys(volumes, "delayed 1h")))
        await soon(lambda: all(walk.delay_s == 3600.0 for walk in trailing._walks))
        monkeypatch.undo()
        at_last.set()
        await moves
        await asyncio.sleep(1.0)
        await fill(core, "x", apart_s=0.0)
        core.clock.now += 3601.0
        await soon(lambda: core.pair("wal").applied >= timeline.written - 3)
        assert held(core, "wal") == "abc"


async def test_writes_go_on_while_what_a_failing_secondary_lacks_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running({"data": "delayed 1h"}) as core:
        await settle(core)
        for at in range(8):
            assert await core.write("data", at % 2 * MIB, b"a" * MIB) == 0
        pair, backlog = core.pair(), core.controller.secondaries.backlog
        read, last = backlog.read, SIZE - BLOCK
        written: list[int] = []

        async def with_a_write(*args: Any) -> dict[Pair, ChangeMap]:
            if not written:
                async with asyncio.timeout(5.0):
                    written.append(await core.write("data", last, b"z" * BLOCK))
            return await read(*args)

        monkeypatch.setattr(backlog, "read", with_a_write)
        async with backlog.after(pair.applied, [pair], OSError()) as missed:
            assert written == [0]
            places = (0, MIB, 2 * MIB - BLOCK, last)
            assert all(missed[pair].overlaps(at, BLOCK) for at in places)
            assert not missed[pair].overlaps(2 * MIB, MIB)


async def test_a_group_gets_to_the_cut_of_a_secondary_that_lost_writes() -> None:
    async with running(BOTH, {"db": ["data", "wal"]}) as core:
        await settle(core)
        await fill(core, "a", name="wal")
        error = LostWritesError(errno.EIO, "what was written is lost")
        lost = core.controller.failed_legs.lost
        await core.controller.timeline.at_rest(lambda: lost(core.pair(), error))
        assert core.states() == {"data": SUSPENDED, "wal": SUSPENDED}
        assert core.pair("wal").usable
        await soon(lambda: held(core, "wal") == "a")
        await core.controller.resync(["data", "wal"])
        async with asyncio.timeout(60.0):
            await core.controller.resync_wait(["data", "wal"])
        assert core.states() == {"data": DUPLEX, "wal": DUPLEX}

"""Volumes that grow: by a reload, by a start, and where they must not."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.growth import Grow
from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.errors import ConfigurationError, DuplexdError, WrongStateError
from tests.unit.engine.cores import SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.backend import Extent
    from duplexd.config.daemon_file import Config
    from tests.sim.disk import SimDisk

DATA = b"\x77" * 8192
LARGE = 2 * SIZE + 4096


def larger(volumes: Mapping[str, str] | None = None, size: int = LARGE) -> Config:
    return settings(volumes, size=size)


async def write_at_end(core: Core, name: str = "data") -> None:
    assert await core.write(name, core.pair(name).size - len(DATA), DATA) == 0
    assert await core.write(name, SIZE - 4096, DATA) == 0  # over the end that there was


@pytest.mark.parametrize("mode", ["sync", "async", "delayed 1h", ""])
async def test_a_volume_grows_by_a_reload_and_is_written_to_its_new_end(mode: str) -> None:
    async with running({"data": mode}) as core:
        await core.write("data", 0, DATA)
        changes = await core.controller.reload(larger({"data": mode}))
        assert changes == ["volume data: size is now 8.0 MiB, and was 4.0 MiB"]
        assert core.states() == {"data": DUPLEX if mode else SIMPLEX}
        await write_at_end(core)
        assert await core.read("data", LARGE - len(DATA), len(DATA)) == (0, DATA)
        if mode in {"sync", "async"}:
            await core.until(core.equal)
            assert (await core.controller.verify(["data"]))["equal"]
        assert not core.named("copied")
        assert await core.controller.reload(larger({"data": mode})) == []


async def test_a_pair_at_a_cut_grows_and_its_cut_keeps_its_size() -> None:
    async with running() as core:
        await core.write("data", 0, DATA)
        cut = (await core.controller.suspend(["data"]))["cut"]
        await core.controller.reload(larger())
        await write_at_end(core)
        point = core.controller.volume(f"data@{cut}")
        assert point is not None
        assert (point.size, core.pair().size) == (SIZE, LARGE)
        assert core.states() == {"data": SUSPENDED}
        assert await core.controller.cuts.read(cut, "data", SIZE - 4096, 4096) == bytes(4096)
        with pytest.raises(Exception, match=f"{SIZE} bytes"):
            await core.controller.cuts.read(cut, "data", SIZE, 4096)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.equal()


@pytest.mark.parametrize("known", ["all of it", "a file is damaged"])
async def test_what_changed_until_a_cut_is_of_the_size_that_the_volume_had_there(
    known: str,
) -> None:
    async with running() as core:
        controller = core.controller
        first = (await controller.suspend(["data"]))["cut"]
        await core.write("data", SIZE - 4096, DATA[:4096])
        await controller.resync(["data"])
        await controller.resync_wait(["data"])
        second = (await controller.suspend(["data"]))["cut"]
        await controller.reload(larger())
        await write_at_end(core)
        if known != "all of it":
            await controller.checkpointer.checkpoint()
            for name in core.disk.list("/state/changes"):
                core.disk.remove(f"/state/changes/{name}")
        (row,) = (await controller.changes.show(["data"], first, second, 0, 100))["volumes"]
        (extent,) = row["extents"]
        assert row["size"] == SIZE == extent["offset"] + extent["length"]
        assert row["changed_bytes"] == extent["length"]
        assert row["exact"] == (known == "all of it")
        point = controller.volume(f"data@{second}")
        assert point is not None
        answers: list[list[Extent]] = []
        controller.changed(point, 0, point.size, first, 9, answers.append)
        await core.until(lambda: bool(answers))
        assert answers[0][-1] == (extent["offset"], extent["length"], True)
        (row,) = (await controller.changes.show(["data"], first, None, 0, 100))["volumes"]
        assert row["size"] == LARGE


def test_a_start_makes_a_volume_larger_whose_size_was_changed_meanwhile() -> None:
    disk = new_disk()

    async def before() -> None:
        async with running(disk=disk) as core:
            await core.write("data", 0, DATA)

    async def after() -> None:
        async with running(disk=disk, size=LARGE) as core:
            assert (core.pair().size, core.states()) == (LARGE, {"data": DUPLEX})
            await write_at_end(core)
            assert core.equal()

    async def again() -> None:
        async with running(disk=disk, size=LARGE) as core:
            assert core.states() == {"data": DUPLEX}
            assert await core.read("data", LARGE - len(DATA), len(DATA)) == (0, DATA)

    for life in (before, after, again):
        run(life())


def test_a_pair_that_grew_at_its_cut_is_there_after_a_kill_and_a_stop() -> None:
    """The time of its image is another one, and nobody but the daemon has changed it."""
    disk = new_disk()

    async def grows(killed: bool) -> None:
        core = await Core.begin(disk, settings())
        await core.controller.suspend(["data"])
        await core.controller.checkpointer.checkpoint()
        core.clock.now += 100
        await core.controller.reload(larger())
        await (core.crash(power=False) if killed else core.controller.stop())

    async def later() -> None:
        async with running(disk=disk, size=LARGE) as core:
            assert (core.states(), core.pair().usable) == ({"data": SUSPENDED}, True)
            assert core.pair().record.size_at(core.pair().applied) == SIZE

    for killed in (True, False):
        disk = new_disk()
        disk.now_ns = lambda: 1
        run(grows(killed))
        run(later())
        run(later())


@pytest.mark.parametrize("leg", ["primary", "secondary"])
async def test_an_image_that_cannot_grow_leaves_all_as_it_was(leg: str) -> None:
    async with running() as core:
        await core.write("data", 0, DATA)
        legs = dict(zip(("primary", "secondary"), core.faulty(), strict=True))
        faulty = legs[leg]
        assert faulty is not None
        faulty.fail("resize", errno.ENOSPC, times=1)
        with pytest.raises(WrongStateError, match=r"volumes.data.size.*cannot grow.*No space"):
            await core.controller.reload(larger())
        assert (core.pair().size, core.states()) == (SIZE, {"data": DUPLEX})
        assert [len(core.image("data", side)) for side in "ab"] == [SIZE, SIZE]
        faulty.heal()
        await core.controller.reload(larger())
        await write_at_end(core)
        assert core.equal()


@pytest.mark.parametrize("leg", ["primary", "secondary"])
async def test_an_image_that_cannot_be_synced_has_failed_for_good(leg: str) -> None:
    """What was written to it before may be lost, and the next sync would not say so."""
    async with running() as core:
        await core.write("data", 0, DATA)
        faulty = dict(zip(("primary", "secondary"), core.faulty(), strict=True))[leg]
        assert faulty is not None
        faulty.fail("sync", errno.EIO, times=1)
        with pytest.raises(WrongStateError, match=r"volumes.data.size.*cannot grow"):
            await core.controller.reload(larger())
        assert (core.pair().size, core.states()) == (SIZE, {"data": SUSPENDED})
        assert not core.pair().usable
        assert core.pair().record.swapped is (leg == "primary")


async def test_a_start_that_cannot_make_a_volume_larger_serves_it_as_it_is() -> None:
    disk = new_disk()
    async with running(disk=disk) as core:
        await core.write("data", 0, DATA)
    disk.fail("/b/data.img", errno.ENOSPC, operation="resize")
    async with running(disk=disk, size=LARGE) as core:
        assert (core.pair().size, core.states()) == (SIZE, {"data": DUPLEX})
        (event,) = core.named("volume-not-grown")
        assert "/b/data.img: No space left" in event["error"]
        (row,) = core.controller.status()["volumes"]
        assert row["not_grown"] == event["error"]
        disk.heal("/b/data.img")
        await core.controller.reload(larger())
        (row,) = core.controller.status()["volumes"]
        assert (row["size"], row["not_grown"]) == (LARGE, "")


async def test_a_smaller_size_is_refused_by_check_reload_and_start() -> None:
    disk = new_disk()
    async with running(disk=disk) as core:
        for refused in (core.controller.check_reload, core.controller.reload):
            with pytest.raises(ConfigurationError, match=f"cannot shrink to {SIZE // 2}"):
                await refused(settings(size=SIZE // 2))
    async with running(disk=disk, size=SIZE // 2) as core:
        assert "cannot shrink" in core.pair().failed
        assert len(core.image("data", "a")) == SIZE


async def test_a_pair_that_is_copied_grows_later() -> None:
    async with running({"data": ""}) as core:
        await core.write("data", 0, DATA)
        adding = asyncio.ensure_future(core.controller.reload(settings()))
        await core.until(lambda: core.states() == {"data": PENDING})
        with pytest.raises(WrongStateError, match="is being written"):
            await core.controller.check_reload(larger())
        await adding
        await core.controller.resync_wait(["data"])
        await core.controller.reload(larger())
        assert core.pair().size == LARGE


async def test_a_volume_does_not_grow_and_change_its_images_in_one_reload() -> None:
    async with running({"data": ""}) as core:
        for refused in (core.controller.check_reload, core.controller.reload):
            with pytest.raises(ConfigurationError, match="reload once for each"):
                await refused(larger({"data": "sync"}))
        assert not core.disk.has("/b/data.img")


async def test_without_its_secondary_a_pair_does_not_grow() -> None:
    disk = new_disk()
    async with running(disk=disk):
        pass
    away = disk.take("/b/data.img")
    async with running(disk=disk) as core:
        with pytest.raises(WrongStateError, match="its secondary cannot be used"):
            await core.controller.reload(larger())
        disk.give("/b/data.img", away)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        await core.controller.reload(larger())
        await write_at_end(core)
        assert core.equal()


def test_a_secondary_that_became_longer_and_was_away_then_comes_back() -> None:
    """The daemon was killed before its volume grew, and the next one did not find it."""
    disk = new_disk()

    async def killed() -> None:
        core = await Core.begin(disk, settings())
        await core.write("data", 0, DATA)
        core.pair().copy_of.resize(LARGE)
        await core.crash(power=False)

    async def later() -> None:
        away = disk.take("/b/data.img")
        async with running(disk=disk, size=LARGE) as core:
            assert (core.pair().size, core.states()) == (SIZE, {"data": SUSPENDED})
            disk.give("/b/data.img", away)
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])
            await core.controller.reload(larger())
            await write_at_end(core)
            assert core.equal()

    run(killed())
    run(later())


async def killed_while_it_grew(disk: SimDisk) -> None:
    """Between the images and the marker."""
    core = await Core.begin(disk, settings())
    await core.write("data", SIZE - len(DATA), DATA)
    marker = Grow({core.pair().id: LARGE}, done=False)
    await core.controller.timeline.at_rest(lambda: core.controller.timeline.append(marker))
    await core.controller.timeline.durable()
    for leg in (core.pair().primary, core.pair().copy_of):
        leg.resize(LARGE)
    await core.crash(power=False)


@pytest.mark.parametrize("again", ["at once", "killed in the next start", "one image was away"])
def test_a_grow_that_was_killed_is_undone_once_the_smaller_size_is_back(again: str) -> None:
    disk = new_disk()

    async def longer_at_first() -> None:
        """What the next start does is the same after it was killed at its end."""
        core = await Core.begin(disk, settings())
        await core.crash(power=True)

    async def away() -> None:
        kept = disk.take("/b/data.img")
        async with running(disk=disk) as core:
            assert (core.pair().failed, core.states()) == ("", {"data": SUSPENDED})
        disk.give("/b/data.img", kept)

    async def later() -> None:
        async with running(disk=disk) as core:
            if again == "one image was away":
                await core.controller.resync(["data"])
                await core.controller.resync_wait(["data"])
            await core.until(lambda: core.states() == {"data": DUPLEX})
            assert core.pair().failed == ""
            assert core.pair().record.growing == 0
            assert [len(core.image("data", side)) for side in "ab"] == [SIZE, SIZE]
            undone = [event["path"] for event in core.named("grow-undone")]
            assert (
                undone
                == {
                    "at once": ["/a/data.img", "/b/data.img"],
                    "killed in the next start": [],
                    "one image was away": ["/b/data.img"],
                }[again]
            )
            assert await core.read("data", SIZE - len(DATA), len(DATA)) == (0, DATA)
            assert core.equal()
            await core.controller.reload(larger())
            await write_at_end(core)
            assert core.equal()

    run(killed_while_it_grew(disk))
    if again == "killed in the next start":
        run(longer_at_first())
    if again == "one image was away":
        run(away())
    run(later())


def test_an_image_that_is_longer_for_no_grow_is_not_cut_off() -> None:
    disk = new_disk()

    async def lengthened() -> None:
        core = await Core.begin(disk, settings())
        core.pair().copy_of.resize(LARGE)
        await core.crash(power=False)

    async def later() -> None:
        async with running(disk=disk) as core:
            assert core.states() == {"data": SUSPENDED}
            assert len(core.image("data", "b")) == LARGE

    run(lengthened())
    run(later())


def test_a_new_secondary_that_is_longer_is_not_cut_off_for_a_grow_that_was_killed() -> None:
    """It is another file, and what it holds is not ours."""
    disk, foreign = new_disk(), b"f" * 4096

    async def without_secondary() -> None:
        core = await Core.begin(disk, settings({"data": ""}))
        marker = Grow({core.pair().id: LARGE}, done=False)
        await core.controller.timeline.at_rest(lambda: core.controller.timeline.append(marker))
        await core.controller.timeline.durable()
        core.pair().primary.resize(LARGE)
        await core.crash(power=False)

    async def later() -> None:
        async with running(disk=disk) as core:
            assert (core.states(), core.pair().failed) == ({"data": SUSPENDED}, "")
            with pytest.raises(DuplexdError, match=f"has {LARGE} bytes"):
                await core.controller.resync(["data"])
            assert len(core.image("data", "a")) == SIZE

    run(without_secondary())
    file = disk.create("/b/data.img", LARGE)
    file.write(SIZE, foreign)
    file.sync()
    file.close()
    run(later())
    found = disk.open("/b/data.img")
    kept = bytearray(len(foreign))
    found.read_into(SIZE, memoryview(kept))
    assert (found.size, bytes(kept)) == (LARGE, foreign)


async def test_no_checkpoint_is_taken_while_images_become_longer() -> None:
    """It would record regions of the volume as it was for one that has others by then."""
    async with running() as core:
        taken, seen = core.controller.checkpointer.taken, list[int]()
        growing = core.controller.growing

        async with growing.longer({core.pair(): LARGE}):
            waiting = asyncio.ensure_future(core.controller.checkpointer.checkpoint())
            await core.turns(200)
            seen.append(core.controller.checkpointer.taken)
        await waiting
        assert (seen, core.pair().size) == ([taken], SIZE)
        assert [len(core.image("data", side)) for side in "ab"] == [SIZE, SIZE]


async def test_several_volumes_grow_at_one_number() -> None:
    async with running({"data": "sync", "log": "sync"}) as core:
        await core.controller.reload(larger({"data": "sync", "log": "sync"}))
        (data,), (log,) = core.pair("data").record.grown, core.pair("log").record.grown
        assert data == log


async def test_a_volume_at_a_cut_can_swap_and_go_back_after_it_grew() -> None:
    """Either way it holds what the cut holds, and zeroes behind that."""
    async with running() as core:
        await core.write("data", 0, DATA)
        await core.controller.suspend(["data"])
        await core.controller.reload(larger())
        await write_at_end(core)
        await core.controller.swap(["data"], False, None, True)
        assert core.pair().size == LARGE
        content = core.disk.content(core.pair().primary.path)
        assert content == DATA + bytes(LARGE - len(DATA))

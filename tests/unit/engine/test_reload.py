"""Taking over a new configuration while running: what comes, what goes, what is refused."""

from __future__ import annotations

import asyncio
import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import DUPLEX, PENDING, SUSPENDED
from duplexd.errors import ConfigurationError, DuplexdError, WrongStateError
from tests.support.fault_leg import FaultLeg
from tests.unit.engine.cores import SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.images.leg import Leg

DATA = b"\x77" * 8192
BOTH = {"data": "sync", "log": "sync"}


async def write_twice(core: Core, name: str) -> None:
    """The first change of a region syncs the journal; the second is not durable."""
    assert await core.write(name, len(DATA), DATA) == 0
    assert await core.write(name, 0, DATA) == 0


# ---------------------------------------------------------------------------------- what comes


async def test_volumes_and_groups_come_and_go() -> None:
    async with running({"data": "sync", "old": "sync"}) as core:
        fresh = settings({"data": "sync", "fresh": "sync"}, {"db": ["data", "fresh"]})
        changes = await core.controller.reload(fresh)
        assert changes[:3] == ["volume fresh added", "volume old removed", "groups changed"]
        assert core.states() == {"data": DUPLEX, "fresh": DUPLEX}
        assert core.pair("fresh").groups == ["db"]
        assert await core.write("fresh", 0, b"x") == 0
        assert core.named("reloaded")[0]["changes"] == changes
        assert core.controller.config is fresh


async def test_a_volume_whose_images_a_command_opens_again_stays_meanwhile() -> None:
    async with running(BOTH) as core:
        core.pair("log").returning = True
        with pytest.raises(
            WrongStateError, match=r"volumes\.log: another command opens its images"
        ):
            await core.controller.reload(settings())
        core.pair("log").returning = False
        assert (await core.controller.reload(settings()))[0] == "volume log removed"


async def test_a_volume_gets_a_secondary() -> None:
    async with running({"data": ""}) as core:
        await core.write("data", 0, b"before it had one")
        assert await core.controller.reload(settings()) == [
            "volume data: secondary added: /b/data.img"
        ]
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}
        assert core.equal()


async def test_what_is_written_before_a_new_secondary_is_switched_on_is_copied() -> None:
    async with running({"data": ""}) as core:
        async with core.controller.followers.stepping:  # the switch has to wait
            reloading = asyncio.ensure_future(core.controller.reload(settings()))
            await core.until(lambda: core.disk.exists("/b/data.img"))
            await core.turns()
            assert await core.write("data", 0, DATA) == 0
        await reloading
        await core.controller.resync_wait(["data"])
        assert core.equal()


@pytest.mark.parametrize("turns", range(0, 60, 5))
async def test_the_first_changes_of_a_new_async_volume_reach_its_secondary(turns: int) -> None:
    """The follower that is there already must not pass them before it knows the volume."""
    async with running({"data": "async"}) as core:
        reloading = asyncio.ensure_future(
            core.controller.reload(settings({"data": "async", "log": "async"}))
        )
        await core.until(lambda: core.controller.volume("log") is not None)
        await core.turns(turns)
        assert await core.write("log", 0, DATA) == 0
        assert await core.write("data", 0, DATA) == 0
        await core.until(lambda: core.pair().applied == core.controller.timeline.written)
        await reloading
        await core.until(lambda: core.pair("log").applied >= core.pair().applied)
        assert core.equal("log")


async def test_it_is_in_force_even_if_the_checkpoint_behind_it_fails() -> None:
    """The next reload has to compare with what is served."""
    async with running() as core:
        core.disk.fail("/state/checkpoint", errno.ENOSPC, operation="replace_file", times=1)
        with pytest.raises(OSError, match="No space"):
            await core.controller.reload(settings(BOTH))
        assert core.states() == {"data": DUPLEX, "log": DUPLEX}
        assert await core.controller.reload(settings(BOTH)) == []


async def test_the_rate_of_copies_and_the_longest_hold_are_taken_over() -> None:
    async with running() as core:
        config = settings()
        section = config.controller.model_copy(update={"copy_rate": 1 << 20, "hold_max": 3.0})
        changes = await core.controller.reload(config.model_copy(update={"controller": section}))
        assert changes == ["copy_rate is now 1.0 MiB per second", "hold_max is now 3.0"]
        assert core.controller.copying.rate == 1 << 20
        assert core.controller.status()["controller"]["hold_max_s"] == 3.0
        assert await core.controller.reload(settings()) == [
            "copy_rate removed: copies are not limited",
            "hold_max is now 2.0",
        ]


async def test_a_reload_survives_a_power_cut_once_it_is_over() -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings())
    await core.controller.reload(settings(BOTH))
    await core.crash(power=True)
    async with running(BOTH, disk=disk) as again:
        assert again.states() == {"data": DUPLEX, "log": DUPLEX}


# -------------------------------------------------------------------------- what is refused


def moved(key: str, path: str, mode: str = "sync") -> Config:
    """The volume `data` with one of its images at another path."""
    config = settings({"data": mode})
    volume = config.volumes["data"].model_copy(update={key: Path(path)})
    return config.model_copy(update={"volumes": {"data": volume}})


REFUSED: dict[str, tuple[Config, type[DuplexdError]]] = {
    r"volumes\.data\.size": (settings(size=SIZE // 2), ConfigurationError),
    r"volumes\.data\.primary": (moved("primary", "/a/other.img"), WrongStateError),
}


@pytest.mark.parametrize("key", REFUSED)
async def test_what_cannot_change_while_running_is_refused_by_key_and_nothing_changes(
    key: str,
) -> None:
    new, error = REFUSED[key]
    async with running() as core:
        before, config = core.controller.timeline.written, core.controller.config
        with pytest.raises(error, match=key):
            await core.controller.check_reload(new)
        with pytest.raises(error, match=key):
            await core.controller.reload(new)
        assert (core.controller.timeline.written, core.controller.config) == (before, config)


async def test_all_that_is_refused_is_named_at_once() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        core.pair("wal").connections = 1
        with pytest.raises(ConfigurationError) as caught:
            await core.controller.reload(settings(size=SIZE // 2))
        assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()] == [
            "volumes.data.size",
            "volumes.wal",
        ]


async def test_an_image_that_cannot_be_opened_leaves_the_others_as_they_were() -> None:
    three = settings({"data": "sync", "first": "sync", "second": "sync"})
    async with running() as core:
        core.disk.create("/b/second.img", SIZE).close()
        with pytest.raises(ConfigurationError, match="a first copy would overwrite the secondary"):
            await core.controller.reload(three)
        assert core.states() == {"data": DUPLEX}
        core.disk.remove("/b/second.img")
        await core.controller.reload(three)
        assert set(core.states()) == {"data", "first", "second"}


async def test_an_image_that_belongs_to_another_volume_is_not_taken_for_a_new_one() -> None:
    disk = new_disk()
    async with running({"data": "sync"}, disk=disk):
        pass
    ours = disk.content("/b/data.img")
    async with running({"log": ""}, disk=disk) as core:
        assert core.states() == {"log": "SIMPLEX"}
    theirs = new_disk()
    async with running({"data": "sync"}, disk=theirs):
        pass
    image = theirs.take("/b/data.img")
    async with running({"log": ""}, disk=disk) as core:
        image.opened = False
        disk.give("/b/log.img", image)
        with pytest.raises(ConfigurationError, match="belongs to volume data of a controller"):
            await core.controller.reload(settings({"log": "sync"}))
        assert core.states() == {"log": "SIMPLEX"}
        assert disk.content("/b/log.img") == ours


async def test_a_secondary_that_cannot_be_opened_leaves_the_primary_open() -> None:
    async with running({"data": ""}) as core:
        core.disk.create("/b/data.img", 2 * SIZE).close()
        with pytest.raises(ConfigurationError, match="images are not resized"):
            await core.controller.reload(settings())
        assert await core.write("data", 0, DATA) == 0


async def test_a_switch_that_the_journal_refuses_fails_the_controller() -> None:
    """Half of it is in the journal; a restart sorts it out. What is served stays open."""
    async with running() as core:
        core.disk.fail("/state/journal", errno.EIO, operation="writev")
        with pytest.raises(OSError, match="Input/output error"):
            await core.controller.reload(settings(BOTH))
        assert core.controller.failed


# ------------------------------------------------------------------------------- what goes


async def test_a_volume_in_use_is_not_removed() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        core.pair("wal").connections = 1
        with pytest.raises(WrongStateError, match=r"volumes\.wal.*1 connected"):
            await core.controller.reload(settings())
        core.pair("wal").connections = 0
        await core.controller.reload(settings())
        assert core.states() == {"data": DUPLEX}


async def test_a_volume_that_a_lease_holds_is_not_removed() -> None:
    async with running(BOTH) as core:
        hold = await core.controller.quiesce(["log"], 5.0, "me")
        with pytest.raises(WrongStateError, match=r"volumes\.log.*while clients use it"):
            await core.controller.reload(settings())
        core.controller.release(hold.id)
        await core.controller.reload(settings())


async def test_a_volume_whose_secondary_is_being_copied_is_not_removed() -> None:
    async with running({"data": "sync", "log": ""}) as core:
        slow = settings(BOTH)
        section = slow.controller.model_copy(update={"copy_rate": 65536})
        await core.write("log", 0, b"x" * (1 << 20))
        await core.controller.reload(slow.model_copy(update={"controller": section}))
        assert core.pair("log").state == PENDING
        with pytest.raises(WrongStateError, match="while its secondary is being written"):
            await core.controller.reload(settings())


async def test_a_volume_whose_cut_is_not_settled_is_not_removed() -> None:
    async with running({"data": "async", "log": "async"}) as core:
        async with core.controller.followers.stepping:
            await core.write("log", 0, DATA)
            suspending = asyncio.ensure_future(core.controller.suspend(["log"]))
            await core.until(lambda: core.pair("log").state == SUSPENDED)
            with pytest.raises(WrongStateError, match="wait until it is at its cut"):
                await core.controller.reload(settings({"data": "async"}))
        await suspending
        await core.controller.reload(settings({"data": "async"}))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_no_leg_is_closed_while_it_is_being_synced_or_written(mode: str) -> None:
    async def scenario(turns: int) -> None:
        async with running({"data": mode, "log": mode}, {"db": ["data", "log"]}) as core:
            await write_twice(core, "log")
            beside = asyncio.ensure_future(core.controller.checkpointer.checkpoint())
            await core.turns(turns)
            await core.controller.reload(settings({"data": mode}, {"db": ["data"]}))
            await beside
            assert not core.controller.failed
            assert core.states() == {"data": DUPLEX}
            assert await core.write("data", 0, DATA) == 0
            await core.until(core.equal)

    for turns in range(0, 24, 2):
        run(asyncio.wait_for(scenario(turns), 20))


async def test_no_leg_is_closed_while_a_follower_writes_to_it() -> None:
    async with running({"data": "async", "log": "async"}) as core:
        async with core.controller.followers.stepping:  # as while a worker is at a secondary
            reloading = asyncio.ensure_future(core.controller.reload(settings({"data": "async"})))
            await core.turns(200)
            assert not reloading.done()
            assert "log" in core.states()
        await reloading
        assert core.states() == {"data": DUPLEX}


def test_what_was_flushed_to_a_removed_volume_survives_a_power_cut() -> None:
    disk = new_disk()

    async def scenario() -> None:
        core = await Core.begin(disk, settings(BOTH))
        await write_twice(core, "log")
        assert await core.flush("log") == 0
        await core.controller.reload(settings({"data": "sync"}))

    run(scenario())  # and it is not shut down cleanly
    disk.crash(power=True)
    assert disk.read_file("/a/log.img")[: 2 * len(DATA)] == 2 * DATA


def test_a_client_that_comes_while_the_legs_are_synced_keeps_its_volume() -> None:
    async def scenario() -> None:
        async with running(BOTH) as core:
            await write_twice(core, "log")
            reloading = asyncio.ensure_future(core.controller.reload(settings({"data": "sync"})))
            await core.turns(2)
            assert not reloading.done()
            core.pair("log").connections += 1
            with pytest.raises(WrongStateError, match="can't be removed while clients use it"):
                await reloading
            assert await core.write("log", 0, DATA[::-1]) == 0
            core.pair("log").connections -= 1

    run(asyncio.wait_for(scenario(), 20))


async def test_what_was_written_while_the_legs_are_synced_keeps_the_volume() -> None:
    """It would never be synced."""
    async with running(BOTH) as core:
        await write_twice(core, "log")
        reloading = asyncio.ensure_future(core.controller.reload(settings({"data": "sync"})))
        await core.until(lambda: not core.pair("log").primary_dirty)
        assert await core.write("log", 0, DATA[::-1]) == 0
        with pytest.raises(WrongStateError, match="was written to just now"):
            await reloading
        assert core.states() == {"data": DUPLEX, "log": DUPLEX}


async def test_a_volume_that_is_not_served_can_be_removed_though_it_was_written_to() -> None:
    """No checkpoint syncs it, so it would be refused at each try."""
    async with running(BOTH) as core:
        core.refuse_swaps()
        assert await core.write("log", 0, DATA) == 0
        timeline, failures = core.controller.timeline, core.controller.failures
        gone = OSError(errno.EIO, "gone")
        await timeline.at_rest(lambda: failures.primary_failed(core.pair("log"), gone))
        await core.controller.reload(settings({"data": "sync"}))
        assert core.states() == {"data": DUPLEX}


async def test_the_image_of_a_volume_that_is_removed_at_a_cut_is_said_with_it() -> None:
    async with running(BOTH) as core:
        assert await core.write("log", 0, DATA) == 0
        cut = (await core.controller.suspend(["log"]))["cut"]
        await core.write("log", 0, DATA[::-1])
        changes = await core.controller.reload(settings({"data": "sync"}))
        assert changes[0] == "volume log removed"
        assert re.fullmatch(
            rf"volume log: /b/log.img is left at number \d+, cut {cut} \(consistent\)", changes[-1]
        )
        (left,) = core.named("secondary-left")
        assert (left["volume"], left["path"], left["cut"]) == ("log", "/b/log.img", cut)
        assert core.disk.content("/b/log.img")[: len(DATA)] == DATA
        assert not core.disk.in_use("/b/log.img")


class Closed(FaultLeg):
    """One that notes whether a worker closes it, who may wait, or a step of the loop."""

    __slots__ = ("by",)

    def __init__(self, leg: Leg) -> None:
        super().__init__(leg)
        self.by: list[str] = []

    def close(self) -> None:
        self.by.append("worker" if asyncio.current_task() is None else "loop")
        super().close()


async def test_the_images_of_a_removed_volume_are_closed_by_workers() -> None:
    async with running({"data": "sync", "old": "sync"}) as core:
        pair = core.pair("old")
        primary, secondary = Closed(pair.primary), Closed(pair.copy_of)
        pair.set_legs(primary, secondary, pair.mode)
        await core.controller.reload(settings({"data": "sync"}))
        assert (primary.by, secondary.by) == (["worker"], ["worker"])

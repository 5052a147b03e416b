"""Images that come back while the daemon runs: opened by `resync`, taken as they are by `adopt`."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import DUPLEX, SIMPLEX, SUSPENDED
from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.engine.opening import why_absent
from duplexd.engine.reopen import Reopening
from duplexd.errors import WrongStateError
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, running, settings
from tests.unit.engine.test_recovery_degraded import DATA, LATER, one_life, one_life_of, read
from tests.unit.engine.test_swap import fail_primary

if TYPE_CHECKING:
    from duplexd.core.identity import Judgement
    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg
    from tests.sim.disk import SimDisk
    from tests.sim.image import Image


def back(disk: SimDisk, path: str, image: Image) -> None:
    """Put an image back that was taken away."""
    image.opened = False
    disk.give(path, image)


async def resynced(core: Core, name: str = "data") -> None:
    await core.controller.resync([name])
    await core.controller.resync_wait([name])
    assert core.states()[name] == DUPLEX
    assert core.equal(name)


# ------------------------------------------------------------------------------------ secondaries


async def test_a_secondary_that_is_back_gets_what_it_lacks() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    kept = disk.take("/b/data.img")
    async with running(disk=disk) as core:
        assert await core.write("data", 2 * MIB, LATER) == 0
        with pytest.raises(WrongStateError, match=r"/b/data\.img: the image is missing; nothing"):
            await core.controller.resync(["data"])
        assert not disk.exists("/b/data.img"), "a mount point is no place for a new image"
        back(disk, "/b/data.img", kept)
        await resynced(core)
        assert core.pair().copied_bytes < SIZE


@pytest.mark.parametrize("found", ["by the start", "by a resync"])
async def test_a_secondary_that_was_too_short_gets_all_of_it_once_it_is_extended(
    found: str,
) -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    short = disk.take("/b/data.img")
    short.current[3 * MIB : 3 * MIB + 4] = b"rust"  # it is where no block is sampled
    short.size = short.length = SIZE - 4096
    if found == "by the start":
        back(disk, "/b/data.img", short)
    async with running(disk=disk) as core:
        back(disk, "/b/data.img", short)
        extend = rf"/b/data\.img: .*`truncate -s {SIZE} /b/data\.img` makes it as long"
        with pytest.raises(WrongStateError, match=extend):
            await core.controller.resync(["data"])
        short.size = short.length = SIZE
        await resynced(core)
        assert core.equal()


async def test_any_other_image_is_the_new_secondary_and_gets_all_of_it() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    disk.remove("/b/data.img")
    async with running(disk=disk) as core:
        image = disk.create("/b/data.img", SIZE)
        image.write(3 * MIB, b"of another life")
        image.close()
        await resynced(core)
    async with running(disk=disk) as core:
        assert core.states() == {"data": DUPLEX}, "it is known by now"


async def test_a_new_secondary_is_recorded_before_anything_is_copied_to_it() -> None:
    """A start that finds the former image there again must not go on with that copy."""
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    disk.remove("/b/data.img")
    async with running(disk=disk) as core:
        former = core.pair().record.secondary_image
        disk.create("/b/data.img", SIZE).close()
        await core.controller.resync(["data"])
        (saved,) = CheckpointFile(disk, "/state").read()["pairs"]
        assert former is not None
        assert saved["images"][1] is None or saved["images"][1]["id"] != former.id


async def test_without_a_command_no_other_image_is_written_over() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    kept = disk.take("/b/data.img")
    async with running(disk=disk) as core:
        commands = core.controller.auto_resync
        disk.create("/b/data.img", SIZE).close()
        await commands.look()
        core.clock.now += 100
        await commands.look()
        assert core.states() == {"data": SUSPENDED}
        (refused,) = core.named("resync-failed")
        assert "`duplexctl resync data` takes it" in refused["error"]
        assert disk.content("/b/data.img") == bytes(SIZE)
        back(disk, "/b/data.img", kept)
        for _ in range(2):
            core.clock.now += 100
            await commands.look()
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}


async def test_a_backup_that_was_replaced_is_one_no_more() -> None:
    """The secondary was at its cut; what lies there now holds something else."""
    disk = new_disk()
    async with running(disk=disk) as core:
        assert await core.write("data", 0, DATA) == 0
        await core.controller.suspend(["data"])
    disk.remove("/b/data.img")
    disk.create("/b/data.img", SIZE).close()
    async with running(disk=disk) as core:
        pair = core.pair()
        assert (pair.state, pair.usable) == (SUSPENDED, False)
        assert core.named("image-changed")[0]["path"] == "/b/data.img"
        assert why_absent(pair.secondary)
        await resynced(core)


async def test_an_image_of_another_controller_is_not_written_over() -> None:
    disk, other = new_disk(), new_disk()
    await one_life(disk, settings(), stopped=True)
    await one_life(other, settings(), stopped=True)
    disk.remove("/b/data.img")
    async with running(disk=disk) as core:
        theirs = other.take("/b/data.img")
        before = bytes(theirs.current)
        back(disk, "/b/data.img", theirs)
        with pytest.raises(WrongStateError, match="belongs to volume data of a controller 'alpha'"):
            await core.controller.resync(["data"])
        assert bytes(theirs.current) == before
        (adopted,) = (await core.controller.adopt(["data"]))["volumes"]
        assert (adopted["already"], adopted["state"]) == (False, SUSPENDED)
        await resynced(core)


async def test_a_resync_that_a_checkpoint_keeps_from_beginning_names_image_and_checkpoint() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    disk.remove("/b/data.img")
    async with running(disk=disk) as core:
        disk.create("/b/data.img", SIZE).close()
        disk.fail("/state/checkpoint", errno.EIO, operation="replace_file", times=1)
        with pytest.raises(
            WrongStateError, match=r"record /b/data\.img: /state/checkpoint: Input/output error"
        ):
            await core.controller.resync(["data"])
        await resynced(core)


async def test_an_adopted_secondary_is_in_a_checkpoint_and_the_former_one_in_none() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    disk.remove("/b/data.img")
    async with running(disk=disk) as core:
        former = core.pair().record.secondary_image
        assert former is not None
        image = disk.create("/b/data.img", SIZE)
        image.close()
        await core.controller.adopt(["data"])
        adopted = core.pair().record.secondary_image
        assert adopted is None or adopted.id != former.id
        (saved,) = CheckpointFile(disk, "/state").read()["pairs"]
        assert former.id not in str(saved["images"])


async def test_a_secondary_that_a_reload_replaces_meanwhile_is_not_adopted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    disk.remove("/b/data.img")
    opened = Reopening.open

    async def reloaded_meanwhile(
        self: Reopening, pair: Pair, role: str, adopt: bool = False
    ) -> tuple[Leg, Judgement]:
        found = await opened(self, pair, role, adopt)
        pair.set_legs(pair.primary, None, pair.mode)
        return found

    async with running(disk=disk) as core:
        disk.create("/b/data.img", SIZE).close()
        monkeypatch.setattr(Reopening, "open", reloaded_meanwhile)
        with pytest.raises(WrongStateError, match="a reload changed it meanwhile"):
            await core.controller.adopt(["data"])
        assert core.pair().secondary is None
        await core.until(lambda: not disk.in_use("/b/data.img"))


async def test_an_adopt_of_a_served_volume_says_what_became_of_its_absent_secondary() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    disk.remove("/b/data.img")
    async with running(disk=disk) as core:
        (row,) = (await core.controller.adopt(["data"]))["volumes"]
        assert (row["taken"], row["already"]) == ([], True)
        assert row["secondary_error"].startswith("/b/data.img: the image is missing")
        disk.create("/b/data.img", SIZE).close()
        (row,) = (await core.controller.adopt(["data"]))["volumes"]
        assert (row["taken"], row["already"]) == (["secondary"], False)
        assert row["secondary_error"] is None


async def test_a_missing_secondary_keeps_no_other_volume_from_its_resync() -> None:
    disk, volumes = new_disk(), {"data": "sync", "wal": "sync", "apart": "sync"}
    await one_life(disk, settings(volumes), stopped=True)
    disk.remove("/b/wal.img")
    disk.remove("/a/apart.img")
    disk.remove("/b/apart.img")
    async with running(volumes, disk=disk) as core:
        await core.controller.suspend(["data"])
        assert await core.write("data", 0, DATA) == 0
        names = ["wal", "data", "apart"]
        with pytest.raises(WrongStateError, match=r"/b/wal\.img: .* missing; nothing was started"):
            await core.controller.resync(names)
        assert core.states()["data"] == SUSPENDED
        started = await core.controller.resync(names, partial=True)
        assert [row["name"] for row in started["volumes"]] == ["data"]
        refused = {row["name"]: row["error"] for row in started["refused"]}
        assert set(refused) == {"wal", "apart"}
        assert refused["wal"] == "wal: /b/wal.img: the image is missing"
        await core.controller.resync_wait(["data"])
        assert core.states()["data"] == DUPLEX
        with pytest.raises(WrongStateError, match=r"\(and 1 more\); nothing was started"):
            await core.controller.resync(["wal", "apart"], partial=True)


# -------------------------------------------------------------------------------------- primaries


@pytest.mark.parametrize("mode", ["", "sync"])
async def test_a_primary_that_is_back_gets_what_it_lacks_and_is_served(mode: str) -> None:
    disk, volumes = new_disk(), {"data": mode, "apart": "sync"}
    core = await Core.begin(disk, settings(volumes))
    assert await core.write("data", 0, DATA) == 0
    taken = {path: disk.take(path) for path in ("/a/data.img", "/b/data.img")[: 1 + bool(mode)]}
    taken["/a/data.img"].current[:] = bytes(SIZE)
    await core.crash(power=False)
    core = await Core.begin(disk, settings(volumes))
    assert core.pair("data").failed
    with pytest.raises(WrongStateError, match="the image is missing"):
        await core.controller.resync(["data"])
    for path, image in taken.items():
        back(disk, path, image)
    if mode:
        await core.controller.resync(["data"])
    else:
        with pytest.raises(WrongStateError, match="SIMPLEX"):
            await core.controller.resync(["data"])
    assert not core.pair("data").failed
    assert core.named("volume-served")[0]["volume"] == "data"
    assert await read(core, "data", 0, len(DATA)) == DATA
    assert await core.write("data", 0, LATER) == 0
    await core.crash(power=False)
    async with running(volumes, disk=disk) as core:
        assert await read(core, "data", 0, len(LATER)) == LATER


async def test_a_primary_that_fails_again_stays_unserved() -> None:
    disk, volumes = new_disk(), {"data": "", "apart": "sync"}
    await one_life_of(disk, volumes, stopped=False)
    disk.fail("/a/data.img", errno.EIO, operation="write")
    disk.fail("/a/data.img", errno.EIO, operation="open", times=1)
    async with running(volumes, disk=disk) as core:
        disk.fail("/a/data.img", errno.EIO, operation="read")
        with pytest.raises(WrongStateError, match=r"data is not served: /a/data\.img: "):
            await core.controller.resync(["data"])
        assert core.pair("data").failed
        assert await read(core, "data", 0, 4096) == errno.EIO
        disk.heal("/a/data.img")
        with pytest.raises(WrongStateError, match="SIMPLEX"):
            await core.controller.resync(["data"])
        assert await read(core, "data", 0, len(DATA)) == DATA


async def fails(core: Core, name: str = "data") -> None:
    """The primary of a volume is found dead while it is served."""
    dead, pair = OSError(errno.EIO, "dead"), core.pair(name)
    timeline, failures = core.controller.timeline, core.controller.failures
    await timeline.at_rest(lambda: failures.unserved(pair, dead))


@pytest.mark.parametrize("mode", ["", "sync"])
async def test_a_primary_that_failed_while_it_was_served_can_come_back(mode: str) -> None:
    disk, volumes = new_disk(), {"data": mode, "apart": "sync"}
    async with running(volumes, disk=disk) as core:
        assert await core.write("data", 0, DATA) == 0
        await fails(core)
        assert await core.write("data", 0, LATER) == errno.EIO
        if mode:
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])
        else:
            with pytest.raises(WrongStateError, match="SIMPLEX"):
                await core.controller.resync(["data"])
        assert await read(core, "data", 0, len(DATA)) == DATA
        assert await core.write("data", 0, LATER) == 0
        assert not mode or core.equal("data")


async def test_an_image_that_took_over_at_the_start_gets_from_the_journal_what_it_refused() -> None:
    """What the image lacked that was the primary before says nothing of this one."""
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    disk.remove("/a/data.img")
    async with running(disk=disk) as core:
        assert core.pair().primary.path == "/b/data.img"
        for operation in ("write", "read"):
            disk.fail("/b/data.img", errno.EIO, operation=operation)
        assert await core.write("data", 0, LATER) == errno.EIO
        assert core.pair().failed
        disk.heal("/b/data.img")
        with pytest.raises(WrongStateError, match=r"/a/data\.img: the image is missing"):
            await core.controller.resync(["data"])
        with pytest.raises(WrongStateError, match=r"/a/data\.img: the image is missing"):
            await core.controller.resync(["data"])
        assert await read(core, "data", 0, len(LATER)) == LATER, "a replay would apply it"


async def test_a_checkpoint_says_of_such_an_image_what_it_lacks_itself() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    disk.take("/a/data.img")
    core = await Core.begin(disk, settings())
    assert await core.write("data", 0, LATER) == 0
    assert await core.write("data", 2 * MIB, LATER) == 0
    assert await core.flush() == 0
    await fails(core)
    await core.controller.checkpointer.checkpoint()
    image = disk.take("/b/data.img")
    image.lose()
    back(disk, "/b/data.img", image)
    await core.crash(power=False)
    async with running(disk=disk) as core:
        assert await read(core, "data", 0, len(LATER)) == LATER


async def test_without_its_secondary_a_volume_is_served_and_suspended() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=False)
    kept = disk.take("/a/data.img")
    disk.take("/b/data.img")
    async with running(disk=disk) as core:
        back(disk, "/a/data.img", kept)
        with pytest.raises(WrongStateError, match=r"/b/data\.img"):
            await core.controller.resync(["data"])
        with pytest.raises(WrongStateError, match=r"/b/data\.img"):
            await core.controller.resync(["data"])
        assert core.states() == {"data": SUSPENDED}
        assert await read(core, "data", 0, len(DATA)) == DATA
        assert await core.write("data", 0, LATER) == 0


# ------------------------------------------------------------------------------------------ adopt


async def restored(disk: SimDisk, mode: str, stopped: bool) -> None:
    """A volume whose primary was overwritten in place while the daemon was down."""
    volumes = {"data": mode, "apart": "sync"}
    await one_life_of(disk, volumes, stopped)
    for path in ("/a/data.img", "/b/data.img")[: 1 + bool(mode)]:
        image = disk.open(path)
        image.write(0, b"restored" * 1024)
        image.write(MIB, b"restored" * 1024)
        image.sync()
        image.close()


@pytest.mark.parametrize("mode", ["", "sync"])
async def test_a_volume_that_was_restored_in_place_is_served_when_it_is_adopted(mode: str) -> None:
    disk = new_disk()
    await restored(disk, mode, stopped=True)
    volumes = {"data": mode, "apart": "sync"}
    for _ in range(2):  # a second start knows no less
        async with running(volumes, disk=disk) as core:
            assert "the image was changed" in core.pair("data").failed
    async with running(volumes, disk=disk) as core:
        assert "the image was changed" in core.pair("data").failed
        with pytest.raises(WrongStateError, match="`duplexctl adopt data` takes this image"):
            await core.controller.resync(["data"])
        (adopted,) = (await core.controller.adopt(["data"]))["volumes"]
        assert adopted["state"] == (SUSPENDED if mode else SIMPLEX)
        assert adopted["lost"] == {"records": 0, "first": None, "last": None, "bytes": 0}
        assert (await read(core, "data", 0, 8)) == b"restored"
        assert await core.write("data", 2 * MIB, LATER) == 0
        (again,) = (await core.controller.adopt(["data"]))["volumes"]
        assert again["already"]
        if mode:
            await resynced(core)
    async with running(volumes, disk=disk) as core:
        assert not core.pair("data").failed
        assert (await read(core, "data", 0, 8)) == b"restored"


@pytest.mark.parametrize("at_start", [True, False])
async def test_what_adopt_gives_up_is_said_and_never_applied(at_start: bool) -> None:
    disk, volumes = new_disk(), {"data": "", "apart": "sync"}
    await one_life_of(disk, volumes, stopped=True)
    core = await Core.begin(disk, settings(volumes))
    assert await core.write("data", 0, LATER) == 0
    disk.remove("/a/data.img")
    await core.crash(power=False)
    image = disk.create("/a/data.img", SIZE)
    image.write(0, b"restored")
    image.sync()
    image.close()
    core = await Core.begin(disk, settings(volumes), adopt=at_start)
    if not at_start:
        assert core.pair("data").failed
        await core.controller.adopt(["data"])
    (event,) = core.named("volume-served")
    assert event["lost"]["records"] == 1
    assert event["lost"]["bytes"] == len(LATER)
    assert event["lost"]["first"] == event["lost"]["last"] > 0
    assert await read(core, "data", 0, 8) == b"restored"
    await core.crash(power=False)
    async with running(volumes, disk=disk) as core:
        assert await read(core, "data", 0, 8) == b"restored"


@pytest.mark.parametrize("at_start", [True, False])
async def test_an_adopted_image_survives_a_power_cut_as_it_was_adopted(at_start: bool) -> None:
    """Who restored it did not sync it."""
    disk, volumes = new_disk(), {"data": "", "apart": "sync"}
    await one_life_of(disk, volumes, stopped=True)
    image = disk.open("/a/data.img")
    restored = b"restored" * 8192
    image.write(0, restored)
    image.close()
    core = await Core.begin(disk, settings(volumes), adopt=at_start)
    if not at_start:
        assert core.pair("data").failed
        await core.controller.adopt(["data"])
    await core.crash(power=True)
    assert disk.content("/a/data.img")[: len(restored)] == restored


@pytest.mark.parametrize("at_start", [True, False])
async def test_what_is_adopted_is_what_the_disk_holds_not_the_page_cache(at_start: bool) -> None:
    """A sync that failed leaves in the cache what the disk never got, and the next one succeeds."""
    disk, volumes = new_disk(), {"data": "", "apart": "sync"}
    await one_life_of(disk, volumes, stopped=True)
    image = disk.open("/a/data.img")
    image.write(0, b"restored" * 8192)
    disk.fail("/a/data.img", errno.EIO, operation="sync", times=1)
    with pytest.raises(OSError, match="Input/output error"):
        image.sync()
    image.close()
    core = await Core.begin(disk, settings(volumes), adopt=at_start)
    if not at_start:
        await core.controller.adopt(["data"])
    taken = core.image("data", "a")
    await core.crash(power=True)
    assert disk.content("/a/data.img") == taken


async def test_an_image_that_cannot_be_made_durable_is_not_adopted() -> None:
    disk = new_disk()
    await restored(disk, "", stopped=True)
    async with running({"data": "", "apart": "sync"}, disk=disk) as core:
        disk.fail("/a/data.img", errno.EIO, operation="sync", times=1)
        with pytest.raises(WrongStateError, match="Input/output error"):
            await core.controller.adopt(["data"])
        assert core.pair("data").failed
        await core.controller.adopt(["data"])
        assert await read(core, "data", 0, 8) == b"restored"


async def test_the_image_of_a_dead_disk_is_not_adopted_and_the_journal_keeps_its_changes() -> None:
    """The volume was suspended, so its secondary lacks what the journal has."""
    disk = new_disk()
    async with running(disk=disk) as core:
        await core.controller.suspend(["data"])
        assert await core.write("data", 0, LATER) == 0
        await fail_primary(core)
        disk.fail("/a/data.img", errno.EIO, operation="read")
        with pytest.raises(WrongStateError, match="nothing was changed; `duplexctl swap data`"):
            await core.controller.adopt(["data"])
        assert core.pair().failed
        await core.controller.swap(["data"], True, None, False)
        assert await read(core, "data", 0, len(LATER)) == LATER


async def test_an_image_with_bad_sectors_is_adopted() -> None:
    disk = new_disk()
    await restored(disk, "", stopped=True)
    async with running({"data": "", "apart": "sync"}, disk=disk) as core:
        disk.fail("/a/data.img", errno.EIO, operation="read", times=1)
        await core.controller.adopt(["data"])
        assert not core.pair("data").failed


async def test_a_backup_at_its_cut_stays_one_when_the_primary_is_adopted() -> None:
    disk = new_disk()
    async with running(disk=disk) as core:
        assert await core.write("data", 0, DATA) == 0
        await core.controller.suspend(["data"])
        assert await core.write("data", 0, LATER) == 0
    backup = disk.content("/b/data.img")
    image = disk.open("/a/data.img")
    image.write(0, backup[: len(DATA)])  # the upgrade went wrong: back to the cut
    image.sync()
    image.close()
    async with running(disk=disk) as core:
        assert core.pair().failed
        await core.controller.adopt(["data"])
        pair = core.pair()
        assert pair.cut is not None
        assert (pair.usable, pair.cut.verdict) == (True, "consistent")
        assert disk.content("/b/data.img") == backup
        await resynced(core)
        assert core.image("data", "a")[: len(DATA)] == DATA


async def test_images_whose_state_is_not_here_are_not_used_until_they_are_adopted() -> None:
    """The mount of the state directory is missing: a first copy would overwrite the backup."""
    disk = new_disk()
    async with running(disk=disk) as core:
        assert await core.write("data", 0, DATA) == 0
        await core.controller.suspend(["data"])
        assert await core.write("data", 0, LATER) == 0
    for name in disk.list("/state/journal"):
        disk.remove(f"/state/journal/{name}")
    disk.remove("/state/checkpoint")
    before = disk.content("/a/data.img"), disk.content("/b/data.img")
    async with running(disk=disk) as core:
        assert "is its file system mounted?" in core.pair().failed
        assert "data" not in core.controller.timeline.ledger.known()
        assert (disk.content("/a/data.img"), disk.content("/b/data.img")) == before
        (adopted,) = (await core.controller.adopt(["data"]))["volumes"]
        assert adopted["state"] == SUSPENDED
        assert (disk.content("/a/data.img"), disk.content("/b/data.img")) == before
        assert await read(core, "data", 0, len(LATER)) == LATER
    async with running(disk=disk) as core:
        assert not core.pair().failed
        await resynced(core)


async def test_of_two_adopts_at_once_the_second_finds_the_volume_served() -> None:
    """What the first records is another pair, with clients by then: its images stay open."""
    disk = new_disk()
    async with running(disk=disk) as core:
        assert await core.write("data", 0, DATA) == 0
    for name in disk.list("/state/journal"):
        disk.remove(f"/state/journal/{name}")
    disk.remove("/state/checkpoint")
    async with running(disk=disk) as core:
        both = await asyncio.gather(*(core.controller.adopt(["data"]) for _ in range(2)))
        first, second = (answer["volumes"][0] for answer in both)
        assert (first["already"], second["already"]) == (False, True)
        (record,) = core.controller.timeline.ledger.pairs.values()
        assert core.pair().record is record
        assert await core.write("data", 0, LATER) == 0
        assert await read(core, "data", 0, len(LATER)) == LATER

"""A start with images that are missing, unreadable, of another size or in use: each costs its own
volume at most, and what is good goes on.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import BY_ERROR, DUPLEX, SIMPLEX, SUSPENDED
from duplexd.engine.opening import why_absent
from duplexd.errors import DuplexdError, WrongStateError
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config
    from tests.sim.disk import SimDisk

DATA = b"\x66" * 8192
LATER = b"\x77" * 8192
BOTH = {"data": "sync", "apart": "sync"}


def refusing(config: Config) -> Config:
    """Primaries are not replaced by their secondaries."""
    controller = config.controller.model_copy(update={"on_primary_error": "refuse"})
    return config.model_copy(update={"controller": controller})


def missing(disk: SimDisk, path: str) -> None:
    disk.remove(path)


def unreadable(disk: SimDisk, path: str) -> None:
    disk.fail(path, errno.EIO, operation="open")


def of_another_size(disk: SimDisk, path: str) -> None:
    disk.remove(path)
    disk.create(path, 2 * SIZE).close()


def in_use(disk: SimDisk, path: str) -> None:
    disk.lock(path)


each_state = pytest.mark.parametrize("spoil", [missing, unreadable, of_another_size, in_use])
each_end = pytest.mark.parametrize("stopped", [True, False])


async def one_life(disk: SimDisk, config: Config, stopped: bool) -> None:
    """A daemon that wrote to both volumes, and was stopped, or killed."""
    core = await Core.begin(disk, config)
    for name in config.volumes:
        assert await core.write(name, 0, DATA) == 0
        assert await core.write(name, MIB, DATA) == 0
    await core.until(lambda: all(core.equal(name) for name in config.volumes))
    if stopped:
        await core.controller.stop()
    else:
        await core.crash(power=False)


async def read(core: Core, name: str, offset: int, length: int) -> bytes | int:
    """What a client reads, or the errno."""
    answers: list[tuple[int, bytearray]] = []
    volume = core.controller.volume(name)
    assert volume is not None
    core.controller.read(volume, offset, length, 0, lambda *answer: answers.append(answer))
    await core.until(lambda: bool(answers))
    error, content = answers[0]
    return error or bytes(content)


# ------------------------------------------------------------------------------------ secondaries


@each_state
@each_end
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_secondary_that_cannot_be_used_costs_its_pair_the_redundancy(
    spoil: Callable[[SimDisk, str], None], stopped: bool, mode: str
) -> None:
    disk, volumes = new_disk(), {"data": mode, "apart": "sync"}
    await one_life(disk, settings(volumes), stopped)
    spoil(disk, "/b/data.img")
    async with running(volumes, disk=disk) as core:
        data = core.pair("data")
        assert (data.state, data.reason, data.failed) == (SUSPENDED, BY_ERROR, "")
        assert core.named("suspended")[0]["error"].startswith("/b/data.img: ")
        assert core.states()["apart"] == DUPLEX or not stopped
        assert await core.write("data", 0, LATER) == 0
        assert await core.write("apart", 0, LATER) == 0
        assert await read(core, "data", 0, len(LATER)) == LATER
        assert data.changed is not None
        assert data.changed.next_run(0, SIZE) == (0, 65536) or not stopped


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(missing, "the image is missing"), (of_another_size, "the image has 8388608 bytes")],
    ids=["missing", "of another size"],
)
async def test_a_comparison_says_why_the_start_refused_a_secondary(
    spoil: Callable[[SimDisk, str], None], why: str
) -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    spoil(disk, "/b/data.img")
    async with running(disk=disk) as core:
        (row,) = (await core.controller.verify(["data"]))["volumes"]
        assert not row["equal"]
        assert row["why"].startswith(f"/b/data.img: {why}")


@each_end
async def test_what_an_absent_secondary_may_lack_is_copied_when_it_is_back(stopped: bool) -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped)
    kept = disk.take("/b/data.img")
    async with running(disk=disk) as core:
        assert await core.write("data", 2 * MIB, LATER) == 0
        assert await core.flush() == 0
        assert core.pair().usable is stopped, "what a killed daemon left on it is not known"
        assert core.pair().changed is not None
        assert core.pair().changed != core.pair().record.full_map() or not stopped
    disk.give("/b/data.img", kept)
    kept.opened = False
    async with running(disk=disk) as core:
        assert core.states() == {"data": SUSPENDED}
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}
        assert core.equal()


async def test_a_pair_that_waits_at_a_cut_keeps_it_while_its_secondary_is_absent() -> None:
    """An absent image is not a changed one: the backup on it is as good as before."""
    disk = new_disk()
    async with running(disk=disk) as core:
        assert await core.write("data", 0, DATA) == 0
        result = await core.controller.suspend(["data"])
        assert await core.write("data", 0, LATER) == 0
    kept = disk.take("/b/data.img")
    async with running(disk=disk) as core:
        pair = core.pair()
        assert pair.cut is not None
        assert (pair.state, pair.cut.id, pair.cut.verdict) == (
            SUSPENDED,
            result["cut"],
            "consistent",
        )
        assert why_absent(pair.secondary) == "/b/data.img: the image is missing"
    disk.give("/b/data.img", kept)
    kept.opened = False
    async with running(disk=disk) as core:
        assert core.pair().usable
        assert core.image("data", "b")[: len(DATA)] == DATA
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.equal()


async def test_its_group_is_suspended_with_it_at_the_same_number() -> None:
    disk, volumes, groups = new_disk(), {"data": "sync", "mate": "sync"}, {"db": ["data", "mate"]}
    await one_life(disk, settings(volumes, groups), stopped=True)
    missing(disk, "/b/data.img")
    async with running(volumes, groups, disk=disk) as core:
        assert core.states() == {"data": SUSPENDED, "mate": SUSPENDED}
        assert core.pair("data").cut is core.pair("mate").cut
        assert core.pair("mate").usable


async def test_a_new_secondary_that_cannot_be_used_leaves_the_volume_served() -> None:
    disk = new_disk()
    await one_life_of(disk, {"data": ""}, stopped=True)
    disk.create("/b/data.img", 2 * SIZE).close()
    async with running(disk=disk) as core:
        assert core.states() == {"data": SUSPENDED}
        assert await core.write("data", 0, LATER) == 0
    disk.remove("/b/data.img")
    disk.create("/b/data.img", SIZE).close()
    async with running(disk=disk) as core:
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.equal()


# -------------------------------------------------------------------------------------- primaries


@each_state
@each_end
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_current_secondary_takes_the_place_of_a_primary_that_cannot_be_used(
    spoil: Callable[[SimDisk, str], None], stopped: bool, mode: str
) -> None:
    disk, volumes = new_disk(), {"data": mode, "apart": "sync"}
    await one_life(disk, settings(volumes), stopped)
    spoil(disk, "/a/data.img")
    async with running(volumes, disk=disk) as core:
        data = core.pair("data")
        assert (data.state, data.reason, data.failed) == (SUSPENDED, BY_ERROR, "")
        assert (data.record.swapped, data.primary.path) == (True, "/b/data.img")
        assert core.named("swapped")[0]["volume"] == "data"
        assert await read(core, "data", MIB, len(DATA)) == DATA
        assert await core.write("data", 0, LATER) == 0
        assert await core.flush() == 0
        assert await core.write("apart", 0, LATER) == 0
    async with running(volumes, disk=disk) as core:
        assert core.pair("data").primary.path == "/b/data.img", "the roles are in the journal"
        assert await read(core, "data", 0, len(DATA)) == LATER


async def test_the_old_primary_comes_back_as_the_secondary() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=False)
    kept = disk.take("/a/data.img")
    async with running(disk=disk) as core:
        assert await core.write("data", 2 * MIB, LATER) == 0
        assert await core.flush() == 0
    disk.give("/a/data.img", kept)
    kept.opened = False
    async with running(disk=disk) as core:
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}
        assert core.equal()
        assert core.image("data", "a")[2 * MIB : 2 * MIB + len(LATER)] == LATER


@each_state
@each_end
async def test_without_a_current_secondary_the_volume_alone_is_not_served(
    spoil: Callable[[SimDisk, str], None], stopped: bool
) -> None:
    disk, volumes = new_disk(), {"data": "", "apart": "sync"}
    await one_life_of(disk, volumes, stopped)
    spoil(disk, "/a/data.img")
    async with running(volumes, disk=disk) as core:
        assert core.pair("data").failed.startswith("/a/data.img: ")
        assert core.controller.volume_names() == ["data", "apart"]
        (event,) = core.named("volume-not-served")
        assert (event["volume"], event["path"]) == ("data", "/a/data.img")
        assert await read(core, "data", 0, 4096) == errno.EIO
        assert await core.write("apart", 0, LATER) == 0
        with pytest.raises(WrongStateError, match=r"data is not served: /a/data\.img: "):
            await core.controller.suspend(["data", "apart"])
        await core.controller.checkpointer.checkpoint()


async def one_life_of(disk: SimDisk, volumes: dict[str, str], stopped: bool) -> None:
    core = await Core.begin(disk, settings(volumes))
    for name in volumes:
        assert await core.write(name, 0, DATA) == 0
        assert await core.write(name, MIB, DATA) == 0
    if stopped:
        await core.controller.stop()
    else:
        await core.crash(power=False)


@pytest.mark.parametrize("starts", [1, 3])
async def test_what_a_primary_lacks_is_kept_for_it_and_replayed_when_it_is_back(
    starts: int,
) -> None:
    disk, volumes = new_disk(), {"data": "", "apart": "sync"}
    core = await Core.begin(disk, settings(volumes))
    assert await core.write("data", 0, DATA) == 0
    kept = disk.take("/a/data.img")
    kept.current[:] = bytes(SIZE)  # nothing of it had reached the disk
    await core.crash(power=False)
    for _ in range(starts):
        async with running(volumes, disk=disk) as core:
            assert core.pair("data").failed
            assert await core.write("apart", 0, LATER) == 0
            await core.controller.checkpointer.checkpoint()
    disk.give("/a/data.img", kept)
    kept.opened = False
    async with running(volumes, disk=disk) as core:
        assert core.states()["data"] == SIMPLEX
        assert not core.pair("data").failed
        assert await read(core, "data", 0, len(DATA)) == DATA


async def test_both_images_absent_costs_neither_of_them_anything() -> None:
    """A shelf that was switched off: when it is back, nothing needs to be copied."""
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    kept = {path: disk.take(path) for path in ("/a/data.img", "/b/data.img")}
    async with running(disk=disk) as core:
        assert core.states() == {"data": DUPLEX}
        assert core.pair().failed
        await core.controller.checkpointer.checkpoint()
    for path, image in kept.items():
        disk.give(path, image)
        image.opened = False
    async with running(disk=disk) as core:
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}
        assert core.pair().copied_bytes == 0
        assert not core.pair().failed


async def test_a_primary_that_is_not_to_be_replaced_is_waited_for() -> None:
    disk = new_disk()
    await one_life(disk, settings(), stopped=False)
    kept = disk.take("/a/data.img")
    core = await Core.begin(disk, refusing(settings()))
    assert core.pair().failed
    assert core.states() == {"data": DUPLEX}
    assert not core.pair().record.swapped
    await core.controller.stop()
    disk.give("/a/data.img", kept)
    kept.opened = False
    async with running(disk=disk) as core:
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}
        assert core.equal()


async def test_a_volume_that_is_not_served_does_not_keep_the_journal_from_others() -> None:
    disk, volumes = new_disk(), {"data": "", "apart": ""}
    core = await Core.begin(disk, settings(volumes, journal="16MiB"))
    assert await core.write("data", 0, DATA) == 0
    await core.crash(power=False)
    kept = disk.take("/a/data.img")
    async with running(volumes, disk=disk, journal="16MiB") as core:
        for _ in range(12):
            assert await core.write("apart", 0, bytes(range(256)) * (SIZE // 256)) == 0
        assert core.controller.timeline.writer.ring.oldest > 1
    disk.give("/a/data.img", kept)
    kept.opened = False
    async with running(volumes, disk=disk, journal="16MiB") as core:
        assert "the journal no longer has record" in core.pair("data").failed


async def test_a_secondary_that_is_new_to_a_volume_that_is_not_served_keeps_no_start() -> None:
    """Its first sync fails, but nothing was copied to it yet."""
    disk = new_disk()
    await one_life_of(disk, {"data": "", "apart": "sync"}, stopped=True)
    kept = disk.take("/a/data.img")
    disk.fail("/b/data.img", errno.EIO, operation="sync")
    async with running(BOTH, disk=disk) as core:
        assert core.states() == {"data": SIMPLEX, "apart": DUPLEX}
        disk.heal("/b/data.img")
        disk.give("/a/data.img", kept)
        kept.opened = False
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX, "apart": DUPLEX}
        assert core.equal("data")


async def test_nothing_is_recorded_of_a_new_volume_whose_image_cannot_be_made() -> None:
    disk = new_disk()
    disk.fail("/a/new.img", errno.EIO, operation="create")
    async with running({"data": "sync", "new": "sync"}, disk=disk) as core:
        assert core.pair("new").failed.startswith("/a/new.img: ")
        assert "new" not in core.controller.timeline.ledger.known()
        assert await core.write("data", 0, DATA) == 0
        disk.heal("/a/new.img")
        await core.controller.reload(settings({"data": "sync", "new": "sync"}))
        assert not core.pair("new").failed
        assert await core.write("new", 0, DATA) == 0
    async with running({"data": "sync", "new": "sync"}, disk=disk) as core:
        assert core.states() == {"data": DUPLEX, "new": DUPLEX}


async def test_a_smaller_size_in_the_configuration_costs_that_volume_only() -> None:
    disk = new_disk()
    await one_life(disk, settings(BOTH), stopped=True)
    config = settings(BOTH)
    volumes = {**config.volumes}
    volumes["data"] = volumes["data"].model_copy(update={"size": SIZE // 2})
    core = await Core.begin(disk, config.model_copy(update={"volumes": volumes}))
    assert "cannot shrink" in core.pair("data").failed
    assert core.states() == {"data": DUPLEX, "apart": DUPLEX}
    assert await core.write("apart", 0, LATER) == 0
    await core.controller.stop()
    async with running(BOTH, disk=disk) as core:
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX, "apart": DUPLEX}


async def test_the_key_of_an_image_that_is_the_primary_may_not_go() -> None:
    """Without it the older image would be the volume."""
    disk = new_disk()
    await one_life(disk, settings(), stopped=True)
    kept = disk.take("/a/data.img")
    async with running(disk=disk) as core:
        assert core.pair().record.swapped
    disk.give("/a/data.img", kept)
    kept.opened = False
    async with running({"data": ""}, disk=disk) as core:
        assert "volumes.data.secondary: the image under this key is the primary" in (
            core.pair().failed
        )
    async with running(disk=disk) as core:
        assert core.pair().primary.path == "/b/data.img"
        assert await read(core, "data", 0, len(DATA)) == DATA


async def test_a_degraded_start_that_fails_anywhere_can_be_made_again() -> None:
    disk = new_disk()
    await one_life(disk, settings(BOTH), stopped=False)
    missing(disk, "/a/data.img")
    missing(disk, "/b/apart.img")
    failed = 0
    for after in range(0, 60, 2):
        disk.fail("/state", errno.EIO, after=after, times=1)
        try:
            core = await Core.begin(disk, settings(BOTH))
        except (OSError, DuplexdError):
            failed += 1
            disk.heal("/state")
        else:
            disk.heal("/state")
            await core.crash(power=False)
    assert failed > 5
    async with running(BOTH, disk=disk) as core:
        data, apart = core.pair("data"), core.pair("apart")
        assert (data.state, data.record.swapped, data.failed) == (SUSPENDED, True, "")
        assert (apart.state, apart.record.swapped, apart.failed) == (SUSPENDED, False, "")
        assert await read(core, "data", 0, len(DATA)) == DATA
        assert await read(core, "apart", 0, len(DATA)) == DATA


# ----------------------------------------------------------------------------------------- replay


async def test_a_primary_that_refuses_the_replay_is_replaced_by_its_secondary() -> None:
    disk = new_disk()
    await one_life(disk, settings(BOTH), stopped=False)
    disk.fail("/a/data.img", errno.EIO, operation="write")
    disk.fail("/a/data.img", errno.EIO, operation="read")
    async with running(BOTH, disk=disk) as core:
        assert core.pair("data").record.swapped
        assert core.pair("data").state == SUSPENDED
        assert await read(core, "data", 0, len(DATA)) == DATA


async def test_a_primary_that_refuses_the_replay_alone_is_not_served_until_it_takes_it() -> None:
    disk, volumes = new_disk(), {"data": "", "apart": "sync"}
    await one_life_of(disk, volumes, stopped=False)
    disk.fail("/a/data.img", errno.EIO)
    async with running(volumes, disk=disk) as core:
        assert core.pair("data").failed.startswith("/a/data.img: ")
        assert await core.write("apart", 0, LATER) == 0
    disk.heal("/a/data.img")
    async with running(volumes, disk=disk) as core:
        assert not core.pair("data").failed
        assert await read(core, "data", 0, len(DATA)) == DATA


async def test_a_change_that_was_refused_for_lack_of_space_is_refused_again_and_costs_nothing() -> (
    None
):
    """The record of what the primary held instead follows in the journal."""
    disk, volumes = new_disk(), {"data": "", "apart": "sync"}
    core = await Core.begin(disk, settings(volumes))
    assert await core.write("data", 0, DATA) == 0
    disk.full("/a/data.img")
    assert await core.write("data", MIB, LATER * 100) == errno.ENOSPC
    before = core.image("data", "a")
    await core.crash(power=False)
    async with running(volumes, disk=disk) as core:
        assert not core.pair("data").failed
        assert core.image("data", "a") == before
        assert await core.write("data", 0, LATER) == 0

"""The configured volumes: what starts DUPLEX, what is copied, what is refused, and how they are
named.
"""

from __future__ import annotations

import asyncio
import errno
from random import Random
from typing import TYPE_CHECKING

import pytest

from duplexd.core.markers import MakeCut
from duplexd.core.pair import Pair, PairRecord
from duplexd.engine.opening import Images, Opener
from duplexd.engine.volumes import Volumes, first_copy_map
from duplexd.errors import ConfigurationError, NotFoundError
from duplexd.limits import EngineLimits
from duplexd.units import MIB
from tests.sim.workers import SimWorkers
from tests.unit.engine.cores import SIZE, Core, new_disk, running, settings
from tests.unit.engine.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config
    from tests.sim.disk import SimDisk


def write_image(disk: SimDisk, path: str, offset: int, data: bytes) -> None:
    """An image that was there before the daemon."""
    image = disk.create(path, SIZE)
    image.write(offset, data)
    image.sync()
    image.close()


# ---------------------------------------------------------------------------------- their names


def test_targets_are_volumes_and_groups_each_volume_once() -> None:
    volumes = Parts().volumes
    assert volumes.resolve(["wal", "db", "data"]) == ["wal", "data"]
    with pytest.raises(NotFoundError, match="'nonesuch': no such volume or group"):
        volumes.resolve(["data", "nonesuch"])


def test_a_typing_error_of_a_target_gets_the_name_that_was_meant() -> None:
    with pytest.raises(NotFoundError, match=r"'wall': no such .*; did you mean 'wal'\?"):
        Parts().volumes.resolve(["wall"])


def test_the_default_export_is_the_only_volume() -> None:
    parts = Parts()
    assert parts.volumes.find("wal") is parts.pair("wal")
    assert parts.volumes.find("nonesuch") is None
    assert parts.volumes.find("") is None, "with two of them it would depend on their order"
    parts.volumes.remove("data")
    assert parts.volumes.find("") is parts.pair("wal")
    assert Volumes().find("") is None


def test_of_a_group_only_those_that_are_duplex_fail_together() -> None:
    parts = Parts()
    data, wal = parts.volumes.all()
    assert parts.volumes.group_of(data) == {data, wal}
    parts.timeline.append(MakeCut("cut", "", [wal.id]))
    assert parts.volumes.group_of(data) == {data}
    assert parts.volumes.group_of(wal) == {data, wal}, "itself in any case"


def test_a_volume_that_is_removed_is_found_no_more() -> None:
    parts = Parts()
    pair = parts.volumes.remove("data")
    assert pair.name == "data"
    assert [pair.name for pair in parts.volumes.all()] == ["wal"]
    assert list(parts.volumes.by_number) == [parts.pair("wal").id]


# ----------------------------------------------------------------------------- how they start


async def test_two_new_images_are_duplex_at_once() -> None:
    async with running({"data": "sync", "alone": ""}) as core:
        assert core.states() == {"data": "DUPLEX", "alone": "SIMPLEX"}
        assert core.controller.volume("data") is core.pair("data")
        assert core.controller.volume_names() == ["data", "alone"]
        assert core.controller.volume("nonesuch") is None


@pytest.mark.parametrize("secondary_exists", [False, True])
async def test_a_secondary_for_an_old_primary_is_copied(secondary_exists: bool) -> None:
    disk = new_disk()
    write_image(disk, "/a/data.img", MIB, b"old content")
    if secondary_exists:
        write_image(disk, "/b/data.img", 2 * MIB, b"of another life")
    async with running(disk=disk) as core:
        assert core.pair().reason == "first copy"
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": "DUPLEX"}
        assert core.equal()
        assert core.image("data", "b")[MIB : MIB + 11] == b"old content"
        assert core.pair().copied_bytes <= (SIZE if secondary_exists else 65536)


async def opened(disk: SimDisk) -> Images:
    """The images of a new volume."""
    workers = SimWorkers(asyncio.get_running_loop(), Random(1), 2)
    opener = Opener(disk, workers, settings().controller)
    return await opener.volume("data", settings().volumes["data"], None)


async def test_to_a_new_secondary_only_what_the_primary_has_data_in_is_copied() -> None:
    disk = new_disk()
    write_image(disk, "/a/data.img", MIB, b"old content")
    images = await opened(disk)
    assert (images.primary_new, images.secondary_new) == (False, True)
    record = PairRecord(1, "data", SIZE, EngineLimits())
    pair = Pair(record, images.primary, images.secondary, "sync")
    changed = first_copy_map(pair, images)
    assert changed.next_run(0, SIZE) == (MIB, 65536)
    assert first_copy_map(pair, images._replace(secondary_new=False)) == pair.record.full_map()


# -------------------------------------------------------------------------- what is refused


async def after_a_run(disk: SimDisk) -> None:
    async with running(disk=disk) as core:
        await core.write("data", 0, b"content")


def files(disk: SimDisk) -> dict[str, bytes]:
    """Every file by its path."""
    places = [
        f"{above}/{name}"
        for above in ("/a", "/b", "/state", "/state/journal")
        for name in disk.list(above)
    ]
    return {path: disk.read_file(path) for path in places if path != "/state/journal"}


def refusing(config: Config) -> Config:
    """Every image has to be usable."""
    controller = config.controller.model_copy(update={"on_start_error": "refuse"})
    return config.model_copy(update={"controller": controller})


REFUSED: dict[str, tuple[Callable[[SimDisk], None], Config]] = {
    r"volumes\.data\.size.*shrink": (lambda _disk: None, settings(size=SIZE // 2)),
    r"volumes\.data\.primary.*missing": (lambda disk: disk.remove("/a/data.img"), settings()),
    r"volumes\.data\.secondary.*missing.*DUPLEX": (
        lambda disk: disk.remove("/b/data.img"),
        settings(),
    ),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_a_start_that_is_to_be_refused_names_the_key(why: str) -> None:
    disk = new_disk()
    await after_a_run(disk)
    spoil, config = REFUSED[why]
    spoil(disk)
    before = files(disk)
    with pytest.raises(ConfigurationError, match=why):
        await Core.begin(disk, refusing(config))
    assert files(disk) == before, "nothing was changed"


def empty(disk: SimDisk, path: str) -> None:
    disk.replace_file(path, bytes(SIZE))


def fail_in_the_replay(disk: SimDisk, path: str) -> None:
    disk.fail(path, errno.EIO, operation="sync")


@pytest.mark.parametrize("key", ["primary", "secondary"])
@pytest.mark.parametrize("stopped", [True, False])
async def test_an_emptied_image_refuses_such_a_start_and_is_named(key: str, stopped: bool) -> None:
    disk, path = new_disk(), {"primary": "/a/data.img", "secondary": "/b/data.img"}[key]
    core = await Core.begin(disk, settings())
    await core.write("data", 0, b"content" * 2000)
    await (core.controller.stop() if stopped else core.crash(power=False))
    empty(disk, path)
    before = files(disk)
    why = rf"volumes\.data\.{key}: {path}: the image .*; the pair is DUPLEX"
    with pytest.raises(ConfigurationError, match=why):
        await Core.begin(disk, refusing(settings()))
    assert files(disk) == before, "nothing was changed"


@pytest.mark.parametrize("key", ["primary", "secondary"])
async def test_an_image_that_fails_in_the_replay_refuses_such_a_start(key: str) -> None:
    disk, path = new_disk(), {"primary": "/a/data.img", "secondary": "/b/data.img"}[key]
    core = await Core.begin(disk, settings())
    await core.write("data", 0, b"content")
    await core.crash(power=False)
    fail_in_the_replay(disk, path)
    with pytest.raises(OSError, match=rf"volumes\.data\.{key}: {path}: .*; the pair is DUPLEX"):
        await Core.begin(disk, refusing(settings()))
    disk.heal(path)
    core = await Core.begin(disk, refusing(settings()))
    await core.controller.resync_wait(["data"])
    assert (core.states(), core.equal()) == ({"data": "DUPLEX"}, True)
    await core.controller.stop()


@pytest.mark.parametrize("path", ["/a/data.img", "/b/data.img"])
@pytest.mark.parametrize("stopped", [True, False])
async def test_an_image_that_fails_at_any_moment_of_such_a_start_refuses_it(
    path: str, stopped: bool
) -> None:
    refused = []
    for after in range(8):
        disk = new_disk()
        core = await Core.begin(disk, settings())
        await core.write("data", 0, b"content")
        await (core.controller.stop() if stopped else core.crash(power=False))
        disk.fail(path, errno.EIO, after=after, operation="sync", times=1)
        try:
            core = await Core.begin(disk, refusing(settings()))
        except OSError as error:
            refused.append(str(error))
            disk.heal(path)
            core = await Core.begin(disk, refusing(settings()))
        else:
            assert core.states()["data"] != "SUSPENDED"
        await core.controller.stop()
    assert len(refused) > (0 if stopped else 1), "a replay syncs it, and the checkpoint at the end"
    assert all("volumes.data" in error and path in error for error in refused)


async def test_after_a_refusal_every_image_can_be_opened_again() -> None:
    disk = new_disk()
    await after_a_run(disk)
    disk.remove("/b/data.img")
    with pytest.raises(ConfigurationError):
        await Core.begin(disk, refusing(settings()))
    async with running({"data": ""}, disk=disk) as core:
        assert core.states() == {"data": "SIMPLEX"}
        assert core.image("data", "a")[:7] == b"content"


async def test_a_secondary_without_its_primary_is_not_erased() -> None:
    disk = new_disk()
    disk.create("/b/data.img", SIZE).close()
    async with running(disk=disk) as core:
        assert "a first copy would overwrite the secondary" in core.pair().failed
        assert not disk.exists("/a/data.img")

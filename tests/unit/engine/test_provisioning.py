"""Images and the configuration: what starts DUPLEX, what copies, what is refused, what may change while running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError
from duplexd.units import MIB
from tests.unit.engine.cores import SIZE, Core, new_disk, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config
    from tests.sim.disk import SimDisk


async def test_two_new_images_are_duplex_at_once() -> None:
    async with running({"data": "sync", "alone": ""}) as core:
        assert core.states() == {"data": "DUPLEX", "alone": "SIMPLEX"}
        assert core.controller.volume("") is core.pair("data"), "the default export is the first"
        assert core.controller.volume_names() == ["data", "alone"]
        assert core.controller.volume("nonesuch") is None


@pytest.mark.parametrize("secondary_exists", [False, True])
async def test_a_secondary_for_an_old_primary_is_copied(secondary_exists: bool) -> None:
    disk = new_disk()
    image = disk.create("/a/data.img", SIZE)
    image.write(MIB, b"old content")
    image.sync()
    image.close()
    if secondary_exists:
        stale = disk.create("/b/data.img", SIZE)
        stale.write(2 * MIB, b"of another life")
        stale.sync()
        stale.close()
    async with running(disk=disk) as core:
        assert core.pair().reason == "first copy"
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": "DUPLEX"}
        assert core.equal()
        assert core.image("data", "b")[MIB : MIB + 11] == b"old content"
        assert core.pair().copied_bytes <= (SIZE if secondary_exists else 65536)


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


REFUSED: dict[str, tuple[Callable[[SimDisk], None], Config]] = {
    r"volumes\.data\.size.*resized": (lambda _disk: None, settings(size=2 * SIZE)),
    r"volumes\.data\.primary.*missing": (lambda disk: disk.remove("/a/data.img"), settings()),
    r"volumes\.data\.secondary.*missing.*DUPLEX": (
        lambda disk: disk.remove("/b/data.img"),
        settings(),
    ),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_what_does_not_fit_a_known_volume_is_refused_by_key(why: str) -> None:
    disk = new_disk()
    await after_a_run(disk)
    spoil, config = REFUSED[why]
    spoil(disk)
    before = files(disk)
    with pytest.raises(ConfigurationError, match=why):
        await Core(disk, config).controller.start()
    assert files(disk) == before, "nothing was changed"


async def test_a_secondary_without_its_primary_is_not_erased() -> None:
    disk = new_disk()
    disk.create("/b/data.img", SIZE).close()
    with pytest.raises(ConfigurationError, match="a copy would erase it"):
        await Core(disk, settings()).controller.start()


async def test_after_a_refusal_every_image_can_be_opened_again() -> None:
    disk = new_disk()
    await after_a_run(disk)
    disk.remove("/b/data.img")
    with pytest.raises(ConfigurationError):
        await Core(disk, settings()).controller.start()
    async with running({"data": ""}, disk=disk) as core:
        assert core.states() == {"data": "SIMPLEX"}, "as the message said"
        assert core.image("data", "a")[:7] == b"content"


# --------------------------------------------------------------------------------------------------------------------- reload


async def test_volumes_and_groups_come_and_go() -> None:
    async with running({"data": "sync", "old": "sync"}) as core:
        changes = await core.controller.reload(
            settings({"data": "sync", "fresh": "sync"}, {"db": ["data", "fresh"]})
        )
        assert changes == ["volume fresh added", "volume old removed", "groups changed"]
        assert core.states() == {"data": "DUPLEX", "fresh": "DUPLEX"}
        assert core.pair("fresh").groups == ["db"]
        assert await core.write("fresh", 0, b"x") == 0


async def test_a_volume_gets_a_secondary() -> None:
    async with running({"data": ""}) as core:
        await core.write("data", 0, b"before it had one")
        await core.controller.reload(settings())
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": "DUPLEX"}
        assert core.equal()


LIVE = {
    r"volumes\.data\.size": settings(size=2 * SIZE),
    r"volumes\.data\.mode": settings({"data": "async"}),
    r"volumes\.data\.secondary": settings({"data": ""}),
}


@pytest.mark.parametrize("key", LIVE)
async def test_what_cannot_change_while_running_is_refused_by_key_and_nothing_changes(
    key: str,
) -> None:
    async with running() as core:
        before, config = core.controller.sequence, core.controller.config
        with pytest.raises(ConfigurationError, match=key):
            await core.controller.reload(LIVE[key])
        assert (core.controller.sequence, core.controller.config) == (before, config)


async def test_a_volume_in_use_is_not_removed() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        core.pair("wal").connections = 1
        with pytest.raises(ConfigurationError, match=r"volumes\.wal.*1 connected"):
            await core.controller.reload(settings())
        core.pair("wal").connections = 0
        await core.controller.reload(settings())
        assert core.states() == {"data": "DUPLEX"}


async def test_an_image_that_cannot_be_opened_leaves_the_others_as_they_were() -> None:
    async with running() as core:
        core.disk.create("/b/second.img", SIZE).close()
        with pytest.raises(ConfigurationError, match="a copy would erase it"):
            await core.controller.reload(
                settings({"data": "sync", "first": "sync", "second": "sync"})
            )
        assert core.states() == {"data": "DUPLEX"}
        core.disk.remove("/b/second.img")
        await core.controller.reload(settings({"data": "sync", "first": "sync", "second": "sync"}))
        assert set(core.states()) == {"data", "first", "second"}

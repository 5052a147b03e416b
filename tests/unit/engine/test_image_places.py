"""The paths of open images are looked at while nothing else happens."""

from __future__ import annotations

import asyncio
import threading

import pytest

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from tests.unit.engine.cores import MIB, Core, running
from tests.unit.engine.test_recovery_hangs import BOTH, killed, started

KEPT = 4096
MOVED = "this is not the image that the daemon has open"


def shown(core: Core, role: str) -> str:
    (volume,) = core.controller.status()["volumes"]
    return str(volume[role]["error"] or "")


async def test_a_secondary_that_was_moved_is_suspended_though_nothing_is_written() -> None:
    async with running() as core:
        core.disk.take("/b/data.img")
        pair = core.pair()
        await asyncio.sleep(60)  # of the loop's time, which passes at once
        assert (pair.state, pair.usable) == (SUSPENDED, False)
        assert MOVED in shown(core, "secondary")
        (event,) = core.named("suspended")
        assert (event["failed"], event["reason"]) == ("data", "by secondary error")


async def test_many_images_are_looked_at_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duplexd.engine.image_places.LOOKS_A_SECOND_MAX", 0.01)
    async with running() as core:
        core.disk.take("/b/data.img")
        await asyncio.sleep(190)  # of the loop's time, which passes at once
        assert core.pair().state == DUPLEX
        await asyncio.sleep(20)
        assert core.pair().state == SUSPENDED


async def test_a_primary_that_was_moved_is_said_once_and_serves_on() -> None:
    async with running() as core:
        image = core.disk.take("/a/data.img")
        for _ in range(2):
            await core.controller.places.look()
        assert MOVED in shown(core, "primary")
        assert core.pair().state == DUPLEX
        assert await core.write("data", 0, b"something") == 0
        (event,) = core.named("image-misplaced")
        assert (event["volume"], event["role"]) == ("data", "primary")
        core.disk.give("/a/data.img", image)
        await core.controller.places.look()
        assert shown(core, "primary") == ""


@pytest.mark.parametrize("mirrored", [True, False])
async def test_a_truncated_primary_gives_way_or_is_not_served_but_shows_no_zeroes(
    mirrored: bool,
) -> None:
    """A write behind its new end makes a hole of what was lost before that."""
    async with running({"data": "sync" if mirrored else ""}) as core:
        assert await core.write("data", 0, b"something") == 0
        core.disk.shorten("/a/data.img", KEPT)
        assert await core.write("data", 2 * MIB, b"behind the end") == 0
        await asyncio.sleep(60)  # of the loop's time, which passes at once
        pair = core.pair()
        if mirrored:
            assert (pair.primary.path, pair.state) == ("/b/data.img", SUSPENDED)
            assert await core.read("data", 0, 9) == (0, b"something")
        else:
            assert "/a/data.img: the image was truncated" in pair.failed


async def test_what_was_found_wrong_is_looked_at_again_when_somebody_asks() -> None:
    async with running() as core:
        image = core.disk.take("/a/data.img")
        await core.controller.look_again()
        assert shown(core, "primary") == "", "only what was found wrong is looked at"
        await core.controller.places.look()
        core.disk.give("/a/data.img", image)
        assert MOVED in shown(core, "primary")
        await core.controller.look_again()
        assert shown(core, "primary") == ""


async def test_a_suspended_secondary_that_was_moved_stays_at_its_cut() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        core.disk.take("/b/data.img")
        await core.controller.places.look()
        assert MOVED in shown(core, "secondary")
        pair = core.pair()
        assert (pair.state, pair.usable) == (SUSPENDED, True)
        assert [event["role"] for event in core.named("image-misplaced")] == ["secondary"]
        (volume,) = core.controller.status()["volumes"]
        assert not volume["rebuild"]["possible"], "a swap that rolls it forward is refused"


def test_a_path_that_hangs_keeps_no_other_image_from_being_looked_at() -> None:
    """One worker looks at many."""
    disk = killed()

    async def scenario() -> None:
        async with started(disk) as controller:
            await controller.resync_wait(list(BOTH))
            answers, hung = threading.Event(), list[str]()

            def wait(operation: str, *_: object) -> None:
                hung.append(operation)
                assert answers.wait(60)

            disk.hanging, disk.wait = {"/a/data.img": 0}, wait
            data, apart = (controller.volumes.by_name[name] for name in BOTH)
            disk.take("/b/data.img")
            disk.take("/a/apart.img")
            await controller.places.look()
            assert data.state == SUSPENDED
            assert MOVED in controller.places.error(apart.primary)
            assert not controller.places.error(data.primary), "nothing is known of it"
            await asyncio.wait_for(controller.places.look(), 60)
            assert hung == ["in_place"], "it is not looked at again"
            disk.hanging = {}
            answers.set()

    asyncio.run(scenario())

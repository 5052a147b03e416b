"""A new configuration for the legs of a volume that is served: another secondary, none, another
path, another mode; while clients write.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.core.lease import DEADLINE
from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.errors import ConfigurationError, WrongStateError
from tests.unit.engine.cores import SIZE, Core, new_disk, running, settings

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.images.leg import Leg

DATA = b"\x77" * 8192
NEW = "/c/data.img"


def with_legs(mode: str = "sync", **paths: str) -> Config:
    """The volume `data` with images at other paths."""
    config = settings({"data": mode})
    update = {key: Path(path) for key, path in paths.items()}
    volume = config.volumes["data"].model_copy(update=update)
    return config.model_copy(update={"volumes": {"data": volume}})


def slowly(config: Config) -> Config:
    """With copies that do not come to their end."""
    section = config.controller.model_copy(update={"copy_rate": 65536})
    return config.model_copy(update={"controller": section})


async def is_copied(core: Core, path: str = NEW) -> bool:
    await core.controller.resync_wait(["data"])
    await core.until(lambda: core.disk.content("/a/data.img") == core.disk.content(path))
    return core.states() == {"data": DUPLEX}


# ------------------------------------------------------------------------- another secondary


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_another_secondary_is_copied_and_the_one_before_is_left_at_a_number(
    mode: str,
) -> None:
    async with running({"data": mode}) as core:
        await core.write("data", 0, DATA)
        await core.until(core.equal)
        changes = await core.controller.reload(with_legs(mode, secondary=NEW))
        await core.write("data", SIZE // 2, DATA)
        left = core.named("secondary-left")[0]
        assert changes == [
            f"volume data: secondary replaced by {NEW}",
            f"volume data: /b/data.img is left at number {left['at']}",
        ]
        assert (left["path"], left["cut"], left["error"]) == ("/b/data.img", None, "")
        assert core.disk.content("/b/data.img")[: SIZE // 2] == DATA.ljust(SIZE // 2, b"\0")
        assert not core.disk.in_use("/b/data.img")
        assert core.disk.unsynced("/b/data.img") == 0
        assert await is_copied(core)


async def test_a_secondary_at_a_cut_is_left_at_that_cut() -> None:
    async with running() as core:
        await core.write("data", 0, DATA)
        cut = await core.controller.suspend(["data"], tag="nightly")
        await core.write("data", 0, DATA[::-1])
        changes = await core.controller.reload(with_legs(secondary=NEW))
        assert f", cut {cut['cut']} (consistent)" in changes[1]
        assert core.disk.content("/b/data.img")[: len(DATA)] == DATA
        assert await is_copied(core)


async def test_a_failed_secondary_is_replaced_and_its_image_is_called_no_copy() -> None:
    async with running() as core:
        core.disk.fail("/b/data.img", errno.EIO)
        assert await core.write("data", 0, DATA) == 0
        assert core.states() == {"data": SUSPENDED}
        changes = await core.controller.reload(with_legs(secondary=NEW))
        assert "do not use it as a copy" in changes[1]
        assert core.named("secondary-left")[0]["at"] is None
        assert await is_copied(core)


async def test_a_secondary_that_cannot_be_synced_is_called_no_copy() -> None:
    async with running() as core:
        await core.write("data", 0, DATA)
        core.disk.fail("/b/data.img", errno.EIO, operation="sync")
        changes = await core.controller.reload(with_legs(secondary=NEW))
        assert "do not use it as a copy" in changes[1]
        assert "Input/output error" in changes[1]
        assert await is_copied(core)


async def test_a_secondary_is_not_replaced_while_it_is_being_copied_to() -> None:
    async with running({"data": ""}) as core:
        await core.write("data", 0, b"x" * (1 << 20))
        await core.controller.reload(slowly(settings()))
        assert core.states() == {"data": PENDING}
        for new in (with_legs(secondary=NEW), settings({"data": ""})):
            for attempt in (core.controller.check_reload, core.controller.reload):
                with pytest.raises(WrongStateError, match="while it is being written"):
                    await attempt(new)
        assert not core.disk.exists(NEW)


async def test_a_new_secondary_that_cannot_be_used_leaves_the_pair_as_it_was() -> None:
    async with running() as core:
        core.disk.create(NEW, 2 * SIZE).close()
        for attempt in (core.controller.check_reload, core.controller.reload):
            with pytest.raises(ConfigurationError, match="images are not resized"):
                await attempt(with_legs(secondary=NEW))
        await core.write("data", 0, DATA)
        assert core.equal()
        assert core.states() == {"data": DUPLEX}
        assert not core.disk.in_use(NEW)


async def test_a_new_secondary_that_somebody_uses_is_no_mistake_of_the_file() -> None:
    """Exit code 5 and not 6: it passes, and an edit would not help."""
    quick = settings().controller.model_copy(update={"secondary_timeout": 1.0})
    async with running() as core:
        await core.controller.reload(settings().model_copy(update={"controller": quick}))
        used = core.disk.create(NEW, SIZE)
        for attempt in (core.controller.check_reload, core.controller.reload):
            with pytest.raises(WrongStateError, match="in use"):
                await attempt(with_legs(secondary=NEW).model_copy(update={"controller": quick}))
        used.close()
        await core.controller.reload(with_legs(secondary=NEW))
        assert await is_copied(core)


async def test_a_secondary_that_was_left_is_taken_back_as_a_new_one() -> None:
    async with running() as core:
        await core.write("data", 0, DATA)
        await core.controller.reload(with_legs(secondary=NEW))
        assert await is_copied(core)
        await core.write("data", 0, DATA[::-1])
        await core.controller.reload(settings())
        assert await is_copied(core, "/b/data.img")


async def test_another_secondary_survives_a_restart() -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings())
    await core.write("data", 0, DATA)
    await core.controller.reload(with_legs(secondary=NEW))
    await core.crash(power=True)
    again = await Core.begin(disk, with_legs(secondary=NEW))
    assert again.states()["data"] in {PENDING, DUPLEX}
    assert await is_copied(again)
    await again.controller.stop()


async def test_a_region_that_was_open_is_opened_again_beside_another_secondary() -> None:
    """Else a power cut may take the record of a change from the journal, and the change from one
    image, and no start would compare them.
    """
    async with running() as core:
        await core.write("data", 0, DATA)
        regions = core.pair().regions
        async with core.controller.checkpointer._taking:  # the one at the end of the reload waits
            reloading = asyncio.ensure_future(core.controller.reload(with_legs(secondary=NEW)))
            await core.until(lambda: core.pair().copy_of.path == NEW)
            await core.until(lambda: core.states() == {"data": DUPLEX})
            assert await core.write("data", 0, DATA[::-1]) == 0
            assert regions.open == {0}
        await reloading


async def test_a_swapped_pair_gets_another_secondary_by_the_key_of_that_role() -> None:
    async with running() as core:
        await core.write("data", 0, DATA)
        await core.controller.swap(["data"], False, None, False)
        changes = await core.controller.reload(with_legs(primary=NEW))
        assert changes[0] == f"volume data: secondary replaced by {NEW}"
        await core.write("data", SIZE // 2, DATA)
        await core.controller.resync_wait(["data"])
        assert core.disk.content("/b/data.img") == core.disk.content(NEW)


async def test_what_a_resync_opens_does_not_undo_a_reload() -> None:
    """Opening an image may take as long as its disk: here it waits while the reload is done."""
    disk = new_disk()
    core = await Core.begin(disk, settings())
    await core.write("data", 0, DATA)
    await core.controller.stop()
    kept = disk.take("/b/data.img")
    async with running(disk=disk) as core:
        await core.until(lambda: not core.controller.archive.unsettled)
        kept.opened = False
        disk.give("/b/data.img", kept)
        opened, go = asyncio.Event(), asyncio.Event()
        opener = core.controller.opener
        look = opener.leg

        async def slowly_opened(path: str, *how: Any, **more: Any) -> tuple[Leg, bool]:
            found = await look(path, *how, **more)
            if path == "/b/data.img":
                opened.set()
                await go.wait()
            return found

        opener.leg = slowly_opened  # type: ignore[method-assign]
        resyncing = asyncio.ensure_future(core.controller.resync(["data"]))
        await core.until(lambda: opened.is_set() or resyncing.done())
        assert opened.is_set(), resyncing
        await core.controller.reload(with_legs(secondary=NEW))
        go.set()
        with pytest.raises(WrongStateError, match=r"a reload replaced /b/data\.img"):
            await resyncing
        assert core.pair().copy_of.path == NEW
        assert not disk.in_use("/b/data.img")
        assert await is_copied(core)


# ------------------------------------------------------------------------------ no secondary


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_pair_becomes_simplex_and_a_pair_again(mode: str) -> None:
    async with running({"data": mode}) as core:
        await core.write("data", 0, DATA)
        changes = await core.controller.reload(settings({"data": ""}))
        assert changes[0] == "volume data: secondary removed; it is SIMPLEX"
        assert core.states() == {"data": SIMPLEX}
        await core.write("data", 0, DATA[::-1])
        await core.controller.reload(settings({"data": mode}))
        assert await is_copied(core, "/b/data.img")


async def test_the_key_of_the_image_that_is_the_primary_is_not_removed() -> None:
    async with running() as core:
        await core.controller.swap(["data"], False, None, False)
        with pytest.raises(ConfigurationError, match="is the primary since"):
            await core.controller.reload(settings({"data": ""}))
        assert core.states() == {"data": DUPLEX}


# ------------------------------------------------------------------------------ another path


@pytest.mark.parametrize(("key", "old"), [("primary", "/a/data.img"), ("secondary", "/b/data.img")])
async def test_an_image_that_was_moved_is_used_on(key: str, old: str) -> None:
    async with running() as core:
        core.disk.make_directory("/c")
        core.disk.give(NEW, core.disk.take(old))
        new = with_legs(**{key: NEW})
        await core.controller.check_reload(new)
        changes = await core.controller.reload(new)
        assert changes == [f"volume data: {old} is now {NEW}, the same image"]
        assert core.states() == {"data": DUPLEX}
        assert await core.write("data", 0, DATA) == 0
        assert core.disk.content(NEW)[: len(DATA)] == DATA
        await core.controller.places.look()
        assert core.named("image-misplaced") == []


async def test_a_look_at_a_new_configuration_creates_nothing() -> None:
    async with running() as core:
        before = core.controller.timeline.written
        new = settings({"data": "sync", "log": "sync"})
        await core.controller.check_reload(with_legs(secondary=NEW))
        await core.controller.check_reload(new)
        assert not core.disk.exists(NEW)
        assert not core.disk.exists("/a/log.img")
        assert core.controller.timeline.written == before


# ------------------------------------------------------------------------------ another mode


@pytest.mark.parametrize(("before", "after"), [("sync", "async"), ("async", "sync")])
async def test_the_mode_changes_while_a_client_writes(before: str, after: str) -> None:
    both = {"data": before, "log": before}
    async with running(both, {"db": ["data", "log"]}) as core:
        await core.write("data", 0, DATA)
        reloading = asyncio.ensure_future(
            core.controller.reload(settings(dict.fromkeys(both, after), {"db": ["data", "log"]}))
        )
        sent = [core.send("data", at * 4096, bytes([at]) * 4096) for at in range(20)]
        changes = await reloading
        for change in sent:
            assert await core.answer(change) == 0
        assert changes == [f"volume {name}: mode is now {after}" for name in both]
        assert await core.write("data", 1 << 20, DATA) == 0
        assert core.pair().mirrors == (after == "sync")
        await core.until(core.equal)
        verdict = (await core.controller.suspend(["data", "log"]))["verdict"]
        assert verdict == "consistent"


async def test_the_mode_of_a_pair_at_a_cut_counts_from_its_resync() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, DATA)
        await core.controller.reload(settings({"data": "async"}))
        assert core.states() == {"data": SUSPENDED}
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}
        assert not core.pair().mirrors
        await core.write("data", SIZE // 2, DATA)
        await core.until(core.equal)


async def test_nobody_waits_while_the_secondary_catches_up_for_another_mode() -> None:
    async with running({"data": "async"}) as core:
        async with core.controller.followers.stepping:
            await core.write("data", 0, DATA)
            reloading = asyncio.ensure_future(core.controller.reload(settings()))
            await core.turns(50)
            assert not reloading.done()
            assert await core.write("data", 0, DATA[::-1]) == 0
            assert core.pair().mode == "async"
        await reloading
        assert core.pair().mirrors
        assert core.controller.status()["leases"] == []


async def test_a_lease_that_came_after_changes_is_no_hold_of_the_reload() -> None:
    """Mirrored from there on, the secondary would lack these changes, and nobody would know."""
    async with running({"data": "async"}) as core:
        leases, pair = core.controller.leases, core.pair()
        async with core.controller.checkpointer.copying:
            reloading = asyncio.ensure_future(core.controller.reload(settings()))
            await core.until(lambda: leases.holds(pair))
            await core.turns(200)
            await core.controller.followers.trailing.async_follower.stepping.acquire()
        await core.turns(200)  # now the reload is the next that waits for the follower
        (hold,) = leases.held.values()
        leases.end(hold, DEADLINE)
        await core.write("data", 0, DATA)
        other = await leases.quiesce([pair], 5.0, "another")
        core.controller.followers.trailing.async_follower.stepping.release()
        with pytest.raises(WrongStateError, match="did not get to the last change"):
            await reloading
        leases.release(other.id)
        assert pair.mode == "async"
        await core.until(core.equal)


# ------------------------------------------------------------------------------ settings


async def test_settings_of_the_controller_are_in_force_at_once() -> None:
    async with running() as core:
        config = settings()
        update = {
            "auto_resync": True, "on_primary_error": "refuse", "primary_timeout": 7.0,
            "secondary_timeout": 3.0,
        }  # fmt: skip
        section = config.controller.model_copy(update=update)
        changes = await core.controller.reload(config.model_copy(update={"controller": section}))
        assert changes == [
            "auto_resync is now true",
            "on_primary_error is now 'refuse'",
            "primary_timeout is now 7.0",
            "secondary_timeout is now 3.0",
        ]
        assert core.controller.opener.patience == (3.0, 7.0)
        assert not core.controller.failures.swaps

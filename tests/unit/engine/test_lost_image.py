"""An image that was deleted, moved or replaced while the daemon has it open: whoever copies it, and a restart, would find another one."""

from __future__ import annotations

import pytest

from duplexd.errors import WrongStateError
from tests.unit.engine.cores import SIZE, Core, new_disk, run, running

BOTH = {"data": "sync", "wal": "sync"}
DB = {"db": ["data", "wal"]}


def replace(core: Core, side: str, name: str = "data") -> None:
    """Put another image of the same content at the path, as `cp` and `mv` do."""
    core.disk.replace_file(f"/{side}/{name}.img", core.image(name, side))


def delete(core: Core, side: str, name: str = "data") -> None:
    core.disk.remove(f"/{side}/{name}.img")


@pytest.mark.parametrize("lose", [replace, delete])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_suspend_with_a_lost_secondary_is_void_and_says_which(
    lose: object, mode: str
) -> None:
    async with running({"data": mode, "wal": mode}) as core:
        await core.write("data", 0, b"something")
        assert callable(lose)
        lose(core, "b")
        result = await core.controller.suspend(["data", "wal"])
        assert result["verdict"] == "void"
        assert result["why"].startswith(
            "/b/data.img: this is not the image that the daemon has open"
        )
        assert (core.pair("data").usable, core.pair("wal").usable) == (False, True)
        (failed,) = [
            event for event in core.named("suspended") if event["reason"] == "by secondary error"
        ]
        assert (failed["failed"], failed["path"]) == ("data", "/b/data.img")
        data, wal = core.controller.status()["volumes"]
        assert "/b/data.img" in data["secondary"]["cut"]["why"]
        assert (data["secondary"]["usable"], wal["secondary"]["cut"]["verdict"]) == (False, "void")


async def test_a_suspend_of_what_is_in_place_has_nothing_to_tell() -> None:
    async with running(BOTH) as core:
        result = await core.controller.suspend(["data", "wal"])
        assert (result["verdict"], result["why"]) == ("consistent", None)


async def test_a_lost_secondary_makes_the_vote_of_a_group_void() -> None:
    async with running(BOTH) as core:
        lease = await core.controller.quiesce(["data", "wal"], 2.0, "test", "0123456789abcdef")
        await core.controller.cuts.make(
            "0123456789abcdef", lease.id, lease.fence, "", "db", ["alpha", "beta"]
        )
        replace(core, "b")
        vote = await core.controller.cuts.open("0123456789abcdef", lease.id, lease.fence)
        assert (vote["state"], vote["verdict"]) == ("void", "void")
        assert "/b/data.img" in vote["why"]


async def test_a_secondary_that_is_lost_at_its_cut_makes_it_void_when_it_is_suspended_again() -> (
    None
):
    async with running(BOTH) as core:
        first = await core.controller.suspend(["data", "wal"])
        delete(core, "b")
        again = await core.controller.suspend(["data", "wal"])
        assert (first["verdict"], again["verdict"], again["already"]) == (
            "consistent",
            "void",
            True,
        )
        assert "/b/data.img" in again["why"]


async def test_a_lost_secondary_of_a_freeze_leaves_the_others_at_their_cut() -> None:
    async with running(BOTH, DB) as core:
        core.secondary("wal").fail("write")
        await core.write("wal", 0, b"something")
        await core.until(lambda: core.states() == {"data": "SUSPENDED", "wal": "SUSPENDED"})
        replace(core, "b")
        with pytest.raises(WrongStateError, match=r"/b/data\.img"):
            await core.controller.resync(["data", "wal"])
        assert (core.pair("data").usable, core.pair("wal").usable) == (False, True)


@pytest.mark.parametrize("lose", [replace, delete])
async def test_a_resync_does_not_start_on_a_lost_image_and_one_put_back_gets_all_of_it(
    lose: object,
) -> None:
    async with running(BOTH) as core:
        await core.controller.suspend(["data", "wal"])
        await core.write("data", 5000, b"changed")
        ours = core.disk.take("/b/data.img")
        core.disk.give("/b/data.img", ours)
        assert callable(lose)
        lose(core, "b")
        for _ in range(2):
            with pytest.raises(
                WrongStateError,
                match=r"/b/data\.img: .* put it back and resync, .*; nothing was started",
            ):
                await core.controller.resync(["data", "wal"])
            assert core.states() == {"data": "SUSPENDED", "wal": "SUSPENDED"}
        assert not core.pair("data").usable
        core.disk.give("/b/data.img", ours)
        started = await core.controller.resync(["data", "wal"])
        assert [volume["how"] for volume in started["volumes"]] == ["copy", "journal"]
        await core.controller.resync_wait(["data", "wal"])
        assert core.states() == {"data": "DUPLEX", "wal": "DUPLEX"}
        assert core.equal("data")


@pytest.mark.parametrize(("side", "what"), [("a", "primary"), ("b", "secondary")])
@pytest.mark.parametrize("lose", [replace, delete])
async def test_verify_does_not_call_legs_equal_that_are_not_where_they_are_looked_for(
    side: str, what: str, lose: object
) -> None:
    async with running(BOTH) as core:
        assert callable(lose)
        lose(core, side)
        result = await core.controller.verify(["data", "wal"])
        data, wal = result["volumes"]
        assert (result["equal"], data["equal"], wal["equal"], wal["why"]) == (
            False,
            False,
            True,
            None,
        ), what
        assert data["why"].startswith(f"/{side}/data.img: ")
        assert data["compared_bytes"] == SIZE


def test_a_secondary_that_was_replaced_is_copied_after_an_orderly_restart() -> None:
    """It holds something else; nobody suspended or compared before the daemon was stopped."""
    disk = new_disk()

    async def first() -> None:
        async with running(BOTH, DB, disk=disk) as core:
            await core.write("data", 5000, b"something")
            disk.replace_file("/b/data.img", bytes(SIZE))
            await core.write("data", 9000, b"more")

    async def second() -> None:
        async with running(BOTH, DB, disk=disk) as core:
            assert core.states() == {"data": "SUSPENDED", "wal": "SUSPENDED"}
            assert (core.pair("data").usable, core.pair("wal").usable) == (False, True)
            await core.controller.resync(["data", "wal"])
            await core.controller.resync_wait(["data", "wal"])
            assert core.states() == {"data": "DUPLEX", "wal": "DUPLEX"}
            assert core.equal("data")
            assert core.image("data", "a")[5000:5009] == b"something"

    run(first())
    run(second())


async def test_a_checkpoint_notices_it_and_is_taken_without_it() -> None:
    async with running(BOTH, DB) as core:
        delete(core, "b")
        before = core.controller.maintenance.checkpoints
        await core.controller.maintenance.checkpoint()
        assert core.states() == {"data": "SUSPENDED", "wal": "SUSPENDED"}
        assert core.controller.maintenance.checkpoints == before + 1
        assert await core.write("data", 0, b"goes on") == 0

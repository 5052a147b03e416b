"""Storage that fails under a controller: what clients, states and the journal see of it."""

from __future__ import annotations

import errno

import pytest

from duplexd.units import MIB
from tests.unit.engine.cores import running

GROUP = {"data": "sync", "wal": "sync", "other": "sync"}
DB = {"db": ["data", "wal"]}


async def test_a_secondary_that_fails_freezes_its_group_at_one_number_and_no_client_notices() -> (
    None
):
    async with running(GROUP, DB) as core:
        await core.write("wal", 0, b"before")
        core.secondary("data").fail("write", errno.EIO)
        assert await core.write("data", 0, b"fails on the secondary") == 0
        assert await core.write("wal", 0, b"after!") == 0
        assert core.states() == {"data": "SUSPENDED", "wal": "SUSPENDED", "other": "DUPLEX"}
        assert [core.pair(name).reason for name in DB["db"]] == [
            "by secondary error",
            "by group freeze",
        ]
        data, wal = core.pair("data"), core.pair("wal")
        assert data.cut is wal.cut
        assert data.cut is not None
        assert data.applied == wal.applied == data.cut.sequence
        assert core.image("wal", "b")[:6] == b"before"
        (event,) = core.named("suspended")
        assert (event["reason"], event["failed"], event["path"]) == (
            "by secondary error",
            "data",
            "/b/data.img",
        )


async def test_changes_of_one_batch_behind_the_failure_reach_no_secondary_of_the_group() -> None:
    async with running(GROUP, DB) as core:
        core.secondary("data").fail("write", errno.EIO)
        changes = [core.change(1, name, 0, 4, b"new!") for name in ("wal", "data", "wal", "other")]
        changes[2].offset = 4096
        core.controller.submit(changes)
        assert [await core.answer(change) for change in changes] == [0, 0, 0, 0]
        assert core.pair("data").applied == changes[0].sequence
        assert core.image("wal", "b")[:4] == b"new!", "before the failure"
        assert core.image("wal", "b")[4096:4100] == bytes(4), "after it"
        assert core.image("other", "b")[:4] == b"new!", "not of the group"
        assert core.pair("wal").changed is not None


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_a_torn_write_is_healed_and_the_secondary_stays_usable(error: int) -> None:
    async with running() as core:
        await core.write("data", 0, b"a" * 8192)
        core.secondary().tear(error)
        assert await core.write("data", 0, b"b" * 8192) == 0
        pair = core.pair()
        assert (pair.state, pair.usable) == ("SUSPENDED", True)
        assert core.image("data", "b")[:8192] == b"a" * 8192
        assert pair.cut is not None
        assert pair.cut.verdict == "consistent"


async def test_a_torn_write_that_cannot_be_healed_makes_it_unusable_and_the_cut_void() -> None:
    async with running(GROUP, DB) as core:
        leg = core.secondary("data")
        leg.tear(errno.EIO, times=None)
        assert await core.write("data", 0, b"b" * 8192) == 0
        pair = core.pair("data")
        assert (pair.state, pair.usable) == ("SUSPENDED", False)
        assert pair.cut is not None
        assert pair.cut.verdict == "void"
        assert core.pair("wal").usable


async def test_a_healed_secondary_comes_back_with_all_that_it_missed() -> None:
    async with running(GROUP, DB) as core:
        leg = core.secondary("data")
        leg.fail("write", errno.EIO)
        for place in range(5):
            await core.write("data", place * 65536, bytes([place + 1]) * 4096)
            await core.write("wal", place * 65536, bytes([place + 1]) * 4096)
        leg.heal()
        await core.controller.resync(["data", "wal"])
        result = await core.controller.resync_wait(["data", "wal"])
        assert [volume["state"] for volume in result["volumes"]] == ["DUPLEX", "DUPLEX"]
        assert core.equal("data")
        assert core.equal("wal")


async def test_a_sync_that_fails_on_a_secondary_suspends_its_group() -> None:
    async with running(GROUP, DB) as core:
        await core.write("data", 0, b"x")
        core.secondary("data").fail("sync", errno.EIO)
        await core.controller.maintenance.checkpoint()
        assert core.states() == {"data": "SUSPENDED", "wal": "SUSPENDED", "other": "DUPLEX"}
        assert not core.pair("data").usable


# ------------------------------------------------------------------------------------------------------------------- primaries


@pytest.mark.parametrize("torn", [False, True])
async def test_a_primary_that_fails_answers_with_the_error_and_both_legs_stay_equal(
    torn: bool,
) -> None:
    async with running() as core:
        await core.write("data", 0, b"a" * 8192)
        primary, _ = core.faulty()
        if torn:
            primary.tear(errno.EIO)
        else:
            primary.fail("write", errno.EIO, times=1)
        assert await core.write("data", 0, b"b" * 8192) == errno.EIO
        assert core.states() == {"data": "DUPLEX"}
        assert core.equal()
        assert [event["path"] for event in core.named("primary-error")] == ["/a/data.img"]
        assert await core.write("data", 0, b"c" * 8192) == 0


async def test_after_a_primary_error_a_restart_replays_what_the_primary_held() -> None:
    async with running() as core:
        await core.write("data", 0, b"a" * 4096)
        primary, _ = core.faulty()
        primary.fail("write", errno.EIO, times=1)
        await core.write("data", 0, b"b" * 4096)
        core.disk.crash(power=False)
        async with running(disk=core.disk) as recovered:
            assert recovered.image("data", "a")[:4096] == b"a" * 4096
            assert recovered.equal()
        core.controller.failed = "dead"  # its process was killed above


async def test_a_primary_that_can_neither_be_written_nor_read_stops_all_changes() -> None:
    async with running() as core:
        primary, _ = core.faulty()
        primary.fail("write", errno.EIO)
        primary.fail("read_into", errno.EIO)
        assert await core.write("data", 0, b"x") == errno.EIO
        assert "neither takes a change nor can be read" in core.controller.failed
        assert await core.write("data", 4096, b"y") == errno.EIO
        assert len(core.named("controller-failed")) == 1


# ------------------------------------------------------------------------------------------------------------------ the journal


async def test_a_journal_write_that_fails_is_final() -> None:
    async with running() as core:
        await core.write("data", 0, b"a")
        core.disk.fail("/state/journal", errno.EIO, operation="writev", times=1)
        assert await core.write("data", 0, b"b") == errno.EIO
        assert core.image("data", "a")[:1] == b"a", "no leg gets what the journal does not have"
        assert await core.write("data", 0, b"c") == errno.EIO
        assert core.controller.status()["controller"]["failed"]


async def test_a_journal_sync_that_fails_is_final() -> None:
    async with running() as core:
        await core.write("data", 0, b"opens a region")
        await core.write("data", 0, b"is not durable yet")
        core.disk.fail("/state/journal", errno.EIO, operation="sync", times=1)
        assert await core.flush() == errno.EIO
        assert await core.flush() == errno.EIO, "the second try would succeed, and lie"
        assert await core.write("data", 0, b"b") == errno.EIO


async def test_a_journal_disk_that_is_full_refuses_and_goes_on_once_there_is_room() -> None:
    async with running(journal="16MiB") as core:
        core.disk.full("/state")
        piece = b"x" * MIB
        core.disk.fail("/state/checkpoint", errno.ENOSPC)  # nothing can be recycled
        errors: list[int] = []
        while not errors or errors[-1] == 0:
            errors.append(await core.write("data", 0, piece))
            assert len(errors) < 40
        assert errors[-1] == errno.ENOSPC
        assert core.controller.failed == ""
        assert core.equal()
        core.disk.heal("/state/checkpoint")
        core.disk.heal("/state")
        core.controller.maintenance.want_space()
        await core.until(lambda: not core.controller.refusing)
        assert await core.write("data", 0, b"again") == 0

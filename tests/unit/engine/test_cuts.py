"""Cuts as the API asks for them: listed, graded by a canary, read by a backup."""

from __future__ import annotations

import asyncio
import errno

import pytest

from duplexd.errors import DuplexdError, NotFoundError, UsageError, WrongStateError
from tests.unit.engine.cores import Core, new_disk, running

TWO = {"data": "sync", "wal": "sync"}
CUT = "00000000000000aa"


async def suspended(core: Core) -> str:
    await core.write("data", 100, b"at the cut")
    cut = await core.controller.suspend(list(TWO))
    await core.write("data", 100, b"after that")
    return str(cut["cut"])


async def test_cuts_are_listed_oldest_first() -> None:
    async with running(TWO) as core:
        made = [(await core.controller.suspend([name]))["cut"] for name in TWO]
        assert [cut["id"] for cut in core.controller.cuts.all()["cuts"]] == made


async def test_cuts_of_a_volume_are_those_that_were_made_of_it_also_after_a_restart() -> None:
    disk = new_disk()
    async with running(TWO, disk=disk) as core:
        made = [(await core.controller.suspend([name]))["cut"] for name in TWO]
        await core.controller.resync(list(TWO))
        await core.controller.resync_wait(list(TWO))
        both = (await core.controller.suspend(list(TWO)))["cut"]
    async with running(TWO, disk=disk) as core:
        found = core.controller.cuts.all(["wal"])["cuts"]
        assert [cut["id"] for cut in found] == [made[1], both]


async def test_an_unknown_cut_is_not_found() -> None:
    async with running() as core:
        with pytest.raises(NotFoundError):
            core.controller.cuts.show(CUT)
        with pytest.raises(NotFoundError):
            await core.controller.cuts.grade(CUT, True, 1, "")


# ------------------------------------------------------------------------------------ grades


async def test_a_good_grade_is_kept_with_the_cut() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        good = await core.controller.cuts.grade(cut, True, 10, "")
        assert (good["verdict"], good["canary"]) == (
            "consistent",
            {"consistent": True, "records": 10, "detail": ""},
        )
        (event,) = core.named("graded")
        assert (event["cut"], event["consistent"], event["verdict"]) == (cut, True, "consistent")


async def test_a_canary_that_finds_a_cut_broken_makes_it_void() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        bad = await core.controller.cuts.grade(cut, False, 10, "record 3 is missing")
        assert (bad["verdict"], bad["canary"]["detail"]) == ("void", "record 3 is missing")
        again = await core.controller.cuts.grade(cut, True, 10, "")
        assert again["verdict"] == "void", "a later good grade does not change it back"


async def test_a_grade_is_durable_when_it_is_answered() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        await core.controller.cuts.grade(cut, False, 10, "record 3 is missing")
        timeline = core.controller.timeline
        assert timeline.writer.synced == timeline.written


async def test_a_grade_is_not_answered_before_the_journal_has_it() -> None:
    """A cut that is known to be broken must not be found consistent after a restart."""
    async with running(TWO) as core:
        cut = await suspended(core)
        core.disk.full("/state/journal", copies=True)
        grading = asyncio.ensure_future(
            core.controller.cuts.grade(cut, False, 10, "record 3 is missing")
        )
        await core.turns(200)
        assert not grading.done()
        core.disk.heal("/state/journal")
        assert (await grading)["verdict"] == "void"
        assert not core.controller.failed


async def test_a_grade_that_the_journal_fails_to_take_is_final() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        core.disk.fail("/state/journal", errno.EIO, operation="writev", times=1)
        with pytest.raises(OSError, match="could not be written"):
            await core.controller.cuts.grade(cut, False, 10, "record 3 is missing")
        assert core.controller.failed


# ------------------------------------------------------------------------------------- reads


async def test_a_secondary_is_read_as_it_was_at_its_cut() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        assert await core.controller.cuts.read(cut, "data", 100, 10) == b"at the cut"


@pytest.mark.parametrize(("before_end", "length"), [(1, 2), (0, 1), (10, 0), (10, -1)])
async def test_a_range_has_to_be_within_the_volume(before_end: int, length: int) -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        with pytest.raises(UsageError, match="bytes"):
            await core.controller.cuts.read(cut, "data", core.pair().size - before_end, length)


async def test_a_secondary_that_left_its_cut_is_not_read() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        await core.controller.resync(["data"])
        with pytest.raises(WrongStateError, match=f"is not at cut {cut}"):
            await core.controller.cuts.read(cut, "data", 100, 10)


async def test_a_secondary_that_leaves_its_cut_during_a_read_was_not_read() -> None:
    """What was read may have been written over meanwhile."""
    async with running(TWO) as core:
        cut = await suspended(core)
        leg = core.secondary()

        def leave(operation: str) -> None:
            if operation == "read_into":
                core.pair().record.usable = False

        leg.delay = leave
        with pytest.raises(WrongStateError, match=f"is not at cut {cut}"):
            await core.controller.cuts.read(cut, "data", 100, 10)
        core.pair().record.usable = True


async def test_a_secondary_is_not_read_before_its_cut_is_settled() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        core.controller.archive.unsettled.add(cut)
        with pytest.raises(WrongStateError, match="not durable there yet"):
            await core.controller.cuts.read(cut, "data", 100, 10)
        core.controller.archive.unsettled.discard(cut)


async def test_a_secondary_that_cannot_be_read_is_an_error_and_not_zeroes() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        core.secondary().fail("read_into", errno.EIO)
        with pytest.raises(DuplexdError, match=r"/b/data.img: cannot be read at offset 100: Input"):
            await core.controller.cuts.read(cut, "data", 100, 10)


async def test_a_secondary_that_a_reload_closes_during_a_read_has_left_its_cut() -> None:
    async with running(TWO) as core:
        cut = await suspended(core)
        pair, leg = core.pair(), core.secondary()

        def close(operation: str) -> None:
            if operation == "read_into":
                pair.record.usable = False
                leg.fail("read_into", errno.EBADF)

        leg.delay = close
        with pytest.raises(WrongStateError, match=f"is not at cut {cut}"):
            await core.controller.cuts.read(cut, "data", 100, 10)
        pair.record.usable = True

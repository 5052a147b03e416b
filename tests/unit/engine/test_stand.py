"""Standing at a mark as one of several controllers: the vote, over kills, and what is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.core.cut_states import CONSISTENT, CUT, READY, VOID
from duplexd.core.past_point import PastCut, PastPoint
from duplexd.errors import WrongStateError
from tests.unit.engine.cores import Core, new_disk, run, running, settings
from tests.unit.engine.test_delayed import DELAYED, fill, held, soon

if TYPE_CHECKING:
    from tests.sim.disk import SimDisk

ONE, OTHER = "cafe000000000001", "cafe000000000002"
TWO = ("test", "another")


def wanted(mark: str, cut_id: str = ONE, onward: bool = False) -> PastCut:
    return PastCut(PastPoint(mark=mark), onward, cut_id, "db", TWO)


async def stand(core: Core, mark: str, cut_id: str = ONE, onward: bool = False) -> bool:
    return await core.controller.stand(["data"], wanted(mark, cut_id, onward), "tag", False)


async def marked(core: Core, letter: str) -> str:
    """A mark after one more block."""
    await fill(core, letter)
    return str((await core.controller.mark(["data"]))["id"])


def state(core: Core, cut_id: str = ONE) -> str:
    return str(core.controller.timeline.ledger.state_of(cut_id))


async def test_it_is_prepared_there_and_consistent_once_all_agree() -> None:
    async with running(DELAYED) as core:
        mark = await marked(core, "a")
        await fill(core, "b")
        assert await core.controller.stand(["data"], wanted(mark), "", True) is False
        assert state(core) == ""
        assert await stand(core, mark) is False
        assert (state(core), held(core)) == (READY, "a")
        assert await stand(core, mark) is True
        shown = await core.controller.cuts.decide(ONE, "agree")
        assert (shown["verdict"], shown["mark"], shown["members"]) == (CONSISTENT, mark, list(TWO))


async def test_another_id_and_no_id_at_the_same_mark() -> None:
    """A group's cut is the answer to a command on one of its controllers, once it is decided."""
    async with running(DELAYED) as core:
        mark = await marked(core, "a")
        await stand(core, mark)
        alone = PastCut(PastPoint(mark=mark))
        with pytest.raises(WrongStateError, match="in doubt"):
            await core.controller.suspend(["data"], at=alone)
        await core.controller.cuts.decide(ONE, "agree")
        assert (await core.controller.suspend(["data"], at=alone))["cut"] == ONE
        assert await stand(core, mark, OTHER) is False
        await core.controller.cuts.decide(OTHER, "refuse")
        assert (state(core, ONE), state(core, OTHER)) == (CONSISTENT, VOID)
        with pytest.raises(WrongStateError, match="is void here already"):
            await stand(core, mark, OTHER)
        assert await stand(core, mark, "cafe000000000003") is False


@pytest.mark.parametrize("onward", [False, True])
def test_a_kill_between_marker_and_vote_is_gone_on_with(onward: bool) -> None:
    disk = new_disk()

    async def first(disk: SimDisk) -> None:
        core = await Core.begin(disk, settings(DELAYED))
        marks = [await marked(core, "a")]
        await core.controller.checkpointer.checkpoint()
        await fill(core, "ab")
        marks.append(str((await core.controller.mark(["data"]))["id"]))
        await soon(lambda: core.pair().record.horizon is not None)
        if onward:
            await stand(core, marks[0], OTHER)
            await core.controller.checkpointer.checkpoint()
        task = asyncio.ensure_future(stand(core, marks[1], onward=onward))
        while state(core) == "":  # noqa: ASYNC110 - each turn of the loop
            await asyncio.sleep(0)
        core.controller.timeline.writer.sync_now()
        assert state(core) == CUT
        await core.crash(power=False)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def second(disk: SimDisk) -> None:
        async with running(DELAYED, disk=disk) as core:
            await soon(lambda: state(core) == READY)
            assert core.pair().applied == core.controller.timeline.ledger.cuts[ONE].sequence
            shown = await core.controller.cuts.decide(ONE, "agree")
            assert (shown["verdict"], shown["volumes"]) == (CONSISTENT, ["data"])

    run(first(disk))
    run(second(disk))


@pytest.mark.parametrize("later_first", [False, True])
async def test_of_two_that_walk_on_at_once_one_waits_for_the_other(later_first: bool) -> None:
    async with running(DELAYED) as core:
        core.controller.timeline.ledger.remember_cuts(0)  # else that alone refuses the earlier one
        marks = [await marked(core, letter) for letter in "abcd"]
        await stand(core, marks[0])
        await core.controller.cuts.decide(ONE, "agree")
        first, second = (marks[3], marks[1]) if later_first else (marks[1], marks[3])
        walks = [
            core.controller.suspend(["data"], at=PastCut(PastPoint(mark=mark), onward=True))
            for mark in (first, second)
        ]
        done, other = await asyncio.gather(*walks, return_exceptions=True)
        assert not isinstance(done, BaseException)
        assert (done["verdict"], done["mark"]) == ("consistent", first)
        if later_first:
            assert "goes forwards only" in str(other)
        else:
            assert not isinstance(other, BaseException)
            assert (other["verdict"], other["mark"]) == ("consistent", second)
        assert held(core) == "d"


@pytest.mark.parametrize("group", [False, True])
def test_who_stands_there_without_an_image_does_not(group: bool) -> None:
    disk = new_disk()

    async def first(disk: SimDisk) -> str:
        async with running(DELAYED, disk=disk) as core:
            mark = await marked(core, "a")
            await fill(core, "b")
            if group:
                await stand(core, mark)
            else:
                await core.controller.suspend(["data"], at=PastCut(PastPoint(mark=mark)))
            return mark

    async def second(disk: SimDisk, mark: str) -> None:
        async with running(DELAYED, disk=disk) as core:
            alone = PastCut(PastPoint(mark=mark))
            with pytest.raises(WrongStateError, match=r"cannot be read: /b/data\.img: the image"):
                await (stand(core, mark) if group else core.controller.suspend(["data"], at=alone))
            with pytest.raises(WrongStateError, match="cannot be read"):
                await core.controller.stand(["data"], wanted(mark) if group else alone, "", True)
            if not group:
                with pytest.raises(WrongStateError, match="cannot be read"):
                    await core.controller.suspend(["data"], existing=True)

    mark = run(first(disk))
    disk.remove("/b/data.img")
    run(second(disk, mark))

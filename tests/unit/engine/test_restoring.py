"""Volumes that a client restores: who may use them meanwhile, and what a crash leaves."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core import rollback as steps
from duplexd.core.rollback import Order, RestoreOrder
from duplexd.core.rollback_state import door
from duplexd.errors import UsageError, WrongStateError
from tests.unit.engine.cores import MIB, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from duplexd.json_object import Json

TWO = {"data": "sync", "wal": "async"}
BLOCK = 4096
OLD, NEW, SAVED = b"\x11" * BLOCK, b"\x22" * BLOCK, b"\x33" * BLOCK
ID = "00000000000000aa"


class Client:
    """A connection that has chosen a volume, and closes when it is told to."""

    def __init__(self, core: Core, name: str = "data") -> None:
        self.pair, self.ended = core.pair(name), list[str]()
        self.pair.joined(self, "user 7")

    def end_reading(self, why: str) -> None:
        self.ended.append(why)
        self.pair.left(self)

    def leave(self) -> None:
        self.pair.left(self)


async def cut(core: Core) -> str:
    """A cut, and changes after it."""
    for name in TWO:
        await core.write(name, 0, OLD)
    made = await core.controller.suspend(list(TWO), "before")
    for name in TWO:
        await core.write(name, MIB, NEW)
    return str(made["cut"])


async def step(core: Core, which: str, *names: str, **how: object) -> Json:
    order = RestoreOrder(**({"backup": "b1", "cut": "c0", "id": ID, "step": which} | how))  # type: ignore[arg-type]
    return await core.controller.restore(list(names or TWO), order)


async def half_way(core: Core) -> None:
    """Closed, and something was written."""
    await step(core, steps.CLOSE)
    await core.write("data", 2 * MIB, SAVED)


def admits(core: Core, name: str) -> bool:
    """Whether a client that asks for an export gets it."""
    volume = core.controller.volume(name)
    return volume is not None and not volume.closed_to(name)


async def test_from_close_to_open_only_the_name_of_the_restore_gets_the_volume() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        answer = await step(core, steps.CHECK)
        assert [row["undo"] for row in answer["volumes"]] == [made, made]
        assert not admits(core, door("data", ID))
        await step(core, steps.CLOSE)
        names = ("data", door("data", ID), door("data", "00000000000000bb"), door("more", ID))
        assert [admits(core, name) for name in names] == [False, True, False, False]
        answer = await step(core, steps.OPEN)
        assert [row["served"] for row in answer["volumes"]] == [True, True]
        assert [admits(core, name) for name in names] == [True, False, False, False]
        assert core.named("restored")[0]["backup"] == "b1"
        await step(core, steps.OPEN)  # as by a client that got no answer
        assert len(core.named("restored")) == 1


async def test_the_volumes_are_durably_closed_before_anything_can_be_written() -> None:
    async with running(TWO) as core:
        await cut(core)
        closing = asyncio.ensure_future(step(core, steps.CLOSE))
        await core.until(lambda: core.pair().record.rollback is not None)
        number = core.controller.sequence
        await closing
        assert core.controller.timeline.writer.synced >= number


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_half_way_leaves_them_closed_and_one_after_the_end_does_not(power: bool) -> None:
    async def lives() -> None:
        disk = new_disk()
        core = await Core.begin(disk, settings(TWO))
        made = await cut(core)
        await core.controller.checkpointer.checkpoint()
        secondary = core.image("data", "b")
        await half_way(core)
        for _ in range(2):  # the second time the checkpoint says it
            await core.crash(power=power)
            core = await Core.begin(disk, settings(TWO))
            status = core.controller.status()["volumes"][0]
            assert (status["served"], status["rollback"]["backup"]) == (False, "b1")
            assert "its restore from backup b1 is not finished" in status["error"]
            assert core.image("data", "b") == secondary
            await core.controller.checkpointer.checkpoint()
        assert (await step(core, steps.CLOSE))["volumes"][0]["undo"] == made
        await core.write("data", 2 * MIB, SAVED)
        await step(core, steps.OPEN)
        await core.crash(power=power)
        core = await Core.begin(disk, settings(TWO))
        assert core.controller.status()["volumes"][0]["served"]
        assert core.image("data", "a")[2 * MIB : 2 * MIB + BLOCK] == SAVED
        await core.controller.stop()

    run(lives())


async def test_the_resync_after_it_goes_by_the_map_and_ends_equal() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        await step(core, steps.OPEN)
        begun = await core.controller.resync(["data"])
        assert [row["how"] for row in begun["volumes"]] == ["map"]
        await core.controller.resync_wait(["data"])
        await core.until(core.equal)


async def test_a_rollback_undoes_it_also_half_way() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        before = core.image("data", "b")
        await half_way(core)
        writer = Client(core)
        with pytest.raises(WrongStateError, match="clients use data by user 7"):
            await core.controller.rollback(list(TWO), Order(made))
        await core.controller.rollback(list(TWO), Order(made, force=True))
        assert (len(writer.ended), core.image("data", "a")) == (1, before)
        await half_way(core)
        await step(core, steps.OPEN)
        await core.controller.rollback(list(TWO), Order(made))
        assert core.image("data", "a") == before


async def test_a_pair_that_mirrors_is_refused_and_nothing_is_closed() -> None:
    async with running(TWO) as core:
        with pytest.raises(WrongStateError, match="data is DUPLEX: its secondary would get"):
            await step(core, steps.CLOSE)
        assert admits(core, "data")


async def test_clients_are_named_or_end_and_another_writer_is_a_client() -> None:
    async with running(TWO) as core:
        await cut(core)
        client = Client(core)
        with pytest.raises(WrongStateError, match="clients use data by user 7"):
            await step(core, steps.CLOSE)
        await step(core, steps.CLOSE, force=True)
        assert client.ended == ["a restore takes the volume, with --force"]
        writer = Client(core)
        with pytest.raises(WrongStateError, match="clients use data by user 7"):
            await step(core, steps.CLOSE)
        opening = asyncio.ensure_future(step(core, steps.OPEN))
        await asyncio.sleep(0.1)
        assert not opening.done()  # it may write still
        writer.leave()
        await opening


async def test_the_same_volumes_go_on_and_no_others_with_another_backup() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        assert (await step(core, steps.CLOSE, id="00000000000000bb"))["id"] == ID
        with pytest.raises(WrongStateError, match="its restore from backup b1 is not finished"):
            await step(core, steps.CLOSE, backup="b2")
        with pytest.raises(WrongStateError, match="name exactly these"):
            await step(core, steps.CLOSE, "data")
        with pytest.raises(WrongStateError, match="not what restore 00000000000000aa restores"):
            await step(core, steps.OPEN, "data")
        with pytest.raises(UsageError):
            await core.controller.restore([], RestoreOrder("b1", "c0"))


async def test_given_up_its_client_ends_and_the_volumes_are_served_as_they_are() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        writer = Client(core)
        assert core.controller.status()["volumes"][0]["rollback"]["state"] == "running"
        await core.controller.rollback(list(TWO), Order(step=steps.ABANDON))
        assert writer.ended == ["the restore was abandoned"]
        status = core.controller.status()["volumes"][0]
        assert (status["served"], status["rollback"]["state"]) == (True, "abandoned")
        await core.controller.resync(list(TWO))
        await core.controller.resync_wait(list(TWO))
        await core.until(core.equal)


async def test_a_secondary_that_fails_meanwhile_ends_the_way_back_and_not_the_restore() -> None:
    async with running(TWO) as core:
        await cut(core)
        await half_way(core)
        core.controller.failed_legs.lost(core.pair(), OSError(errno.EIO, "gone"))
        await core.until(lambda: core.pair().record.usable is False)
        assert (await step(core, steps.CHECK))["volumes"][0]["undo"] == ""
        await step(core, steps.OPEN)
        assert admits(core, "data")

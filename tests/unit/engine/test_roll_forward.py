"""A roll-forward that fails, with the primary gone: the secondary is the last copy of the volume,
so it can be done again, from the number that the secondary durably held.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import PENDING, SUSPENDED
from duplexd.errors import DuplexdError, WrongStateError
from duplexd.replication.follower import SinkError
from duplexd.runtime.watch import HungError
from tests.sim.faults import Fault
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, running, settings
from tests.unit.engine.test_reopen import back
from tests.unit.engine.test_swap import fail_primary, swap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.json_object import Json
    from tests.sim.disk import SimDisk
    from tests.sim.image import Image

A, B = "/a/data.img", "/b/data.img"
ONE, BOTH = {"data": "sync"}, {"data": "sync", "apart": "sync"}
BEFORE, CHANGES = b"\x11" * 8192, [bytes([0x20 + place]) * 8192 for place in range(4)]
JOURNAL = "16MiB"


async def behind(core: Core) -> None:
    """The secondary is at a cut, the journal has four changes after that, and the primary fails."""
    assert await core.write("data", 0, BEFORE) == 0
    await core.controller.suspend(["data"])
    for place, data in enumerate(CHANGES):
        assert await core.write("data", place * 4096, data) == 0
    await fail_primary(core)


def torn(disk: SimDisk) -> None:
    disk.faults.add(B, Fault(errno.EIO, "write", 1, 1, torn=True))


def refused(disk: SimDisk) -> None:
    disk.fail(B, errno.EIO, after=2, operation="write", times=1)


each_fault = pytest.mark.parametrize("fault", [torn, refused])


async def fails(core: Core) -> None:
    with pytest.raises(DuplexdError, match=r"/b/data\.img"):
        await swap(core, roll_forward=True)


async def holds_all(core: Core) -> None:
    expected = bytearray(5 * 4096)
    for place, data in enumerate(CHANGES):
        expected[place * 4096 : place * 4096 + 8192] = data
    assert await core.read("data", 0, 5 * 4096) == (0, bytes(expected))
    assert core.pair().primary.path == B
    assert not core.pair().failed


def status(core: Core) -> Json:
    (volume,) = (each for each in core.controller.status()["volumes"] if each["name"] == "data")
    return dict(volume)


# ------------------------------------------------------------------------------------ the repeat


@each_fault
async def test_the_repeat_applies_everything_from_the_cut_again(
    fault: Callable[[SimDisk], None],
) -> None:
    disk = new_disk()
    async with running(ONE, disk=disk) as core:
        await behind(core)
        cut = core.pair().applied
        fault(disk)
        await fails(core)
        assert (core.pair().state, core.pair().applied) == (SUSPENDED, cut)
        assert status(core)["rebuild"] == {"possible": True, "from_sequence": cut + 1}
        volume = await swap(core, roll_forward=True)
        assert (volume["primary"], volume["lost"]) == (B, None)
        await holds_all(core)


@each_fault
async def test_nothing_calls_it_a_cut_or_current_meanwhile(
    fault: Callable[[SimDisk], None],
) -> None:
    disk = new_disk()
    async with running(ONE, disk=disk) as core:
        await behind(core)
        fault(disk)
        await fails(core)
        shown = status(core)["secondary"]
        assert not shown["usable"]
        assert (shown["as_of_sequence"], shown["as_of_time"]) == (None, None)
        assert shown["cut"]["verdict"] == "void"
        for how in ({}, {"lose_changes": True}):
            with pytest.raises(WrongStateError, match="--roll-forward applies them"):
                await swap(core, **how)
        with pytest.raises(WrongStateError, match="leave --keep-to out"):
            await swap(core, roll_forward=True, keep_to="/kept/data.img")


async def test_a_second_failure_costs_no_more_than_the_first() -> None:
    """On a full disk nothing of a change is written. But the first attempt got further."""
    disk = new_disk()
    async with running(ONE, disk=disk) as core:
        await behind(core)
        cut = core.pair().applied
        disk.fail(B, errno.EIO, after=3, operation="write", times=1)
        await fails(core)
        disk.fail(B, errno.ENOSPC, operation="reserve", times=1)
        await fails(core)
        assert (core.pair().usable, core.pair().applied) == (False, cut)
        await swap(core, roll_forward=True)
        await holds_all(core)


async def test_an_image_that_hung_is_opened_again_for_the_repeat() -> None:
    disk = new_disk()
    async with running(ONE, disk=disk) as core:
        await behind(core)
        torn(disk)
        await fails(core)
        pair, failures = core.pair(), core.controller.failures
        hung = pair.copy_of
        error = HungError(hung, 30)
        at = pair.applied
        freeze = partial(failures.freeze, {pair}, pair, at, error, {pair}, {})
        await core.controller.timeline.at_rest(freeze)
        assert not status(core)["rebuild"]["possible"]
        hung.close()  # its call has returned
        await swap(core, roll_forward=True)
        await holds_all(core)


async def test_changes_of_other_volumes_do_not_wait_for_it() -> None:
    """Once the journal no longer reaches back, the message says so."""
    disk = new_disk()
    async with running(BOTH, disk=disk, journal=JOURNAL) as core:
        await behind(core)
        torn(disk)
        await fails(core)
        content = bytes(range(256)) * (SIZE // 256)
        for _ in range(12):
            assert await core.write("apart", 0, content) == 0
        assert not status(core)["rebuild"]["possible"]
        with pytest.raises(WrongStateError, match="the journal no longer reaches back") as refusal:
            await swap(core, roll_forward=True)
        assert "--lose-changes" not in str(refusal.value)


# ------------------------------------------------------------------------------------- restarts


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("checkpoint", [False, True])
@each_fault
async def test_the_repeat_may_come_after_a_restart(
    fault: Callable[[SimDisk], None], checkpoint: bool, power: bool
) -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings(ONE))
    await behind(core)
    assert await core.flush("data") in (0, errno.EIO)
    fault(disk)
    await fails(core)
    if checkpoint:
        await core.controller.checkpointer.checkpoint()
    else:
        await core.controller.timeline.durable()
    await core.crash(power=power)
    disk.take(A)
    async with running(ONE, disk=disk) as core:
        assert (core.pair().state, core.pair().usable) == (SUSPENDED, False)
        await swap(core, roll_forward=True)
        await holds_all(core)


async def killed_in_the_middle(disk: SimDisk, power: bool, first: bool = True) -> None:
    """The daemon dies when half of the changes are on the secondary. `first`: in the first attempt,
    and not in one that came after a failure.
    """
    core = await Core.begin(disk, settings(ONE))
    await behind(core)
    if not first:
        torn(disk)
        await fails(core)
    disk.fail(B, errno.EIO, after=2, operation="write", times=1)
    await core.controller.timeline.durable()
    followers = core.controller.followers
    async with followers.stepping:
        pair = core.pair()
        await core.controller.resyncs.roll_forward([pair], lambda _pair: None)
        await core.controller.timeline.durable()
        follower = next(iter(followers.jobs.values())).follower
        assert follower is not None
        tail = core.controller.timeline.written
        with pytest.raises(SinkError):  # half of them: the daemon dies before anything comes of it
            follower.step(tail, MIB)
        await core.crash(power=power)
    disk.heal(B)
    disk.take(A)


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("first", [True, False])
async def test_a_start_ends_what_a_kill_interrupted(first: bool, power: bool) -> None:
    disk = new_disk()
    await killed_in_the_middle(disk, power, first)
    async with running(ONE, disk=disk) as core:
        await holds_all(core)


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_after_a_start_that_failed_to_end_it_the_command_does(
    operation: str, first: bool, power: bool
) -> None:
    disk = new_disk()
    await killed_in_the_middle(disk, power, first)
    disk.fail(B, errno.EIO, after=int(operation == "write"), operation=operation, times=1)
    async with running(ONE, disk=disk) as core:
        assert (core.pair().state, core.pair().usable) == (SUSPENDED, False)
        assert status(core)["secondary"]["error"].startswith("/b/data.img: ")
        await swap(core, roll_forward=True)
        await holds_all(core)


# ------------------------------------------------------------ a primary that comes back meanwhile


async def lost_a_record(disk: SimDisk) -> Image:
    """The primary, not served, has a change of which the journal lost the record."""
    core = await Core.begin(disk, settings(ONE))
    await core.controller.suspend(["data"])
    assert await core.write("data", 0, b"a record") == 0
    assert await core.flush() == 0
    assert await core.write("data", 4096, b"no record") == 0
    await core.crash(power=False)
    disk.lose("/state/journal")
    return disk.take(A)


async def reads_what_it_read_before(core: Core) -> None:
    await core.controller.resync(["data"])
    await core.controller.resync_wait(["data"])
    assert (core.states(), core.equal()) == ({"data": "DUPLEX"}, True)
    assert await core.read("data", 4096, 9) == (0, b"no record")


async def test_a_primary_that_is_back_is_not_served_beside_a_roll_forward() -> None:
    disk = new_disk()
    image = await lost_a_record(disk)
    async with running(ONE, disk=disk) as core:
        async with core.controller.followers.stepping:
            rolled = asyncio.ensure_future(swap(core, roll_forward=True))
            await core.until(lambda: core.pair().state == PENDING)
            back(disk, A, image)
            with pytest.raises(WrongStateError, match="being rolled forward"):
                await core.controller.resync(["data"])
        await rolled
        assert core.pair().primary.path == B
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert (core.states(), core.equal()) == ({"data": "DUPLEX"}, True)


async def test_no_roll_forward_begins_beside_a_primary_that_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even one that was asked for before."""
    disk = new_disk()
    image = await lost_a_record(disk)
    async with running(ONE, disk=disk) as core:
        checkpointer = core.controller.checkpointer
        sync = checkpointer.sync_secondaries

        async def sync_meanwhile(pairs: Sequence[Pair]) -> dict[Pair, OSError]:
            core.pair().returning = True
            return await sync(pairs)

        monkeypatch.setattr(checkpointer, "sync_secondaries", sync_meanwhile)
        with pytest.raises(WrongStateError, match="another command"):
            await swap(core, roll_forward=True)
        assert core.states() == {"data": SUSPENDED}
        monkeypatch.undo()
        back(disk, A, image)
        await reads_what_it_read_before(core)

"""Swaps by command: the images of a pair change roles; nothing is lost that was not given up."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.lease import DEADLINE
from duplexd.core.markers import Missed
from duplexd.core.pair import ONLY_THE_MAP
from duplexd.errors import DuplexdError, WrongStateError
from tests.unit.engine.cores import SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair

ONE = {"data": "sync"}


async def swap(core: Core, **how: object) -> dict[str, object]:
    asked = {"roll_forward": False, "keep_to": None, "lose_changes": False, **how}
    result = await core.controller.swap(["data"], **asked)  # type: ignore[arg-type]
    (volume,) = result["volumes"]
    return dict(volume)


async def fail_primary(core: Core) -> None:
    """Of a suspended pair: its changes are in the journal, and nowhere else any more."""
    pair = core.pair()
    error = OSError(errno.EIO, "gone")
    await core.controller.timeline.at_rest(
        lambda: core.controller.failures.primary_failed(pair, error)
    )
    assert pair.failed


# ------------------------------------------------------------------------------------ DUPLEX


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_equal_images_change_roles_and_the_pair_stays_duplex(mode: str) -> None:
    async with running({"data": mode}) as core:
        await core.write("data", 0, b"before")
        volume = await swap(core)
        assert (volume["primary"], volume["secondary"]) == ("/b/data.img", "/a/data.img")
        assert (volume["state"], volume["swapped"], volume["lost"]) == ("DUPLEX", True, None)
        await core.write("data", 0, b"after!")
        assert await core.read("data", 0, 6) == (0, b"after!")
        await core.controller.suspend(["data"])
        assert core.image("data", "a")[:6] == b"after!", "the former primary is mirrored to"


async def test_a_lease_that_came_after_changes_is_no_hold_of_the_swap() -> None:
    """The new primary would lack these changes, which clients were told are written."""
    async with running({"data": "async"}) as core:
        leases, pair = core.controller.leases, core.pair()
        async with core.controller.followers.stepping:
            await core.write("data", 0, b"before")
            swapping = asyncio.ensure_future(swap(core))
            await core.until(lambda: leases.holds(pair))
            await core.turns(200)
            (hold,) = leases.held.values()
            leases.end(hold, DEADLINE)
            await core.write("data", 0, b"after!")
            other = await leases.quiesce([pair], 5.0, "another")
        with pytest.raises(WrongStateError, match="did not get to the last change"):
            await swapping
        leases.release(other.id)
        assert pair.primary.path == "/a/data.img"
        assert await core.read("data", 0, 6) == (0, b"after!")


async def test_a_second_swap_gives_the_images_their_roles_back() -> None:
    async with running(ONE) as core:
        await swap(core)
        assert (await swap(core))["swapped"] is False
        assert core.pair().primary.path == "/a/data.img"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_restart_has_the_roles_of_the_last_swap(mode: str) -> None:
    disk = new_disk()

    async def swap_and_die() -> None:
        core = await Core.begin(disk, settings({"data": mode}))
        await core.write("data", 0, b"a" * 4096)
        await swap(core)
        await core.write("data", 4096, b"b" * 4096)
        await core.crash(power=False)

    async def again() -> None:
        async with running({"data": mode}, disk=disk) as core:
            assert core.pair().primary.path == "/b/data.img"
            assert await core.read("data", 0, 8192) == (0, b"a" * 4096 + b"b" * 4096)
            await core.controller.resync_wait(["data"])
            assert core.states() == {"data": "DUPLEX"}
            await core.controller.suspend(["data"])
            assert core.equal()

    run(swap_and_die())
    run(again())


# ------------------------------------------------------------------------------------ SUSPENDED


async def test_a_suspended_pair_is_not_swapped_by_the_way() -> None:
    async with running(ONE) as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"x" * 4096)
        with pytest.raises(WrongStateError, match=r"lacks the changes from number \d+ to \d+"):
            await swap(core)
        assert core.pair().primary.path == "/a/data.img"


async def test_a_lost_primary_is_rebuilt_from_the_journal_on_the_secondary() -> None:
    async with running(ONE) as core:
        await core.write("data", 0, b"before the cut")
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after the cut!")
        await fail_primary(core)
        assert await core.write("data", 0, b"x") == errno.EIO
        volume = await swap(core, roll_forward=True)
        assert (volume["primary"], volume["lost"]) == ("/b/data.img", None)
        assert await core.read("data", 0, 14) == (0, b"after the cut!")
        assert await core.write("data", 0, b"goes on") == 0
        assert core.pair().failed == ""


async def test_the_image_of_the_cut_is_kept_if_that_is_asked_for() -> None:
    async with running(ONE) as core:
        await core.write("data", 0, b"before")
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        await fail_primary(core)
        await swap(core, roll_forward=True, keep_to="/kept/data.img")
        kept = core.disk.open("/kept/data.img")
        assert kept.read(0, 6) == b"before"
        kept.close()


async def test_a_journal_that_is_dropped_while_the_image_is_kept_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(ONE) as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        await core.write("data", 0, b"later!")
        writer, create = core.controller.timeline.writer, core.disk.create

        def create_late(path: str, size: int) -> object:
            writer.ring.live[0].first = writer.written  # what is before it was dropped
            return create(path, size)

        monkeypatch.setattr(core.disk, "create", create_late)
        with pytest.raises(WrongStateError, match="no longer reaches back"):
            await swap(core, roll_forward=True, keep_to="/kept/data.img")
        assert core.states() == {"data": "SUSPENDED"}
        assert core.pair().primary.path == "/a/data.img"


@pytest.mark.parametrize("again", [False, True])
async def test_an_image_is_not_kept_of_a_secondary_that_left_its_cut_meanwhile(
    monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Not even if it is at another cut by then."""
    async with running(ONE) as core:
        await core.write("data", 0, b"before")
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        create = core.disk.create

        async def move() -> None:
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])
            if again:
                await core.controller.suspend(["data"])

        moving: list[asyncio.Task[None]] = []

        def create_late(path: str, size: int) -> object:
            moving.append(asyncio.ensure_future(move()))
            return create(path, size)

        workers = core.controller.legs.workers
        run_now = workers.run

        async def run_late(call: Callable[[], object]) -> object:
            result = await run_now(call)
            while moving:
                await moving.pop()
            return result

        monkeypatch.setattr(core.disk, "create", create_late)
        monkeypatch.setattr(workers, "run", run_late)
        with pytest.raises(DuplexdError, match="of no point in time"):
            await swap(core, roll_forward=True, keep_to="/kept/data.img")
        assert core.pair().primary.path == "/a/data.img"


def test_what_clients_read_though_its_record_is_lost_is_on_the_new_primary() -> None:
    disk = new_disk()

    async def suspend_and_lose_a_record() -> None:
        core = await Core.begin(disk, settings(ONE))
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"a record")
        await core.write("data", 4096, b"no record")
        await core.crash(power=False)
        disk.lose("/state/journal")

    async def swap_after_that() -> None:
        async with running(ONE, disk=disk) as core:
            assert core.controller.timeline.ledger.pairs[1].tracked_bytes >= ONLY_THE_MAP
            assert await core.read("data", 4096, 9) == (0, b"no record")
            await core.write("data", 0, b"later")
            await swap(core, roll_forward=True)
            assert core.pair().primary.path == "/b/data.img"
            assert await core.read("data", 4096, 9) == (0, b"no record")
            assert await core.read("data", 0, 5) == (0, b"later")

    run(suspend_and_lose_a_record())
    run(swap_after_that())


async def test_the_primary_gone_after_an_unclean_stop_the_journal_alone_will_do() -> None:
    async with running(ONE) as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after the cut!")
        pair = core.pair()
        missed = Missed({pair.id: pair.new_map()})
        await core.controller.timeline.at_rest(lambda: core.controller.timeline.append(missed))
        await fail_primary(core)
        await swap(core, roll_forward=True)
        assert await core.read("data", 0, 14) == (0, b"after the cut!")


def test_the_journal_alone_does_not_lead_to_an_adopted_image() -> None:
    disk = new_disk()

    async def suspend_and_exchange_the_primary() -> None:
        async with running(ONE, disk=disk) as core:
            await core.write("data", 0, b"old " * 1024)
            await core.controller.suspend(["data"])
        disk.remove("/a/data.img")
        image = disk.create("/a/data.img", SIZE)
        image.write(0, b"new " * 1024)
        image.close()

    async def adopt() -> None:
        async with running(ONE, disk=disk) as core:
            await core.controller.adopt(["data"])

    async def lose_that_too() -> None:
        async with running(ONE, disk=disk) as core:
            await core.write("data", 8192, b"on the adopted image")
            await fail_primary(core)
            assert core.controller.status()["volumes"][0]["rebuild"]["possible"] is False
            with pytest.raises(WrongStateError, match=r"was adopted after its cut.*--lose-changes"):
                await swap(core, roll_forward=True)
            assert (await swap(core, lose_changes=True))["lost"] is not None
            assert await core.read("data", 0, 4) == (0, b"old ")
            assert await core.read("data", 8192, 4) == (0, bytes(4))

    run(suspend_and_exchange_the_primary())
    run(adopt())
    run(lose_that_too())


async def test_an_adopted_image_that_is_served_is_copied_to_the_new_primary() -> None:
    disk = new_disk()
    async with running(ONE, disk=disk) as core:
        await core.controller.suspend(["data"])
    disk.remove("/a/data.img")
    image = disk.create("/a/data.img", SIZE)
    image.write(0, b"new!")
    image.close()
    async with running(ONE, disk=disk) as core:
        await core.controller.adopt(["data"])
        await swap(core, roll_forward=True)
        assert core.pair().primary.path == "/b/data.img"
        assert await core.read("data", 0, 4) == (0, b"new!")


async def test_pairs_are_rolled_forward_in_one_walk_along_the_journal() -> None:
    """Else it could be dropped for those that wait for the first."""
    async with running({"data": "sync", "wal": "sync"}) as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"data")
        await core.controller.suspend(["wal"])
        await core.write("wal", 0, b"wal!")
        await core.controller.swap(["data", "wal"], True, None, False)
        assert [event["volumes"] for event in core.named("duplex")] == [["data", "wal"]]
        assert await core.read("data", 0, 4) == (0, b"data")
        assert await core.read("wal", 0, 4) == (0, b"wal!")


async def test_one_that_cannot_be_rolled_forward_does_not_keep_the_others_from_it() -> None:
    async with running({"data": "sync", "wal": "sync"}) as core:
        await core.controller.suspend(["data", "wal"])
        await core.write("data", 0, b"data")
        await core.write("wal", 0, b"wal!")
        pair = core.pair("wal")
        missed = Missed({pair.id: pair.record.full_map()})
        await core.controller.timeline.at_rest(lambda: core.controller.timeline.append(missed))
        primary, _ = core.faulty("wal")
        primary.fail("read_into")
        with pytest.raises(DuplexdError, match=r"wal: .*/a/wal\.img"):
            await core.controller.swap(["data", "wal"], True, None, False)
        assert core.pair("data").primary.path == "/b/data.img"
        assert core.states() == {"data": "DUPLEX", "wal": "SUSPENDED"}
        assert pair.usable, "it is still at its cut"


async def test_an_image_that_cannot_be_kept_changes_nothing() -> None:
    async with running(ONE) as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        core.disk.create("/kept/data.img", 4096).close()
        with pytest.raises(WrongStateError, match="cannot be kept there"):
            await swap(core, roll_forward=True, keep_to="/kept/data.img")
        assert core.states() == {"data": "SUSPENDED"}


async def test_changes_that_are_given_up_are_named_and_do_not_come_back() -> None:
    async with running(ONE) as core:
        await core.write("data", 0, b"before")
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        volume = await swap(core, lose_changes=True)
        lost = volume["lost"]
        assert isinstance(lost, dict)
        assert lost["bytes"] > 0
        assert await core.read("data", 0, 6) == (0, b"before")
        pair = core.pair()
        assert (pair.state, pair.usable) == ("SUSPENDED", False), "the other image is compared"


async def test_no_change_reaches_the_new_primary_before_the_swap_is_durable() -> None:
    """A power cut would leave it on what counts as the secondary at its cut."""
    async with running(ONE) as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"given up")
        swapping = asyncio.ensure_future(swap(core, lose_changes=True))
        for _ in range(1000):
            if not core.pair().record.swapped:
                await asyncio.sleep(0)
        assert core.pair().record.swapped
        core.controller.leases.stop()  # as the deadline of a lease would, if it were one
        number = core.controller.timeline.writer.sequence
        assert await core.write("data", 0, b"x") == 0
        assert core.controller.timeline.writer.synced >= number
        await swapping


@pytest.mark.parametrize("roll_forward", [False, True])
async def test_nothing_is_given_up_of_a_pair_that_is_suspended_meanwhile(
    roll_forward: bool,
) -> None:
    async with running({"data": "async", "wal": "sync"}) as core:
        async with core.controller.followers.stepping:  # the first swap waits for its secondary
            await core.write("data", 0, b"x")
            swapping = asyncio.ensure_future(
                core.controller.swap(["data", "wal"], roll_forward, None, False)
            )
            await core.turns()
            await core.controller.suspend(["wal"])
            await core.write("wal", 0, b"kept")
        with pytest.raises(WrongStateError, match="wal became SUSPENDED meanwhile"):
            await swapping
        assert core.pair("wal").primary.path == "/a/wal.img"
        assert await core.read("wal", 0, 4) == (0, b"kept")


async def test_nothing_is_given_up_for_a_cut_that_the_secondary_is_still_on_its_way_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is read from then on would lack changes before that cut, and its follower would write to
    the new primary.
    """
    async with running({"data": "async"}) as core:
        controller, pair, cuts = core.controller, core.pair(), list[asyncio.Task[object]]()
        sync = controller.checkpointer.sync_secondaries
        stepping = controller.followers.trailing.async_follower.stepping

        async def sync_and_cut_again(pairs: Sequence[Pair]) -> dict[Pair, OSError]:
            lost = await sync(pairs)
            monkeypatch.undo()
            await controller.resync(["data"])
            await controller.resync_wait(["data"])
            await stepping.acquire()
            await core.write("data", 0, b"before")
            cuts.append(asyncio.ensure_future(controller.suspend(["data"])))
            await core.until(lambda: pair.state == "SUSPENDED")
            assert pair.applied < pair.limit(0)
            return lost

        await controller.suspend(["data"])
        await core.write("data", 0, b"given up")
        monkeypatch.setattr(controller.checkpointer, "sync_secondaries", sync_and_cut_again)
        try:
            with pytest.raises(WrongStateError, match="data changed its state meanwhile"):
                await swap(core, lose_changes=True)
        finally:
            stepping.release()
        await cuts[0]
        assert not pair.record.swapped
        assert core.equal()


def test_a_restart_does_not_apply_what_was_given_up() -> None:
    disk = new_disk()

    async def give_up_and_die() -> None:
        core = await Core.begin(disk, settings(ONE))
        await core.write("data", 0, b"before")
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        await core.write("data", 8192, b"after!")
        await swap(core, lose_changes=True)
        await core.write("data", 4096, b"later!")
        await core.crash(power=False)

    async def again() -> None:
        async with running(ONE, disk=disk) as core:
            assert core.pair().primary.path == "/b/data.img"
            assert await core.read("data", 0, 6) == (0, b"before")
            assert await core.read("data", 8192, 6) == (0, bytes(6))
            assert await core.read("data", 4096, 6) == (0, b"later!")

    run(give_up_and_die())
    run(again())


# ---------------------------------------------------------------------------- what is refused


async def test_a_volume_without_secondary_is_not_swapped() -> None:
    async with running({"data": ""}) as core:
        with pytest.raises(WrongStateError, match="is SIMPLEX"):
            await swap(core)


async def test_a_secondary_that_holds_no_state_of_the_volume_does_not_become_the_primary() -> None:
    async with running(ONE) as core:
        core.secondary().tear(errno.EIO, times=None)
        await core.write("data", 0, b"b" * 8192)
        with pytest.raises(WrongStateError, match="no state that the volume ever had"):
            await swap(core, lose_changes=True)


async def test_the_new_primary_durably_has_what_the_last_checkpoint_had_and_no_more() -> None:
    async with running(ONE) as core:
        await core.controller.checkpointer.checkpoint()
        durable_at = core.controller.checkpointer.sequence
        await core.write("data", 0, b"not synced")
        await swap(core)
        assert core.pair().record.primary_at <= durable_at

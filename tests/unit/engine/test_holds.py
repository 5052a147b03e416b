"""Holds and cuts: what may be suspended together, what a lost lease does, which changes wait."""

from __future__ import annotations

import asyncio

import pytest

from duplexd.core import lease as gate
from duplexd.errors import LeaseLostError, LimitError, NotFoundError, UsageError, WrongStateError
from duplexd.limits import HOLD_SECONDS_MAX, INLINE_BATCH_BYTES_MAX, LEASES_MAX
from tests.unit.engine.cores import Core, Peer, running

TWO = {"data": "sync", "wal": "sync"}
DB = {"db": ["data", "wal"]}


async def test_a_cut_is_one_number_and_what_comes_later_stays_away() -> None:
    async with running(TWO, DB) as core:
        await core.write("data", 0, b"before")
        result = await core.controller.suspend(["data", "wal"], "nightly")
        await core.write("data", 0, b"after!")
        assert (result["verdict"], result["tag"], result["already"], result["volumes"]) == (
            "consistent",
            "nightly",
            False,
            ["data", "wal"],
        )
        cut = core.pair().cut
        assert cut is not None
        assert result["controllers"] == {"alpha": cut.sequence}
        assert core.image("data", "b")[:6] == b"before"
        assert core.image("data", "a")[:6] == b"after!"
        assert [core.pair(name).applied for name in TWO] == [result["controllers"]["alpha"]] * 2


async def test_the_secondaries_are_durable_when_suspend_returns() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"x" * 4096)
        await core.controller.suspend(["data", "wal"])
        assert core.disk.unsynced("/b/data.img") == 0


async def test_suspending_again_says_so_and_is_the_same_cut() -> None:
    async with running(TWO) as core:
        first = await core.controller.suspend(["data", "wal"], "one")
        again = await core.controller.suspend(["data", "wal"], "two")
        assert (again["already"], again["cut"], again["tag"]) == (True, first["cut"], "one")
        assert len(core.named("suspended")) == 1


async def test_pairs_at_different_cuts_are_not_one_cut() -> None:
    async with running(TWO) as core:
        await core.controller.suspend(["data"])
        await core.controller.suspend(["wal"])
        with pytest.raises(
            WrongStateError, match=r"one cut.*data is SUSPENDED.*wal is SUSPENDED.*resync"
        ):
            await core.controller.suspend(["data", "wal"])


async def test_a_mixture_is_refused_with_nothing_done() -> None:
    async with running({"data": "sync", "wal": "sync", "alone": ""}) as core:
        await core.controller.suspend(["wal"])
        before = core.controller.sequence
        for names in (["data", "wal"], ["data", "alone"], ["alone"]):
            with pytest.raises(WrongStateError):
                await core.controller.suspend(names)
        assert core.states() == {"data": "DUPLEX", "wal": "SUSPENDED", "alone": "SIMPLEX"}
        assert core.controller.sequence == before


async def test_a_journal_that_does_not_take_the_cut_suspends_nothing() -> None:
    async with running(TWO) as core:
        core.disk.fail("/state/journal", 28, operation="writev", times=1)
        with pytest.raises(WrongStateError, match="nothing was suspended"):
            await core.controller.suspend(["data", "wal"])
        assert set(core.states().values()) == {"DUPLEX"}


async def test_no_volume_is_a_mistake() -> None:
    async with running() as core:
        with pytest.raises(UsageError):
            await core.controller.suspend([])
        with pytest.raises(UsageError):
            await core.controller.quiesce([], 1.0, "me")


async def test_a_secondary_that_cannot_be_made_durable_makes_the_cut_void() -> None:
    async with running(TWO, DB) as core:
        await core.write("wal", 0, b"x" * 4096)
        core.secondary("wal").fail("sync")
        result = await core.controller.suspend(["data", "wal"])
        assert result["verdict"] == "void"
        assert not core.pair("wal").usable
        assert verdicts(core) == {"data": "void", "wal": "void"}
        disk = core.disk
    async with running(TWO, DB, disk) as core:
        assert verdicts(core) == {"data": "void", "wal": "void"}, (
            "a restart does not make it better"
        )


def verdicts(core: Core) -> dict[str, str]:
    """What status says of the cut each pair stands at."""
    return {
        volume["name"]: volume["secondary"]["cut"]["verdict"]
        for volume in core.controller.status()["volumes"]
    }


async def test_async_secondaries_walk_up_to_the_cut_first() -> None:
    async with running({"data": "async", "wal": "sync"}) as core:
        for place in range(20):
            await core.write("data", place * 4096, bytes([place + 1]) * 4096)
        result = await core.controller.suspend(["data", "wal"])
        assert result["verdict"] == "consistent"
        assert core.equal()
        assert core.pair().applied == result["controllers"]["alpha"]


# ----------------------------------------------------------------------------------------------------------------------- holds


async def held(core: Core, *names: str, hold_s: float = 5.0) -> gate.Lease:
    return await core.controller.quiesce(list(names), hold_s, "me")


async def test_changes_of_held_volumes_wait_and_others_do_not() -> None:
    async with running(TWO) as core:
        lease = await held(core, "data")
        waiting = core.send("data", 0, b"waits")
        assert await core.write("wal", 0, b"goes on") == 0
        await core.turns()
        assert waiting not in core.peer.answers
        assert core.controller.release(lease.id)
        assert await core.answer(waiting) == 0
        assert lease.waits is not None
        assert lease.waits.count == 1


async def test_flush_is_answered_during_a_hold_for_what_was_acknowledged() -> None:
    async with running() as core:
        await core.write("data", 0, b"done")
        await held(core, "data")
        core.send("data", 0, b"waits")
        assert await core.flush() == 0


async def test_overlapping_changes_keep_their_order() -> None:
    async with running() as core:
        lease = await held(core, "data")
        changes = [core.send("data", 0, bytes([place]) * 512) for place in range(10)]
        core.controller.release(lease.id)
        for change in changes:
            await core.answer(change)
        assert [change.sequence for change in changes] == sorted(
            change.sequence for change in changes
        )
        assert core.image("data", "a")[:512] == bytes([9]) * 512


async def test_changes_that_were_queued_wait_too_once_the_volume_is_held() -> None:
    async with running() as core:
        heavy = core.send("data", 0, b"h" * (2 * INLINE_BATCH_BYTES_MAX))  # goes to a worker
        queued = core.send("data", 0, b"queued")
        lease = await held(core, "data")
        assert heavy in core.peer.answers, "what had started is done when the hold begins"
        await core.turns()
        assert queued not in core.peer.answers
        core.controller.release(lease.id)
        assert await core.answer(queued) == 0


async def test_a_held_change_dies_with_its_connection() -> None:
    async with running() as core:
        lease = await held(core, "data")
        other, core.peer = core.peer, Peer()
        gone = core.send("data", 0, b"gone")
        mine, core.peer = core.peer, other
        stays = core.send("data", 4096, b"stays")
        core.controller.disconnected(mine)
        core.controller.release(lease.id)
        assert await core.answer(stays) == 0
        await core.turns()
        assert gone not in mine.answers
        assert core.image("data", "a")[:4] == bytes(4)


async def test_two_leases_on_one_volume_hold_until_both_are_gone() -> None:
    async with running() as core:
        first, second = await held(core, "data"), await held(core, "data")
        change = core.send("data", 0, b"x")
        core.controller.release(first.id)
        await core.turns()
        assert change not in core.peer.answers
        core.controller.release(second.id)
        assert await core.answer(change) == 0


async def test_a_cut_under_a_lease_ends_the_hold_in_the_same_step() -> None:
    async with running(TWO, DB) as core:
        await core.write("data", 0, b"before")
        lease = await held(core, "data", "wal")
        change = core.send("data", 0, b"waited")
        result = await core.controller.suspend(["data", "wal"], "t", lease.id)
        assert result["verdict"] == "consistent"
        assert result["hold"]["writes_held"] == 1
        assert (lease.state, await lease.ended) == (gate.RELEASED, gate.BY_SUSPEND)
        assert await core.answer(change) == 0
        assert change.sequence > result["controllers"]["alpha"]
        assert core.image("data", "b")[:6] == b"before"


async def test_a_lease_is_lost_at_its_deadline_and_a_cut_under_it_is_refused() -> None:
    async with running() as core:
        lease = await held(core, "data", hold_s=0.02)
        change = core.send("data", 0, b"x")
        assert await asyncio.wait_for(lease.ended, 2) == gate.DEADLINE
        assert await core.answer(change) == 0
        (released,) = core.named("released")
        assert (released["verdict"], released["reason"]) == ("void", "deadline")
        with pytest.raises(LeaseLostError, match=r"deadline.*void, nothing was suspended"):
            await core.controller.suspend(["data"], "", lease.id)
        assert core.states() == {"data": "DUPLEX"}
        assert not core.controller.release(lease.id)


async def test_a_lease_of_other_volumes_does_not_do() -> None:
    async with running(TWO) as core:
        lease = await held(core, "data")
        with pytest.raises(UsageError, match="does not hold wal"):
            await core.controller.suspend(["data", "wal"], "", lease.id)
        assert lease.state == gate.HELD
        for call in (
            core.controller.release,
            lambda name: core.controller.holds.release(name, gate.BY_OWNER),
        ):
            with pytest.raises(NotFoundError):
                call("nonesuch")
        with pytest.raises(NotFoundError):
            await core.controller.suspend(["data"], "", "nonesuch")


async def test_a_wrong_state_does_not_end_the_hold() -> None:
    async with running(TWO) as core:
        await core.controller.suspend(["wal"])
        lease = await held(core, "data", "wal")
        with pytest.raises(WrongStateError):
            await core.controller.suspend(["data", "wal"], "", lease.id)
        assert lease.state == gate.HELD


@pytest.mark.parametrize("hold_s", [0, -1, HOLD_SECONDS_MAX + 0.001])
async def test_a_hold_has_a_length_that_clients_survive(hold_s: float) -> None:
    async with running() as core:
        with pytest.raises(UsageError, match="10 seconds"):
            await held(core, "data", hold_s=hold_s)


async def test_there_are_only_so_many_leases() -> None:
    async with running() as core:
        leases = [await held(core, "data") for _ in range(LEASES_MAX)]
        with pytest.raises(LimitError, match="LEASES_MAX"):
            await held(core, "data")
        core.controller.release(leases[-1].id)
        await held(core, "data")


async def test_stopping_ends_every_hold_and_answers_what_waited() -> None:
    async with running() as core:
        lease = await held(core, "data")
        change = core.send("data", 0, b"x")
    assert (lease.state, await lease.ended) == (gate.LOST, gate.STOPPING)
    assert change in core.peer.answers
    assert change.error == 0


async def test_a_hold_for_a_groups_cut_that_has_ended_is_known_by_the_cut_too() -> None:
    async with running(TWO) as core:
        cut = "00000000000000aa"
        lease = await core.controller.quiesce(list(TWO), 2.0, "me", cut)
        core.controller.release(lease.id)
        assert not core.controller.release(cut)
        with pytest.raises(NotFoundError):
            core.controller.release("00000000000000bb")


async def test_a_cut_that_is_held_for_is_no_lease_to_suspend_by() -> None:
    async with running(TWO) as core:
        await core.controller.quiesce(list(TWO), 2.0, "me", "00000000000000aa")
        with pytest.raises(
            UsageError, match="00000000000000aa is the cut that a group is held for, and no lease"
        ):
            await core.controller.suspend(list(TWO), lease_id="00000000000000aa")
        assert core.controller.holds.leases

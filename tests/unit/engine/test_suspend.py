"""Suspends of one controller alone: one marker, one number, no hold needed."""

from __future__ import annotations

import asyncio
import dataclasses
import errno

import pytest

from duplexd.core import lease as ends
from duplexd.core import pair_states
from duplexd.errors import DuplexdError, LeaseLostError, NotFoundError, UsageError, WrongStateError
from duplexd.limits import EngineLimits
from duplexd.units import KIB
from tests.unit.engine.cores import Core, new_disk, running

TWO = {"data": "sync", "wal": "sync"}
BOTH = list(TWO)
DB = {"db": BOTH}
CUT = "00000000000000aa"


# ------------------------------------------------------------------------------------- the cut


async def test_a_cut_is_one_number_and_later_changes_do_not_reach_the_secondaries() -> None:
    async with running(TWO, DB) as core:
        await core.write("data", 0, b"before")
        result = await core.controller.suspend(BOTH, "nightly")
        await core.write("data", 0, b"after!")
        assert (result["verdict"], result["tag"], result["already"], result["volumes"]) == (
            "consistent",
            "nightly",
            False,
            BOTH,
        )
        cut = core.pair().cut
        assert cut is not None
        assert cut is core.pair("wal").cut
        assert result["controllers"] == {"alpha": cut.sequence}
        assert core.image("data", "b")[:6] == b"before"
        assert core.image("data", "a")[:6] == b"after!"
        assert [core.pair(name).applied for name in TWO] == [cut.sequence] * 2


async def test_a_cut_is_announced_when_it_is_made_and_has_no_verdict_yet() -> None:
    async with running(TWO, DB) as core:
        said: list[tuple[str, object]] = []

        def made(cut: str) -> None:
            said.append((cut, core.controller.cuts.show(cut)["verdict"]))

        result = await core.controller.suspend(BOTH, on_cut=made)
        assert said == [(result["cut"], None)]
        again = await core.controller.suspend(BOTH, existing=True, on_cut=made)
        assert again["already"]
        assert len(said) == 1  # it made none


async def test_a_change_that_runs_when_the_suspend_comes_is_before_the_cut() -> None:
    async with running() as core:
        change = core.send("data", 0, b"x" * 600 * KIB)  # in a worker
        result = await core.controller.suspend(["data"])
        assert change.sequence <= result["controllers"]["alpha"]
        assert core.image("data", "b")[: 600 * KIB] == b"x" * 600 * KIB


async def test_the_secondaries_are_durable_when_suspend_returns() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"x" * 4096)
        await core.controller.suspend(BOTH)
        assert core.disk.unsynced("/b/data.img") == 0


async def test_a_consistent_suspend_has_nothing_to_explain() -> None:
    async with running(TWO) as core:
        result = await core.controller.suspend(BOTH)
        assert (result["verdict"], result["why"]) == ("consistent", None)


async def test_async_secondaries_are_brought_to_the_cut_first() -> None:
    limits = dataclasses.replace(EngineLimits(), follower_chunk_bytes=8 * KIB)
    async with running({"data": "async", "wal": "sync"}, limits=limits) as core:
        for place in range(20):
            await core.write("data", place * 4096, bytes([place + 1]) * 4096)
        result = await core.controller.suspend(BOTH)
        assert result["verdict"] == "consistent"
        assert core.equal()
        assert core.pair().applied == result["controllers"]["alpha"]


async def test_the_certificate_names_the_record_and_the_images() -> None:
    async with running(TWO) as core:
        result = await core.controller.suspend(BOTH, certificate=True)
        (member,) = result["members"]
        writer = core.controller.timeline.writer
        assert member["sequence"] == result["controllers"]["alpha"]
        assert member["journal"]["directory"] == "/state"
        assert member["journal"]["identity"] == writer.ring.controller.hex()
        assert isinstance(member["journal"]["crc"], int)
        assert [(image["name"], image["secondary"]) for image in member["volumes"]] == [
            ("data", "/b/data.img"),
            ("wal", "/b/wal.img"),
        ]
        assert "members" not in await core.controller.suspend(BOTH, existing=True)


async def test_the_certificate_of_a_swapped_pair_names_the_images_by_their_roles_now() -> None:
    """Not the image that clients write to as the one that stands at the cut."""
    async with running(TWO) as core:
        await core.controller.swap(["data"], roll_forward=False, keep_to=None, lose_changes=False)
        result = await core.controller.suspend(BOTH, certificate=True)
        (member,) = result["members"]
        assert [(image["primary"], image["secondary"]) for image in member["volumes"]] == [
            ("/b/data.img", "/a/data.img"),
            ("/a/wal.img", "/b/wal.img"),
        ]
    async with running(TWO) as core:
        primary, _ = core.faulty()
        primary.fail("write", errno.EIO)
        assert await core.write("data", 0, b"goes to the secondary") == 0
        assert core.pair().record.secondary_path == "/a/data.img"


async def test_the_event_of_a_suspend() -> None:
    async with running(TWO) as core:
        result = await core.controller.suspend(BOTH, "nightly")
        (event,) = core.named("suspended")
        assert (
            event["reason"],
            event["cut"],
            event["tag"],
            event["verdict"],
            event["volumes"],
        ) == (
            "by command",
            result["cut"],
            "nightly",
            "consistent",
            BOTH,
        )
        assert event["at"] == result["controllers"]["alpha"]


# ------------------------------------------------------------------------------ which states


async def test_a_cut_that_they_are_at_already_is_not_the_one_that_is_asked_for() -> None:
    async with running(TWO) as core:
        cut = (await core.controller.suspend(BOTH, "one"))["cut"]
        core.clock.now += 7200
        with pytest.raises(
            WrongStateError,
            match=rf"already: cut {cut} \(tag 'one', 2 h old, by command\).*--allow-existing",
        ):
            await core.controller.suspend(BOTH, "two")
        with pytest.raises(WrongStateError, match=f"already: cut {cut}"):
            await core.controller.suspend(["data"])


async def test_a_cut_that_a_failure_made_is_no_answer_whatever_is_allowed() -> None:
    async with running(TWO, DB) as core:
        core.secondary("wal").fail("write")
        await core.write("wal", 0, b"something")
        for allowed in (False, True):
            with pytest.raises(
                WrongStateError, match=r"by secondary error.*nobody asked for that cut; resync"
            ):
                await core.controller.suspend(BOTH, existing=allowed)


async def test_a_cut_that_is_asked_for_again_and_allowed_is_the_same() -> None:
    async with running(TWO) as core:
        first = await core.controller.suspend(BOTH, "one")
        again = await core.controller.suspend(BOTH, "two", existing=True)
        assert (again["already"], again["cut"], again["tag"]) == (True, first["cut"], "one")
        assert len(core.named("suspended")) == 1


async def test_pairs_at_different_cuts_are_not_one_cut() -> None:
    async with running(TWO) as core:
        await core.controller.suspend(["data"])
        await core.controller.suspend(["wal"])
        with pytest.raises(
            WrongStateError, match=r"one cut.*data is SUSPENDED.*wal is SUSPENDED.*resync"
        ):
            await core.controller.suspend(BOTH)


async def test_a_mixture_is_refused_with_nothing_done() -> None:
    async with running({**TWO, "alone": ""}) as core:
        await core.controller.suspend(["wal"])
        before = core.controller.timeline.written
        for names in (BOTH, ["data", "alone"], ["alone"]):
            with pytest.raises(WrongStateError):
                await core.controller.suspend(names)
        assert core.states() == {"data": "DUPLEX", "wal": "SUSPENDED", "alone": "SIMPLEX"}
        assert core.controller.timeline.written == before


async def test_a_group_cut_that_is_in_doubt_is_not_a_cut_to_suspend_at() -> None:
    async with running(TWO) as core:
        lease = await core.controller.quiesce(BOTH, 2.0, "me", CUT)
        await core.controller.cuts.make(CUT, lease.id, lease.fence, "", "db", ["alpha", "beta"])
        await core.controller.cuts.open(CUT, lease.id, lease.fence)
        with pytest.raises(WrongStateError, match=rf"cut {CUT} of group db.*settle db"):
            await core.controller.suspend(BOTH)


async def test_volumes_that_are_held_for_a_groups_cut_are_not_suspended() -> None:
    async with running(TWO) as core:
        await core.controller.quiesce(["data"], 2.0, "me", CUT)
        with pytest.raises(WrongStateError, match="another suspend"):
            await core.controller.suspend(BOTH)
        assert set(core.states().values()) == {"DUPLEX"}


async def test_no_volume_is_a_mistake() -> None:
    async with running() as core:
        with pytest.raises(UsageError):
            await core.controller.suspend([])


# --------------------------------------------------------------------------- under a lease


async def test_a_cut_under_a_lease_ends_the_hold_in_the_same_step() -> None:
    async with running(TWO, DB) as core:
        await core.write("data", 0, b"before")
        lease = await core.controller.quiesce(BOTH, 5.0, "me")
        change = core.send("data", 0, b"waited")
        result = await core.controller.suspend(BOTH, "t", lease.id)
        assert result["verdict"] == "consistent"
        assert result["hold"]["writes_held"] == 1
        assert (lease.state, await lease.ended) == (ends.RELEASED, ends.BY_SUSPEND)
        assert await core.answer(change) == 0
        assert change.sequence > result["controllers"]["alpha"]
        assert core.image("data", "b")[:6] == b"before"


async def test_a_cut_under_a_lost_lease_is_refused() -> None:
    async with running() as core:
        lease = await core.controller.quiesce(["data"], 0.02, "me")
        assert await asyncio.wait_for(lease.ended, 2) == ends.DEADLINE
        with pytest.raises(LeaseLostError, match=r"deadline.*void, nothing was suspended"):
            await core.controller.suspend(["data"], "", lease.id)
        assert core.states() == {"data": "DUPLEX"}


async def test_a_cut_under_a_lease_that_another_client_renewed_is_refused() -> None:
    async with running() as core:
        lease = await core.controller.quiesce(["data"], 5.0, "me")
        old = lease.fence
        core.controller.renew(lease.id, old, 1.0)
        with pytest.raises(LeaseLostError, match="renewed by another"):
            await core.controller.suspend(["data"], "", lease.id, old)
        assert core.states() == {"data": "DUPLEX"}


async def test_a_lease_has_to_hold_all_that_is_suspended_under_it() -> None:
    async with running(TWO) as core:
        lease = await core.controller.quiesce(["data"], 5.0, "me")
        with pytest.raises(UsageError, match="does not hold wal"):
            await core.controller.suspend(BOTH, "", lease.id)
        assert lease.state == ends.HELD


async def test_a_lease_that_never_was_is_not_found() -> None:
    async with running() as core:
        with pytest.raises(NotFoundError):
            await core.controller.suspend(["data"], "", "nonesuch")


async def test_the_lease_of_a_groups_cut_is_not_a_lease_to_suspend_by() -> None:
    async with running(TWO) as core:
        lease = await core.controller.quiesce(BOTH, 2.0, "me", CUT)
        with pytest.raises(UsageError, match="is held for cut"):
            await core.controller.suspend(BOTH, lease_id=lease.id)
        with pytest.raises(UsageError, match=f"{CUT} is the cut that a group is held for, not a"):
            await core.controller.suspend(BOTH, lease_id=CUT)
        assert core.controller.leases.held


async def test_a_wrong_state_does_not_end_the_hold() -> None:
    async with running(TWO) as core:
        await core.controller.suspend(["wal"])
        lease = await core.controller.quiesce(BOTH, 5.0, "me")
        with pytest.raises(WrongStateError):
            await core.controller.suspend(BOTH, "", lease.id)
        assert lease.state == ends.HELD


async def test_suspending_what_is_suspended_ends_the_hold() -> None:
    async with running(TWO) as core:
        await core.controller.suspend(BOTH)
        lease = await core.controller.quiesce(BOTH, 5.0, "me")
        assert (await core.controller.suspend(BOTH, "", lease.id, existing=True))["already"]
        assert await lease.ended == ends.BY_SUSPEND


async def test_a_suspend_that_is_refused_leaves_the_hold() -> None:
    async with running(TWO) as core:
        await core.controller.suspend(BOTH)
        lease = await core.controller.quiesce(BOTH, 5.0, "me")
        with pytest.raises(WrongStateError, match="nothing was done"):
            await core.controller.suspend(BOTH, "", lease.id)
        assert not lease.ended.done()


# ------------------------------------------------------------------------ failures and callers


async def test_a_journal_that_does_not_take_the_cut_fails_and_a_restart_does_not_know_it() -> None:
    disk = new_disk()
    async with running(TWO, disk=disk) as core:
        core.disk.fail("/state/journal", errno.EIO, operation="writev", times=1)
        with pytest.raises(OSError, match="could not be written"):
            await core.controller.suspend(BOTH)
        assert core.controller.failed
    async with running(TWO, disk=disk) as core:
        assert set(core.states().values()) == {"DUPLEX"}


async def test_a_journal_without_room_for_the_cut_is_waited_for() -> None:
    async with running(TWO) as core:
        core.disk.fail("/state/journal", errno.ENOSPC, operation="writev", times=1)
        assert (await core.controller.suspend(BOTH))["verdict"] == "consistent"


async def _suspend_over_a_journal_that_cannot_be_synced(core: Core) -> None:
    assert await core.write("data", 0, b"x") == 0
    assert await core.write("data", 0, b"x") == 0
    core.disk.fail("/state/journal", errno.EIO, operation="sync")
    with pytest.raises(DuplexdError):
        await core.controller.suspend(["data"])
    assert core.controller.failed


async def test_a_cut_that_could_not_be_made_durable_has_no_verdict() -> None:
    async with running() as core:
        await _suspend_over_a_journal_that_cannot_be_synced(core)
        assert core.controller.status()["volumes"][0]["secondary"]["cut"]["verdict"] is None


async def test_later_suspends_and_resyncs_do_not_wait_for_a_cut_that_never_settles() -> None:
    async with running() as core:
        await _suspend_over_a_journal_that_cannot_be_synced(core)
        for call in (core.controller.suspend, core.controller.resync):
            with pytest.raises(DuplexdError):
                await asyncio.wait_for(call(["data"]), 20)


async def test_a_suspend_that_is_cancelled_before_its_step_cuts_nothing() -> None:
    async with running() as core:
        change = core.send("data", 0, bytes(600 * KIB))  # in a worker
        suspending = asyncio.ensure_future(core.controller.suspend(["data"]))
        await asyncio.sleep(0)
        suspending.cancel()
        await asyncio.gather(suspending, return_exceptions=True)
        await core.answer(change)
        await core.turns()
        assert core.states() == {"data": pair_states.DUPLEX}
        await core.controller.suspend(["data"])
        await core.controller.resync(["data"])


async def test_a_suspend_that_is_cancelled_after_its_step_still_gets_a_verdict() -> None:
    async with running() as core:
        await core.write("data", 0, b"x")
        suspending = asyncio.ensure_future(core.controller.suspend(["data"]))
        await core.until(lambda: core.states() == {"data": pair_states.SUSPENDED})
        suspending.cancel()
        await asyncio.gather(suspending, return_exceptions=True)
        await core.until(lambda: not core.controller.archive.unsettled)
        assert core.controller.cuts.all()["cuts"][0]["verdict"] == "consistent"
        assert core.disk.unsynced("/b/data.img") == 0

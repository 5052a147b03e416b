"""Cuts that several controllers take together, at one of them: what it takes, what it promises, what a restart makes of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.core import cut_states as votes
from duplexd.core import lease as gate
from duplexd.errors import LeaseLostError, NotFoundError, UsageError, WrongStateError
from duplexd.limits import CUT_FIGURES_KEPT_MAX, CUTS_KEPT_MAX
from tests.unit.engine.cores import Core, running

if TYPE_CHECKING:
    from duplexd.core.lease import Lease

TWO = {"data": "sync", "wal": "sync"}
CUT = "00000000000000aa"
MEMBERS = ["alpha", "beta"]


async def closed(core: Core, *names: str, cut_id: str = CUT) -> Lease:
    return await core.controller.quiesce(list(names or TWO), 2.0, "me", cut_id)


async def made(core: Core, cut_id: str = CUT) -> Lease:
    lease = await closed(core, cut_id=cut_id)
    await core.controller.cuts.make(cut_id, lease.id, lease.fence, "nightly", "db", MEMBERS)
    return lease


async def ready(core: Core) -> dict[str, Any]:
    lease = await made(core)
    return await core.controller.cuts.open(CUT, lease.id, lease.fence)


async def test_it_is_undecided_until_it_is_told_and_holds_what_came_before() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"before")
        lease = await closed(core)
        core.clock.now += 0.25
        waiting = core.send("data", 0, b"after!")
        core.clock.now += 0.25
        result = await core.controller.cuts.make(
            CUT, lease.id, lease.fence, "nightly", "db", MEMBERS
        )
        assert result["sequence"] == core.pair().applied
        assert waiting not in core.peer.answers, "the gates stay closed after the cut"
        vote = await core.controller.cuts.open(CUT, lease.id, lease.fence)
        assert await core.answer(waiting) == 0
        assert (vote["state"], vote["verdict"], vote["members"]) == ("ready", None, MEMBERS)
        hold = vote["hold"]
        assert (hold["writes_held"], hold["seconds_max"], hold["held_s"], hold["within_limit"]) == (
            1,
            0.25,
            0.5,
            True,
        )
        assert hold["phases"]["held"] == {"seconds": 0.5, "writes": 1}
        assert [(row["name"], row["count"], row["max_s"]) for row in hold["volumes"]] == [
            ("data", 1, 0.25)
        ]
        assert core.image("data", "b")[:6] == b"before"
        assert core.disk.unsynced("/b/data.img") == 0
        told = await core.controller.cuts.decide(CUT, votes.AGREE)
        assert (told["state"], told["verdict"], told["volumes"]) == (
            "consistent",
            "consistent",
            ["data", "wal"],
        )
        assert [event["verdict"] for event in core.named("suspended")] == ["consistent"]


@pytest.mark.parametrize(
    "reason", [gate.DEADLINE, gate.OWNER_GONE, gate.STOPPING, gate.BY_OWNER, gate.ABORTED]
)
async def test_a_hold_that_ends_before_the_gates_are_opened_makes_the_cut_void_for_ever(
    reason: str,
) -> None:
    async with running(TWO) as core:
        lease = await made(core)
        assert core.controller.release(lease.id, reason)
        assert core.controller.cuts.show(CUT)["verdict"] == "void"
        with pytest.raises(LeaseLostError, match=reason):
            await core.controller.cuts.open(CUT, lease.id, lease.fence)
        for event in (votes.AGREE, votes.ABORT, votes.REFUSE):
            assert (await core.controller.cuts.decide(CUT, event))["verdict"] == "void"
        await core.until(lambda: CUT not in core.controller.cuts.unsettled)
        assert core.states() == dict.fromkeys(TWO, "SUSPENDED")
        assert [event["verdict"] for event in core.named("suspended")] == ["void"]


async def test_a_late_cut_is_refused_and_cuts_nothing() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        core.controller.release(lease.id, gate.DEADLINE)
        with pytest.raises(LeaseLostError, match="deadline"):
            await core.controller.cuts.make(CUT, lease.id, lease.fence, "", "db", MEMBERS)
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        with pytest.raises(NotFoundError):
            core.controller.cuts.show(CUT)


async def test_a_renewed_lease_is_not_the_former_owners_any_more() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        old = lease.fence
        new = core.controller.renew(lease.id, old, 1.0)["fence"]
        assert new > old
        for call in (
            core.controller.cuts.make(CUT, lease.id, old, "", "db", MEMBERS),
            core.controller.cuts.open(CUT, lease.id, old),
        ):
            with pytest.raises(
                (LeaseLostError, NotFoundError), match=r"renewed by another|no such cut"
            ):
                await call
        with pytest.raises(LeaseLostError):
            core.controller.renew(lease.id, old, 1.0)
        await core.controller.cuts.make(CUT, lease.id, new, "", "db", MEMBERS)


async def test_a_renewal_is_of_the_whole_hold() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        core.clock.now += 9.5
        with pytest.raises(UsageError, match="10 s"):
            core.controller.renew(lease.id, None, 1.0)
        assert core.controller.renew(lease.id, None, 0.4)["remaining_s"] == pytest.approx(0.4)


async def test_an_abort_before_the_promise_is_final_and_after_it_changes_nothing() -> None:
    async with running(TWO) as core:
        assert (await core.controller.cuts.decide(CUT, votes.ABORT))["state"] == "void"
        with pytest.raises(LeaseLostError, match="void here already"):
            await closed(core)
        other = "00000000000000bb"
        lease = await made(core, other)
        await core.controller.cuts.open(other, lease.id, lease.fence)
        assert (await core.controller.cuts.decide(other, votes.ABORT))["state"] == "ready"
        assert (await core.controller.cuts.decide(other, votes.AGREE))["state"] == "consistent"


async def test_nobody_agrees_to_what_was_not_promised() -> None:
    async with running(TWO) as core:
        with pytest.raises(WrongStateError, match="not known"):
            await core.controller.cuts.decide(CUT, votes.AGREE)
        await made(core)
        with pytest.raises(WrongStateError, match="agree is not possible"):
            await core.controller.cuts.decide(CUT, votes.AGREE)


async def test_two_group_cuts_of_the_same_volumes_do_not_run_at_the_same_time() -> None:
    async with running(TWO) as core:
        await closed(core, "data")
        with pytest.raises(WrongStateError, match="another suspend"):
            await closed(core, cut_id="00000000000000bb")
        with pytest.raises(WrongStateError, match="another suspend"):
            await core.controller.suspend(["data", "wal"])
        await closed(core, "wal", cut_id="00000000000000bb")


async def test_pairs_that_are_not_duplex_are_not_even_held() -> None:
    async with running(TWO) as core:
        await core.controller.suspend(["wal"])
        with pytest.raises(WrongStateError, match="wal is SUSPENDED"):
            await closed(core)
        assert not core.controller.holds.leases


async def test_letting_go_without_a_cut_leaves_no_trace() -> None:
    async with running(TWO) as core:
        await closed(core)
        assert core.controller.cuts.release(CUT)["released"]
        assert not core.controller.cuts.release(CUT)["released"]
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        assert core.controller.cuts.all() == {"cuts": []}


async def test_a_secondary_that_cannot_be_synced_votes_void() -> None:
    async with running(TWO) as core:
        leg = core.secondary("wal")
        await core.write("wal", 0, b"x")
        lease = await made(core)
        leg.fail("sync")
        vote = await core.controller.cuts.open(CUT, lease.id, lease.fence)
        assert vote["state"] == "void"


async def test_a_canary_that_finds_it_broken_makes_it_void() -> None:
    async with running(TWO) as core:
        await ready(core)
        await core.controller.cuts.decide(CUT, votes.AGREE)
        good = await core.controller.cuts.grade(CUT, True, 10, "")
        assert (good["verdict"], good["canary"]) == (
            "consistent",
            {"consistent": True, "records": 10, "detail": ""},
        )
        bad = await core.controller.cuts.grade(CUT, False, 10, "record 3 is missing")
        assert (bad["verdict"], bad["canary"]["detail"]) == ("void", "record 3 is missing")


async def test_a_secondary_is_read_only_as_long_as_it_stands_there() -> None:
    async with running(TWO) as core:
        await core.write("data", 100, b"at the cut")
        await ready(core)
        await core.write("data", 100, b"after that")
        assert await core.controller.cuts.read(CUT, "data", 100, 10) == b"at the cut"
        with pytest.raises(UsageError, match="bytes"):
            await core.controller.cuts.read(CUT, "data", core.pair().size - 1, 2)
        await core.controller.resync(["data"])
        with pytest.raises(WrongStateError, match="does not stand at cut"):
            await core.controller.cuts.read(CUT, "data", 100, 10)


async def test_a_vote_is_shown_only_once_it_is_durable() -> None:
    async with running(TWO) as core:
        lease = await made(core)
        shown: list[str] = []
        durable = core.controller.durable

        async def look(sequence: int) -> None:
            shown.append(core.controller.cuts.show(CUT)["state"])
            await durable(sequence)

        core.controller.durable = look  # type: ignore[method-assign]
        vote = await core.controller.cuts.open(CUT, lease.id, lease.fence)
        assert core.controller.ledger.state_of(CUT) == votes.READY
        assert (shown, vote["state"]) == (["cut", "cut"], "ready")


@pytest.mark.parametrize("how", [votes.ABORT, votes.REFUSE])
@pytest.mark.parametrize("cut", [True, False])
async def test_what_a_decision_says_to_the_journal_is_never_beside_a_batch(
    how: str, cut: bool
) -> None:
    """The gates open in the same step: a heavy batch of what they held takes the journal to a worker."""
    async with running(TWO) as core:
        lease = await closed(core)
        held = core.send("data", 0, b"the first to its region")
        if cut:
            await core.controller.cuts.make(CUT, lease.id, lease.fence, "", "db", MEMBERS)
        beside: list[tuple[str, bool]] = []
        mark = core.controller.mark

        def note(marker: dict[str, Any]) -> int:
            beside.append((marker["m"], core.controller.batches.busy))
            return mark(marker)

        core.controller.holds.member._mark = note
        assert (await core.controller.cuts.decide(CUT, how))["state"] == "void"
        assert await core.answer(held) == 0
        assert beside == [("void", False)]


async def test_a_marker_beside_a_batch_is_a_bug_that_is_told() -> None:
    async with running(TWO) as core:
        core.controller.batches.busy = True
        try:
            with pytest.raises(RuntimeError, match="not within a step"):
                core.controller.mark({"m": "void", "cut": CUT})
        finally:
            core.controller.batches.busy = False


@pytest.mark.parametrize("reason", [gate.DEADLINE, gate.BY_OWNER])
async def test_a_cut_that_is_void_while_it_is_held_lets_resync_go_on(reason: str) -> None:
    async with running(TWO) as core:
        lease = await made(core)
        await core.controller.cuts.grade(CUT, False, 1, "broken")
        core.controller.release(lease.id, reason)
        await core.controller.resync(list(TWO))
        done = await asyncio.wait_for(core.controller.resync_wait(list(TWO)), 20)
        assert {volume["state"] for volume in done["volumes"]} == {"DUPLEX"}
        assert not core.controller.cuts.unsettled


async def test_the_event_of_a_cut_that_a_secondary_made_void() -> None:
    async with running(TWO) as core:
        leg = core.secondary("wal")
        await core.write("wal", 0, b"x")
        lease = await made(core)
        leg.fail("sync")
        await core.controller.cuts.open(CUT, lease.id, lease.fence)
        await core.controller.cuts.decide(CUT, votes.REFUSE)
        told = [event for event in core.named("suspended") if event["cut"] == CUT]
        assert [(event["verdict"], event["volumes"]) for event in told] == [
            ("void", ["data", "wal"])
        ]


async def test_what_a_client_left_behind_is_not_remembered() -> None:
    async with running(TWO) as core:
        await closed(core)
        core.send("data", 0, b"held")
        core.controller.disconnected(core.peer)
        assert (core.controller.holds._arrivals, core.pair().waiting) == ({}, [])


async def test_the_latest_cuts_are_remembered_and_the_undecided_ones() -> None:
    async with running(TWO) as core:
        await ready(core)
        for number in range(CUTS_KEPT_MAX + 10):
            await core.controller.cuts.decide(f"{number:016x}", votes.ABORT)
        known = list(core.controller.ledger.cuts)
        assert len(known) == CUTS_KEPT_MAX
        assert known[0] == CUT
        assert known[-1] == f"{CUTS_KEPT_MAX + 9:016x}"


async def test_how_long_writes_waited_is_kept_of_the_latest_cuts_only() -> None:
    async with running(TWO) as core:
        for _ in range(CUT_FIGURES_KEPT_MAX + 2):
            await core.controller.suspend(["data"])
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])
        kept = [cut["hold"] is not None for cut in core.controller.cuts.all()["cuts"]]
        assert kept == [False] * 2 + [True] * CUT_FIGURES_KEPT_MAX


async def test_a_consistent_cut_that_a_failing_secondary_made_void_later_is_told_again() -> None:
    async with running(TWO) as core:
        await ready(core)
        await core.controller.cuts.decide(CUT, votes.AGREE)
        core.secondary("wal").fail("sync")
        core.pair(
            "wal"
        ).secondary_dirty = (
            True  # as after a start: what a killed daemon wrote may not be on the disk
        )
        await core.controller.maintenance.sync_secondaries([core.pair("wal")])
        assert core.controller.cuts.show(CUT)["verdict"] == "void"
        told = [event for event in core.named("suspended") if event["cut"] == CUT]
        assert [event["verdict"] for event in told] == ["consistent", "void"]

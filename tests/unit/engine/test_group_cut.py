"""Cuts that several controllers take together, at one participant: what it takes, what it promises,
what a restart makes of it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core import cut_states
from duplexd.core import lease as ends
from duplexd.core.markers import Marker, Void
from duplexd.errors import LeaseLostError, NotFoundError, WrongStateError
from duplexd.limits import EngineLimits
from tests.unit.engine.cores import Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from duplexd.engine.leases import Hold
    from duplexd.json_object import Json

TWO = {"data": "sync", "wal": "sync"}
THREE = {**TWO, "log": "sync"}
CUT = "00000000000000aa"
MEMBERS = ["alpha", "beta"]


async def closed(core: Core, *names: str, cut_id: str = CUT) -> Hold:
    return await core.controller.quiesce(list(names or TWO), 2.0, "me", cut_id)


async def make(core: Core, lease: Hold, cut_id: str = CUT, fence: int | None = None) -> Json:
    """The command CUT."""
    newest = lease.fence if fence is None else fence
    return await core.controller.cuts.make(cut_id, lease.id, newest, "nightly", "db", MEMBERS)


async def made(core: Core, *names: str, cut_id: str = CUT) -> Hold:
    lease = await closed(core, *names, cut_id=cut_id)
    await make(core, lease, cut_id)
    return lease


async def opened(core: Core, lease: Hold, cut_id: str = CUT) -> Json:
    """The command OPEN: the vote."""
    return await core.controller.cuts.open(cut_id, lease.id, lease.fence)


async def ready(core: Core) -> Json:
    return await opened(core, await made(core))


# -------------------------------------------------------------------------- close, cut, open


async def test_the_secondaries_hold_what_came_before_the_cut_and_nothing_after() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"before")
        lease = await closed(core)
        waiting = core.send("data", 0, b"after!")
        result = await make(core, lease)
        assert result["sequence"] == core.pair().applied
        assert await opened(core, lease)
        assert await core.answer(waiting) == 0
        assert waiting.sequence > result["sequence"]
        assert core.image("data", "b")[:6] == b"before"


async def test_the_gates_stay_closed_from_the_cut_until_they_are_opened() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        waiting = core.send("data", 0, b"after!")
        await make(core, lease)
        await core.turns()
        assert waiting not in core.peer.answers
        await opened(core, lease)
        assert await core.answer(waiting) == 0


async def test_a_vote_is_a_promise_without_a_verdict() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"before")
        vote = await ready(core)
        assert (vote["state"], vote["verdict"], vote["members"]) == ("ready", None, MEMBERS)
        assert core.disk.unsynced("/b/data.img") == 0


async def test_a_vote_says_how_long_writes_waited() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        core.clock.now += 0.25
        core.send("data", 0, b"after!")
        core.clock.now += 0.25
        await make(core, lease)
        hold = (await opened(core, lease))["hold"]
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


async def test_it_is_consistent_once_a_coordinator_says_that_all_are_prepared() -> None:
    async with running(TWO) as core:
        await ready(core)
        assert core.named("suspended") == []
        shown = await core.controller.cuts.decide(CUT, cut_states.AGREE)
        assert (shown["state"], shown["verdict"], shown["volumes"]) == (
            "consistent",
            "consistent",
            list(TWO),
        )
        (event,) = core.named("suspended")
        assert (event["verdict"], event["group"], event["members"], event["volumes"]) == (
            "consistent",
            "db",
            MEMBERS,
            list(TWO),
        )


async def test_a_cut_has_what_a_certificate_needs_and_its_vote_the_images() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        result = await make(core, lease)
        vote = await opened(core, lease)
        assert (result["cut"], result["controller"]) == (CUT, "alpha")
        assert isinstance(result["journal"]["crc"], int)
        assert [image["secondary"] for image in vote["images"]] == ["/b/data.img", "/b/wal.img"]


async def test_a_promise_is_shown_and_given_only_once_it_is_durable() -> None:
    async with running(TWO) as core:
        lease = await made(core)
        shown: list[tuple[str, str]] = []
        ledger = core.controller.timeline.ledger

        def look(operation: str, path: str) -> None:
            if operation == "sync" and path.startswith("/state/journal"):
                shown.append((ledger.state_of(CUT), core.controller.cuts.show(CUT)["state"]))

        core.disk.before = look
        vote = await opened(core, lease)
        assert shown == [("cut", "cut"), ("ready", "cut")]
        assert vote["state"] == "ready"


# ---------------------------------------------------------------------------- what makes it void


@pytest.mark.parametrize(
    "reason", [ends.DEADLINE, ends.OWNER_GONE, ends.STOPPING, ends.BY_OWNER, ends.ABORTED]
)
async def test_a_hold_that_ends_before_the_gates_are_opened_makes_the_cut_void_for_good(
    reason: str,
) -> None:
    async with running(TWO) as core:
        lease = await made(core)
        assert core.controller.release(lease.id, reason)
        assert core.controller.cuts.show(CUT)["verdict"] == "void"
        with pytest.raises(LeaseLostError, match=reason):
            await opened(core, lease)
        for event in (cut_states.AGREE, cut_states.ABORT, cut_states.REFUSE):
            assert (await core.controller.cuts.decide(CUT, event))["verdict"] == "void"
        await core.until(lambda: CUT not in core.controller.archive.unsettled)
        assert core.states() == dict.fromkeys(TWO, "SUSPENDED")
        assert [event["verdict"] for event in core.named("suspended")] == ["void"]


async def test_a_late_cut_is_refused_and_cuts_nothing() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        core.controller.release(lease.id, ends.DEADLINE)
        with pytest.raises(LeaseLostError, match="deadline"):
            await make(core, lease)
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        with pytest.raises(NotFoundError):
            core.controller.cuts.show(CUT)


async def test_the_commands_of_a_former_owner_are_refused() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        old = lease.fence
        new = core.controller.renew(lease.id, old, 1.0)["fence"]
        with pytest.raises(LeaseLostError, match="renewed by another"):
            await make(core, lease, fence=old)
        await make(core, lease, fence=new)
        with pytest.raises(LeaseLostError, match="renewed by another"):
            await core.controller.cuts.open(CUT, lease.id, old)


async def test_pairs_that_are_no_longer_duplex_are_not_cut() -> None:
    async with running(TWO, {"db": list(TWO)}) as core:
        lease = await closed(core)
        leg = core.secondary("wal")
        leg.fail("sync")
        core.pair("wal").secondary_dirty = True
        await core.controller.checkpointer.checkpoint()
        with pytest.raises(WrongStateError, match=r"data is SUSPENDED.*wal is.*resync --wait"):
            await make(core, lease)
        with pytest.raises(NotFoundError):
            core.controller.cuts.show(CUT)


async def test_a_journal_that_does_not_take_the_cut_fails_and_a_restart_does_not_know_it() -> None:
    disk = new_disk()
    async with running(TWO, disk=disk) as core:
        lease = await closed(core)
        core.disk.fail("/state/journal", errno.EIO, operation="writev", times=1)
        with pytest.raises(OSError, match="could not be written"):
            await make(core, lease)
        assert core.controller.failed
    async with running(TWO, disk=disk) as core:
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        with pytest.raises(NotFoundError):
            core.controller.cuts.show(CUT)


async def test_a_secondary_that_cannot_be_synced_votes_void() -> None:
    async with running(TWO) as core:
        leg = core.secondary("wal")
        await core.write("wal", 0, b"x")
        lease = await made(core)
        leg.fail("sync")
        vote = await opened(core, lease)
        assert vote["state"] == "void"
        await core.controller.cuts.decide(CUT, cut_states.REFUSE)
        events = [event for event in core.named("suspended") if event["cut"] == CUT]
        assert [(event["verdict"], event["volumes"]) for event in events] == [("void", list(TWO))]


async def test_a_secondary_that_was_replaced_votes_void_and_the_vote_says_which() -> None:
    async with running(TWO) as core:
        lease = await made(core)
        core.disk.replace_file("/b/data.img", core.image("data", "b"))
        vote = await opened(core, lease)
        assert (vote["state"], vote["verdict"]) == ("void", "void")
        assert "/b/data.img" in vote["why"]


async def test_a_consistent_cut_that_loses_a_secondary_later_stays_consistent() -> None:
    async with running(TWO) as core:
        await ready(core)
        await core.controller.cuts.decide(CUT, cut_states.AGREE)
        core.secondary("wal").fail("sync")
        pair = core.pair("wal")
        pair.secondary_dirty = True  # as after a start: it may hold what is not on the disk
        await core.controller.checkpointer.sync_secondaries([pair])
        shown = core.controller.cuts.show(CUT)
        assert (shown["verdict"], shown["volumes"]) == ("consistent", ["data"])
        events = [event for event in core.named("suspended") if event["cut"] == CUT]
        assert [event["verdict"] for event in events] == ["consistent"]


async def test_a_promise_outlives_the_secondary_it_was_given_for() -> None:
    """Others may have been told of it, and know the cut to be consistent."""
    async with running(TWO) as core:
        await ready(core)
        core.secondary("wal").fail("sync")
        core.pair("wal").secondary_dirty = True
        await core.controller.checkpointer.sync_secondaries([core.pair("wal")])
        answer = await core.controller.cuts.decide(CUT, cut_states.AGREE)
        assert (answer["verdict"], answer["volumes"]) == ("consistent", ["data"])


@pytest.mark.parametrize("reason", [ends.DEADLINE, ends.BY_OWNER])
async def test_a_cut_that_is_void_while_it_is_held_does_not_block_resyncs(reason: str) -> None:
    async with running(TWO) as core:
        lease = await made(core)
        await core.controller.cuts.grade(CUT, False, 1, "broken")
        core.controller.release(lease.id, reason)
        await core.controller.resync(list(TWO))
        done = await asyncio.wait_for(core.controller.resync_wait(list(TWO)), 20)
        assert {volume["state"] for volume in done["volumes"]} == {"DUPLEX"}
        assert not core.controller.archive.unsettled


# -------------------------------------------------------------------------------- decisions


async def test_an_abort_before_the_promise_is_final() -> None:
    async with running(TWO) as core:
        assert (await core.controller.cuts.decide(CUT, cut_states.ABORT))["state"] == "void"
        with pytest.raises(LeaseLostError, match="void on this controller already"):
            await closed(core)


async def test_an_abort_after_the_promise_changes_nothing() -> None:
    async with running(TWO) as core:
        await ready(core)
        assert (await core.controller.cuts.decide(CUT, cut_states.ABORT))["state"] == "ready"
        assert (await core.controller.cuts.decide(CUT, cut_states.AGREE))["state"] == "consistent"


async def test_what_was_not_promised_is_not_committed() -> None:
    async with running(TWO) as core:
        with pytest.raises(WrongStateError, match="unknown here"):
            await core.controller.cuts.decide(CUT, cut_states.AGREE)
        await made(core)
        with pytest.raises(WrongStateError, match="agree is not possible"):
            await core.controller.cuts.decide(CUT, cut_states.AGREE)


@pytest.mark.parametrize("how", [cut_states.ABORT, cut_states.REFUSE])
async def test_an_abort_ends_the_hold(how: str) -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        held = core.send("data", 0, b"x")
        await core.controller.cuts.decide(CUT, how)
        assert await lease.ended == ends.ABORTED
        assert await core.answer(held) == 0


@pytest.mark.parametrize("how", [cut_states.ABORT, cut_states.REFUSE])
@pytest.mark.parametrize("cut", [True, False])
async def test_the_marker_of_an_abort_is_never_beside_a_batch(how: str, cut: bool) -> None:
    """The gates open in the same step: a heavy batch of what they held takes the journal to a
    worker.
    """
    async with running(TWO) as core:
        lease = await closed(core)
        held = core.send("data", 0, b"the first to its region")
        if cut:
            await make(core, lease)
        timeline, beside = core.controller.timeline, list[tuple[Marker, bool]]()
        append = timeline.append

        def note(marker: Marker) -> int:
            beside.append((marker, timeline.busy))
            return append(marker)

        core.controller.leases.participant._mark = note
        assert (await core.controller.cuts.decide(CUT, how))["state"] == "void"
        assert await core.answer(held) == 0
        assert beside == [(Void(CUT), False)]


async def test_a_decision_is_durable_when_it_is_answered() -> None:
    async with running(TWO) as core:
        await ready(core)
        await core.controller.cuts.decide(CUT, cut_states.AGREE)
        timeline = core.controller.timeline
        assert timeline.writer.synced == timeline.written


async def test_a_hold_that_is_released_without_a_cut_leaves_no_trace() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        assert core.controller.cuts.release(CUT) == {"lease": lease.id, "released": True}
        assert core.controller.cuts.release(CUT) == {"lease": None, "released": False}
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        assert core.controller.cuts.all() == {"cuts": []}


# ---------------------------------------------------------------------------------- restarts


async def _promise_and_die(core: Core) -> None:
    await ready(core)
    await core.crash(power=False)


async def _cut_and_die(core: Core) -> None:
    await made(core)
    await core.controller.timeline.durable()
    await core.crash(power=False)


@pytest.mark.parametrize(
    ("die", "state"), [(_promise_and_die, cut_states.READY), (_cut_and_die, cut_states.VOID)]
)
def test_a_restart_keeps_promises_and_makes_void_what_was_not_promised(
    die: Callable[[Core], Coroutine[None, None, None]], state: str
) -> None:
    disk = new_disk()

    async def first() -> None:
        await die(await Core.begin(disk, settings(TWO)))

    async def second() -> str:
        async with running(TWO, disk=disk) as core:
            return core.controller.timeline.ledger.state_of(CUT)

    run(first())
    assert run(second()) == state


SMALL = dataclasses.replace(EngineLimits(), cuts_kept_max=2)


def test_a_restart_makes_a_cut_void_that_only_its_pairs_remember() -> None:
    """More cuts are in doubt than are kept: those that pairs are at are found by the pairs."""
    disk = new_disk()
    cut_ids = [f"{number:016x}" for number in (1, 2, 3)]

    async def die() -> None:
        core = await Core.begin(disk, settings(THREE), limits=SMALL)
        for cut_id, name in zip(cut_ids, THREE, strict=True):
            await made(core, name, cut_id=cut_id)
        assert cut_ids[0] not in core.controller.timeline.ledger.cuts
        await core.controller.timeline.durable()
        await core.crash(power=False)

    async def again() -> list[str]:
        async with running(THREE, disk=disk, limits=SMALL) as core:
            return [core.controller.timeline.ledger.state_of(cut_id) for cut_id in cut_ids]

    run(die())
    assert run(again()) == [cut_states.VOID] * 3

"""Marks at one controller: in which states, what they leave alone, what a restart makes of them."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core import cut_states
from duplexd.core import lease as ends
from duplexd.core.markers import Rollback
from duplexd.core.rollback import Order
from duplexd.engine.journal_space import NO_ROOM
from duplexd.errors import LeaseLostError, NotFoundError, WrongStateError
from tests.unit.engine.cores import Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from duplexd.engine.leases import Hold
    from duplexd.json_object import Json

TWO = {"data": "sync", "wal": "sync"}
MARK = "00000000000000aa"
MEMBERS = ["alpha", "beta"]


async def closed(core: Core, *names: str, mark_id: str = MARK) -> Hold:
    return await core.controller.quiesce(list(names or TWO), 2.0, "me", mark_id, mark=True)


async def make(core: Core, lease: Hold) -> Json:
    cuts = core.controller.cuts
    return await cuts.make(lease.cut_id, lease.id, lease.fence, "nightly", "db", MEMBERS)


async def made(core: Core, mark_id: str = MARK) -> Hold:
    lease = await closed(core, mark_id=mark_id)
    await make(core, lease)
    return lease


async def opened(core: Core, lease: Hold) -> Json:
    return await core.controller.cuts.open(lease.cut_id, lease.id, lease.fence)


async def agreed(core: Core, mark_id: str = MARK) -> Json:
    vote = await opened(core, await made(core, mark_id))
    assert vote["state"] == "ready"
    return await core.controller.cuts.decide(mark_id, cut_states.AGREE)


def points(core: Core, *names: str) -> list[tuple[str, str, bool]]:
    found = core.controller.marks.points(names)["points"]
    return [(each["kind"], each["tag"], each["within_reach"]) for each in found]


# ------------------------------------------------------------------------- of this controller alone


async def test_a_mark_is_durable_consistent_and_suspends_nobody() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"before")
        mark = await core.controller.mark(["data", "wal"], "nightly")
        assert (mark["kind"], mark["verdict"], mark["tag"]) == ("mark", "consistent", "nightly")
        assert mark["volumes"] == ["data", "wal"]
        assert core.controller.timeline.writer.synced >= mark["sequence"]
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        await core.write("data", 0, b"after!")
        assert core.equal("data")
        assert core.controller.status()["cuts"] == []
        assert core.controller.cuts.all()["cuts"] == []
        (event,) = core.named("marked")
        assert (event["mark"], event["at"], event["verdict"]) == (
            mark["id"],
            mark["sequence"],
            "consistent",
        )
        assert core.named("suspended") == core.named("quiesced") == []


async def test_a_mark_is_no_cut_of_its_volumes() -> None:
    async with running(TWO) as core:
        await core.controller.mark(["data"])
        status = core.controller.status()["volumes"][0]
        assert (status["consistent_cut_time"], status["secondary"]["cut"]) == (None, None)
        assert core.controller.counters().cuts == 0
        assert core.controller.counters().marks == 1
        assert core.controller.counters().last_mark_time == pytest.approx(core.clock.wall())


async def test_a_suspended_pair_stays_at_its_cut_and_is_marked() -> None:
    async with running(TWO) as core:
        cut = await core.controller.suspend(["data"], tag="cut")
        await core.write("data", 0, b"after!")
        mark = await core.controller.mark(["data", "wal"], "mark")
        assert core.pair("data").applied == cut["controllers"]["alpha"] < mark["sequence"]
        assert core.pair("data").cut is core.controller.archive.find(cut["cut"])
        # both secondaries are at it, or before it
        assert points(core) == [("cut", "cut", True), ("mark", "mark", True)]
        await core.write("wal", 0, b"after!")
        assert points(core) == [("cut", "cut", True), ("mark", "mark", False)]
        await core.controller.suspend(["wal"], tag="later")
        assert points(core, "data") == [("cut", "cut", True), ("mark", "mark", False)]
        await core.controller.mark(["data", "wal"], "last")
        assert points(core)[-1] == ("mark", "last", True)


async def test_pairs_without_a_secondary_and_in_a_resync_are_marked() -> None:
    async with running({"data": "sync", "alone": ""}) as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        await core.controller.resync(["data"])
        mark = await core.controller.mark(["data", "alone"])
        assert mark["verdict"] == "consistent"
        done = await asyncio.wait_for(core.controller.resync_wait(["data"]), 20)
        assert [row["state"] for row in done["volumes"]] == ["DUPLEX"]
        assert points(core, "alone") == [("mark", "", False)]


async def test_a_reader_is_left_alone() -> None:
    async with running(TWO) as core:
        await core.controller.suspend(["data"], reader="backup")
        await core.controller.mark(["data"])
        assert list(core.pair("data").record.readers) == ["backup"]


async def test_a_volume_that_is_half_way_back_to_its_cut_is_not_marked() -> None:
    async with running(TWO) as core:
        cut = await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        marker = Rollback("r", cut["cut"], [core.pair("data").id])
        lease = await closed(core, "data", "wal")
        await core.controller.timeline.at_rest(lambda: core.controller.timeline.append(marker))
        with pytest.raises(WrongStateError, match="data is not served"):
            await make(core, lease)
        with pytest.raises(WrongStateError, match="data is not served"):
            await core.controller.mark(["data", "wal"])
        core.controller.release(lease.id)


async def test_a_rollback_begins_beside_a_mark() -> None:
    async with running(TWO) as core:
        cut = await core.controller.suspend(["data"])
        await core.write("data", 0, b"after!")
        lease = await closed(core, "data")
        rolled = asyncio.ensure_future(core.controller.rollback(["data"], Order(cut["cut"])))
        await core.until(lambda: bool(core.pair("data").closed) or rolled.done())
        assert core.pair("data").closed
        core.controller.release(lease.id)
        await asyncio.wait_for(rolled, 20)
        assert core.image("data", "a")[:6] == bytes(6)


async def test_no_mark_takes_the_room_that_changes_wait_for() -> None:
    async with running(TWO) as core:
        admission, marks = core.controller.admission, core.controller.marks
        admission.hold(NO_ROOM)
        with pytest.raises(WrongStateError, match="nothing was marked: the journal has no room"):
            marks.check_room()
        admission.lift(NO_ROOM)
        admission.refuse(errno.ENOSPC)
        with pytest.raises(WrongStateError, match="nothing was marked: the journal has no room"):
            marks.check_room()
        admission.refuse(0)
        admission.hold("a follower is too far behind")
        marks.check_room()
        admission.lift("a follower is too far behind")


async def test_room_is_asked_for_before_a_marker_and_before_a_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full() -> None:
        raise WrongStateError("no room")

    async with running(TWO) as core:
        monkeypatch.setattr(core.controller.marks, "check_room", full)
        before = core.controller.sequence
        with pytest.raises(WrongStateError, match="no room"):
            await core.controller.mark(["data"])
        with pytest.raises(WrongStateError, match="no room"):
            await closed(core)
        assert not core.controller.leases.held
        assert core.controller.sequence == before


async def test_a_journal_that_does_not_take_it_fails_and_a_restart_does_not_know_it() -> None:
    disk = new_disk()
    async with running(TWO, disk=disk) as core:
        core.disk.fail("/state/journal", errno.EIO, operation="writev", times=1)
        with pytest.raises(OSError, match="could not be written"):
            await core.controller.mark(["data"])
        with pytest.raises(WrongStateError, match="nothing was marked"):
            await core.controller.mark(["data"])
    async with running(TWO, disk=disk) as core:
        assert points(core) == []


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_restart_knows_what_was_answered(power: bool, checkpoint: bool) -> None:
    disk = new_disk()

    async def first() -> Json:
        core = await Core.begin(disk, settings(TWO))
        mark = await core.controller.mark(["data", "wal"], "kept")
        if checkpoint:
            await core.controller.checkpointer.checkpoint()
        await core.crash(power)
        return mark

    async def second() -> Json:
        async with running(TWO, disk=disk) as core:
            found: Json
            (found,) = core.controller.marks.points()["points"]
            return found

    mark, found = run(first()), run(second())
    names = ("id", "sequence", "time", "tag", "verdict")
    assert [found[name] for name in names] == [mark[name] for name in names]


async def test_as_many_are_kept_as_the_configuration_says() -> None:
    async with running(TWO) as core:
        core.controller.timeline.ledger.book.marks.keep(16)
        for number in range(20):
            await core.controller.mark(["data"], str(number))
        assert [tag for _, tag, _ in points(core)] == [str(number) for number in range(4, 20)]
        with pytest.raises(NotFoundError):
            core.controller.cuts.show("0" * 16)


# ------------------------------------------------------------------------ with other controllers


async def test_a_vote_needs_no_secondary_and_the_verdict_is_that_of_all() -> None:
    async with running(TWO) as core:
        await core.write("data", 0, b"before")
        lease = await closed(core)
        waiting = core.send("data", 0, b"after!")
        result = await make(core, lease)
        await core.turns()
        assert waiting not in core.peer.answers
        core.secondary("wal").fail("sync")
        vote = await opened(core, lease)
        assert (vote["state"], vote["verdict"], vote["kind"]) == ("ready", None, "mark")
        assert (vote["hold"]["writes_held"], vote["volumes"]) == (1, [])
        assert await core.answer(waiting) == 0
        assert waiting.sequence > result["sequence"]
        assert [each["id"] for each in core.controller.status()["cuts"]] == [MARK]
        shown = await core.controller.cuts.decide(MARK, cut_states.AGREE)
        assert (shown["verdict"], shown["members"]) == ("consistent", MEMBERS)
        assert core.controller.status()["cuts"] == []
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        assert [event["verdict"] for event in core.named("marked")] == ["consistent"]
        assert core.named("suspended") == core.named("cut") == core.named("quiesced") == []


async def test_pairs_in_any_state_are_held_for_a_mark() -> None:
    async with running({**TWO, "alone": ""}) as core:
        await core.controller.suspend(["data"])
        lease = await closed(core, "data", "wal", "alone")
        await make(core, lease)
        assert (await opened(core, lease))["state"] == "ready"
        assert core.states() == {"data": "SUSPENDED", "wal": "DUPLEX", "alone": "SIMPLEX"}


async def test_a_suspend_goes_on_while_a_mark_holds() -> None:
    async with running(TWO) as core:
        lease = await made(core)
        cut = await core.controller.suspend(list(TWO))
        assert cut["verdict"] == "consistent"
        assert (await opened(core, lease))["state"] == "ready"


async def test_a_cut_of_a_group_and_a_mark_hold_the_same_volumes() -> None:
    async with running(TWO) as core:
        lease = await closed(core)
        other = await core.controller.quiesce(list(TWO), 2.0, "me", "00000000000000bb")
        await make(core, lease)
        waiting = core.send("data", 0, b"x")
        await opened(core, lease)
        await core.turns()
        assert waiting not in core.peer.answers, "the end of a mark opened the gate of a cut"
        cuts = core.controller.cuts
        await cuts.make(other.cut_id, other.id, other.fence, "", "db", MEMBERS)
        vote = await cuts.open(other.cut_id, other.id, other.fence)
        assert vote["state"] == "ready"
        assert await core.answer(waiting) == 0


@pytest.mark.parametrize(
    "reason", [ends.DEADLINE, ends.OWNER_GONE, ends.STOPPING, ends.BY_OWNER, ends.ABORTED]
)
async def test_a_hold_that_ends_before_the_gates_are_opened_makes_it_void(reason: str) -> None:
    async with running(TWO) as core:
        lease = await made(core)
        assert core.controller.release(lease.id, reason)
        assert core.controller.cuts.show(MARK)["verdict"] == "void"
        with pytest.raises(LeaseLostError, match=reason):
            await opened(core, lease)
        assert (await core.controller.cuts.decide(MARK, cut_states.AGREE))["verdict"] == "void"
        await core.until(lambda: MARK not in core.controller.archive.unsettled)
        assert core.states() == dict.fromkeys(TWO, "DUPLEX")
        assert [event["verdict"] for event in core.named("marked")] == ["void"]
        assert core.controller.counters().marks == 0


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize(("voted", "state"), [(False, "void"), (True, "ready")])
def test_a_restart_keeps_a_promise_and_nothing_else(power: bool, voted: bool, state: str) -> None:
    disk = new_disk()

    async def first() -> None:
        core = await Core.begin(disk, settings(TWO))
        lease = await made(core)
        await core.controller.timeline.durable()
        if voted:
            await opened(core, lease)
        await core.crash(power)

    async def second() -> str:
        async with running(TWO, disk=disk) as core:
            return str(core.controller.cuts.show(MARK)["state"])

    run(first())
    assert run(second()) == state


async def test_nothing_is_at_a_mark_that_could_be_graded_or_read() -> None:
    async with running(TWO) as core:
        await agreed(core)
        with pytest.raises(WrongStateError, match="is a mark"):
            await core.controller.cuts.grade(MARK, True, 1, "")
        with pytest.raises(WrongStateError, match="not at cut"):
            await core.controller.cuts.read(MARK, "data", 0, 512)


async def test_many_marks_leave_the_figures_of_a_cut() -> None:
    async with running(TWO) as core:
        cut = await core.controller.suspend(list(TWO))
        for number in range(20):
            await agreed(core, f"{number:016x}")
        assert core.controller.cuts.show(cut["cut"])["hold"] is not None
        found = core.controller.marks.points()["points"]
        assert [each["within_reach"] for each in found] == [True] * 21

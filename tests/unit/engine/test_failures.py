"""Storage that fails under a controller: what clients, states and the journal see of it."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import WRITE, ZERO
from duplexd.core import pair_states
from duplexd.core.markers import MakeCut
from duplexd.core.patience import SYNC, Access
from duplexd.engine.opening import why_absent
from duplexd.errors import DuplexdError
from duplexd.runtime.watch import HungError
from duplexd.units import KIB, MIB
from tests.support.fault_leg import FaultLeg
from tests.unit.engine.cores import Core, new_disk, run, running, settings
from tests.unit.engine.parts import Parts
from tests.unit.engine.test_apply import perform

if TYPE_CHECKING:
    from duplexd.core.pair import Pair, PairChange
    from tests.support.fault_leg import Operation

GROUP = {"data": "sync", "wal": "sync", "other": "sync"}
DB = {"db": ["data", "wal"]}
FROZEN = {"data": "SUSPENDED", "wal": "SUSPENDED", "other": "DUPLEX"}


# ---------------------------------------------------------------------------- secondaries


async def test_a_failed_secondary_freezes_its_group_at_one_number_and_no_client_notices() -> None:
    async with running(GROUP, DB) as core:
        await core.write("wal", 0, b"before")
        core.secondary("data").fail("write", errno.EIO)
        assert await core.write("data", 0, b"fails on the secondary") == 0
        assert await core.write("wal", 0, b"after!") == 0
        assert core.states() == FROZEN
        assert [core.pair(name).reason for name in DB["db"]] == [
            "by secondary error",
            "by group freeze",
        ]
        data, wal = core.pair("data"), core.pair("wal")
        assert data.cut is wal.cut
        assert data.cut is not None
        assert data.applied == wal.applied == data.cut.sequence
        assert core.image("wal", "b")[:6] == b"before"


async def test_the_event_of_a_freeze_names_the_secondary_that_failed() -> None:
    async with running(GROUP, DB) as core:
        core.secondary("data").fail("write", errno.EIO)
        change = core.send("data", 0, b"fails on the secondary")
        await core.answer(change)
        (event,) = core.named("suspended")
        assert (event["reason"], event["failed"], event["path"], event["volumes"]) == (
            "by secondary error",
            "data",
            "/b/data.img",
            DB["db"],
        )
        assert event["at"] == change.sequence - 1


async def test_where_no_secondary_failed_the_event_names_the_journal() -> None:
    async with running(GROUP, DB) as core:
        pairs = {core.pair(name) for name in DB["db"]}
        timeline, failures = core.controller.timeline, core.controller.failures
        why = OSError(errno.EIO, "/state/journal/0001.seg: Input/output error")
        await timeline.at_rest(
            lambda: failures.freeze(pairs, None, timeline.written, why, set(), {})
        )
        (event,) = core.named("suspended")
        assert (event["reason"], event["failed"], event["path"]) == ("by journal error", "", "")
        assert {core.pair(name).reason for name in DB["db"]} == {"by journal error"}
        shown = core.controller.status()["volumes"][0]["secondary"]
        assert shown["error"] == why.strerror


async def test_changes_of_one_batch_behind_the_failure_reach_no_secondary_of_the_group() -> None:
    async with running(GROUP, DB) as core:
        core.secondary("data").fail("write", errno.EIO)
        changes = [
            core.change(WRITE, name, 0, 4, b"new!") for name in ("wal", "data", "wal", "other")
        ]
        changes[2].offset = 4096
        core.controller.submit(changes)
        assert [await core.answer(change) for change in changes] == [0, 0, 0, 0]
        assert core.pair("data").applied == changes[0].sequence
        assert core.image("wal", "b")[:4] == b"new!", "before the failure"
        assert core.image("wal", "b")[4096:4100] == bytes(4), "after it"
        assert core.image("other", "b")[:4] == b"new!", "not of the group"
        assert core.pair("wal").changed is not None


async def test_a_secondary_that_hangs_may_lose_what_was_not_synced_on_it() -> None:
    """No sync of it can end any more, and its disk may lose what only the page cache has."""
    async with running({"data": "sync"}, size=4 * MIB) as core:
        await core.controller.checkpointer.checkpoint()
        await core.write("data", MIB, b"in the page cache")
        pair, secondary = core.pair(), core.pair().copy_of
        hung = HungError(secondary, 5.0)
        core.controller.failed_legs.found(pair, secondary, hung)
        await core.until(lambda: core.states() == {"data": "SUSPENDED"})
        assert not pair.usable
        assert pair.changed is not None
        start, length = pair.changed.next_run(0, pair.size) or (0, 0)
        assert start <= MIB < start + length


@pytest.mark.parametrize("unsynced", [False, True])
async def test_a_resync_with_nothing_left_to_apply_does_not_end_on_a_secondary_that_was_given_up(
    unsynced: bool,
) -> None:
    """It would be DUPLEX without a secondary. What was not synced on it may be lost."""
    async with running({"data": "sync"}, size=4 * MIB) as core:
        await core.controller.checkpointer.checkpoint()
        await core.write("data", MIB, b"before the cut")
        await core.controller.suspend(["data"])
        await core.controller.resync(["data"])
        pair, secondary = core.pair(), core.pair().copy_of
        pair.secondary_dirty = unsynced
        assert pair.state == pair_states.PENDING
        core.controller.failed_legs.found(pair, secondary, HungError(secondary, 5.0))
        await core.controller.resync_wait(["data"])
        assert (pair.state, pair.usable) == (pair_states.SUSPENDED, not unsynced)
        lacks = pair.changed is not None and pair.changed.any()
        assert lacks == unsynced


class Silent(FaultLeg):
    """The secondary of a pair, whose path cannot be looked at: the disk does not answer."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair.copy_of)
        self.pair = pair
        pair.set_legs(pair.primary, self, pair.mode)

    def in_place(self, path: str = "") -> bool:
        raise HungError(Access(self.pair, self, SYNC), 30.0)


async def test_a_cut_is_what_it_was_when_its_disk_does_not_answer() -> None:
    async with running({"data": "sync"}) as core:
        await core.write("data", 0, b"before")
        assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"
        pair = core.pair()
        Silent(pair)
        await core.controller.checkpointer.sync_secondaries([pair])
        assert (pair.usable, pair.reason) == (True, "by command")
        assert why_absent(pair.secondary), "nobody waits for it again"


async def test_a_cut_is_void_if_its_disk_did_not_answer_before_it_was_synced() -> None:
    async with running({"data": "sync"}) as core:
        await core.write("data", 0, b"before")
        pair = core.pair()
        Silent(pair)
        assert (await core.controller.suspend(["data"]))["verdict"] == "void"


async def test_a_secondary_that_hangs_at_a_cut_before_it_was_synced_is_not_usable() -> None:
    async with running({"data": "sync"}) as core:
        await core.controller.suspend(["data"])
        pair = core.pair()
        pair.secondary_dirty = True
        core.controller.failed_legs.found(pair, pair.copy_of, HungError(pair.copy_of, 5.0))
        await core.until(lambda: bool(why_absent(pair.secondary)))
        assert not pair.usable


async def test_a_sync_that_fails_after_its_secondary_was_given_up_is_heeded() -> None:
    """What a suspend was about to call durable is not."""
    async with running({"data": "sync"}) as core:
        await core.write("data", 0, b"in the page cache")
        pair, secondary = core.pair(), core.secondary("data")

        def hangs_elsewhere() -> None:
            core.controller.failed_legs.found(pair, secondary, HungError(secondary, 5.0))
            raise OSError(errno.EIO, "no answer")

        secondary.delay = lambda operation: hangs_elsewhere() if operation == "sync" else None
        result = await core.controller.suspend(["data"])
        assert (result["verdict"], pair.usable) == ("void", False)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_a_torn_write_is_healed_and_the_secondary_stays_usable(error: int) -> None:
    async with running() as core:
        await core.write("data", 0, b"a" * 8192)
        core.secondary().tear(error)
        assert await core.write("data", 0, b"b" * 8192) == 0
        pair = core.pair()
        assert (pair.state, pair.usable) == ("SUSPENDED", True)
        assert core.image("data", "b")[:8192] == b"a" * 8192
        assert pair.cut is not None
        await core.controller.settling.wait(pair.cut)
        assert pair.cut.verdict == "consistent"


async def test_a_torn_write_that_cannot_be_healed_makes_it_unusable_and_the_cut_void() -> None:
    async with running(GROUP, DB) as core:
        core.secondary("data").tear(errno.EIO, times=None)
        assert await core.write("data", 0, b"b" * 8192) == 0
        pair = core.pair("data")
        assert (pair.state, pair.usable) == ("SUSPENDED", False)
        assert pair.cut is not None
        assert pair.cut.verdict == "void"
        assert core.pair("wal").usable


async def test_a_healed_secondary_that_could_not_be_synced_is_copied_as_a_whole() -> None:
    """The failed sync may have lost older changes, too."""
    parts = Parts()
    secondary = parts.legs["data"][1]
    secondary.tear(errno.EIO)
    secondary.fail("sync")
    parts.send("data", 0, b"b" * 4096)
    pair = parts.pair()
    assert not pair.usable
    assert pair.changed is not None
    assert pair.changed.changed_bytes == pair.size


async def test_pairs_that_share_no_group_are_suspended_each_at_its_own_failure() -> None:
    parts = Parts()
    parts.volumes.groups = {}
    for name in ("data", "wal"):
        parts.pair(name).groups = []
        parts.legs[name][1].fail("write")
    first, second = parts.change("data", 0, b"x"), parts.change("wal", 0, b"x")
    parts.submit(first, second)
    cuts = [parts.pair(name).cut for name in ("data", "wal")]
    assert [cut.sequence if cut else 0 for cut in cuts] == [first.sequence - 1, second.sequence - 1]


async def test_a_pair_of_two_groups_is_suspended_with_the_one_that_fails_first() -> None:
    async with running(GROUP, {"one": ["data", "wal"], "two": ["wal", "other"]}) as core:
        core.secondary("data").fail("write")
        core.secondary("other").fail("write")
        changes = [core.change(WRITE, name, 0, 1, b"x") for name in ("data", "other")]
        core.controller.submit(changes)
        for change in changes:
            await core.answer(change)
        data, wal, other = (core.pair(name).cut for name in GROUP)
        assert data is wal
        assert data is not None
        assert other is not None
        assert (data.sequence, other.sequence) == (
            changes[0].sequence - 1,
            changes[1].sequence - 1,
        )


async def test_a_secondary_comes_back_with_all_that_it_missed() -> None:
    async with running(GROUP, DB) as core:
        leg = core.secondary("data")
        leg.fail("write", errno.EIO)
        for place in range(5):
            await core.write("data", place * 65536, bytes([place + 1]) * 4096)
            await core.write("wal", place * 65536, bytes([place + 1]) * 4096)
        leg.heal()
        await core.controller.resync(["data", "wal"])
        result = await core.controller.resync_wait(["data", "wal"])
        assert [volume["state"] for volume in result["volumes"]] == ["DUPLEX", "DUPLEX"]
        assert core.equal("data")
        assert core.equal("wal")


async def test_a_sync_that_fails_on_a_secondary_suspends_its_group() -> None:
    async with running(GROUP, DB) as core:
        await core.write("data", 0, b"x")
        core.secondary("data").fail("sync", errno.EIO)
        await core.controller.checkpointer.checkpoint()
        assert core.states() == FROZEN
        assert not core.pair("data").usable


async def test_a_freeze_that_the_journal_refuses_is_final() -> None:
    """The secondary would count as current; the change itself is in the journal and answered."""
    parts = Parts()
    parts.legs["data"][1].fail("write")
    parts.disk.fail("/state/journal", errno.EIO, after=1, operation="writev", times=1)
    change = parts.send("data", 0, b"x")
    assert (parts.answered(change), change.error) == (True, 0)
    assert "could not be written" in parts.timeline.failed


async def test_a_freeze_outside_of_a_batch_that_the_journal_refuses_is_final_too() -> None:
    """As of a follower, or of a sync."""
    parts = Parts()
    pair = parts.pair()
    parts.fail_journal("writev", errno.EIO)
    gone = OSError(errno.EIO, "gone")
    with pytest.raises(OSError, match="could not be written"):
        await parts.timeline.at_rest(
            lambda: parts.failures.freeze({pair}, pair, pair.applied, gone, {pair}, {})
        )
    assert "could not be written" in parts.timeline.failed


async def test_a_secondary_that_holds_more_than_the_failed_one_is_suspended_where_it_is() -> None:
    """A follower may bring pairs together that came from different cuts."""
    parts = Parts()
    data, wal = parts.pair("data"), parts.pair("wal")
    for pair in (data, wal):
        pair.set_legs(pair.primary, pair.secondary, "async")
    at = data.applied
    ahead = parts.send("wal", 0, b"x").sequence
    parts.ledger.advance(wal.record, ahead)
    parts.failures.freeze({data, wal}, data, at, OSError(errno.EIO, "gone"), (), {})
    cuts = [data.cut, wal.cut]
    assert [cut.sequence if cut else 0 for cut in cuts] == [at, ahead]
    assert [pair.applied for pair in (data, wal)] == [at, ahead]
    assert [event["at"] for event in parts.named("suspended")] == [at, ahead]


async def test_the_failure_of_a_secondary_at_a_groups_cut_announces_that_as_void() -> None:
    parts = Parts()
    parts.timeline.append(MakeCut("aa", "", [1, 2], "db", ["alpha", "beta"]))
    pair = parts.pair()
    parts.failures.freeze({pair}, pair, pair.applied, OSError(errno.EIO, "gone"), {pair}, {})
    assert [(event["cut"], event.get("verdict")) for event in parts.named("suspended")[1:]] == [
        ("aa", "void")
    ]
    assert parts.ledger.state_of("aa") == "void"


async def test_a_secondary_that_fails_during_a_resync_by_map_ends_it_for_all_of_its_pairs() -> None:
    """The others are suspended at their cuts again, untouched."""
    for lost, spared in (("data", "log"), ("log", "data")):
        async with running({"data": "sync", "log": "sync"}) as core:
            cut = await core.controller.suspend(["data", "log"])
            for name in ("data", "log"):
                for _ in range(40):  # the map is shorter than the journal
                    assert await core.write(name, 0, b"\x21" * 4096) == 0
            started = await core.controller.resync(["data", "log"])
            assert [volume["how"] for volume in started["volumes"]] == ["map", "map"]
            pair, other = core.pair(lost), core.pair(spared)
            leg = core.secondary(lost)
            leg.fail("sync")
            pair.secondary_dirty = True
            await core.controller.checkpointer.sync_secondaries([pair])
            await core.controller.resync_wait(["data", "log"])
            assert (pair.state, pair.usable) == (pair_states.SUSPENDED, False)
            assert (other.state, other.usable, other.applied) == (
                pair_states.SUSPENDED,
                True,
                cut["controllers"]["alpha"],
            )
            assert other.cut is not None
            assert other.cut.sequence == other.applied


# ------------------------------------------------------------- primaries, with a current secondary


async def test_a_primary_that_fails_costs_a_swap_and_no_client_notices() -> None:
    async with running(GROUP, DB) as core:
        await core.write("data", 0, b"before")
        primary, secondary = core.faulty("data")
        primary.fail("write", errno.EIO)
        assert await core.write("data", 0, b"fails on the primary") == 0
        pair = core.pair("data")
        assert (pair.primary, pair.copy_of.path) == (secondary, primary.path)
        assert (pair.record.swapped, pair.state, pair.usable) == (True, "SUSPENDED", False)
        assert await core.read("data", 0, 5) == (0, b"fails")
        assert core.states() == {"data": "SUSPENDED", "wal": "DUPLEX", "other": "DUPLEX"}


async def test_a_new_disk_at_the_place_of_a_failed_primary_needs_no_restart() -> None:
    async with running({"data": "sync"}) as core:
        core.disk.fail("/a/data.img", errno.EIO, operation="write")
        await core.write("data", 0, b"fails on the primary")
        await core.until(lambda: not core.disk.in_use("/a/data.img"))
        core.disk.remove("/a/data.img")
        core.disk.create("/a/data.img", core.pair().size).close()
        core.disk.heal("/a/data.img")
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": "DUPLEX"}
        assert core.equal()


async def test_a_swap_is_said_with_the_images_and_the_error() -> None:
    async with running() as core:
        core.faulty()[0].fail("write", errno.EIO)
        await core.write("data", 0, b"x")
        (event,) = core.named("swapped")
        assert (event["volume"], event["primary"], event["secondary"]) == (
            "data",
            "/b/data.img",
            "/a/data.img",
        )
        assert [event["path"] for event in core.named("primary-failed")] == ["/a/data.img"]


async def test_a_full_primary_costs_a_swap_too() -> None:
    async with running() as core:
        core.faulty()[0].fail("write", errno.ENOSPC)
        assert await core.write("data", 0, b"x") == 0
        assert core.pair().record.swapped


async def test_behind_a_failed_primary_a_batch_goes_on_with_the_secondary_alone() -> None:
    parts = Parts()
    primary, _ = parts.legs["data"]
    primary.fail("write", errno.EIO, after=1)
    changes = [parts.change("data", place * 4096, bytes([place + 1]) * 4096) for place in range(3)]
    parts.submit(*changes)
    parts.workers.finish_all()
    assert [change.error for change in changes] == [0, 0, 0]
    assert primary.calls["write"] == 2, "after its error it gets nothing more"
    assert parts.images["data"][1].data[: 3 * 4096] == b"".join(
        bytes([place + 1]) * 4096 for place in range(3)
    )


async def test_a_pair_whose_both_images_fail_gives_the_error_for_what_only_one_has_taken() -> None:
    parts = Parts()
    primary, secondary = parts.legs["data"]
    primary.fail("write", errno.EIO, after=1)
    secondary.fail("write", errno.EIO, after=2)
    changes = [parts.change("data", place * 4096, bytes(4096)) for place in range(3)]
    parts.submit(*changes)
    parts.workers.finish_all()
    assert [change.error for change in changes] == [0, errno.EIO, errno.EIO]
    assert parts.pair().failed
    assert not parts.timeline.failed
    assert parts.send("wal", 0, b"x").error == 0


def one_disk_dies(parts: Parts) -> list[PairChange]:
    """It has the primary of one pair and the secondary of another, of one group. One batch, and
    what follows from it.
    """
    parts.legs["data"][0].fail("write", errno.EIO)
    parts.legs["wal"][1].fail("write", errno.EIO)
    changes = [
        parts.change(name, 4096 * n, b"%d" % n * 4096)
        for n, name in enumerate(["data", "wal", "data", "data"])
    ]
    parts.failures.after(perform(parts, changes))
    return changes


def test_a_pair_that_goes_on_with_its_secondary_is_not_suspended_with_its_group() -> None:
    parts = Parts()
    changes = one_disk_dies(parts)
    data, wal = parts.pair("data"), parts.pair("wal")
    assert [change.error for change in changes] == [0] * 4
    assert (data.failed, data.primary) == ("", parts.legs["data"][1])
    assert (data.state, data.usable) == ("SUSPENDED", False)
    assert parts.images["data"][1].data[8192:16384] == b"2" * 4096 + b"3" * 4096
    assert (wal.state, wal.usable, wal.applied) == ("SUSPENDED", True, changes[0].sequence)


def test_a_secondary_that_goes_on_alone_and_fails_too_is_in_no_cut() -> None:
    """It holds more than the number at which its group was suspended."""
    parts = Parts()
    parts.legs["data"][1].fail("write", errno.EIO, after=2)
    changes = one_disk_dies(parts)
    data, wal = parts.pair("data"), parts.pair("wal")
    assert [change.error for change in changes] == [errno.EIO, 0, errno.EIO, errno.EIO]
    assert data.failed
    assert not data.usable
    assert (wal.state, wal.usable, wal.applied) == ("SUSPENDED", True, changes[0].sequence)
    assert wal.cut is not data.cut


def test_a_primary_that_may_not_be_swapped_is_suspended_with_its_group() -> None:
    parts = Parts()
    parts.refuse_swaps()
    changes = one_disk_dies(parts)
    assert {pair.name for pair in parts.volumes.all() if pair.state == "SUSPENDED"} == {
        "data",
        "wal",
    }
    assert parts.pair("data").applied == changes[0].sequence


def test_after_a_swap_a_restart_has_the_same_roles_and_everything_that_was_acknowledged() -> None:
    disk = new_disk()

    async def fail_and_die() -> None:
        core = await Core.begin(disk, settings())
        await core.write("data", 0, b"a" * 4096)
        core.faulty()[0].fail("write", errno.EIO)
        assert await core.write("data", 0, b"b" * 4096) == 0
        assert await core.write("data", 4096, b"c" * 4096) == 0
        await core.crash(power=False)

    async def again() -> None:
        async with running(disk=disk) as core:
            assert core.pair().record.swapped
            assert core.pair().primary.path == "/b/data.img"
            assert await core.read("data", 0, 8192) == (0, b"b" * 4096 + b"c" * 4096)

    run(fail_and_die())
    run(again())


async def test_a_failed_primary_comes_back_as_the_secondary_by_a_resync() -> None:
    async with running() as core:
        primary, _ = core.faulty()
        primary.fail("write", errno.EIO)
        await core.write("data", 0, b"b" * 4096)
        primary.heal()
        await core.controller.resync(["data"])
        result = await core.controller.resync_wait(["data"])
        assert [volume["state"] for volume in result["volumes"]] == ["DUPLEX"]
        assert core.equal()


# ---------------------------------------------------- primaries, without one, or without swaps


@pytest.mark.parametrize("torn", [False, True])
async def test_a_failed_primary_write_has_the_error_and_both_legs_stay_equal(torn: bool) -> None:
    async with running() as core:
        core.refuse_swaps()
        await core.write("data", 0, b"a" * 8192)
        primary, _ = core.faulty()
        if torn:
            primary.tear(errno.EIO)
        else:
            primary.fail("write", errno.EIO, times=1)
        assert await core.write("data", 0, b"b" * 8192) == errno.EIO
        assert core.states() == {"data": "DUPLEX"}
        assert core.equal()
        assert [event["path"] for event in core.named("primary-error")] == ["/a/data.img"]
        assert await core.write("data", 0, b"c" * 8192) == 0


@pytest.mark.parametrize(("held", "kind"), [(b"a" * 4096, WRITE), (b"", ZERO)])
async def test_what_the_primary_holds_is_journaled_in_the_shortest_form(
    held: bytes, kind: int
) -> None:
    parts = Parts()
    parts.refuse_swaps()
    if held:
        parts.send("data", 0, held)
    parts.legs["data"][0].fail("write", errno.EIO, times=1)
    before = parts.writer.position
    parts.send("data", 0, b"b" * 4096)
    record = 72 + 4096
    assert parts.writer.position - before == record + (record if kind == WRITE else 72)


async def test_a_secondary_is_left_before_a_change_that_its_primary_fails_at_too() -> None:
    parts = Parts()
    parts.send("data", 0, b"a" * 4096)
    primary, secondary = parts.legs["data"]
    primary.tear(errno.EIO)
    secondary.tear(errno.EIO)
    change = parts.send("data", 0, b"b" * 4096)
    pair = parts.pair()
    assert change.error == errno.EIO
    assert (pair.state, pair.usable, pair.applied) == ("SUSPENDED", True, change.sequence - 1)
    assert parts.content("data", 0, 4096) == (b"b" * 2048 + b"a" * 2048, b"a" * 4096)
    assert pair.changed is not None
    assert pair.changed.overlaps(0, 1)


@pytest.mark.parametrize("healable", [True, False])
async def test_a_secondary_that_does_not_take_what_the_primary_held_is_suspended(
    healable: bool,
) -> None:
    """It took the change, not the one that undoes it. Healed, it has both."""
    parts = Parts()
    parts.refuse_swaps()
    parts.send("data", 0, b"a" * 4096)
    primary, secondary = parts.legs["data"]
    primary.fail("write", errno.EIO, times=1)
    secondary.fail("write", errno.EIO, after=1, times=1 if healable else None)
    change = parts.send("data", 0, b"b" * 4096)
    data, wal = parts.pair("data"), parts.pair("wal")
    assert change.error == errno.EIO
    assert (data.state, data.usable) == ("SUSPENDED", healable)
    if healable:
        assert data.applied == wal.applied == change.sequence + 1
        assert parts.content("data", 0, 4096) == (b"a" * 4096, b"a" * 4096)
    else:
        assert data.cut is not None
        assert data.cut.verdict == "void"
        assert data.changed is not None
        assert data.changed.overlaps(0, 1)


def test_after_a_primary_error_a_restart_replays_what_the_primary_held() -> None:
    disk = new_disk()

    async def fail_and_die() -> None:
        core = await Core.begin(disk, settings())
        core.refuse_swaps()
        await core.write("data", 0, b"a" * 4096)
        core.faulty()[0].fail("write", errno.EIO, times=1)
        assert await core.write("data", 0, b"b" * 4096) == errno.EIO
        await core.crash(power=False)

    async def again() -> None:
        async with running(disk=disk) as core:
            assert core.image("data", "a")[:4096] == b"a" * 4096
            assert core.equal()

    run(fail_and_die())
    run(again())


async def test_a_primary_that_can_neither_be_written_nor_read_costs_its_client_alone() -> None:
    async with running({"data": "sync", "log": "sync"}) as core:
        core.refuse_swaps()
        primary, _ = core.faulty("data")
        primary.fail("write", errno.EIO)
        primary.fail("read_into", errno.EIO)
        assert await core.write("data", 0, b"x") == errno.EIO
        assert not core.controller.failed
        assert await core.write("log", 0, b"y") == 0


async def test_a_zero_that_a_full_primary_refuses_may_be_longer_than_the_journal() -> None:
    """What the primary holds there is journaled: as zeroes where it holds zeroes."""
    async with running(size=64 * MIB, journal="16MiB") as core:
        core.refuse_swaps()
        assert await core.write("data", 5 * MIB, b"\x99" * 4096) == 0
        core.faulty()[0].fail("zero", errno.ENOSPC, times=1)
        assert await core.zero("data", 0, 64 * MIB) == errno.ENOSPC
        assert not core.controller.failed
        assert core.equal()
        assert core.image("data", "a")[5 * MIB] == 0x99
        assert await core.write("data", 0, b"\x98" * 4096) == 0


# ----------------------------------------------------------------------------- the journal


async def test_a_journal_write_that_fails_is_final() -> None:
    async with running() as core:
        await core.write("data", 0, b"a")
        core.disk.fail("/state/journal", errno.EIO, operation="writev", times=1)
        assert await core.write("data", 0, b"b") == errno.EIO
        assert core.image("data", "a")[:1] == b"a", "no leg gets what the journal does not have"
        assert await core.write("data", 0, b"c") == errno.EIO
        assert core.controller.status()["controller"]["failed"]


async def test_a_journal_sync_that_fails_is_final() -> None:
    async with running() as core:
        await core.write("data", 0, b"opens a region")
        await core.write("data", 0, b"is not durable yet")
        core.disk.fail("/state/journal", errno.EIO, operation="sync", times=1)
        assert await core.flush() == errno.EIO
        assert await core.flush() == errno.EIO, "a second try would succeed, and prove nothing"
        assert await core.write("data", 0, b"b") == errno.EIO


async def test_a_full_journal_disk_refuses_changes_until_there_is_room() -> None:
    async with running(journal="16MiB") as core:
        core.disk.full("/state")
        core.disk.fail("/state/checkpoint", errno.ENOSPC)  # nothing can be recycled
        errors: list[int] = []
        while not errors or errors[-1] == 0:
            errors.append(await core.write("data", 0, b"x" * MIB))
            assert len(errors) < 40
        assert errors[-1] == errno.ENOSPC
        assert core.controller.failed == ""
        assert core.equal()
        core.disk.heal("/state/checkpoint")
        core.disk.heal("/state")
        await asyncio.sleep(5)  # once a second it looks for room
        assert await core.write("data", 0, b"again") == 0


# ---------------------------------------------------------------------- after the controller


async def test_reads_go_on_after_the_controller_has_failed() -> None:
    async with running() as core:
        await core.write("data", 0, b"kept")
        core.controller.timeline.fail("the journal is gone")
        assert await core.read("data", 0, 4) == (0, b"kept")


async def test_what_waits_for_a_resync_ends_when_the_controller_fails() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        await core.write("data", 0, b"x" * 64 * KIB)
        await core.controller.resync(["data"])
        assert core.pair().state == pair_states.PENDING
        waiting = asyncio.ensure_future(core.controller.resync_wait(["data"]))
        await asyncio.sleep(0)
        core.controller.timeline.fail("the journal is gone")
        with pytest.raises(DuplexdError, match="the journal is gone"):
            await asyncio.wait_for(waiting, 20)


async def test_steps_go_on_after_a_batch_that_ended_in_an_unexpected_way() -> None:
    async with running() as core:

        def burst(operation: Operation) -> None:
            if operation == "write":
                raise MemoryError

        core.faulty()[0].delay = burst
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        assert await core.write("data", 0, bytes(2 * MIB)) == errno.EIO
        assert core.controller.failed
        await asyncio.wait_for(core.controller.timeline.at_rest(lambda: None), 20)

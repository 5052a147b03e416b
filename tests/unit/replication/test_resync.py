"""Resyncs: which way they go, that they end DUPLEX, and what they leave when something fails."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from duplexd.core.ledger import Ledger, Place
from duplexd.core.markers import Abandon, Commit, Copied, Detach, Fail, Resync, Settled
from duplexd.core.pair_states import BY_COMMAND, BY_ERROR, BY_JOURNAL, DUPLEX, PENDING, SUSPENDED
from duplexd.core.patience import Patience
from duplexd.errors import DuplexdError, WrongStateError
from duplexd.limits import EngineLimits
from duplexd.replication.async_follower import AsyncFollower
from duplexd.replication.backlog import Backlog
from duplexd.replication.copying import Copying
from duplexd.replication.follower import SecondarySink
from duplexd.replication.followers import Followers
from duplexd.replication.job import ALREADY, COPY, JOURNAL, MAP, Job
from duplexd.replication.job_runner import Runner
from duplexd.replication.left_out import Refusals
from duplexd.replication.resync import Resyncs
from duplexd.replication.staging import StagingArea
from duplexd.replication.trailing import Trailing
from duplexd.units import KIB
from tests.support.bad_sectors import BadSectors
from tests.unit.engine.cores import SIZE as CORE_SIZE
from tests.unit.engine.cores import Core, running
from tests.unit.replication.fakes import BLOCK, GRAIN, LIMITS, SIZE, FakeGates, World, turns, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.json_object import Json

JOURNAL_DIRECTORY = "/state/journal"
STAGING = "/state/staging"


class Replication:
    """All of replication, wired as the controller does it, on a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        timeline = world.timeline
        backlog = Backlog(timeline, world.gates, world.calls, LIMITS)

        def follower(goal: Callable[[], int] | None) -> AsyncFollower:
            return AsyncFollower(
                timeline,
                world.gates,
                backlog,
                world.freeze,
                lambda pair: {pair},
                world.calls,
                world.clock,
                LIMITS,
                goal,
            )

        self.trailing = Trailing(timeline, world.calls, world.clock, LIMITS, follower)
        self.async_follower = self.trailing.async_follower
        self.copying = Copying(
            timeline,
            world.checkpointer,
            StagingArea(world.disk, STAGING),
            world.calls,
            world.clock,
            world.emit,
            LIMITS,
        )
        self.runner = Runner(
            timeline,
            world.freeze,
            backlog,
            self.copying,
            self.trailing,
            world.emit,
            world.clock,
            LIMITS,
        )
        self.followers = Followers(
            timeline, world.gates, world.calls, self.trailing, self.runner.run, world.clock
        )
        self.unsettled: set[str] = set()
        self.resyncs = Resyncs(
            timeline, world.checkpointer, self.followers, self.unsettled, world.emit
        )
        self.runner.again = self.resyncs.begin_again
        self.async_follower.on_moved = self.copying.on_moved = self.followers.moved

    async def resync(self, *pairs: Pair) -> list[str]:
        """Begin; how, for each."""
        report: list[Json] = (await self.resyncs.resync(pairs))["volumes"]
        return [entry["how"] for entry in report]

    async def wait(self, pair: Pair) -> Json:
        """What a resync with `--wait` says of the pair."""
        (entry,) = (await self.resyncs.wait([pair]))["volumes"]
        found: Json = entry
        return found


def small_change(world: World) -> tuple[Replication, Pair]:
    """Suspended, then changed by less than the map would copy: by journal."""
    pair = world.pair(mode="sync")
    world.suspend(pair)
    world.timeline.write(pair, GRAIN, b"changed" * 100)
    return Replication(world), pair


def rewritten(world: World) -> tuple[Replication, Pair]:
    """Suspended, then one grain changed again and again: by map."""
    pair = world.pair(mode="sync")
    world.suspend(pair)
    for number in range(5):
        world.timeline.write(pair, GRAIN, bytes([number + 1]) * GRAIN)
    return Replication(world), pair


# ------------------------------------------------------------------------------------ which way


async def test_a_small_change_is_followed_in_the_journal() -> None:
    world = World()
    replication, pair = small_change(world)
    assert await replication.resync(pair) == [JOURNAL]
    assert (await replication.wait(pair))["state"] == DUPLEX
    assert world.legs[pair].equal
    assert pair.copied_bytes == 700


async def test_what_was_rewritten_often_is_copied_by_map() -> None:
    world = World()
    replication, pair = rewritten(world)
    assert await replication.resync(pair) == [MAP]
    assert (await replication.wait(pair))["state"] == DUPLEX
    assert world.legs[pair].equal
    assert pair.copied_bytes == GRAIN


async def test_a_staging_log_that_cannot_be_removed_is_named_and_costs_nothing_else() -> None:
    world = World()
    replication, pair = rewritten(world)
    world.disk.fail(STAGING, errno.EIO, operation="remove")
    assert await replication.resync(pair) == [MAP]
    assert (await replication.wait(pair))["state"] == DUPLEX
    await until(lambda: bool(world.emit.named("staging-left")))
    assert STAGING in str(world.emit.named("staging-left")[0]["error"])


async def test_a_change_that_the_journal_does_not_have_any_more_is_copied_by_map() -> None:
    world = World()
    pair = world.pair(mode="sync")
    world.suspend(pair)
    replication, ring = Replication(world), world.timeline.writer.ring
    for at in range(0, SIZE, GRAIN):  # each once: the journal would not be longer than the map
        world.timeline.write(pair, at, b"x" * GRAIN)
    ring.spares.append(ring.recycle(ring.live.pop(0)))
    assert await replication.resync(pair) == [MAP]
    await replication.wait(pair)
    assert world.legs[pair].equal


async def test_a_pair_without_a_change_needs_no_map() -> None:
    world = World()
    pair = world.pair(mode="sync")
    world.suspend(pair)
    assert await Replication(world).resync(pair) == [JOURNAL]


async def test_one_that_the_journal_does_not_serve_takes_all_along_by_map() -> None:
    """They leave their cut together, and arrive together."""
    world = World()
    replication, pair = rewritten(world)
    other = world.pair("other", mode="sync")
    world.suspend(other, cut_id="other")
    world.timeline.write(other, 0, b"little")
    assert await replication.resync(pair, other) == [MAP, MAP]
    assert len(replication.followers.jobs) == 1


async def test_an_unusable_secondary_is_copied_apart_from_the_others() -> None:
    world = World()
    replication, pair = small_change(world)
    torn, duplex = world.pair("torn", mode="sync"), world.pair("duplex", mode="sync")
    error = OSError(errno.EIO, "lost")
    world.freeze([torn], torn, world.timeline.written, error, [torn], {})
    assert await replication.resync(torn, pair, duplex) == [COPY, JOURNAL, ALREADY]
    assert len(replication.followers.jobs) == 2
    assert not torn.usable
    await replication.wait(torn)
    assert torn.usable


# ------------------------------------------------------------------------- before it may begin


async def test_a_volume_without_secondary_is_refused_and_nothing_is_started() -> None:
    world = World()
    replication, pair = small_change(world)
    simplex = world.pair("simplex")
    world.timeline.append(Detach([simplex.id]))
    with pytest.raises(WrongStateError, match="simplex: SIMPLEX"):
        await replication.resync(pair, simplex)
    assert pair.state == SUSPENDED
    assert not replication.followers.jobs


async def test_a_secondary_that_is_not_at_its_path_is_refused_and_nothing_is_started() -> None:
    world = World()
    replication, pair = small_change(world)
    other = world.pair("other", mode="sync")
    world.checkpointer.lost = {
        pair: OSError(errno.ESTALE, "moved"),
        other: OSError(errno.ESTALE, "too"),
    }
    with pytest.raises(WrongStateError, match=r"moved \(and 1 more\); nothing was started"):
        await replication.resync(pair, other, world.pair("good"))
    assert not replication.followers.jobs


async def test_a_partial_resync_leaves_out_what_it_cannot_do_and_says_so() -> None:
    world = World()
    replication, pair = small_change(world)
    simplex, moved = world.pair("simplex"), world.pair("moved", mode="sync")
    world.timeline.append(Detach([simplex.id]))
    world.suspend(moved, cut_id="other")
    world.checkpointer.lost = {moved: OSError(errno.ESTALE, "/b/moved: moved")}
    started = await replication.resyncs.resync([simplex, pair, moved], Refusals(partial=True))
    assert [row["name"] for row in started["volumes"]] == ["data"]
    assert [row["name"] for row in started["refused"]] == ["simplex", "moved"]
    assert started["refused"][1]["error"] == "/b/moved: moved"
    await replication.wait(pair)
    assert (pair.state, moved.state) == (DUPLEX, SUSPENDED)


async def test_a_partial_resync_that_can_do_none_of_them_is_refused() -> None:
    world = World()
    replication, pair = small_change(world)
    world.checkpointer.lost = {pair: OSError(errno.ESTALE, "moved")}
    with pytest.raises(WrongStateError, match="moved; nothing was started"):
        await replication.resyncs.resync([pair], Refusals(partial=True))
    assert not replication.followers.jobs


async def test_a_cut_is_settled_before_it_is_left() -> None:
    """Its verdict would be about secondaries that have moved on."""
    world = World()
    replication, pair = small_change(world)
    replication.unsettled.add("cut")
    resync = asyncio.ensure_future(replication.resync(pair))
    await turns()
    assert not resync.done()
    replication.unsettled.clear()
    replication.followers.moved()
    assert await resync == [JOURNAL]


async def test_a_secondary_on_its_way_arrives_before_it_leaves() -> None:
    world = World()
    pair = world.pair()
    replication = Replication(world)
    replication.followers.start([pair])
    world.workers.held = asyncio.Event()
    world.timeline.write(pair, 0, b"x" * BLOCK)
    world.suspend(pair)
    resync = asyncio.ensure_future(replication.resync(pair))
    await turns()
    assert not resync.done()
    world.workers.held.set()
    assert await resync == [JOURNAL]
    await replication.wait(pair)
    await replication.followers.stop()


async def test_what_a_freeze_left_is_durable_before_the_cut_is_left() -> None:
    """A restart does not go back to it."""
    world = World()
    replication, pair = small_change(world)
    await replication.resync(pair)
    assert world.checkpointer.synced == [["data"]]


async def test_what_a_freeze_left_is_durable_before_the_cut_is_left_on_the_disk_too() -> None:
    volumes = {"data": "sync", "log": "sync"}
    async with running(volumes, {"db": ["data", "log"]}) as core:
        assert await core.write("log", 0, b"\x66" * 8192) == 0
        core.secondary("data").fail("write", errno.EIO, times=1)
        assert await core.write("data", 0, b"\x66" * 8192) == 0
        assert core.states() == {"data": SUSPENDED, "log": SUSPENDED}
        assert core.disk.unsynced("/b/log.img")
        await core.controller.resync(["log"])
        assert not core.disk.unsynced("/b/log.img")


class Late:
    """Suspended by a failure of its group while a resync of both waits for a sync of `pair`."""

    def __init__(self, mode: str, by: Callable[[World], tuple[Replication, Pair]]) -> None:
        self.world = World()
        self.replication, self.pair = by(self.world)
        self.late = self.world.pair("late", mode)
        self.replication.followers.start([self.late])
        self.world.checkpointer.meanwhile = self._suspend

    def _suspend(self) -> None:
        """With more of the journal before its cut than its follower takes at once."""
        self.world.workers.held = asyncio.Event()
        for at in range(0, 4 * GRAIN, GRAIN):
            self.world.timeline.write(self.late, at, b"x" * GRAIN)
            if self.late.mirrors:
                self.late.copy_of.write(at, b"x" * GRAIN)
                self.world.timeline.ledger.advance(self.late.record, self.world.timeline.written)
        error = OSError(errno.EIO, "its group")
        self.world.freeze([self.late], None, self.world.timeline.written, error, [], {})

    def go_on(self) -> None:
        assert self.world.workers.held is not None
        self.world.workers.held.set()
        self.world.workers.held = None

    @property
    def is_at_its_cut(self) -> bool:
        return self.late.cut is not None and self.late.applied == self.late.cut.sequence


@pytest.mark.parametrize("by", [small_change, rewritten])
async def test_one_that_is_suspended_meanwhile_arrives_too_before_it_leaves(
    by: Callable[[World], tuple[Replication, Pair]],
) -> None:
    """Else the records between would be applied by nobody, or by two at once."""
    late = Late("async", by)
    resync = asyncio.ensure_future(late.replication.resync(late.pair, late.late))
    await turns()
    assert late.late.state == SUSPENDED
    assert not late.is_at_its_cut
    assert not resync.done()
    late.go_on()
    await resync
    await late.replication.wait(late.late)
    assert late.late.state == DUPLEX
    assert late.world.legs[late.late].equal
    await late.replication.followers.stop()


async def test_one_that_is_suspended_meanwhile_is_durable_too_before_it_leaves() -> None:
    late = Late("sync", rewritten)
    resync = asyncio.ensure_future(late.replication.resync(late.pair, late.late))
    await turns()
    late.go_on()
    await resync
    assert late.world.checkpointer.synced == [["data"], ["data", "late"]]


async def suspends(core: Core) -> None:
    """By another command."""
    assert (await core.controller.suspend(["data", "log"]))["verdict"] == "consistent"


async def freezes(core: Core) -> None:
    """With the other one of its group, whose path leads to another image."""
    data = core.pair("data")
    core.controller.failed_legs.misplaced(data, data.copy_of, OSError(errno.ESTALE, "moved"))


@pytest.mark.parametrize("by", [suspends, freezes])
async def test_a_cut_that_is_made_while_a_resync_begins_costs_no_change(
    by: Callable[[Core], Coroutine[None, None, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next cut would be called consistent, with a secondary that lacks it."""
    volumes, groups = {"data": "async", "log": "async", "old": "async"}, {"db": ["data", "log"]}
    limits = replace(EngineLimits(), follower_chunk_bytes=64 * KIB)
    async with running(volumes, groups, limits=limits) as core:
        controller, log, cuts = core.controller, core.pair("log"), list[asyncio.Task[None]]()
        sync = controller.checkpointer.sync_secondaries

        async def sync_and_cut(pairs: Sequence[Pair]) -> dict[Pair, OSError]:
            lost = await sync(pairs)
            if not cuts:
                for at in range(0, CORE_SIZE, 64 * KIB):
                    core.send("log", at, b"\x77" * 64 * KIB)
                cuts.append(asyncio.ensure_future(by(core)))
                await core.until(lambda: log.state == SUSPENDED)
                assert log.applied < log.limit(0), "it is at its cut already"
            return lost

        await controller.suspend(["old"])
        for number in range(5):
            assert await core.write("old", 0, bytes([number + 1]) * 256 * KIB) == 0
        monkeypatch.setattr(controller.checkpointer, "sync_secondaries", sync_and_cut)
        await controller.resync(["old", "log"])
        await cuts[0]
        await controller.resync(["data", "log"])
        await controller.resync_wait(["old", "log", "data"])
        assert (await controller.suspend(["data", "log"]))["verdict"] == "consistent"
        assert core.equal("log")
        assert core.equal("data")


# -------------------------------------------------------------------------------- by journal


async def test_the_journal_is_kept_from_the_cut_on() -> None:
    world = World()
    replication, pair = small_change(world)
    cut = pair.applied
    await replication.resync(pair)
    assert world.checkpointer.kept_from == [cut]
    assert replication.followers.floor() == cut


async def test_no_secondary_leaves_its_cut_before_that_is_durable() -> None:
    """A restart would go back to the cut, and take the secondary for what it was there."""
    world = World()
    replication, pair = small_change(world)
    held: list[bytes] = []
    world.timeline.on_durable = lambda: held.append(bytes(world.legs[pair].secondary.data))
    await replication.resync(pair)
    await replication.wait(pair)
    assert held
    assert not any(held[0])


async def test_a_secondary_that_fails_is_suspended_where_it_is() -> None:
    world = World()
    replication, pair = small_change(world)
    world.timeline.write(pair, 2 * GRAIN, b"more" * 100)
    world.legs[pair].faults.fail("write", errno.EIO, after=1)
    await replication.resync(pair)
    entry = await replication.wait(pair)
    assert (entry["state"], entry["reason"]) == (SUSPENDED, BY_ERROR)
    assert entry["error"] == f"data: /b/data: Input/output error at offset {2 * GRAIN}"
    (frozen,) = world.freeze.calls
    assert frozen.unusable == {"data"}
    assert world.emit.named("duplex") == []


async def test_a_full_secondary_stays_usable_on_its_way() -> None:
    world = World()
    replication, pair = small_change(world)
    last = world.timeline.write(pair, 2 * GRAIN, b"more" * 100)
    world.legs[pair].faults.fail("reserve", errno.ENOSPC, after=1)
    await replication.resync(pair)
    await replication.wait(pair)
    assert (pair.usable, pair.applied) == (True, last - 1)


async def test_a_journal_that_is_damaged_there_is_done_without() -> None:
    """Only these secondaries still wanted that part, and their change maps say the same."""
    world = World()
    replication, pair = small_change(world)
    segment = world.timeline.writer.ring.live[0]
    world.disk.flip(segment.file.path, segment.end - 100)
    assert await replication.resync(pair) == [JOURNAL]
    await until(lambda: pair.state == DUPLEX)
    assert world.legs[pair].equal
    ways = [marker.how for marker in world.timeline.markers if isinstance(marker, Resync)]
    assert ways == [JOURNAL, MAP]


async def test_a_journal_that_cannot_be_read_is_not_called_a_failed_secondary() -> None:
    world = World()
    replication, pair = small_change(world)
    world.disk.fail(JOURNAL_DIRECTORY, errno.EIO, operation="read", times=4)
    assert await replication.resync(pair) == [JOURNAL]
    await until(lambda: pair.state == SUSPENDED)
    assert pair.reason == BY_JOURNAL
    assert world.freeze.calls[0].failed == ""
    assert pair.usable, "nothing was written to it"


# ------------------------------------------------------------------------------------ by map


async def test_the_secondary_is_not_touched_before_the_commit_is_durable() -> None:
    world = World()
    replication, pair = rewritten(world)
    seen: list[tuple[str, bool]] = []

    def look() -> None:
        last = type(world.timeline.markers[-1]).__name__
        seen.append((last, any(world.legs[pair].secondary.data)))

    world.timeline.on_durable = look
    await replication.resync(pair)
    await replication.wait(pair)
    await until(lambda: not replication.followers.jobs)
    assert seen == [("Resync", False), ("Commit", False), ("Equal", True)]


async def test_a_pair_that_was_suspended_meanwhile_is_not_suspended_again() -> None:
    """Its secondary could not be synced, which others notice, while the log is written."""
    world = World()
    replication, pair = rewritten(world)
    world.workers.held = asyncio.Event()
    await replication.resync(pair)
    await until(lambda: pair.state == PENDING)
    error, full = OSError(errno.EIO, "lost"), pair.record.full_map()
    world.freeze([pair], pair, pair.applied, error, [pair], {pair: full})
    world.workers.held.set()
    await until(lambda: bool(world.emit.named("resync-failed")))
    assert (pair.state, pair.reason) == (SUSPENDED, BY_ERROR)
    assert [call.failed for call in world.freeze.calls] == [pair.name]


async def test_the_journal_is_kept_from_the_commit_on() -> None:
    """A checkpoint taken while the log was completed does not know of it."""
    world = World()
    replication, pair = rewritten(world)
    await replication.resync(pair)
    await replication.wait(pair)
    (commit,) = [marker for marker in world.timeline.markers if isinstance(marker, Commit)]
    assert world.checkpointer.kept_from == [commit.at]


def is_staged(world: World) -> bool:
    """Whether there is a staging log. No directory is made before there is one."""
    with suppress(OSError):
        return bool(world.disk.list(STAGING))
    return False


async def test_the_log_is_kept_until_the_journal_says_that_it_is_done_with() -> None:
    world = World()
    replication, pair = rewritten(world)
    seen: list[tuple[str, bool]] = []
    world.timeline.on_durable = lambda: seen.append(
        (type(world.timeline.markers[-1]).__name__, is_staged(world))
    )
    await replication.resync(pair)
    await replication.wait(pair)
    await until(lambda: not replication.followers.jobs)
    assert seen == [("Resync", False), ("Commit", True), ("Equal", True)]
    assert not world.disk.list(STAGING)


async def test_a_commit_that_was_followed_by_a_failure_keeps_its_log_as_well() -> None:
    """A power cut may take the FAIL and leave the COMMIT: a restart applies the log then."""
    world = World()
    replication, pair = rewritten(world)
    seen: list[tuple[str, bool]] = []
    world.timeline.on_durable = lambda: seen.append(
        (type(world.timeline.markers[-1]).__name__, is_staged(world))
    )
    world.legs[pair].faults.fail("write", errno.EIO)
    await replication.resync(pair)
    entry = await replication.wait(pair)
    assert (entry["state"], pair.usable) == (SUSPENDED, False)
    assert seen == [("Resync", False), ("Commit", True), ("Fail", True)]
    assert not world.disk.list(STAGING)


async def test_a_failure_after_the_commit_costs_only_the_secondary_that_failed() -> None:
    """Half of the log may be on it; the others hold all of it, and are at one number."""
    world = World()
    replication, pair = rewritten(world)
    other = world.pair("other", mode="sync")
    world.suspend(other, cut_id="other")
    world.timeline.write(other, 0, b"x" * GRAIN)
    world.legs[pair].faults.fail("write", errno.EIO)
    await replication.resync(pair, other)
    await replication.wait(pair)
    assert world.freeze.calls[0].members == {"data", "other"}
    assert world.freeze.calls[0].unusable == {"data"}
    assert (other.state, other.usable, world.legs[other].equal) == (SUSPENDED, True, True)


async def test_a_log_that_cannot_be_removed_does_no_harm() -> None:
    world = World()
    replication, pair = rewritten(world)
    world.disk.fail(STAGING, errno.EIO, operation="remove")
    await replication.resync(pair)
    assert (await replication.wait(pair))["state"] == DUPLEX


@pytest.mark.parametrize("reason", [BY_COMMAND, BY_ERROR])
async def test_a_secondary_without_room_is_at_its_cut_again_for_the_reason_it_had(
    reason: str,
) -> None:
    world = World()
    replication, pair = rewritten(world)
    if reason == BY_ERROR:
        world.freeze([pair], pair, pair.applied, OSError(errno.EIO, "was"), [], {})
    cut, at = pair.cut, pair.applied
    world.legs[pair].faults.fail("reserve", errno.ENOSPC)
    assert await replication.resync(pair) == [MAP]
    entry = await replication.wait(pair)
    assert (entry["state"], entry["reason"]) == (SUSPENDED, reason)
    assert entry["error"] == "/b/data: no room for the changes: No space left on device"
    assert (pair.cut, pair.applied, pair.usable) == (cut, at, True)
    assert not any(world.legs[pair].secondary.data)
    assert not world.disk.exists(STAGING), "nothing was staged"
    assert [type(marker) for marker in world.timeline.markers[-2:]] == [Resync, Abandon]


async def test_the_next_resync_has_no_error_any_more() -> None:
    world = World()
    replication, pair = rewritten(world)
    world.legs[pair].faults.fail("reserve", errno.ENOSPC)
    await replication.resync(pair)
    assert (await replication.wait(pair))["error"]
    world.legs[pair].faults.heal()
    await replication.resync(pair)
    entry = await replication.wait(pair)
    assert (entry["state"], entry["error"]) == (DUPLEX, None)
    assert world.legs[pair].equal


async def test_a_cut_stays_consistent_when_its_secondary_has_no_room_to_leave_it() -> None:
    async with running(journal="16MiB") as core:
        held, pair = await _suspended_beyond_the_journal(core), core.pair()
        cut, secondary = pair.cut, core.secondary()
        secondary.fail("reserve", errno.ENOSPC)
        report = await core.controller.resync(["data"])
        assert report["volumes"][0]["how"] == MAP
        (entry,) = (await core.controller.resync_wait(["data"]))["volumes"]
        assert entry["error"] == "/b/data.img: no room for the changes: No space left on device"
        assert (pair.cut, pair.usable, core.image("data", "b")) == (cut, True, held)
        assert cut is not None
        assert core.controller.cuts.show(cut.id)["verdict"] == "consistent"
        secondary.heal()
        await core.controller.resync(["data"])
        (entry,) = (await core.controller.resync_wait(["data"]))["volumes"]
        assert (entry["state"], entry["error"]) == (DUPLEX, None)
        assert core.equal()


async def _suspended_beyond_the_journal(core: Core) -> bytes:
    """What the secondary holds at its cut, while more was written than the journal keeps."""
    await core.write("data", 0, b"at the cut" * 100)
    assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"
    held = core.image("data", "b")
    for _ in range(8):
        await core.write("data", 0, b"\x5a" * CORE_SIZE)
    await core.zero("data", 0, 65536)
    return held


async def test_a_controller_that_failed_says_nothing_more_of_its_resync() -> None:
    """The journal would not take it; the restart that must come finds out."""
    world = World()
    replication, pair = rewritten(world)
    world.workers.held = asyncio.Event()
    await replication.resync(pair)
    await turns()
    world.timeline.failed = "the reason"
    world.workers.held.set()
    await until(lambda: not replication.followers.jobs)
    assert pair.state == PENDING
    assert not any(isinstance(marker, Fail | Abandon) for marker in world.timeline.markers)
    with pytest.raises(DuplexdError, match="the reason; restart the daemon"):
        await replication.resyncs.wait([pair])


# ---------------------------------------------------------------------------------- by copying


async def test_a_copy_ends_duplex() -> None:
    world = World()
    pair = world.to_copy(content=b"content" * 1000)
    replication = Replication(world)
    replication.followers.start([pair])
    entry = await replication.wait(pair)
    assert (entry["state"], pair.usable) == (DUPLEX, True)
    assert world.legs[pair].equal
    assert world.emit.named("duplex")[0]["volumes"] == ["data"]
    await replication.followers.stop()


async def test_a_copy_that_fails_leaves_all_that_it_has_not_copied_to_the_next_one() -> None:
    world = World()
    pair = world.to_copy(content=b"content" * (SIZE // 7))
    replication = Replication(world)
    world.legs[pair].faults.fail("write", errno.EIO, after=2)
    replication.followers.start([pair])
    world.timeline.write(pair, 0, b"while it copies")
    entry = await replication.wait(pair)
    assert (entry["state"], pair.usable) == (SUSPENDED, False)
    world.legs[pair].faults.heal()
    assert await replication.resync(pair) == [COPY]
    await replication.wait(pair)
    assert world.legs[pair].equal
    await replication.followers.stop()


async def test_a_copy_whose_secondary_fails_a_sync_is_made_again_as_a_whole() -> None:
    world = World()
    pair = world.to_copy(content=b"content" * (SIZE // 7) + b"c" * (SIZE % 7))
    replication = Replication(world)
    world.legs[pair].faults.fail("sync", errno.EIO, times=1)
    replication.followers.start([pair])
    assert (await replication.wait(pair))["state"] == SUSPENDED
    await replication.resync(pair)
    assert (await replication.wait(pair))["copied_bytes"] == SIZE
    await replication.followers.stop()


async def test_a_restart_copies_again_what_a_failed_sync_may_have_lost() -> None:
    """Progress that was in the journal is not taken back by a marker of its own."""
    world = World()
    pair = world.to_copy(content=b"content" * (SIZE // 7))
    replication = Replication(world)
    world.legs[pair].faults.fail("sync", errno.EIO, after=1)
    replication.followers.start([pair])
    assert (await replication.wait(pair))["state"] == SUSPENDED
    assert any(isinstance(marker, Copied) for marker in world.timeline.markers)
    restarted = Ledger(LIMITS)
    for number, marker in enumerate(world.timeline.markers, 1):
        restarted.apply(Place(number, 1), marker)
    assert restarted.pairs[pair.id].changed == pair.record.full_map()
    await replication.followers.stop()


async def test_a_primary_that_cannot_be_read_suspends_the_pair() -> None:
    """No pair may stay PENDING without a job."""
    world = World()
    pair = world.to_copy()
    replication = Replication(world)
    world.legs[pair].primary.close()
    replication.followers.start([pair])
    entry = await replication.wait(pair)
    assert entry["state"] == SUSPENDED
    assert entry["error"].startswith("/a/data: ")
    assert "cannot be read at offset 0" in entry["error"]
    (frozen,) = world.freeze.calls
    assert frozen.error.filename == "/a/data", "not the secondary's failure"
    await replication.followers.stop()


async def test_all_but_the_bad_sectors_of_a_primary_is_copied() -> None:
    world = World()
    pair = world.to_copy(content=b"content" * (SIZE // 7))
    legs, bad = world.legs[pair], 3 * GRAIN + 5 * BLOCK
    pair.set_legs(BadSectors(legs.primary, bad), legs.faults, pair.mode)
    replication = Replication(world)
    replication.followers.start([pair])
    entry = await replication.wait(pair)
    assert f"/a/data: {BLOCK} bytes cannot be read at offset {bad}" in entry["error"]
    assert (pair.state, pair.usable) == (SUSPENDED, False)
    legs.secondary.data[bad : bad + BLOCK] = legs.primary.data[bad : bad + BLOCK]
    assert legs.equal, "it was copied around"
    assert pair.changed is not None
    assert pair.changed.next_run(0, SIZE) == (3 * GRAIN, GRAIN), "only there"
    await replication.followers.stop()


async def test_a_secondary_that_leaves_a_copy_lacks_what_it_had_applied_and_not_synced() -> None:
    """No record is applied to it again, so a power cut takes what no sync has covered."""
    world = World()
    pair = world.to_copy(content=b"content" * (SIZE // 7))
    legs, bad = world.legs[pair], 3 * GRAIN
    pair.set_legs(BadSectors(legs.primary, bad), legs.faults, pair.mode)
    replication = Replication(world)
    replication.followers.start([pair])
    await until(lambda: pair.copy_done >= 2 * GRAIN)
    world.timeline.write(pair, 0, b"while it copies")
    await replication.wait(pair)
    assert legs.secondary.data[:15] == b"while it copies", "it was applied"
    assert pair.changed is not None
    lacking = [at for at in range(0, SIZE, GRAIN) if pair.changed.next_run(at, SIZE) == (at, GRAIN)]
    assert lacking == [0, bad]
    await replication.followers.stop()


async def test_a_bad_sector_that_was_written_to_is_copied_by_the_next_resync() -> None:
    world = World()
    pair = world.to_copy(content=b"content" * (SIZE // 7))
    legs = world.legs[pair]
    pair.set_legs(BadSectors(legs.primary, GRAIN), legs.faults, pair.mode)
    replication = Replication(world)
    replication.followers.start([pair])
    await replication.wait(pair)
    world.timeline.write(pair, GRAIN, b"new" * 1000)
    pair.set_legs(legs.primary, legs.faults, pair.mode)
    await replication.resync(pair)
    assert (await replication.wait(pair))["copied_bytes"] <= GRAIN
    assert (pair.state, legs.equal) == (DUPLEX, True)
    await replication.followers.stop()


async def test_a_bad_sector_leaves_a_secondary_that_is_at_a_cut_where_it_is() -> None:
    """By map, all of it or nothing: the cut is a consistent copy, what could be read is none."""
    world = World()
    replication, pair = rewritten(world)
    legs = world.legs[pair]
    pair.set_legs(BadSectors(legs.primary, GRAIN), legs.faults, pair.mode)
    await replication.resync(pair)
    entry = await replication.wait(pair)
    assert f"/a/data: cannot be read at offset {GRAIN}" in entry["error"]
    assert (pair.state, pair.usable, pair.reason) == (SUSPENDED, True, BY_COMMAND)
    (failed,) = world.emit.named("resync-failed")
    assert failed["path"] == "/a/data"


async def test_a_primary_that_failed_meanwhile_is_not_copied_to_a_secondary_at_its_cut() -> None:
    """It lacks changes that the journal has, and the volume may be served again since."""
    world = World()
    replication, pair = rewritten(world)
    world.workers.held = asyncio.Event()
    await replication.resync(pair)
    await turns()
    replication.followers.unserved(pair)
    world.workers.held.set()
    entry = await replication.wait(pair)
    assert (pair.state, pair.usable, pair.reason) == (SUSPENDED, True, BY_COMMAND)
    assert entry["error"].endswith("/a/data: the primary failed while it was copied")
    assert not any(isinstance(marker, Commit) for marker in world.timeline.markers)
    await replication.followers.stop()


async def test_no_second_job_begins_for_a_volume_that_is_served_again() -> None:
    """It would move the secondary, which is at its cut until the first one commits."""
    world = World()
    replication, pair = rewritten(world)
    world.workers.held = asyncio.Event()
    await replication.resync(pair)
    await turns()
    replication.followers.unserved(pair)
    replication.followers.adopt([pair])
    assert len(replication.followers.jobs) == 1
    world.workers.held.set()
    await replication.wait(pair)
    assert (pair.state, pair.usable) == (SUSPENDED, True)
    await replication.followers.stop()


async def test_all_that_was_copied_from_a_primary_that_failed_is_copied_again() -> None:
    world = World()
    pair = world.to_copy(content=b"content" * (SIZE // 7))
    replication = Replication(world)
    world.workers.held = asyncio.Event()
    replication.followers.start([pair])
    await turns()
    replication.followers.unserved(pair)
    world.workers.held.set()
    await replication.wait(pair)
    assert (pair.state, pair.usable) == (SUSPENDED, False)
    assert pair.changed == pair.record.full_map()
    assert not any(isinstance(marker, Copied) for marker in world.timeline.markers)
    await replication.followers.stop()


async def test_a_secondary_that_a_volume_gets_while_it_is_not_served_is_not_copied_to() -> None:
    world = World()
    pair = world.to_copy(content=b"content" * (SIZE // 7))
    pair.failed = "/a/data: the journal no longer has record 5, which this image lacks"
    replication = Replication(world)
    replication.followers.adopt([pair])
    await replication.wait(pair)
    assert (pair.state, pair.usable) == (SUSPENDED, False)
    assert not any(world.legs[pair].secondary.data)
    await replication.followers.stop()


async def test_a_volume_that_is_not_served_is_refused_and_nothing_is_started() -> None:
    world = World()
    replication, pair = rewritten(world)
    pair.failed = "/a/data: Input/output error"
    with pytest.raises(WrongStateError, match="data is not served: /a/data: Input"):
        await replication.resync(pair)
    replication.resyncs.begin_again([pair])
    assert pair.state == SUSPENDED
    assert not replication.followers.jobs


async def test_one_failing_secondary_does_not_end_the_copies_of_others() -> None:
    world = World()
    pairs = [world.to_copy(name, content=b"x" * SIZE) for name in ("one", "two", "three")]
    world.legs[pairs[1]].faults.fail("write", errno.EIO)
    replication = Replication(world)
    replication.followers.start(pairs)
    for pair in pairs:
        await replication.wait(pair)
    assert [pair.state for pair in pairs] == [DUPLEX, SUSPENDED, DUPLEX]
    assert world.legs[pairs[0]].equal
    assert world.legs[pairs[2]].equal
    assert pairs[1].resync_error == "/b/two: Input/output error at offset 0"
    await replication.followers.stop()


async def test_a_journal_without_room_for_its_end_does_not_end_a_job() -> None:
    """The marker is written once there is room; meanwhile the pair has a job."""
    world = World()
    replication, pair = small_change(world)
    await replication.resync(pair)
    refused = world.refuse_markers(errno.ENOSPC)
    await until(lambda: bool(refused))
    assert (pair.state, len(replication.followers.jobs)) == (PENDING, 1)
    world.take_markers()
    assert (await replication.wait(pair))["state"] == DUPLEX


async def test_a_resync_that_the_journal_has_no_room_for_says_so_and_leaves_no_trace() -> None:
    world = World()
    replication, pair = small_change(world)
    world.refuse_markers(errno.ENOSPC)
    with pytest.raises(DuplexdError, match="the journal has no room"):
        await replication.resync(pair)
    assert (pair.state, replication.followers.jobs) == (SUSPENDED, {})
    world.take_markers()
    await replication.resync(pair)
    assert (await replication.wait(pair))["state"] == DUPLEX


async def test_a_resync_that_fails_without_room_in_the_journal_is_abandoned_later() -> None:
    world = World()
    replication, pair = rewritten(world)
    world.disk.full(STAGING)
    await replication.resync(pair)
    refused = world.refuse_markers(errno.EDQUOT)
    await until(lambda: bool(refused))
    assert (pair.state, len(replication.followers.jobs)) == (PENDING, 1)
    world.take_markers()
    assert (await replication.wait(pair))["state"] == SUSPENDED
    assert isinstance(world.timeline.markers[-1], Abandon)


async def test_an_async_pair_is_followed_for_once_it_is_duplex() -> None:
    world = World()
    pair = world.to_copy(content=b"content" * 1000)
    replication = Replication(world)
    replication.followers.start([pair])
    await replication.wait(pair)
    last = world.timeline.write(pair, GRAIN, b"more")
    await until(lambda: pair.applied == last)
    assert world.legs[pair].equal
    await replication.followers.stop()


# ----------------------------------------------------------------------------- seen from outside


async def test_new_changes_wait_for_a_resync_that_does_not_catch_up() -> None:
    """Its cap on the lag is halved twice a second, so it ends under any load."""
    world = World()
    replication, pair = small_change(world)
    await replication.resync(pair)
    (job,) = replication.followers.jobs.values()
    await until(lambda: job.follower is not None)
    job.walk().reach()
    job.cap = 16 * KIB
    world.workers.held = asyncio.Event()
    world.timeline.write(pair, 0, b"x" * GRAIN)
    assert world.gates.closed[pair]
    world.workers.held.set()
    await replication.wait(pair)
    await until(lambda: not +world.gates.closed)


async def test_changes_do_not_wait_for_the_whole_way_of_a_resync() -> None:
    """Only for its last bytes."""
    world = World()
    pair = world.pair(mode="sync")
    world.suspend(pair)
    for number in range(5):
        world.timeline.write(pair, number * GRAIN, b"x" * (40 * KIB))
    left: list[int] = []

    class Noting(FakeGates):
        def close_gates(self, pairs: Iterable[Pair]) -> None:
            left.append(world.timeline.written - pair.applied)
            super().close_gates(pairs)

    world.gates = Noting()
    replication = Replication(world)
    assert await replication.resync(pair) == [JOURNAL]
    await replication.wait(pair)
    assert left == [0]


async def test_steps_are_short_once_changes_may_wait_for_a_resync() -> None:
    world = World()
    pair = world.pair(mode="sync")
    cut = world.suspend(pair)
    for number in range(4):
        world.timeline.write(pair, number * GRAIN, b"x" * (20 * KIB))
    copying, job = Replication(world).copying, Job(JOURNAL, [pair], cut)
    world.timeline.append(Resync(job.id, JOURNAL, [pair.id]))
    job.follower = copying.follower(job, SecondarySink(), cut)
    job.cap = LIMITS.async_lag_bytes_max
    await copying.follow(job)
    assert pair.applied == cut + 1


async def test_a_resync_for_which_changes_would_wait_too_long_ends() -> None:
    world = World()
    replication, pair = small_change(world)
    world.calls.patience = Patience(secondary_s=0.0003, primary_s=1.0)
    await replication.resync(pair)
    (job,) = replication.followers.jobs.values()
    await until(lambda: job.follower is not None)
    job.walk().reach()
    job.cap = 16 * KIB
    world.workers.held = asyncio.Event()
    world.timeline.write(pair, 0, b"x" * GRAIN)
    await until(lambda: job.late)
    world.workers.held.set()
    await until(lambda: pair.state == SUSPENDED)
    assert pair.usable
    assert "too slow" in str(pair.resync_error)
    await until(lambda: not +world.gates.closed)


async def test_nothing_listens_to_the_journal_when_no_job_runs() -> None:
    world = World()
    replication, pair = small_change(world)
    assert not world.timeline.on_written
    await replication.resync(pair)
    assert world.timeline.on_written
    await replication.wait(pair)
    await until(lambda: not replication.followers.jobs)
    assert not world.timeline.on_written
    assert replication.followers.floor() > world.timeline.written


async def test_a_job_says_since_when_it_runs_and_how_far_behind_it_is() -> None:
    world = World()
    replication, pair = small_change(world)
    world.timeline.write(pair, 0, b"x" * GRAIN)
    world.clock.now = 1234.0
    world.workers.held = asyncio.Event()
    assert replication.followers.began(pair) is None
    await replication.resync(pair)
    assert replication.followers.began(pair) == 1234.0
    (job,) = replication.followers.jobs.values()
    await until(lambda: job.follower is not None)
    job.walk().reach()
    assert replication.followers.lag_bytes(pair) > GRAIN
    world.workers.held.set()
    await replication.wait(pair)


async def test_a_resync_that_a_restart_cut_short_is_begun_again() -> None:
    world = World()
    replication, pair = small_change(world)
    replication.resyncs.resume([pair])
    assert (await replication.wait(pair))["state"] == DUPLEX


async def test_staging_markers_are_those_that_recovery_knows() -> None:
    world = World()
    replication, pair = rewritten(world)
    await replication.resync(pair)
    await replication.wait(pair)
    begun, commit, settled = [
        marker for marker in world.timeline.markers if isinstance(marker, Resync | Commit | Settled)
    ]
    assert begun.job == commit.job == settled.job
    assert isinstance(commit, Commit)
    assert commit.records == 1

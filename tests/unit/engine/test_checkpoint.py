"""Checkpoints: what they say is durable before they say it, and what was written to counts as not
durable until it was synced, whatever comes in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from duplexd.core.markers import MakeCut
from duplexd.core.pair import Pair
from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.core.synced import Synced
from duplexd.engine.checkpoint import Checkpointer
from duplexd.engine.checkpoint_on_disk import CheckpointFile, replay_floor
from duplexd.engine.failed_legs import FailedLegs
from duplexd.engine.mark_numbers import MarkNumbers
from duplexd.engine.samples import Samples
from duplexd.errors import DamageError, DuplexdError
from duplexd.images.absent import AbsentLeg
from duplexd.replication.leg_calls import LegCalls
from duplexd.units import KIB
from tests.unit.engine.cores import new_disk, run, running
from tests.unit.engine.parts import SMALL, Parts, turns

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from duplexd.json_object import Json

T = TypeVar("T")

DATA = b"\x5a" * 8192
PATH = "/state/checkpoint"


class Taking:
    """A checkpointer over parts of the engine, and its file."""

    def __init__(self) -> None:
        self.parts = parts = Parts()
        self.file = CheckpointFile(parts.disk, "/state")
        self.failed_legs = FailedLegs(parts.timeline, parts.volumes, parts.failures)
        legs = LegCalls(parts.workers)
        numbers = MarkNumbers(parts.timeline, parts.volumes, legs, SMALL)
        self.checkpointer = Checkpointer(
            parts.timeline,
            parts.volumes,
            self.failed_legs,
            self.file,
            Samples(parts.timeline, legs, numbers, "alpha"),
            legs,
            parts.clock,
        )

    async def finish(self, work: Coroutine[None, None, T]) -> T:
        """The result of `work`, while workers do what they are given."""
        task = asyncio.ensure_future(work)
        while not task.done():
            self.parts.workers.finish_all()
            await asyncio.sleep(0)
        return task.result()

    async def take(self) -> None:
        await self.finish(self.checkpointer.checkpoint())


# -------------------------------------------------------------------------------- what it says


async def test_it_says_where_the_journal_ends_and_what_is_known_of_the_pairs() -> None:
    taking = Taking()
    taking.parts.send("data", 0, b"x" * 512)
    await taking.take()
    saved = taking.file.read()
    assert saved["sequence"] == taking.parts.timeline.written
    assert [(pair["name"], pair["applied"]) for pair in saved["pairs"]] == [
        ("data", saved["sequence"]),
        ("wal", saved["sequence"]),
    ]
    assert (taking.checkpointer.replay_floor, taking.checkpointer.taken) == (saved["sequence"], 1)


async def test_journal_and_legs_are_synced_before_it_says_so() -> None:
    taking = Taking()
    parts = taking.parts
    parts.send("data", 0, b"x" * 512)
    synced_at_replace: list[tuple[bool, int, int]] = []

    def look(operation: str, path: str) -> None:
        if operation == "replace_file":
            primary, secondary = parts.images["data"]
            journal = parts.writer.synced == parts.timeline.written
            synced_at_replace.append((journal, primary.syncs, secondary.syncs))

    parts.disk.before = look
    await taking.take()
    assert synced_at_replace == [(True, 1, 1)]


async def test_legs_that_were_not_written_to_are_not_synced() -> None:
    taking = Taking()
    taking.parts.send("data", 0, b"x" * 512)
    await taking.take()
    await taking.take()
    assert [leg.syncs for leg in taking.parts.images["data"]] == [1, 1]
    assert [leg.syncs for leg in taking.parts.images["wal"]] == [0, 0]


async def test_only_regions_that_changed_since_the_last_one_stay_open() -> None:
    """After a power cut only those are compared."""
    taking = Taking()
    parts = taking.parts
    parts.close_regions()
    parts.send("data", 0, b"x" * 512)
    parts.workers.finish_all()
    await taking.take()
    assert taking.file.read()["pairs"][0]["regions"] == [0]
    parts.send("data", SMALL.region_bytes_min, b"x" * 512)
    parts.workers.finish_all()
    assert parts.pair().regions.open == {0, 1}
    await taking.take()
    assert taking.file.read()["pairs"][0]["regions"] == [1]
    assert parts.pair().regions.open == {1}


async def test_the_old_one_is_valid_until_the_new_one_is_written() -> None:
    taking = Taking()
    await taking.take()
    before, floor = taking.file.read(), taking.checkpointer.replay_floor
    taking.parts.send("data", 0, b"x" * 512)
    taking.parts.disk.fail(PATH, errno.ENOSPC, operation="replace_file")
    with pytest.raises(OSError, match="No space"):
        await taking.take()
    assert taking.file.read() == before
    assert (taking.checkpointer.replay_floor, taking.checkpointer.taken) == (floor, 1)


async def test_a_damaged_one_is_not_believed() -> None:
    taking = Taking()
    await taking.take()
    taking.parts.disk.flip(PATH, 60)
    with pytest.raises(DamageError, match=PATH):
        taking.file.read()


# -------------------------------------------------------------------------- failing primaries


async def test_what_a_primary_could_not_sync_is_never_called_durable() -> None:
    """The kernel reports the error once. A restart replays the journal from the old checkpoint."""
    taking = Taking()
    taking.parts.send("data", 0, b"x" * 512)
    taking.parts.legs["data"][0].fail("sync", errno.EIO, times=1)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            await taking.take()
    assert not taking.file.exists()
    assert not taking.parts.timeline.failed, "other volumes go on"


async def test_one_is_taken_when_the_secondary_took_the_place_of_a_primary_that_failed() -> None:
    taking = Taking()
    parts = taking.parts
    parts.send("data", 0, b"x" * 512)
    primary, secondary = parts.legs["data"]
    primary.fail("sync", errno.EIO)
    seen: list[tuple[str, int | None]] = []

    def swap(pair: Pair, error: OSError) -> None:
        assert not parts.timeline.busy
        seen.append((pair.name, error.errno))
        pair.set_legs(secondary, AbsentLeg(primary.path, primary.size, "failed"), "sync")
        parts.failures.freeze({pair}, pair, parts.timeline.written, error, {pair}, {})

    taking.failed_legs.on_primary_failed = swap
    await taking.take()
    assert seen == [("data", errno.EIO)]
    assert taking.checkpointer.taken == 1
    assert secondary.calls["sync"] == 2, "as the primary it is synced again"


async def test_one_is_taken_without_a_volume_that_is_not_served_any_more() -> None:
    taking = Taking()
    parts = taking.parts
    parts.send("data", 0, b"x" * 512)
    parts.legs["data"][0].fail("sync", errno.EIO)

    def refuse(pair: Pair, _error: OSError) -> None:
        pair.failed = "neither of its images is good"

    taking.failed_legs.on_primary_failed = refuse
    await taking.take()
    saved = taking.file.read()
    held = {pair["name"]: pair["primary_at"] for pair in saved["pairs"]}
    began = parts.pair("data").record.primary_at
    assert held == {"data": began, "wal": saved["sequence"]}
    assert taking.checkpointer.replay_floor == saved["sequence"], "others need the room"


async def test_a_secondary_that_failed_beside_a_primary_is_not_forgotten() -> None:
    taking = Taking()
    parts = taking.parts
    parts.send("data", 0, b"x" * 512)
    parts.send("wal", 0, b"x" * 512)
    parts.legs["data"][0].fail("sync", errno.EIO)
    parts.legs["wal"][1].fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        await taking.take()
    assert (parts.pair("wal").state, parts.pair("wal").usable) == (SUSPENDED, False)


# ------------------------------------------------------------------- where a restart replays from


def _saved(state: str, **fields: object) -> Json:
    pair: Json = {
        "state": state, "usable": True, "cut": None, "applied": 40, "staging": "",
        "removed": False, **fields,
    }  # fmt: skip
    return {"sequence": 100, "pairs": [pair]}


@pytest.mark.parametrize(
    ("saved", "floor"),
    [
        (_saved(SIMPLEX), 100),
        (_saved(DUPLEX), 40),
        (_saved(DUPLEX, removed=True), 100),
        (_saved(DUPLEX, primary_at=30), 40),
        (_saved(DUPLEX, halfway=True), 100),
        (_saved(PENDING), 40),
        (_saved(PENDING, staging="uncommitted"), 100),
        (_saved(PENDING, staging="job"), 40),
        (_saved(SUSPENDED, cut=["id", 40]), 100),
        (_saved(SUSPENDED, cut=["id", 60]), 40),
        (_saved(SUSPENDED, usable=False, cut=["id", 60]), 100),
    ],
)
def test_records_are_kept_for_secondaries_that_still_want_them(saved: Json, floor: int) -> None:
    assert replay_floor(saved) == floor


async def test_what_was_begun_since_the_snapshot_keeps_the_journal_that_it_needs() -> None:
    """A resync by journal: a restart would begin with the pairs at their cut, as the checkpoint
    says.
    """
    taking = Taking()
    taking.parts.send("data", 0, b"x" * 512)
    task = asyncio.ensure_future(taking.checkpointer.checkpoint())
    await turns()
    taking.checkpointer.keep_from(2)
    while not task.done():
        taking.parts.workers.finish_all()
        await asyncio.sleep(0)
    assert taking.checkpointer.replay_floor == 2
    await taking.take()
    assert taking.checkpointer.replay_floor > 2


async def test_one_would_free_something_once_a_follower_has_caught_up() -> None:
    taking = Taking()
    parts = taking.parts
    pair = parts.pair()
    pair.set_legs(pair.primary, pair.secondary, "async")
    parts.send("data", 0, b"x" * 512)
    await taking.take()
    assert not taking.checkpointer.would_free()
    parts.ledger.advance(pair.record, parts.timeline.written)
    assert taking.checkpointer.would_free()


# ------------------------------------------------------------------------ failing secondaries


async def test_one_that_finds_a_failed_secondary_is_taken_without_it() -> None:
    """Else there would be no room in the journal, and changes would be refused."""
    taking = Taking()
    parts = taking.parts
    parts.send("data", 0, b"x" * 512)
    parts.send("wal", 0, b"x" * 512)
    parts.legs["data"][1].fail("sync", errno.EIO)
    await taking.take()
    pair = parts.pair()
    assert (pair.state, pair.usable, parts.pair("wal").usable) == (SUSPENDED, False, True)
    assert (taking.checkpointer.taken, taking.checkpointer.replay_floor) == (
        1,
        parts.timeline.written,
    )
    assert taking.file.read()["pairs"][0]["state"] == SUSPENDED


async def test_an_image_whose_first_mark_cannot_be_synced_has_failed() -> None:
    """What was written beside it is lost with it, and a later sync would not say so."""
    taking = Taking()
    primary, secondary = taking.parts.legs["data"]
    secondary.fail("sync")
    await taking.take()
    pair = taking.parts.pair()
    assert (pair.state, pair.usable, pair.primary) == (SUSPENDED, False, primary)
    assert taking.checkpointer.taken == 1, "it is taken without it"


@pytest.mark.parametrize("checkpoint", [False, True])
async def test_a_sync_that_was_planned_as_the_journal_failed_is_waited_for_by_nobody(
    checkpoint: bool,
) -> None:
    """Its step is run, and then the error of an earlier marker is raised in its place."""
    taking = Taking()
    parts, pair = taking.parts, taking.parts.pair()
    pair.secondary_dirty = True
    parts.fail_journal("writev", errno.EIO, times=1)
    begun = taking.checkpointer.checkpoint() if checkpoint else _sync(taking)
    parts.timeline.when_at_rest(lambda: _append(parts))
    with pytest.raises(OSError, match="could not be written"):
        await taking.finish(begun)
    assert pair.secondary_dirty
    with contextlib.suppress(OSError, DuplexdError):  # it ends; that it fails is as it should be
        await asyncio.wait_for(taking.finish(_sync(taking)), 10)


async def _sync(taking: Taking) -> dict[Pair, OSError]:
    return await taking.checkpointer.sync_secondaries([taking.parts.pair()])


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    await asyncio.gather(*tasks)


def _append(parts: Parts) -> None:
    parts.timeline.append(Synced())


async def test_of_a_suspended_secondary_that_fails_a_sync_nothing_is_known() -> None:
    async with running() as core:
        await core.write("data", 0, DATA)
        secondary, pair = core.secondary(), core.pair()
        secondary.fail("write", errno.EIO, times=1)
        await core.write("data", 0, DATA[::-1])
        assert (pair.state, pair.usable) == (SUSPENDED, True)
        secondary.fail("sync", errno.EIO)
        pair.secondary_dirty = True
        await core.controller.checkpointer.sync_secondaries([pair])
        assert (pair.usable, pair.changed) == (False, pair.record.full_map())


async def test_a_secondary_that_is_not_at_its_path_is_named_and_not_usable() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        core.disk.take("/b/data.img")
        (lost,) = (await core.controller.checkpointer.sync_secondaries([core.pair()])).values()
        assert "/b/data.img" in str(lost.strerror)
        assert not core.pair().usable
        (lost,) = (await core.controller.checkpointer.sync_secondaries([core.pair()])).values()
        assert lost.errno == errno.ESTALE, "unusable as it is, it is still not there"


# ------------------------------------------------------------------- what counts as not durable


class WrittenToMeanwhile(Pair):
    """While one looks whether this one is dirty, a follower writes to `other` in its thread."""

    __slots__ = ("other",)

    other: Pair

    @property
    def secondary_dirty(self) -> bool:
        self.other.secondary_dirty = True
        return False

    @secondary_dirty.setter
    def secondary_dirty(self, _dirty: bool) -> None: ...


async def test_what_a_follower_writes_while_one_begins_is_synced_by_the_next_one() -> None:
    taking = Taking()
    parts = taking.parts
    data, wal = parts.pair(), parts.pair("wal")
    await taking.take()
    meanwhile = WrittenToMeanwhile(wal.record, wal.primary, wal.secondary, "async")
    meanwhile.other = data
    parts.volumes.add(meanwhile)
    await taking.take()
    parts.volumes.add(wal)
    await taking.take()
    assert parts.images["data"][1].syncs > 0


async def test_after_one_that_failed_a_secondary_still_has_to_be_synced() -> None:
    taking = Taking()
    parts = taking.parts
    parts.send("data", 0, b"x" * 512)
    parts.fail_journal("sync")
    with pytest.raises(DuplexdError):
        await taking.take()
    await taking.finish(taking.checkpointer.sync_secondaries([parts.pair()]))
    assert parts.images["data"][1].syncs == 1


def test_a_consistent_suspend_is_durable_beside_one_that_fails() -> None:
    async def suspended(count: int) -> bool | None:
        """Whether the secondary was synced; None if the suspend did not say that it was."""
        async with running(disk=new_disk()) as core:
            primary, secondary = core.faulty()
            assert secondary is not None
            assert await core.write("data", 0, b"something") == 0
            primary.fail("sync")
            task = asyncio.ensure_future(core.controller.checkpointer.checkpoint())
            await core.turns(count)
            consistent = False
            with contextlib.suppress(DuplexdError):
                consistent = (await core.controller.suspend(["data"]))["verdict"] == "consistent"
            await asyncio.gather(task, return_exceptions=True)
            return secondary.calls["sync"] > 0 if consistent else None

    found = [run(suspended(count)) for count in range(40)]
    assert True in found
    assert False not in found


@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_suspend_is_still_syncing_is_not_called_durable(fails: bool) -> None:
    """Its leg counts as clean already, so the checkpoint plans no sync of its own for it."""
    taking = Taking()
    parts, pair = taking.parts, taking.parts.pair()
    parts.send("data", 0, b"x" * 512)
    parts.timeline.append(MakeCut("1", "", [pair.id]))
    parts.writer.write()
    suspend = asyncio.ensure_future(_sync(taking))
    await turns()
    sync = parts.workers.calls.popleft()
    if fails:
        parts.legs["data"][1].fail("sync", times=1)
    before = taking.checkpointer.taken
    checkpoint = asyncio.ensure_future(taking.checkpointer.checkpoint())
    for _ in range(50):
        parts.workers.finish_all()
        await asyncio.sleep(0)
    assert taking.checkpointer.taken == before
    sync()
    await taking.finish(_ended(checkpoint, suspend))
    (saved, _) = taking.file.read()["pairs"]
    assert taking.checkpointer.taken == before + 1
    assert (saved["state"], saved["usable"]) == (SUSPENDED, not fails)


async def test_what_was_written_since_a_sync_under_way_began_is_synced_again() -> None:
    """That of a suspend, which the checkpoint waits for, does not cover it."""
    taking = Taking()
    parts = taking.parts
    parts.send("data", 0, b"x" * 512)
    sync = asyncio.ensure_future(taking.checkpointer.sync_secondaries([parts.pair()]))
    await turns()
    under_way = parts.workers.calls.popleft()
    parts.send("data", 4096, b"y" * 512)
    assert parts.pair().secondary_dirty
    checkpoint = asyncio.ensure_future(taking.checkpointer.checkpoint())
    await turns()
    parts.workers.finish_all()
    await turns()
    under_way()
    while not (sync.done() and checkpoint.done()):
        parts.workers.finish_all()
        await asyncio.sleep(0)
    assert taking.checkpointer.taken == 1
    assert not parts.pair().secondary_dirty


async def test_a_sync_beside_a_batch_does_not_make_clean_what_that_writes_after_it() -> None:
    """A suspend of pairs at a cut may meet a resync, and then clients that write again."""
    taking = Taking()
    parts = taking.parts
    change = parts.send("data", 0, b"x" * (SMALL.inline_batch_bytes_max + 4 * KIB))
    assert parts.timeline.busy
    batch = parts.workers.calls.popleft()
    sync = asyncio.ensure_future(taking.checkpointer.sync_secondaries([parts.pair()]))
    await turns()
    parts.workers.finish_all()
    await turns()
    before = parts.images["data"][1].syncs
    batch()
    while not sync.done():
        parts.workers.finish_all()
        await asyncio.sleep(0)
    assert parts.answered(change)
    assert parts.pair().secondary_dirty or parts.images["data"][1].syncs > before


def _left_unsynced(count: int) -> int:
    """Write, cancel a checkpoint after some turns of the loop, stop cleanly: how many writes of
    the images a power cut could still take, though the journal says that they are durable.
    """
    disk = new_disk()

    async def scenario() -> None:
        async with running(disk=disk) as core:
            # The first of its region: that one syncs the journal.
            assert await core.write("data", len(DATA), DATA) == 0
            assert await core.write("data", 0, DATA) == 0
            task = asyncio.ensure_future(core.controller.checkpointer.checkpoint())
            await core.turns(count)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(scenario())
    return disk.unsynced("/a/data.img") + disk.unsynced("/b/data.img")


def test_one_that_is_cancelled_does_not_make_legs_clean() -> None:
    assert not [count for count in range(40) if _left_unsynced(count)]


async def test_what_an_unusable_secondary_lost_is_in_the_journal_or_nothing_goes_on() -> None:
    """The error comes once. A resync that does not know of it would copy too little."""
    taking = Taking()
    parts = taking.parts
    _, secondary = parts.legs["data"]
    secondary.tear()
    secondary.fail("read_into")
    parts.send("data", 0, b"x" * 4 * KIB)
    assert (parts.pair().state, parts.pair().usable) == (SUSPENDED, False)
    assert parts.pair().secondary_dirty
    secondary.heal()
    secondary.fail("sync", times=1)
    parts.disk.fail("/state/journal", errno.EIO, operation="writev", times=1)
    with pytest.raises(OSError, match="Input/output error"):
        await taking.finish(taking.checkpointer.sync_secondaries([parts.pair()]))
    assert "Input/output error" in parts.timeline.failed

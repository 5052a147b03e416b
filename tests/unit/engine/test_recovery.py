"""From whatever is on disk to a controller that serves: what is read, replayed and refused."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from random import Random
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair import Pair
from duplexd.core.pair_states import (
    BY_ERROR,
    DUPLEX,
    FIRST_COPY,
    PENDING,
    RESYNCING,
    SUSPENDED,
    UNCLEAN_STOP,
)
from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.engine.controller import Machine, start
from duplexd.engine.events import Events
from duplexd.engine.recovery.image_faults import Faults, Noted
from duplexd.engine.recovery.progress import ignore
from duplexd.engine.recovery.read import read_journal
from duplexd.engine.recovery.replay import GivenUpError, Replay
from duplexd.errors import ConfigurationError, DamageError, DuplexdError
from duplexd.journal.format import MARKER, SEGMENT_HEADER_BYTES, unpack_marker
from duplexd.journal.scan import records
from duplexd.limits import EngineLimits
from duplexd.replication.staging import StagingArea
from duplexd.runtime.watch import Watch
from tests.sim.disk import PowerCut
from tests.sim.image import Image
from tests.sim.workers import SimWorkers
from tests.support.prompt_workers import PromptWorkers
from tests.unit.engine.cores import MIB, SIZE, Core, HandClock, new_disk, run, running, settings
from tests.unit.replication.fakes import until

if TYPE_CHECKING:
    from duplexd.json_object import Json
    from tests.sim.disk import SimDisk

DATA = b"\x66" * 8192
GRAIN = 65536


async def killed(disk: SimDisk, *, power: bool = False, mode: str = "sync") -> None:
    """A daemon that wrote DATA at 0 and at 1 MiB, and was killed."""
    core = await Core.begin(disk, settings({"data": mode}))
    assert await core.write("data", 0, DATA) == 0
    assert await core.write("data", MIB, DATA) == 0
    assert await core.flush() == 0
    await core.until(core.equal)
    await core.crash(power=power)


def written_markers(disk: SimDisk) -> list[str]:
    """The kinds of all markers in the first segment, in order."""
    path = f"/state/journal/{disk.list('/state/journal')[0]}"
    data = disk.content(path)
    found = []
    for record in records(data, SEGMENT_HEADER_BYTES, 1, 0):
        if record.kind == MARKER:
            payload = memoryview(data)[record.payload_start : record.end]
            found.append(str(unpack_marker(payload)["m"]))
    return found


# --------------------------------------------------------------------------------------- reading


async def test_a_first_start_makes_a_journal_of_its_own() -> None:
    async with running() as core:
        assert core.disk.exists("/state/checkpoint")
        assert core.controller.timeline.ledger.starts == 1
        assert core.disk.list("/state/journal")


async def test_a_journal_without_its_checkpoint_is_not_taken_for_a_new_one() -> None:
    """All volumes would be taken as new, and their secondaries be erased by copies."""
    disk = new_disk()
    await killed(disk)
    disk.remove("/state/checkpoint")
    with pytest.raises(DamageError, match="the checkpoint is missing, but the journal exists"):
        await Core.begin(disk, settings())
    disk.open("/a/data.img").close()


async def test_damage_before_the_end_is_refused_and_everything_closed_again() -> None:
    disk = new_disk()
    await killed(disk)
    path = f"/state/journal/{disk.list('/state/journal')[0]}"
    first = SEGMENT_HEADER_BYTES
    for record in records(disk.content(path), SEGMENT_HEADER_BYTES, 1, 0):
        if record.payload_length == len(DATA):
            first = record.payload_start
            break
    disk.flip(path, first)
    with pytest.raises(DamageError):
        await Core.begin(disk, settings())
    disk.flip(path, first)  # as it was
    async with running(disk=disk) as core:
        assert core.image("data", "a")[: len(DATA)] == DATA


async def test_a_torn_tail_is_kept_aside_and_reported() -> None:
    disk = new_disk()
    await killed(disk)
    path = f"/state/journal/{disk.list('/state/journal')[0]}"
    *_, last = records(disk.content(path), SEGMENT_HEADER_BYTES, 1, 0)
    disk.flip(path, last.payload_start + 10 if last.payload_length else last.end - 5)
    async with running(disk=disk) as core:
        (event,) = core.named("torn-tail")
        assert disk.exists(event["kept"])


async def test_a_volume_with_changes_that_are_not_on_its_images_may_not_go() -> None:
    disk = new_disk()
    await killed(disk)
    with pytest.raises(ConfigurationError, match="put it back, start and stop the daemon once"):
        await Core.begin(disk, settings({"other": ""}))
    async with running(disk=disk):
        pass
    async with running({"other": ""}, disk=disk) as core:
        assert core.states() == {"other": "SIMPLEX"}


async def test_volumes_are_served_in_the_order_of_the_configuration() -> None:
    """Whichever the journal has known for longer."""
    disk = new_disk()
    async with running({"old": "sync"}, disk=disk):
        pass
    async with running({"new": "sync", "old": "sync"}, disk=disk) as core:
        assert core.controller.volume_names() == ["new", "old"]


# -------------------------------------------------------------------------------------- replaying


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("power", [False, True])
async def test_what_was_flushed_is_on_both_legs_again(power: bool, mode: str) -> None:
    disk = new_disk()
    await killed(disk, power=power, mode=mode)
    async with running({"data": mode}, disk=disk) as core:
        await core.controller.resync_wait(["data"])
        assert core.image("data", "a")[: len(DATA)] == DATA
        assert core.equal()


async def test_what_was_replayed_is_durable_before_the_journal_says_anything_of_it() -> None:
    """It may say that a secondary no longer needs older records; another power cut may follow."""
    disk = new_disk()
    unsynced: list[int] = []

    core = await Core.begin(disk, settings({"data": "async"}))
    assert await core.write("data", 0, DATA) == 0
    await core.until(core.equal)
    assert disk.unsynced("/b/data.img")
    await core.crash(power=False)

    def look(operation: str, path: str) -> None:
        if operation == "writev" and path.endswith(".seg"):
            unsynced.append(disk.unsynced("/b/data.img"))

    disk.before = look
    async with running({"data": "async"}, disk=disk):
        disk.before = None
    assert unsynced[0] == 0


async def test_the_journal_is_durable_before_it_is_replayed() -> None:
    """A leg must not get what a power cut could still take from the journal."""
    disk = new_disk()
    await killed(disk)
    order: list[str] = []

    def look(operation: str, path: str) -> None:
        if operation == "sync" and path.endswith(".seg"):
            order.append("journal")
        elif operation == "write" and path == "/a/data.img":
            order.append("leg")

    disk.before = look
    async with running(disk=disk):
        disk.before = None
        assert order[0] == "journal"
        assert "leg" in order


async def test_a_secondary_that_cannot_be_written_costs_only_its_pair_after_a_kill() -> None:
    """Those of its group are compared: a power cut may have left more on them than in the journal,
    so they are at no number that they could be suspended at.
    """
    disk = new_disk()
    volumes, groups = {"data": "sync", "mate": "sync", "apart": "sync"}, {"db": ["data", "mate"]}
    core = await Core.begin(disk, settings(volumes, groups))
    for name in volumes:
        assert await core.write(name, 0, DATA) == 0
    await core.crash(power=False)
    disk.fail("/b/data.img", errno.EIO, operation="write", times=1)
    async with running(volumes, groups, disk=disk) as again:
        states = {"data": SUSPENDED, "mate": PENDING, "apart": PENDING}
        assert again.states() == states
        data, mate = again.pair("data"), again.pair("mate")
        assert (data.reason, data.usable) == (BY_ERROR, False)
        assert (mate.reason, mate.usable) == (UNCLEAN_STOP, False)
        assert data.changed == data.record.full_map()
        await again.controller.resync(["data", "mate"])
        await again.controller.resync_wait(["data", "mate"])
        assert again.equal("data")
        assert again.equal("mate")


async def test_a_suspended_secondary_gets_nothing_from_behind_its_cut() -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings())
    assert await core.write("data", 0, DATA) == 0
    await core.controller.suspend(["data"])
    assert await core.write("data", 0, DATA[::-1]) == 0
    assert await core.write("data", MIB, b"later") == 0
    await core.crash(power=False)
    async with running(disk=disk) as again:
        assert again.states() == {"data": SUSPENDED}
        assert again.image("data", "b")[: len(DATA)] == DATA
        assert not any(again.image("data", "b")[MIB:])
        changed = again.pair().changed
        assert changed is not None
        assert changed.changed_bytes == SIZE, "the open region; without it two grains"


# ------------------------------------------------------------------------------- what it says then


@pytest.mark.parametrize("power", [False, True])
async def test_after_an_unclean_stop_only_regions_that_were_open_are_compared(power: bool) -> None:
    """After a kill, too: whether the disk lost un-synced writes meanwhile cannot be known."""
    disk = new_disk()
    core = await Core.begin(disk, settings(size=64 * MIB))
    assert await core.write("data", 20 * MIB, DATA) == 0
    await core.crash(power=power)
    core = await Core.begin(disk, settings(size=64 * MIB))
    try:
        pair = core.pair()
        assert (pair.state, pair.reason, pair.usable) == (PENDING, UNCLEAN_STOP, False)
        assert pair.changed is not None
        assert pair.changed.changed_bytes == 16 * MIB
        assert pair.changed.next_run(0, 64 * MIB) == (16 * MIB, 16 * MIB)
        await core.controller.resync_wait(["data"])
        assert core.equal()
    finally:
        await core.controller.stop()


async def test_what_is_equal_after_a_kill_is_read_and_not_written() -> None:
    disk = new_disk()
    await killed(disk)
    core = await Core.begin(disk, settings())
    written: list[str] = []
    disk.before = lambda operation, path: written.append(path) if operation != "sync" else None
    try:
        assert core.pair().state == PENDING
        await core.controller.resync_wait(["data"])
        assert core.pair().copied_bytes == 0
        assert "/b/data.img" not in written
    finally:
        disk.before = None
        await core.controller.stop()


async def test_a_change_that_only_a_leg_still_has_is_found_by_the_comparison() -> None:
    """The disk of the journal lost its last record without a boot; the primary's did not."""
    disk = new_disk()
    core = await Core.begin(disk, settings())
    assert await core.write("data", 0, DATA) == 0
    await core.controller.timeline.durable()
    assert await core.write("data", MIB, DATA) == 0
    await core.crash(power=False)
    disk.lose("/state", "/b")
    core = await Core.begin(disk, settings())
    try:
        assert not core.equal()
        await core.controller.resync_wait(["data"])
        assert core.equal()
    finally:
        await core.controller.stop()


async def test_a_kill_during_the_comparison_only_begins_it_again() -> None:
    disk = new_disk()
    await killed(disk)
    for _ in range(3):
        core = await Core.begin(disk, settings())
        assert (core.pair().state, core.pair().reason) == (PENDING, UNCLEAN_STOP)
        await core.crash(power=False)
    async with running(disk=disk) as core:
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}
        assert core.equal()


async def test_a_first_copy_that_was_killed_is_still_a_first_copy() -> None:
    disk = new_disk()
    async with running({"data": ""}, disk=disk) as core:
        assert await core.write("data", 0, DATA) == 0
    core = await Core.begin(disk, settings())
    assert (core.pair().state, core.pair().reason) == (PENDING, FIRST_COPY)
    assert await core.write("data", MIB, DATA) == 0
    await core.crash(power=False)
    async with running(disk=disk) as core:
        assert (core.pair().state, core.pair().reason) == (PENDING, FIRST_COPY)
        await core.controller.resync_wait(["data"])
        assert core.equal()


async def test_a_first_copy_covers_what_the_replay_brings_to_the_primary() -> None:
    """The daemon died with a change in the journal that was not on the image yet: a hole there."""
    disk = new_disk()
    core = await Core.begin(disk, settings({"data": ""}))

    def dies(operation: str, path: str) -> None:
        if path == "/a/data.img":
            raise PowerCut(operation)

    disk.before = dies
    with pytest.raises(PowerCut):
        core.send("data", 0, DATA)
    disk.before = None
    await core.crash(power=False)
    async with running({"data": "sync"}, disk=disk) as core:
        assert core.pair().reason == FIRST_COPY
        await core.controller.resync_wait(["data"])
        assert core.image("data", "a")[: len(DATA)] == DATA
        assert core.equal()


async def test_a_copy_after_a_failed_secondary_does_not_become_a_comparison() -> None:
    """The page cache may show what the disk of that secondary never got."""
    disk = new_disk()
    core = await Core.begin(disk, settings())
    assert await core.write("data", 0, DATA) == 0
    disk.fail("/b/data.img", errno.EIO, operation="sync", times=1)
    await core.controller.suspend(["data"])
    assert not core.pair().usable
    assert await core.write("data", MIB, DATA) == 0
    await core.controller.resync(["data"])
    assert (core.pair().state, core.pair().reason) == (PENDING, RESYNCING)
    await core.controller.timeline.durable()
    await core.crash(power=False)
    core = await Core.begin(disk, settings())
    assert (core.pair().state, core.pair().reason) == (PENDING, RESYNCING)
    await core.controller.resync_wait(["data"])
    await core.crash(power=True)
    assert disk.content("/b/data.img")[: len(DATA)] == DATA


async def test_a_start_keeps_the_journal_that_a_resync_since_the_checkpoint_needs() -> None:
    """A start that makes room in a full journal may die, and the next one walks from the cut."""
    disk, config = new_disk(), settings()
    core = await Core.begin(disk, config)
    await core.controller.suspend(["data"])
    cut = core.pair().cut
    assert await core.write("data", 0, DATA) == 0
    await core.controller.checkpointer.checkpoint()
    report = await core.controller.resync(["data"])
    assert report["volumes"][0]["how"] == "journal"
    await core.controller.timeline.durable()
    await core.crash(power=False)
    file, limits = CheckpointFile(disk, "/state"), EngineLimits()
    journal = read_journal(disk, file, config.controller, "boot", limits, lambda *_: None)
    assert cut is not None
    assert journal.floor == cut.sequence < journal.saved["sequence"]
    journal.ring.close()


async def test_an_unclean_stop_widens_the_map_of_a_suspended_pair_by_its_open_regions() -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings(size=64 * MIB))
    await core.controller.suspend(["data"])
    assert await core.write("data", 20 * MIB, DATA) == 0
    await core.crash(power=False)
    async with running(disk=disk, size=64 * MIB) as core:
        pair = core.pair()
        assert (pair.state, pair.usable) == (SUSPENDED, True)
        assert pair.changed is not None
        assert pair.changed.next_run(0, 64 * MIB) == (16 * MIB, 16 * MIB)
        report = await core.controller.resync(["data"])
        assert report["volumes"][0]["how"] == "map", "the journal may lack changes"
        await core.controller.resync_wait(["data"])
        assert core.equal()


async def test_after_a_clean_stop_nothing_needs_to_be_compared() -> None:
    disk = new_disk()
    async with running(disk=disk) as core:
        assert await core.write("data", 0, DATA) == 0
    disk.crash(power=True)
    async with running(disk=disk) as core:
        assert core.states() == {"data": DUPLEX}
        assert core.equal()


async def test_the_start_is_said_last() -> None:
    """A start that dies before it is made as if it had never begun: the unclean stop is seen."""
    disk = new_disk()
    await killed(disk, power=True)
    async with running(disk=disk):
        markers = written_markers(disk)
    assert markers.count("open") == 2
    last_copy = len(markers) - markers[::-1].index("copy")
    assert "open" in markers[last_copy:]


async def test_a_pair_of_a_start_that_died_in_its_markers_is_compared_as_a_whole() -> None:
    """Before its first checkpoint nothing says which images it had."""
    disk, checkpoints = new_disk(), list[bytes]()

    def before(operation: str, path: str) -> None:
        if operation == "replace_file" and disk.has(path):
            checkpoints.append(disk.content(path))

    disk.before = before
    core = await Core.begin(disk, settings())
    await core.crash(power=False)
    disk.before = None
    disk.replace_file("/state/checkpoint", checkpoints[-1])  # it died before the first of its own
    path = f"/state/journal/{disk.list('/state/journal')[0]}"
    *_, last = records(disk.content(path), SEGMENT_HEADER_BYTES, 1, 0)
    disk.flip(path, last.payload_start)  # OPEN was not written
    disk.give("/a/data.img", Image.of(DATA.ljust(SIZE, b"x")))  # nor were the images marked
    disk.give("/b/data.img", Image.of(bytes(SIZE)))
    async with running(disk=disk) as core:
        await core.controller.resync_wait(["data"])
        assert core.equal()


async def test_a_start_that_fails_anywhere_can_be_made_again() -> None:
    disk = new_disk()
    await killed(disk)
    failed = 0
    for after in range(0, 60, 2):
        disk.fail("/state", errno.EIO, after=after, times=1)
        try:
            core = await Core.begin(disk, settings())
        except (OSError, DuplexdError):
            failed += 1
            disk.heal("/state")
        else:
            disk.heal("/state")
            await core.crash(power=False)
    assert failed > 5
    async with running(disk=disk) as core:
        await core.controller.resync_wait(["data"])
        assert core.image("data", "a")[: len(DATA)] == DATA
        assert core.equal()


async def test_a_resync_that_a_restart_cut_short_goes_on() -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings(journal="16MiB"))
    await core.controller.suspend(["data"])
    for _ in range(8):
        assert await core.write("data", 0, b"\x5a" * SIZE) == 0
    pair = core.pair()
    report = await core.controller.resync(["data"])
    assert report["volumes"][0]["how"] == "map"
    assert pair.record.staging == "uncommitted"
    await core.controller.timeline.durable()
    await core.crash(power=False)
    async with running(disk=disk, journal="16MiB") as again:
        (entry,) = (await again.controller.resync_wait(["data"]))["volumes"]
        assert (entry["state"], entry["error"]) == (DUPLEX, None)
        assert again.equal()
        await again.until(lambda: not disk.list("/state/staging"))


# ------------------------------------------------------------------------------------- cancelled


async def test_a_start_that_is_cancelled_anywhere_leaves_nothing_open() -> None:
    """An image that stays open stays locked: the next start could not have it."""
    disk, turns = new_disk(), 0
    while True:
        clock = HandClock(disk)
        seen: list[Json] = []
        workers = SimWorkers(asyncio.get_running_loop(), Random(turns), 2)
        events = Events(clock)
        events.listeners.append(seen.append)
        machine = Machine(disk, clock, workers, workers, PromptWorkers())
        starting = asyncio.ensure_future(start(settings(), machine, events))
        turns += 1
        for _ in range(turns):
            await asyncio.sleep(0)
        if starting.done():
            await starting.result().stop()
            break
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await until(lambda: len(asyncio.all_tasks()) == 1)  # the step that it was at is over
        assert not seen
    assert turns > 20


def test_a_replay_that_is_given_up_ends_soon_and_can_be_done_again() -> None:
    disk, config = new_disk(), settings()
    run(killed(disk))
    file, staging = CheckpointFile(disk, "/state"), StagingArea(disk, "/state/staging")
    limits = dataclasses.replace(EngineLimits(), follower_chunk_bytes=len(DATA))
    journal = read_journal(disk, file, config.controller, "boot", limits, ignore)
    record = journal.ledger.known()["data"]
    pair = Pair(record, disk.open("/a/data.img"), disk.open("/b/data.img"), "sync")
    seen: list[int] = []

    def progress(_stage: str, done: int, _total: int) -> None:
        seen.append(done)
        replay.give_up()

    faults, watch = Faults(), Watch[Noted]()
    holds = {pair: pair.applied}
    replay = Replay(journal, holds, faults, staging, limits, progress, watch)
    with pytest.raises(GivenUpError):
        replay.run()
    assert len(seen) == 1
    again = Replay(journal, holds, faults, staging, limits, ignore, watch)
    again.run()
    assert not faults.primaries
    assert not faults.secondaries
    assert disk.content("/a/data.img") == disk.content("/b/data.img")
    pair.close()
    journal.ring.close()

"""Limits of the engine, each met by a small value that is passed in, and the defaults where others
rely on them. Limits of a part are met in that part's tests.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.regions import DirtyRegions
from duplexd.errors import ConfigurationError
from duplexd.journal.inspect import inspect
from duplexd.limits import JOURNAL_SIZE_BYTES_MIN, EngineLimits
from duplexd.units import GIB, KIB, MIB, TIB
from tests.unit.engine.cores import Core, running, settings

if TYPE_CHECKING:
    from duplexd.json_object import Json

DEFAULT = EngineLimits()


def entries(core: Core, kind: str) -> list[Json]:
    """What the journal holds: records or markers."""
    return [entry for entry in inspect(core.disk, "/state") if entry["type"] == kind]


# ------------------------------------------------------------------------------ the write path


def test_a_piece_that_shares_a_batch_fits_into_a_record() -> None:
    with pytest.raises(ValueError, match="shared_piece_bytes 2097152 is above"):
        dataclasses.replace(DEFAULT, shared_piece_bytes=2 * MIB)


async def test_a_daemons_writes_are_records_of_at_most_record_bytes_max() -> None:
    limits = dataclasses.replace(DEFAULT, record_bytes_max=MIB)
    async with running(limits=limits) as core:
        data = bytes(range(256)) * ((2 * MIB + 4096) // 256)
        change = core.send("data", 0, data)
        assert await core.answer(change) == 0
        lengths = [entry["length"] for entry in entries(core, "record")]
        assert lengths == [MIB, MIB, 4096]
        assert core.peer.answers == [change]
        assert core.image("data", "a")[: len(data)] == core.image("data", "b")[: len(data)] == data


async def test_batches_leave_room_for_markers_however_full_the_journal_is() -> None:
    """A cut needs no room that changes could have taken."""
    async with running(journal="16MiB") as core:
        core.disk.full("/state/journal")
        ring = core.controller.timeline.writer.ring
        ring.segments_max = len(ring.live) + len(ring.spares)
        core.disk.fail("/state/checkpoint", errno.ENOSPC)  # nothing is recycled
        answers = [0]
        while answers[-1] == 0 and len(answers) < 100:
            answers.append(await core.write("data", 0, bytes(256 * KIB)))
        assert answers[-1] == errno.ENOSPC
        for _ in range(10):
            assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])
        core.disk.heal("/state/checkpoint")
        core.disk.heal("/state/journal")


async def test_changes_wait_for_an_async_secondary_that_trails_by_half_of_async_lag_bytes_max() -> (
    None
):
    limits = dataclasses.replace(DEFAULT, async_lag_bytes_max=96 * KIB)
    async with running({"data": "async"}, limits=limits) as core:
        leg = core.secondary()
        assert await core.write("data", 0, b"opens the region") == 0
        await core.until(core.equal)
        changes = [core.send("data", 0, bytes(32 * KIB)) for _ in range(4)]
        answered = [change in core.peer.answers for change in changes]
        assert answered == [True, True, False, False]
        assert core.controller.admission.clear, "other volumes go on"
        for change in changes:
            assert await core.answer(change) == 0
        assert leg.calls["write"] > 0


# ---------------------------------------------------------------------------------- the journal


@pytest.mark.parametrize("spares", [2, 4])
async def test_spare_segments_are_kept_ready(spares: int) -> None:
    limits = dataclasses.replace(DEFAULT, spare_segments=spares)
    async with running(journal="64MiB", limits=limits) as core:
        ring = core.controller.timeline.writer.ring
        await core.until(lambda: len(ring.spares) >= spares)
        for _ in range(8):
            await core.write("data", 0, bytes(2 * MIB))
        await core.until(lambda: len(ring.spares) >= spares)


async def test_the_journal_never_takes_more_than_journal_size() -> None:
    async with running(journal="16MiB") as core:
        for place in range(30):
            assert await core.write("data", (place % 3) * MIB, bytes([place]) * MIB) == 0
        files = [name for name in core.disk.list("/state/journal") if name.endswith(".seg")]
        assert sum(core.disk.size(f"/state/journal/{name}") for name in files) <= 16 * MIB
        assert core.controller.checkpointer.taken > 1
        assert core.equal()


@pytest.mark.parametrize(
    ("journal", "segment"),
    [
        (JOURNAL_SIZE_BYTES_MIN, DEFAULT.segment_bytes_min),
        (
            DEFAULT.journal_segments * DEFAULT.segment_bytes_min * 2,
            DEFAULT.segment_bytes_min * 2,
        ),
        (GIB, DEFAULT.segment_bytes_max),
    ],
)
async def test_segments_are_between_segment_bytes_min_and_max(journal: int, segment: int) -> None:
    async with running(journal=str(journal)) as core:
        ring = core.controller.timeline.writer.ring
        assert ring.segment_size == segment
        assert ring.size_bytes <= journal


def test_the_smallest_journal_is_accepted_and_a_smaller_one_is_not() -> None:
    smallest = settings(journal=str(JOURNAL_SIZE_BYTES_MIN))
    assert smallest.controller.journal_size == JOURNAL_SIZE_BYTES_MIN
    with pytest.raises(ConfigurationError, match="too small"):
        settings(journal=str(JOURNAL_SIZE_BYTES_MIN - 1))


async def test_the_journal_is_synced_once_in_sync_interval_s() -> None:
    limits = dataclasses.replace(DEFAULT, sync_interval_s=0.5)
    async with running(limits=limits) as core:
        await core.write("data", 0, b"opens the region")
        await core.write("data", 0, b"x")
        writer, taken = core.controller.timeline.writer, core.controller.checkpointer.taken
        assert writer.synced < writer.written
        await asyncio.sleep(0.6)
        assert writer.synced == writer.written
        assert core.controller.checkpointer.taken == taken


async def test_a_checkpoint_is_taken_after_checkpoint_interval_s_if_there_was_a_change() -> None:
    async with running() as core:
        checkpointer = core.controller.checkpointer
        before = checkpointer.taken
        core.clock.now += DEFAULT.checkpoint_interval_s - 1
        await core.write("data", 0, b"x")
        await asyncio.sleep(2)
        assert checkpointer.taken == before, "not yet"
        core.clock.now += 2
        await asyncio.sleep(2)
        assert checkpointer.taken == before + 1
        assert core.pair().regions.open
        core.clock.now += DEFAULT.checkpoint_interval_s + 1
        await asyncio.sleep(2)
        assert checkpointer.taken == before + 2, "one more closes the region"
        assert not core.pair().regions.open
        core.clock.now += DEFAULT.checkpoint_interval_s + 1
        await asyncio.sleep(2)
        assert checkpointer.taken == before + 2, "nothing was written since"


# -------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize(
    ("size", "region"),
    [(4096, 16 * MIB), (64 * GIB, 16 * MIB), (64 * GIB + 4096, 32 * MIB), (TIB, 256 * MIB)],
)
def test_a_volume_has_at_most_regions_max_regions_of_at_least_region_bytes_min(
    size: int, region: int
) -> None:
    regions = DirtyRegions(size, DEFAULT.region_bytes_min, DEFAULT.regions_max)
    assert 1 << regions.shift == region
    assert region >= DEFAULT.region_bytes_min
    assert len(regions.of(0, size)) <= DEFAULT.regions_max


async def test_a_region_is_marked_once_until_a_checkpoint_closes_it() -> None:
    limits = dataclasses.replace(DEFAULT, region_bytes_min=MIB)
    async with running(limits=limits) as core:
        for offset in (0, 4096, MIB, 0):
            await core.write("data", offset, b"x")
        marked = [
            entry["marker"]["volumes"]
            for entry in entries(core, "marker")
            if entry["marker"]["m"] == "regions"
        ]
        assert marked == [{"1": [0]}, {"1": [1]}]
        for _ in range(2):
            await core.controller.checkpointer.checkpoint()
        assert core.pair().regions.open == set()

"""The limits of the write path and of the journal, each met."""

from __future__ import annotations

import pytest

from duplexd import limits
from duplexd.core.pair import region_bytes
from duplexd.journal.inspect import inspect
from duplexd.replication.resync import Jobs
from duplexd.units import GIB, MIB, TIB
from tests.unit.engine.cores import Core, running, settings


def records(core: Core) -> list[dict[str, object]]:
    return [entry for entry in inspect(core.disk, "/state") if entry["type"] == "record"]


@pytest.mark.parametrize(("over", "by_threads"), [(0, 0), (1, 1)])
async def test_a_batch_of_more_than_inline_batch_bytes_max_goes_to_a_worker(
    over: int, by_threads: int
) -> None:
    async with running(size=8 * MIB) as core:
        await core.write("data", 0, b"opens the region")  # which takes a worker, whatever its size
        before = core.controller.batches.changes_by_threads
        await core.write("data", 0, bytes(limits.INLINE_BATCH_BYTES_MAX - 72 + over))
        assert core.controller.batches.changes_by_threads - before == by_threads


@pytest.mark.parametrize(
    ("length", "by_threads"),
    [(limits.INLINE_ZERO_BYTES_MAX, 0), (limits.INLINE_ZERO_BYTES_MAX + 4096, 1)],
)
async def test_zeroes_of_more_than_inline_zero_bytes_max_go_to_a_worker(
    length: int, by_threads: int
) -> None:
    async with running() as core:
        await core.write("data", 0, b"opens the region")
        before = core.controller.batches.changes_by_threads
        await core.zero("data", 0, length)
        assert core.controller.batches.changes_by_threads - before == by_threads


async def test_a_write_of_more_than_record_bytes_max_is_several_records_and_one_answer() -> None:
    async with running() as core:
        data = bytes(range(256)) * ((2 * limits.RECORD_BYTES_MAX + 4096) // 256)
        change = core.send("data", 0, data)
        assert await core.answer(change) == 0
        assert [entry["length"] for entry in records(core)] == [
            limits.RECORD_BYTES_MAX,
            limits.RECORD_BYTES_MAX,
            4096,
        ]
        assert core.peer.answers == [change]
        assert core.image("data", "a")[: len(data)] == core.image("data", "b")[: len(data)] == data


async def test_no_batch_is_larger_than_batch_bytes_max_or_half_a_segment() -> None:
    async with running(journal="64MiB") as core:
        assert core.controller.batches.bytes_max() == min(
            limits.BATCH_BYTES_MAX, core.controller.ring.segment_size // 2
        )
        lease = await core.controller.quiesce(["data"], 5.0, "me")
        changes = [core.send("data", 0, bytes([place]) * MIB) for place in range(12)]
        before = core.controller.batches.begun
        core.controller.release(lease.id)
        for change in changes:
            await core.answer(change)
        per_batch = core.controller.batches.bytes_max() // (MIB + 72)
        assert core.controller.batches.begun - before >= 12 // max(per_batch, 1)


async def test_batches_leave_marker_reserve_bytes_for_markers() -> None:
    """However full the journal is with changes: a cut still finds room."""
    async with running(journal="16MiB") as core:
        core.disk.full("/state/journal")
        core.controller.ring.segments_max = len(core.controller.ring.live) + len(
            core.controller.ring.spares
        )
        core.disk.fail("/state/checkpoint", 28)  # nothing is recycled
        answers = [0]
        while answers[-1] == 0 and len(answers) < 100:
            answers.append(await core.write("data", 0, bytes(256 << 10)))
        assert answers[-1] == 28
        for _ in range(10):
            assert (await core.controller.suspend(["data"]))["verdict"] == "consistent"
            await core.controller.resync(["data"])
            await core.controller.resync_wait(["data"])
        core.disk.heal("/state/checkpoint")
        core.disk.heal("/state/journal")


async def test_spare_segments_are_kept_ready() -> None:
    async with running(journal="64MiB") as core:
        await core.write("data", 0, b"x")
        await core.until(lambda: len(core.controller.ring.spares) >= limits.SPARE_SEGMENTS)
        for _ in range(8):
            await core.write("data", 0, bytes(2 * MIB))
        await core.until(lambda: len(core.controller.ring.spares) >= limits.SPARE_SEGMENTS)


async def test_the_journal_never_takes_more_than_journal_size() -> None:
    async with running(journal="16MiB") as core:
        for place in range(30):
            assert await core.write("data", (place % 3) * MIB, bytes([place]) * MIB) == 0
        files = [name for name in core.disk.list("/state/journal") if name.endswith(".seg")]
        assert sum(core.disk.size(f"/state/journal/{name}") for name in files) <= 16 * MIB
        assert core.controller.maintenance.checkpoints > 1
        assert core.equal()


@pytest.mark.parametrize(
    ("journal", "segment"),
    [
        (limits.JOURNAL_SIZE_BYTES_MIN, limits.SEGMENT_BYTES_MIN),
        (limits.JOURNAL_SEGMENTS * limits.SEGMENT_BYTES_MIN * 2, limits.SEGMENT_BYTES_MIN * 2),
        (GIB, limits.SEGMENT_BYTES_MAX),
    ],
)
async def test_segments_are_between_segment_bytes_min_and_max(journal: int, segment: int) -> None:
    async with running(journal=str(journal)) as core:
        assert core.controller.ring.segment_size == segment
        assert core.controller.ring.size_bytes <= journal


@pytest.mark.parametrize(
    ("size", "region"),
    [(4096, 16 * MIB), (64 * GIB, 16 * MIB), (64 * GIB + 4096, 32 * MIB), (TIB, 256 * MIB)],
)
def test_a_volume_has_at_most_regions_max_regions_of_at_least_region_bytes_min(
    size: int, region: int
) -> None:
    assert region_bytes(size) == region
    assert region >= limits.REGION_BYTES_MIN
    assert -(-size // region) <= limits.REGIONS_MAX


async def test_a_region_is_marked_once_until_a_checkpoint_closes_it() -> None:
    async with running(size=64 * MIB) as core:
        controller = core.controller
        for offset in (0, 4096, limits.REGION_BYTES_MIN, 0):
            await core.write("data", offset, b"x")
        markers = [
            entry["marker"] for entry in inspect(core.disk, "/state") if entry["type"] == "marker"
        ]
        assert [marker["volumes"] for marker in markers if marker["m"] == "regions"] == [
            {"1": [0]},
            {"1": [1]},
        ]
        await controller.maintenance.checkpoint()
        await controller.maintenance.checkpoint()
        assert core.pair().regions == set()


async def test_more_than_async_lag_bytes_max_makes_changes_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running({"data": "async"}) as core:
        lag = limits.ASYNC_LAG_BYTES_MAX
        with monkeypatch.context() as patch:
            patch.setattr(
                type(core.controller.jobs.trail), "lag_bytes", property(lambda _trail: lag + 1)
            )
            assert isinstance(core.controller.jobs, Jobs)
            change = core.send("data", 0, b"waits")
            await core.turns()
            assert change not in core.peer.answers
        core.controller.batches.kick()
        assert await core.answer(change) == 0


async def test_time_limits_of_maintenance_are_kept() -> None:
    async with running() as core:
        await core.write("data", 0, b"opens the region")
        await core.write("data", 0, b"x")
        maintenance, before = core.controller.maintenance, core.controller.maintenance.checkpoints
        assert core.controller.writer.synced < core.controller.writer.written
        await maintenance._once(timed_out=True)  # what happens each SYNC_INTERVAL_S
        assert core.controller.writer.synced == core.controller.writer.written
        assert maintenance.checkpoints == before
        core.clock.now += limits.CHECKPOINT_INTERVAL_S + 1
        await core.write("data", 0, b"y")
        await maintenance._once(timed_out=True)
        assert maintenance._beside is not None
        await maintenance._beside
        assert maintenance.checkpoints == before + 1
        core.clock.now += limits.CHECKPOINT_INTERVAL_S + 1
        await maintenance._once(timed_out=True)
        assert maintenance.checkpoints == before + 1, "nothing was written since"


def test_the_smallest_journal_is_accepted_and_a_smaller_one_is_not() -> None:
    assert (
        settings(journal=str(limits.JOURNAL_SIZE_BYTES_MIN)).controller.journal_size
        == limits.JOURNAL_SIZE_BYTES_MIN
    )
    with pytest.raises(Exception, match="too small"):
        settings(journal=str(limits.JOURNAL_SIZE_BYTES_MIN - 1))

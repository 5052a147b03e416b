"""One batch: the journal, then the secondary, then the primary; and what fails."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import TRIM, WRITE, ZERO
from duplexd.engine.batch import Batch
from duplexd.engine.write_path import record_bytes
from duplexd.runtime.watch import GivenUp, HungError, Watch
from duplexd.units import KIB
from tests.unit.engine.parts import SIZE, Parts
from tests.unit.journal.journals import DIRECTORY, SEGMENT, path, reopen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from duplexd.core.pair import PairChange
    from tests.support.fault_leg import Operation


def batch_of(
    changes: Sequence[PairChange],
    regions: Mapping[int, Sequence[int]] | None = None,
    heavy: bool = False,
) -> Batch:
    return Batch(changes, regions or {}, heavy, lambda _batch, _error: None)


def perform(
    parts: Parts, changes: Sequence[PairChange], regions: Mapping[int, Sequence[int]] | None = None
) -> Batch:
    """What a worker does for a batch."""
    batch = batch_of(changes, regions)
    parts.executor.perform(batch)
    return batch


class Trace:
    """What is done to the journal and the legs, in order."""

    def __init__(self, parts: Parts) -> None:
        self.done: list[str] = []
        parts.disk.before = self._disk
        for name, (primary, secondary) in parts.legs.items():
            primary.delay = self._leg(f"primary {name}")
            secondary.delay = self._leg(f"secondary {name}")

    def _disk(self, operation: str, where: str) -> None:
        assert where.startswith(DIRECTORY)
        self.done.append(f"journal {operation}")

    def _leg(self, leg: str) -> Callable[[Operation], None]:
        return lambda operation: self.done.append(f"{leg} {operation}")


# ---------------------------------------------------------------------------- the order of the legs


def test_a_change_goes_to_the_journal_then_to_the_secondary_then_to_the_primary() -> None:
    parts = Parts()
    trace = Trace(parts)
    perform(parts, [parts.change("data", 0, b"x")])
    assert trace.done == ["journal writev", "secondary data write", "primary data write"]


def test_the_journal_has_the_whole_batch_before_any_leg_and_the_legs_take_it_change_by_change() -> (
    None
):
    parts = Parts()
    trace = Trace(parts)
    changes = [
        parts.change("data", 0, b"one"),
        parts.change("wal", 0, b"", ZERO, 4 * KIB),
        parts.change("data", 0, b"two"),
    ]
    perform(parts, changes)
    assert trace.done == [
        "journal writev",
        "secondary data write",
        "primary data write",
        "secondary wal zero",
        "primary wal zero",
        "secondary data write",
        "primary data write",
    ]


def test_new_regions_are_durable_before_a_leg_is_touched() -> None:
    parts = Parts()
    trace = Trace(parts)
    batch = perform(parts, [parts.change("data", 0, b"x")], {1: [0]})
    assert trace.done[:2] == ["journal writev", "journal sync"]
    assert parts.disk.unsynced(path(0)) == 0
    assert batch.changes[0].sequence == batch.regions_sequence + 1
    assert parts.writer.synced == batch.changes[0].sequence


def test_a_torn_secondary_is_healed_from_the_primary_that_was_not_written_yet() -> None:
    """The reason for the order: the primary still has what the secondary had before."""
    parts = Parts()
    perform(parts, [parts.change("data", 0, b"a" * 9000)])
    parts.legs["data"][1].tear(errno.EIO)
    (failure,) = perform(parts, [parts.change("data", 0, b"b" * 9000)]).failures
    assert not failure.torn
    assert parts.content("data", 0, 9000) == (b"b" * 9000, b"a" * 9000)
    assert parts.images["data"][1].syncs == 1, "durably"


# --------------------------------------------------------------------------------- what is written


def test_every_change_gets_a_number_and_reaches_both_legs() -> None:
    parts = Parts()
    changes = [
        parts.change("data", 0, b"one"),
        parts.change("wal", 8, b"two"),
        parts.change("data", 0, b"", ZERO, 2),
    ]
    first = parts.writer.sequence + 1
    batch = perform(parts, changes)
    assert [change.sequence for change in changes] == [first, first + 1, first + 2]
    assert (batch.failures, batch.primary_errors) == ([], [])
    assert parts.content("data", 0, 3) == (b"\0\0e", b"\0\0e")
    assert parts.content("wal", 8, 3) == (b"two", b"two")


def test_a_pair_that_does_not_mirror_has_only_its_primary_written() -> None:
    parts = Parts()
    pair = parts.pair()
    pair.set_legs(pair.primary, pair.secondary, "async")
    perform(parts, [parts.change("data", 0, b"x")])
    assert parts.content("data", 0, 1) == (b"x", b"\0")


def test_record_bytes_is_what_the_journal_grows_by() -> None:
    parts = Parts()
    changes = [parts.change("data", 0, b"x" * 1000), parts.change("data", 0, b"", TRIM, 4096)]
    before = parts.writer.position
    perform(parts, changes)
    assert parts.writer.position - before == record_bytes(changes)


def test_the_records_of_a_batch_are_read_back_as_they_were_given() -> None:
    parts = Parts(segment_bytes=SEGMENT)
    changes = [
        parts.change("wal", 512, b"payload"),
        parts.change("data", 0, b"", ZERO, 4 * KIB),
        parts.change("data", 4096, b"", TRIM, 8 * KIB),
    ]
    perform(parts, changes)
    found = reopen(parts.disk)
    assert [
        (record.sequence, record.kind, record.volume, record.offset, record.length)
        for record in found.records[-3:]
    ] == [
        (change.sequence, change.kind, change.volume.id, change.offset, change.length)
        for change in changes
    ]
    assert found.payloads[-3:] == [b"payload", b"", b""]


# ------------------------------------------------------------------------------------ what fails


def test_a_journal_that_refuses_leaves_the_legs_alone() -> None:
    parts = Parts()
    parts.fail_journal("writev")
    batch = batch_of([parts.change("data", 0, b"lost")])
    with pytest.raises(OSError, match="error"):
        parts.executor.perform(batch)
    assert not batch.journaled
    assert all(leg.calls["write"] == 0 for legs in parts.legs.values() for leg in legs)


def test_an_error_after_the_journal_took_the_batch_is_no_refusal() -> None:
    """Regions that could not be made durable: a replay may write the records."""
    parts = Parts()
    parts.fail_journal("sync")
    batch = batch_of([parts.change("data", 0, b"x")], {1: [0]})
    with pytest.raises(OSError, match="error"):
        parts.executor.perform(batch)
    assert batch.journaled
    assert all(leg.calls["write"] == 0 for legs in parts.legs.values() for leg in legs)


def test_behind_a_failed_secondary_its_group_gets_nothing_more() -> None:
    parts = Parts()
    parts.legs["data"][1].fail("write", errno.EIO)
    changes = [
        parts.change("wal", 0, b"before"),
        parts.change("data", 0, b"fails"),
        parts.change("wal", 0, b"after!"),
    ]
    (failure,) = perform(parts, changes).failures
    assert (failure.pair.name, failure.sequence) == ("data", changes[1].sequence)
    assert (failure.torn, failure.lost) == (False, False)
    assert parts.content("data", 0, 5) == (b"fails", bytes(5))
    assert parts.content("wal", 0, 6) == (b"after!", b"before")


def test_a_torn_secondary_that_cannot_be_written_is_noted_as_torn() -> None:
    parts = Parts()
    parts.legs["data"][1].tear(errno.EIO, times=None)
    (failure,) = perform(parts, [parts.change("data", 0, b"b" * 9000)]).failures
    assert (failure.torn, failure.lost) == (True, False)
    assert parts.content("data", 0, 9000)[0] == b"b" * 9000


def test_a_secondary_that_is_not_the_image_any_more_is_not_healed_and_has_lost_all() -> None:
    parts = Parts()
    parts.legs["data"][1].fail("write", errno.ESTALE)
    (failure,) = perform(parts, [parts.change("data", 0, b"b" * 9000)]).failures
    assert (failure.torn, failure.lost) == (True, True)
    assert parts.legs["data"][1].calls["sync"] == 0


@pytest.mark.parametrize(("offset", "torn"), [(0, True), (4095, True), (4096, False)])
def test_a_secondary_is_not_healed_from_a_primary_that_lacks_an_earlier_change(
    offset: int, torn: bool
) -> None:
    """It has to be at the change before the one that failed, and the primary is not, there."""
    parts = Parts()
    parts.refuse_swaps()
    perform(parts, [parts.change("data", 0, b"a" * 9000)])
    parts.legs["data"][0].fail("write", errno.EIO, times=1)
    parts.legs["data"][1].fail("write", errno.EIO, after=1, times=1)
    changes = [parts.change("data", 0, b"b" * 4096), parts.change("data", offset, b"c" * 4096)]
    (failure,) = perform(parts, changes).failures
    assert (failure.sequence, failure.torn) == (changes[1].sequence, torn)
    assert parts.content("data", 0, 4096)[1] == b"b" * 4096, "what its last change wrote"


def test_a_healed_secondary_that_cannot_be_synced_may_have_lost_older_changes() -> None:
    parts = Parts()
    secondary = parts.legs["data"][1]
    secondary.tear(errno.EIO)
    secondary.fail("sync")
    (failure,) = perform(parts, [parts.change("data", 0, b"b" * 9000)]).failures
    assert (failure.torn, failure.lost) == (True, True)


def test_a_secondary_that_refused_a_change_whole_is_not_written_to_again() -> None:
    parts = Parts()
    secondary = parts.legs["data"][1]
    secondary.fail("write", errno.ENOSPC)
    (failure,) = perform(parts, [parts.change("data", 0, b"b" * 9000)]).failures
    assert not failure.torn
    assert (secondary.calls["write"], secondary.calls["sync"]) == (1, 0)


def test_a_failed_primary_is_noted_with_its_error_and_the_rest_goes_on() -> None:
    parts = Parts()
    parts.refuse_swaps()
    parts.legs["data"][0].fail("write", errno.ENOSPC, times=1)
    changes = [parts.change("data", 0, b"fails"), parts.change("data", 100, b"goes")]
    batch = perform(parts, changes)
    assert [change.error for change in changes] == [errno.ENOSPC, 0]
    assert [failure.change for failure in batch.primary_errors] == [changes[0]]
    assert parts.content("data", 100, 4) == (b"goes", b"goes")


# ---------------------------------------------------------------------------------- where it runs


async def test_a_small_batch_is_over_when_execute_returns() -> None:
    parts, ends = Parts(), list[BaseException | None]()
    batch = batch_of([parts.change("data", 0, b"x")])
    parts.executor.execute(batch, lambda _batch, error: ends.append(error))
    assert ends == [None]
    assert parts.executor.heavy_changes == 0


async def test_a_heavy_batch_runs_in_a_worker() -> None:
    parts, ends = Parts(), list[BaseException | None]()
    batch = batch_of([parts.change("data", 0, b"x")], heavy=True)
    parts.executor.execute(batch, lambda _batch, error: ends.append(error))
    assert (ends, parts.content("data", 0, 1)[0]) == ([], b"\0")
    parts.workers.finish()
    assert (ends, parts.content("data", 0, 1)[0]) == ([None], b"x")
    assert parts.executor.heavy_changes == 1


@pytest.mark.parametrize("heavy", [False, True])
async def test_what_ends_a_batch_early_is_reported_whatever_it_is(heavy: bool) -> None:
    parts, ends = Parts(), list[BaseException | None]()

    def burst(_operation: Operation) -> None:
        raise MemoryError

    parts.legs["data"][0].delay = burst
    batch = batch_of([parts.change("data", 0, b"x")], heavy=heavy)
    parts.executor.execute(batch, lambda _batch, error: ends.append(error))
    parts.workers.finish_all()
    assert [type(error) for error in ends] == [MemoryError]


def test_a_batch_ends_although_the_primary_hangs_while_the_secondary_is_made_whole_again() -> None:
    """After the primary refused a change, and the secondary what the primary holds instead."""
    parts = Parts()
    parts.refuse_swaps()
    perform(parts, [parts.change("data", 0, b"a" * 4096)])
    primary, secondary = parts.legs["data"]
    primary.fail("write", errno.EIO)
    secondary.fail("write", errno.EIO, after=1)  # its part of the change itself goes
    batch = batch_of([parts.change("data", 0, b"x" * 4096)])
    watch, reads = parts.executor._watch, list[str]()

    def hang(operation: Operation) -> None:
        if operation == "read_into":
            reads.append(operation)
            if len(reads) == 2:  # the first says what the primary holds
                assert watch.give_up(primary)

    primary.delay = hang
    with pytest.raises(GivenUp):
        parts.executor.perform(batch)
    parts.executor._go_on(batch, Watch(), HungError(primary, 30.0))
    assert len(reads) == 2, "it is not asked again"
    (failure,) = batch.failures
    assert (failure.pair, failure.torn) == (parts.pair(), True)
    assert list(batch.dead) == [parts.pair()]
    assert batch.changes[0].error


def test_a_range_at_the_end_of_the_volume_is_healed_too() -> None:
    parts = Parts()
    offset = SIZE - 6000
    perform(parts, [parts.change("data", offset, b"a" * 6000)])
    parts.legs["data"][1].tear(errno.EIO)
    perform(parts, [parts.change("data", offset, b"b" * 6000, WRITE)])
    assert parts.content("data", offset, 6000) == (b"b" * 6000, b"a" * 6000)

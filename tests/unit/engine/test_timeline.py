"""The timeline: batches and steps on one sequence, and what happens when the journal fails."""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from duplexd.core import cut_states, pair_states
from duplexd.core.markers import Copy, Equal, Grade, MakeCut, Void
from duplexd.errors import DamageError, DuplexdError, WrongStateError
from duplexd.units import KIB
from tests.unit.engine.parts import Parts, turns
from tests.unit.journal.journals import reopen

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.engine.batch import Batch
    from tests.support.fault_leg import Operation

CUT = "00000000000000aa"


def grade(parts: Parts) -> int:
    """A marker that moves nothing."""
    return parts.timeline.append(Grade(CUT, True, 1, ""))


# ------------------------------------------------------------------------------- steps at rest


def test_a_step_runs_at_once_when_no_batch_runs() -> None:
    parts, ran = Parts(), list[str]()
    parts.timeline.when_at_rest(lambda: ran.append("step"))
    assert ran == ["step"]


async def test_steps_wait_for_the_batch_that_runs_and_go_before_the_next_one() -> None:
    parts, order = Parts(), list[object]()
    first = parts.send("data", 0, bytes(9 * KIB))  # goes to a worker
    second = parts.send("data", 0, b"later")

    def note(number: int) -> None:
        order.append((number, parts.timeline.written))

    for number in (1, 2):
        parts.timeline.when_at_rest(partial(note, number))
    assert (order, parts.timeline.busy) == ([], True)
    parts.workers.finish()
    last_of_first = first.sequence
    assert order == [(1, last_of_first), (2, last_of_first)]
    assert second.sequence == last_of_first + 1


async def test_a_step_gives_its_result_or_what_it_raised_to_the_caller() -> None:
    parts = Parts()
    assert await parts.timeline.at_rest(lambda: 7) == 7

    def wrong() -> None:
        raise WrongStateError("not now")

    with pytest.raises(WrongStateError, match="not now"):
        await parts.timeline.at_rest(wrong)


async def test_a_step_whose_caller_was_cancelled_before_it_is_not_run() -> None:
    parts, ran = Parts(), list[str]()
    parts.send("data", 0, bytes(9 * KIB))
    waiting = asyncio.ensure_future(parts.timeline.at_rest(lambda: ran.append("step")))
    await turns()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    parts.workers.finish()
    await turns()
    assert ran == []


async def test_a_marker_beside_a_batch_is_a_defect_and_is_not_written() -> None:
    parts = Parts()
    parts.send("data", 0, bytes(9 * KIB))
    before = parts.timeline.written
    with pytest.raises(RuntimeError, match="not at rest"):
        grade(parts)
    assert parts.timeline.written == before
    parts.workers.finish()


# ------------------------------------------------------------------------------------- markers


async def test_a_marker_is_folded_when_it_gets_its_number_and_written_after_its_step() -> None:
    parts, seen = Parts(), list[int]()

    def step() -> int:
        number = parts.timeline.append(MakeCut(CUT, "", [1, 2]))
        seen.append(parts.timeline.written)
        assert [pair.state for pair in parts.volumes.all()] == [pair_states.SUSPENDED] * 2
        return number

    number = await parts.timeline.at_rest(step)
    assert seen == [number - 1]
    assert (parts.ledger.cuts[CUT].sequence, parts.timeline.written) == (number, number)


async def test_a_batch_that_begins_first_writes_the_markers_before_itself() -> None:
    parts = Parts()
    number = grade(parts)
    change = parts.send("data", 0, b"x")
    assert (number, change.sequence) == (parts.timeline.written - 1, parts.timeline.written)
    assert [record.sequence for record in reopen(parts.disk).records[-2:]] == [
        number,
        change.sequence,
    ]


def test_a_marker_that_does_not_fit_the_states_is_not_written() -> None:
    parts = Parts()
    before = parts.timeline.written
    with pytest.raises(WrongStateError, match="data is DUPLEX: equal is not possible"):
        parts.timeline.append(Equal([1]))
    assert parts.timeline.written == before


def test_secondaries_that_mirror_hold_everything_up_to_a_cut() -> None:
    parts = Parts()
    parts.volumes.by_name["wal"].set_legs(*parts.legs["wal"], "async")
    behind = parts.pair("wal").applied
    number = parts.timeline.append(MakeCut(CUT, "", [1, 2]))
    assert (parts.pair("data").applied, parts.pair("wal").applied) == (number, behind)


def test_a_secondary_that_is_equal_holds_everything_up_to_the_marker() -> None:
    parts = Parts()
    parts.timeline.append(Copy({1: parts.pair().new_map()}, "first copy"))
    number = parts.timeline.append(Equal([1]))
    assert (parts.pair().state, parts.pair().applied) == (pair_states.DUPLEX, number)


def test_a_cut_knows_the_checksums_of_its_record_and_of_the_one_before() -> None:
    parts = Parts()
    before = parts.writer.chain
    parts.timeline.append(MakeCut(CUT, "", [1, 2]))
    cut = parts.ledger.cuts[CUT]
    assert (cut.crc, cut.chain) == (parts.writer.chain, before)


def test_a_cut_that_begins_a_segment_does_not_know_the_checksum_before_it() -> None:
    """The seal of the full segment is in between; a reader would compare with the wrong record."""
    parts = Parts()
    segment = parts.writer.segment
    while parts.writer.segment.size - parts.writer.position > 400:
        grade(parts)
    assert parts.writer.segment is segment, "not yet"
    parts.timeline.append(MakeCut(CUT, "x" * 200, [1, 2]))
    assert parts.writer.segment is not segment
    cut = parts.ledger.cuts[CUT]
    assert (cut.crc, cut.chain) == (parts.writer.chain, None)


async def test_a_broken_invariant_is_final() -> None:
    parts = Parts()
    parts.pair().record.staging = "half a resync"  # what no marker does to a DUPLEX pair
    with pytest.raises(DamageError, match="has a staging log"):
        parts.timeline.append(MakeCut(CUT, "", [1]))
    assert "has a staging log" in parts.timeline.failed


# ------------------------------------------------------------------------------- who listens


async def test_listeners_hear_once_of_each_batch_and_each_marker() -> None:
    parts, grew = Parts(), list[int]()
    parts.timeline.on_written.append(lambda: grew.append(parts.timeline.written))
    changes = [parts.change("data", place * 512, b"x" * 512) for place in range(3)]
    parts.submit(*changes)
    number = await parts.timeline.at_rest(lambda: grade(parts))
    assert grew == [changes[-1].sequence, number]


async def test_a_batch_that_the_journal_refused_is_no_growth() -> None:
    parts, grew = Parts(), list[int]()
    parts.timeline.on_written.append(lambda: grew.append(parts.timeline.written))
    parts.fail_journal("writev")
    before = parts.timeline.written
    parts.send("data", 0, b"x")
    assert set(grew) <= {before}


async def test_a_new_segment_is_announced_once() -> None:
    parts, begun = Parts(), list[int]()
    parts.timeline.on_segment = lambda: begun.append(parts.writer.segment.index)
    first = parts.writer.segment.index
    for place in range(40):
        parts.send("data", place * 4 * KIB, bytes(4 * KIB))
    assert begun == [first + 1]


async def test_a_failure_is_announced_once_and_the_first_reason_stays() -> None:
    parts, reasons = Parts(), list[str]()
    parts.timeline.on_failed.append(reasons.append)
    parts.timeline.fail("first")
    parts.timeline.fail("second")
    assert (parts.timeline.failed, reasons) == ("first", ["first"])


# ----------------------------------------------------------------------------------- positions


async def test_what_a_running_batch_writes_is_not_performed_yet() -> None:
    """It may be in the journal alone: a copy from the primary must not be thought to have it."""
    parts, seen = Parts(), list[tuple[int, int]]()
    before = parts.timeline.written

    def look(operation: Operation) -> None:
        if operation == "write":
            seen.append((parts.timeline.performed, parts.timeline.written))

    parts.legs["data"][0].delay = look
    change = parts.send("data", 0, bytes(4 * KIB))
    heavy = parts.send("data", 0, bytes(9 * KIB))
    parts.workers.finish()
    assert seen[0] == (before, change.sequence)
    assert seen[1] == (change.sequence, heavy.sequence)
    assert parts.timeline.performed == heavy.sequence


# -------------------------------------------------------------------------------------- batches


async def test_the_regions_of_a_batch_are_open_once_it_is_over() -> None:
    parts = Parts()
    parts.close_regions()
    parts.send("data", 0, b"x")
    assert parts.pair().regions.open == set()
    parts.workers.finish()
    assert parts.pair().regions.open == {0}


async def test_regions_of_a_batch_that_the_journal_refused_have_to_be_opened_by_the_next() -> None:
    parts = Parts()
    parts.close_regions()
    parts.fail_journal("writev", errno.ENOSPC)
    parts.send("data", 0, b"x")
    parts.workers.finish()
    assert parts.pair().regions.touched == set()


async def test_changes_of_a_suspended_pair_are_tracked() -> None:
    parts = Parts()
    parts.timeline.append(MakeCut(CUT, "", [1]))
    parts.send("data", 128 * KIB, b"x")
    parts.send("wal", 0, b"x")
    changed = parts.pair().changed
    assert changed is not None
    assert changed.changed_bytes == 64 * KIB
    assert changed.overlaps(128 * KIB, 1)
    assert parts.pair("wal").changed is None


@pytest.mark.parametrize("heavy", [False, True])
async def test_a_batch_that_ends_in_an_unexpected_way_is_answered_and_final(heavy: bool) -> None:
    parts, ran = Parts(), list[str]()

    def burst(operation: Operation) -> None:
        if operation == "write":
            raise MemoryError

    parts.legs["data"][0].delay = burst
    change = parts.change("data", 0, bytes(9 * KIB if heavy else 4 * KIB))
    if heavy:
        parts.submit(change)
        parts.timeline.when_at_rest(lambda: ran.append("step"))
        with pytest.raises(MemoryError):
            parts.workers.finish()
        assert ran == ["step"], "steps that waited for it go on"
    else:
        with pytest.raises(MemoryError):
            parts.submit(change)
    assert (parts.answered(change), change.error) == (True, errno.EIO)
    assert "unexpected" in parts.timeline.failed
    assert not parts.timeline.busy


async def test_clients_get_their_answers_when_the_consequences_break_an_invariant() -> None:
    parts = Parts()

    def broken(_batch: Batch) -> None:
        raise DamageError("data is SUSPENDED, but is at no cut")

    parts.timeline.consequences = broken
    parts.legs["data"][1].fail("write")
    change = parts.send("data", 0, b"x")
    assert (parts.answered(change), change.error) == (True, 0)
    assert "is at no cut" in parts.timeline.failed


@pytest.mark.parametrize("heavy", [False, True])
async def test_clients_get_their_answers_when_the_consequences_end_unexpectedly(
    heavy: bool,
) -> None:
    parts, ran = Parts(), list[str]()

    def burst(_batch: Batch) -> None:
        raise KeyError(7)

    parts.timeline.consequences = burst
    parts.legs["data"][1].fail("write")
    change = parts.change("data", 0, bytes(9 * KIB if heavy else 4 * KIB))
    if heavy:
        parts.submit(change)
        parts.timeline.when_at_rest(lambda: ran.append("step"))
        with pytest.raises(KeyError):
            parts.workers.finish()
        assert ran == ["step"], "steps that waited for it go on"
    else:
        with pytest.raises(KeyError):
            parts.submit(change)
    assert (parts.answered(change), change.error) == (True, 0)
    assert "KeyError" in parts.timeline.failed


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("part", ["track_all", "apply"])
async def test_clients_get_their_answers_when_a_change_cannot_be_noted(
    heavy: bool, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the map of what changed since a cut, or in that of the regions that were opened."""
    parts, ran = Parts(), list[str]()
    parts.timeline.append(MakeCut(CUT, "", [1]))
    if part == "apply":
        parts.close_regions()

    def burst(*_arguments: object) -> None:
        raise KeyError(7)

    monkeypatch.setattr(parts.ledger, part, burst)
    change = parts.change("data", 0, bytes(9 * KIB if heavy else 4 * KIB))
    if heavy or part == "apply":
        parts.submit(change)
        parts.timeline.when_at_rest(lambda: ran.append("step"))
        with pytest.raises(KeyError):
            parts.workers.finish()
        assert ran == ["step"], "steps that waited for it go on"
    else:
        with pytest.raises(KeyError):
            parts.submit(change)
    assert (parts.answered(change), change.error) == (True, 0)
    assert "unexpected error in a batch: KeyError" in parts.timeline.failed
    after = parts.send("data", 0, b"x")
    assert (parts.answered(after), after.error) == (True, errno.EIO)


async def test_steps_go_on_when_a_listener_fails() -> None:
    parts, ran = Parts(), list[str]()

    def burst() -> None:
        raise KeyError(7)

    parts.timeline.on_written.append(burst)
    parts.send("data", 0, bytes(9 * KIB))
    parts.timeline.when_at_rest(lambda: ran.append("step"))
    with pytest.raises(KeyError):
        parts.workers.finish()
    assert ran == ["step"]


# --------------------------------------------------------------------------- a journal that fails


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS])
async def test_a_marker_that_the_journal_refuses_is_raised_and_final(error: int) -> None:
    parts = Parts()
    parts.fail_journal("writev", error)
    with pytest.raises(OSError, match=os.strerror(error)):
        await parts.timeline.at_rest(lambda: parts.timeline.append(MakeCut(CUT, "", [1])))
    assert "the journal could not be written" in parts.timeline.failed
    with pytest.raises(OSError, match="could not be written"):
        grade(parts)


async def test_a_full_disk_is_not_final_and_the_marker_is_written_when_there_is_room() -> None:
    parts, full = Parts(), list[OSError]()
    parts.timeline.on_no_room = full.append
    parts.fail_journal("writev", errno.ENOSPC, times=1)
    number = await parts.timeline.at_rest(lambda: grade(parts))
    assert (len(full), parts.timeline.failed, parts.timeline.written) == (1, "", number)


async def test_a_journal_without_a_spare_segment_is_not_final_unless_the_marker_is_needed() -> None:
    parts, full = Parts(segments=1), list[OSError]()
    parts.timeline.on_no_room = full.append
    parts.writer.position = parts.writer.segment.size - 100
    with pytest.raises(OSError, match="no spare segment"):
        grade(parts)
    assert (len(full), parts.timeline.failed) == (1, "")
    parts.writer.position = parts.writer.segment.size - 100
    with pytest.raises(OSError, match="no spare segment"):
        parts.timeline.must(lambda: grade(parts))
    assert "the journal could not be written" in parts.timeline.failed


async def test_a_refused_batch_is_answered_with_the_journals_error() -> None:
    parts = Parts()
    parts.fail_journal("writev", errno.ENOSPC)
    change = parts.send("data", 0, b"x")
    assert change.error == errno.ENOSPC
    assert parts.timeline.failed == ""


async def test_a_journal_without_room_is_final_once_a_batch_is_in_it() -> None:
    """Its regions could not be made durable: a replay would still write the changes."""
    parts = Parts()
    parts.close_regions()
    parts.fail_journal("sync", errno.ENOSPC)
    change = parts.send("data", 0, b"x")
    parts.workers.finish()
    assert change.error == errno.ENOSPC
    assert "the journal could not be written" in parts.timeline.failed


async def test_after_a_failure_nothing_is_durable_any_more() -> None:
    parts = Parts()
    parts.send("data", 0, b"x")
    parts.timeline.fail("the disk is gone")
    with pytest.raises(DuplexdError, match="the disk is gone"):
        await parts.timeline.durable()


# ----------------------------------------------------------------------------------- durability


async def durably(parts: Parts, wait: Callable[[], asyncio.Future[None]]) -> int:
    """The last durable number once `wait` is over."""
    waiting = wait()
    await turns(2)
    parts.workers.finish_all()
    await waiting
    return parts.writer.synced


async def test_durable_waits_for_all_that_is_written_when_it_is_called() -> None:
    parts = Parts()
    number = grade(parts)
    timeline = parts.timeline
    assert await durably(parts, lambda: asyncio.ensure_future(timeline.durable())) == number


async def test_durable_waits_no_longer_than_for_the_number_it_is_asked_for() -> None:
    parts = Parts()
    number = grade(parts)
    await durably(parts, lambda: asyncio.ensure_future(parts.timeline.durable()))
    parts.timeline.append(Void(CUT))
    await parts.timeline.durable(number)
    assert parts.ledger.state_of(CUT) == cut_states.VOID
    assert parts.writer.synced == number

"""The way of changes: queue, gates, batches and answers, over a timeline whose worker is moved by
hand.
"""

from __future__ import annotations

import dataclasses
import errno

import pytest

from duplexd.backend import TRIM, ZERO
from duplexd.core.long_change import LongChange
from duplexd.units import KIB
from tests.support.memory_leg import MemoryLeg
from tests.unit.engine.cores import Peer
from tests.unit.engine.parts import SMALL, Parts, turns

RECORD = SMALL.record_bytes_max
REASON = "a follower trails"


class Solid(MemoryLeg):
    """An image without holes, as a block device that cannot discard."""

    can_punch = False


# ------------------------------------------------------------------------------- the short way


async def test_changes_of_one_wake_up_are_one_batch_that_is_over_when_submit_returns() -> None:
    parts = Parts()
    changes = [parts.change(name, 0, b"x") for name in ("data", "wal")]
    parts.submit(*changes)
    assert parts.write_path.batches == 1
    assert parts.peer.answers == changes


async def test_the_changes_of_a_batch_are_answered_in_one_call_for_each_client() -> None:
    """So that its replies are sent together."""
    parts, other = Parts(), Peer()
    parts.send("data", 0, bytes(9 * KIB))  # the others wait for it
    first, second = parts.send("data", 0, b"1"), parts.send("wal", 0, b"2", peer=other)
    third = parts.send("data", 0, b"3")
    parts.workers.finish()
    assert (parts.peer.answers[-2:], other.answers) == ([first, third], [second])
    assert (parts.peer.calls, other.calls) == (2, 1)


async def test_a_change_says_that_its_payload_may_be_being_written() -> None:
    """One that waits may be given a copy of it instead."""
    parts = Parts()
    parts.admission.hold(REASON)
    change = parts.send("data", 0, b"mine")
    before = change.begun
    parts.admission.lift(REASON)
    await turns()
    assert (before, change.begun) == (False, True)
    assert parts.content("data", 0, 4)[0] == b"mine"


async def test_a_volume_that_is_refused_gets_errors_and_others_go_on() -> None:
    parts = Parts()
    parts.admission.hold(REASON)
    queued = parts.send("data", 0, b"queued")
    parts.write_path.refuse_volume(parts.pair("data"), errno.EIO)
    later = parts.send("data", 0, b"later")
    other = parts.send("wal", 0, b"other")
    parts.admission.lift(REASON)
    await turns()
    assert [change.error for change in (queued, later, other)] == [errno.EIO, errno.EIO, 0]
    assert all(parts.answered(change) for change in (queued, later, other))
    parts.write_path.accept_volume(parts.pair("data"))
    assert parts.send("data", 0, b"again").error == 0


# ------------------------------------------------------------------------------ what is heavy


@pytest.mark.parametrize(("over", "in_worker"), [(0, False), (1, True)])
async def test_a_batch_of_more_than_inline_batch_bytes_max_goes_to_a_worker(
    over: int, in_worker: bool
) -> None:
    parts = Parts()
    part = SMALL.inline_batch_bytes_max // 4
    sizes = [part, part, part, part - 1, 1 + over]
    parts.submit(*(parts.change("data", 0, bytes(size)) for size in sizes))
    assert bool(parts.workers.calls) is in_worker


@pytest.mark.parametrize(("over", "in_worker"), [(0, False), (1, True)])
@pytest.mark.parametrize("kind", [ZERO, TRIM])
async def test_zeroes_and_trims_of_more_than_inline_batch_bytes_max_go_to_a_worker(
    kind: int, over: int, in_worker: bool
) -> None:
    parts = Parts()
    length = SMALL.inline_batch_bytes_max + over
    parts.submit(parts.change("data", 0, kind=kind, length=length))
    assert bool(parts.workers.calls) is in_worker


async def test_a_batch_that_opens_a_region_goes_to_a_worker() -> None:
    """It has to wait for a sync of the journal."""
    parts = Parts()
    parts.close_regions()
    parts.send("data", 0, b"x")
    assert len(parts.workers.calls) == 1
    parts.workers.finish()
    parts.send("data", 1, b"x")
    assert not parts.workers.calls


async def test_a_volume_without_secondary_has_no_regions_to_open() -> None:
    parts = Parts()
    parts.close_regions()
    pair = parts.pair()
    pair.set_legs(pair.primary, None, "sync")
    parts.send("data", 0, b"x")
    assert not parts.workers.calls


# ------------------------------------------------------------------------------- the queue


async def test_changes_queue_behind_a_batch_that_runs_and_go_on_in_order_of_arrival() -> None:
    parts = Parts()
    first = parts.send("data", 0, bytes(9 * KIB))
    later = [parts.send("data", 0, b"x") for _ in range(3)]
    assert (parts.peer.answers, parts.write_path.queued) == ([], 3)
    parts.workers.finish()
    assert parts.peer.answers == [first, *later]
    assert [change.sequence for change in later] == list(
        range(later[0].sequence, later[0].sequence + 3)
    )
    assert parts.write_path.batches == 2, "what queued is one batch"


async def test_no_batch_is_larger_than_batch_bytes_max() -> None:
    parts = Parts()
    parts.admission.hold(REASON)
    changes = [parts.send("data", 0, bytes(4 * KIB)) for _ in range(16)]
    parts.admission.lift(REASON)
    await turns()
    parts.workers.finish_all()
    assert [parts.answered(change) for change in changes] == [True] * 16
    assert parts.write_path.batches == 3, "7 of 4 KiB and their headers fit into 32 KiB"


async def test_no_batch_is_larger_than_half_a_segment() -> None:
    parts = Parts(segment_bytes=40 * KIB)
    assert parts.write_path.batch_bytes_max() == 20 * KIB
    parts = Parts(segment_bytes=128 * KIB)
    assert parts.write_path.batch_bytes_max() == SMALL.batch_bytes_max


async def test_a_wake_up_of_more_than_a_batch_is_taken_in_several() -> None:
    parts = Parts()
    changes = [parts.change("data", place * 4 * KIB, b"x" * 4 * KIB) for place in range(12)]
    parts.submit(*changes)
    for _ in range(4):
        await turns()
        parts.workers.finish_all()
    assert parts.peer.answers == changes
    assert parts.write_path.batches == 2
    assert parts.content("data", 0, 48 * KIB) == (b"x" * 48 * KIB, b"x" * 48 * KIB)


async def test_changes_wait_while_there_is_a_reason_and_begin_when_the_last_one_is_gone() -> None:
    parts = Parts()
    parts.admission.hold(REASON)
    parts.admission.hold("another")
    change = parts.send("data", 0, b"x")
    parts.admission.lift(REASON)
    await turns()
    assert not parts.answered(change)
    parts.admission.lift("another")
    assert not parts.answered(change), "not within the step that lifts it"
    await turns()
    assert parts.answered(change)


async def test_a_batch_that_does_not_fit_into_the_journal_waits_and_asks_for_room() -> None:
    parts = Parts(segments=1)
    sent = []
    while not parts.wanted_room:
        sent.append(parts.send("data", 0, bytes(4 * KIB)))
    waiting = sent.pop()
    assert all(parts.answered(change) and not change.error for change in sent)
    assert (parts.answered(waiting), parts.write_path.queued) == (False, 1)
    behind = parts.send("data", 0, b"small enough, but not its turn")
    parts.writer.ring.segments_max += 1
    parts.writer.ring.spares.append(parts.writer.ring.grow())
    parts.admission.lift("no room")
    await turns()
    assert parts.peer.answers == [*sent, waiting, behind]


async def test_batches_leave_marker_reserve_bytes_in_the_journal() -> None:
    parts = Parts(segments=1)
    while not parts.wanted_room:
        parts.send("data", 0, bytes(4 * KIB))
    left = parts.writer.segment.size - parts.writer.position
    assert left >= SMALL.marker_reserve_bytes


async def test_a_flood_of_one_volume_delays_another_by_one_batch() -> None:
    parts, good = Parts(), Peer()
    parts.admission.hold(REASON)
    flood = [parts.change("data", 0, kind=ZERO, length=2 * KIB) for _ in range(1000)]
    parts.submit(*flood)
    write = parts.send("wal", 0, b"x", peer=good)
    parts.admission.lift(REASON)
    while not good.answers:
        await turns()
        parts.workers.finish()
    assert good.answers == [write]
    assert 0 < len(parts.peer.answers) < 20
    assert parts.write_path.queued > 900


async def test_a_long_zero_lets_other_volumes_in_between_its_pieces() -> None:
    parts, good = Parts(dataclasses.replace(SMALL, zero_bytes_first=8 * KIB)), Peer()
    zero = parts.change("data", 0, kind=ZERO, length=256 * KIB)
    parts.send("data", 0, b"x" * KIB)
    parts.submit(zero)
    write = parts.send("wal", 0, b"y", peer=good)
    while not good.answers:
        parts.workers.finish()
    assert (good.answers, parts.answered(zero)) == ([write], False)
    parts.workers.finish_all()
    assert parts.answered(zero)
    assert parts.content("data", 0, KIB) == (bytes(KIB), bytes(KIB))


# -------------------------------------------------------------------------------------- gates


async def test_changes_of_a_gated_volume_wait_and_those_of_others_do_not() -> None:
    parts = Parts()
    parts.write_path.close_gates([parts.pair("data")])
    waiting, passing = parts.send("data", 0, b"x"), parts.send("wal", 0, b"x")
    assert (parts.answered(waiting), parts.answered(passing)) == (False, True)
    parts.write_path.open_gates([parts.pair("data")])
    assert not parts.answered(waiting), "the step that opens may have more to append"
    await turns()
    assert parts.answered(waiting)


async def test_changes_of_several_volumes_in_one_call_go_their_own_ways() -> None:
    parts = Parts()
    parts.write_path.close_gates([parts.pair("data")])
    waiting, passing = parts.change("data", 0, b"x"), parts.change("wal", 0, b"x")
    parts.submit(waiting, passing)
    assert (parts.answered(waiting), parts.answered(passing)) == (False, True)


async def test_what_was_queued_when_a_gate_closes_waits_there_too() -> None:
    parts = Parts()
    started = parts.send("data", 0, bytes(9 * KIB))
    queued, other = parts.send("data", 0, b"x"), parts.send("wal", 0, b"x")
    parts.write_path.close_gates([parts.pair("data")])
    parts.workers.finish()
    assert [parts.answered(change) for change in (started, queued, other)] == [True, False, True]


async def test_what_a_gate_releases_goes_on_in_the_order_of_arrival() -> None:
    parts = Parts()
    both = parts.volumes.all()
    parts.write_path.close_gates(both)
    changes = []
    for name in ("wal", "data", "data", "wal"):
        changes.append(parts.send(name, 0, b"x"))
        parts.clock.now += 0.1
    parts.write_path.open_gates(both)
    await turns()
    for name in ("wal", "data"):
        numbers = [change.sequence for change in changes if change.volume.name == name]
        assert numbers == sorted(numbers)


async def test_a_gate_that_another_lease_keeps_closed_keeps_what_waits_there() -> None:
    parts = Parts()
    data = parts.pair("data")
    parts.write_path.close_gates([data])
    parts.write_path.close_gates([data])
    change = parts.send("data", 0, b"x")
    parts.write_path.open_gates([data])
    await turns()
    assert not parts.answered(change)
    assert parts.write_path.is_gated(data)
    parts.write_path.open_gates([data])
    await turns()
    assert parts.answered(change)


async def test_a_change_that_waits_has_its_time_of_arrival() -> None:
    parts = Parts()
    data = parts.pair("data")
    parts.write_path.close_gates([data])
    parts.send("data", 0, b"x")
    parts.clock.now += 1.5
    parts.send("data", 0, b"x")
    assert [arrival.at for arrival in parts.write_path.open_gates([data])] == [1000.0, 1001.5]


# ---------------------------------------------------------------------------- clients that go


async def test_what_a_client_that_has_gone_left_is_dropped_from_queue_and_gates() -> None:
    parts, gone = Parts(), Peer()
    parts.write_path.close_gates([parts.pair("wal")])
    parts.send("data", 0, bytes(9 * KIB))
    for name in ("data", "wal"):
        parts.send(name, 16 * KIB, b"gone", peer=gone)
        parts.send(name, 32 * KIB, b"stays")
    parts.write_path.disconnected(gone)
    parts.write_path.open_gates([parts.pair("wal")])
    parts.workers.finish_all()
    await turns()
    assert gone.answers == []
    assert len(parts.peer.answers) == 3
    for name in ("data", "wal"):
        assert parts.content(name, 16 * KIB, 4) == (bytes(4), bytes(4))
        assert parts.content(name, 32 * KIB, 5) == (b"stays", b"stays")


async def test_nothing_is_kept_for_a_client_that_has_gone() -> None:
    parts = Parts()
    data = parts.pair("data")
    parts.write_path.close_gates([data])
    parts.send("data", 0, b"held")
    parts.write_path.disconnected(parts.peer)
    assert parts.write_path.open_gates([data]) == []


async def test_the_parts_of_a_long_write_go_with_their_client() -> None:
    parts = Parts()
    parts.send("wal", 0, bytes(9 * KIB))
    parts.send("data", 0, b"x" * 9 * KIB)
    assert parts.write_path.queued == 1
    parts.write_path.disconnected(parts.peer)
    assert parts.write_path.queued == 0
    parts.workers.finish_all()


# -------------------------------------------------------------------------------- refusals


async def test_changes_are_refused_with_the_errno_that_admission_has() -> None:
    parts = Parts()
    before = parts.timeline.written
    parts.admission.refuse(errno.ENOSPC)
    assert parts.send("data", 0, b"x").error == errno.ENOSPC
    assert parts.timeline.written == before
    parts.admission.refuse(0)
    assert parts.send("data", 0, b"x").error == 0


async def test_queued_changes_are_refused_too_even_while_a_batch_runs() -> None:
    parts = Parts()
    running = parts.send("data", 0, bytes(9 * KIB))
    queued = parts.send("data", 0, b"x")
    parts.admission.refuse(errno.EIO)
    await turns()
    assert (parts.peer.answers, queued.error) == ([queued], errno.EIO)
    parts.workers.finish()
    assert running.error == 0


async def test_changes_queued_behind_the_one_that_the_controller_fails_at_are_refused() -> None:
    """The journal would take them again, behind a record that is not there."""
    parts = Parts()
    parts.admission.hold(REASON)
    changes = [parts.send("data", 0, bytes(4 * KIB)) for _ in range(16)]
    before = parts.timeline.written
    parts.fail_journal("writev", times=1)
    parts.admission.lift(REASON)
    await turns()
    parts.workers.finish_all()
    assert parts.timeline.failed
    assert [change.error for change in changes] == [errno.EIO] * 16
    assert parts.timeline.written == before


async def test_a_failed_controller_lets_nothing_wait_at_a_gate() -> None:
    """Who has closed it may be a follower, which gets nothing more from the journal."""
    parts = Parts()
    data = parts.pair("data")
    parts.write_path.close_gates([data])
    before = parts.send("data", 0, b"x")
    parts.timeline.fail("the disk is gone")
    later = parts.send("data", 0, b"y")
    assert parts.peer.answers == [before, later]
    assert (before.error, later.error) == (errno.EIO, errno.EIO)
    parts.write_path.open_gates([data])
    await turns()
    assert parts.peer.answers == [before, later]


# -------------------------------------------------------------------------- FLUSH, FUA, TRIM


async def test_a_flush_is_answered_when_the_journal_is_durable() -> None:
    parts = Parts()
    written = parts.send("data", 0, b"x")
    flush = parts.flush()
    assert not parts.answered(flush)
    parts.workers.finish()
    assert (parts.answered(flush), flush.error) == (True, 0)
    assert parts.writer.synced >= written.sequence


async def test_flushes_that_wait_for_the_same_record_are_answered_in_one_call() -> None:
    parts = Parts()
    parts.send("data", 0, b"x")
    calls = parts.peer.calls
    flushes = [parts.flush() for _ in range(3)]
    parts.workers.finish()
    assert parts.peer.answers[-3:] == flushes
    assert parts.peer.calls == calls + 1
    parts.send("data", 0, b"x")
    assert not parts.answered(parts.flush()), "that of another record waits for another sync"


async def test_a_flush_of_what_is_durable_is_answered_at_once() -> None:
    parts = Parts()
    parts.flush()
    parts.workers.finish()
    assert parts.answered(parts.flush())


async def test_a_change_with_fua_waits_for_the_journal_and_others_of_its_batch_do_not() -> None:
    parts = Parts()
    durable = parts.change("data", 0, b"x", fua=True)
    plain = parts.change("data", 512, b"x")
    parts.submit(durable, plain)
    assert parts.peer.answers == [plain]
    parts.workers.finish()
    assert parts.peer.answers == [plain, durable]


async def test_a_change_that_waits_for_the_journal_needs_no_receive_buffer() -> None:
    """It is on its legs; the sync may take as long as it likes."""
    parts = Parts()
    change = parts.change("data", 0, memoryview(b"x"), fua=True)
    parts.submit(change)
    assert (parts.peer.answers, change.data, change.length) == ([], b"", 1)


async def test_a_change_with_fua_that_failed_is_answered_at_once_and_once() -> None:
    parts = Parts()
    parts.refuse_swaps()
    parts.legs["data"][0].fail("write", errno.ENOSPC, times=1)
    failed = parts.change("data", 0, b"x", fua=True)
    durable = parts.change("data", 512, b"x", fua=True)
    parts.submit(failed, durable)
    assert parts.peer.answers == [failed]
    parts.workers.finish()
    assert parts.peer.answers == [failed, durable]
    assert (failed.error, durable.error) == (errno.ENOSPC, 0)


async def test_a_change_with_fua_has_the_error_of_the_sync() -> None:
    parts = Parts()
    parts.fail_journal("sync")
    change = parts.send("data", 0, b"x", fua=True)
    parts.workers.finish()
    assert (parts.answered(change), change.error) == (True, errno.EIO)


async def test_a_trim_that_one_leg_cannot_do_does_nothing() -> None:
    """What is read after a trim is undefined, but both legs have to read the same."""
    parts = Parts()
    parts.send("data", 0, b"kept")

    pair = parts.pair()
    pair.set_legs(pair.primary, Solid(pair.size), "sync")
    trim = parts.change("data", 0, kind=TRIM, length=4)
    after = parts.change("data", 8, b"and the rest goes on")
    parts.submit(trim, after)
    assert (parts.answered(trim), trim.error, trim.sequence) == (True, 0, 0)
    assert parts.content("data", 0, 4)[0] == b"kept"
    assert after.sequence > 0


# ---------------------------------------------------------------------------- long writes


async def test_a_write_of_record_bytes_max_is_one_record() -> None:
    parts = Parts()
    before = parts.timeline.written
    change = parts.send("data", 0, bytes(RECORD))
    assert (change.sequence, parts.timeline.written) == (before + 1, before + 1)


async def test_a_long_zero_is_one_record() -> None:
    parts = Parts()
    before = parts.timeline.written
    parts.submit(parts.change("data", 0, kind=ZERO, length=4 * RECORD))
    parts.workers.finish()
    assert parts.timeline.written == before + 1


async def test_a_longer_write_is_several_records_and_one_answer() -> None:
    parts = Parts()
    before = parts.timeline.written
    data = bytes(range(256)) * (2 * RECORD // 256) + b"the rest"
    change = parts.send("data", 512, data)
    parts.workers.finish()
    assert parts.timeline.written == before + 3
    assert parts.peer.answers == [change]
    assert (change.error, change.sequence) == (0, before + 3)
    assert parts.content("data", 512, len(data)) == (data, data)


async def test_a_long_write_with_fua_is_answered_when_all_of_it_is_durable() -> None:
    parts = Parts()
    change = parts.send("data", 0, bytes(9 * KIB), fua=True)
    parts.workers.finish()
    assert not parts.answered(change)
    parts.workers.finish()
    assert parts.answered(change)
    assert parts.writer.synced >= change.sequence


async def test_a_long_write_has_the_error_of_any_part() -> None:
    parts = Parts()
    parts.refuse_swaps()
    parts.legs["data"][0].fail("write", errno.ENOSPC, after=1, times=1)
    change = parts.send("data", 0, bytes(9 * KIB))
    parts.workers.finish()
    assert change.error == errno.ENOSPC


async def test_pieces_are_answered_together_once_the_last_one_is_done() -> None:
    parts = Parts()
    whole = parts.change("data", 0, bytes(3 * RECORD))
    long = LongChange(whole, parts.write_path._acknowledge)
    pieces = [long.piece(RECORD, RECORD) for _ in range(3)]
    for piece, number in zip(pieces, (11, 13, 12), strict=True):
        assert parts.peer.answers == []
        piece.sequence, piece.error = number, errno.EIO if number == 12 else 0
        long.finished([piece])
    assert parts.peer.answers == [whole]
    assert (whole.sequence, whole.error) == (13, errno.EIO)


async def test_the_limits_are_those_that_are_passed_in() -> None:
    parts = Parts(dataclasses.replace(SMALL, record_bytes_max=KIB, shared_piece_bytes=KIB))
    before = parts.timeline.written
    parts.admission.hold(REASON)
    parts.send("data", 0, bytes(4 * KIB))
    parts.admission.lift(REASON)
    await turns()
    assert parts.timeline.written == before + 4


# -------------------------------------------------------- overlapping changes of several clients


@pytest.mark.parametrize("way", ["at once", "behind a batch", "queued", "at a gate"])
async def test_overlapping_changes_are_applied_in_order_of_arrival_over_all_clients(
    way: str,
) -> None:
    parts, clients = Parts(), [Peer(), Peer(), Peer()]
    pair = parts.pair()
    if way == "behind a batch":
        parts.send("wal", 0, bytes(9 * KIB))
    elif way == "queued":
        parts.admission.hold(REASON)
    elif way == "at a gate":
        parts.write_path.close_gates([pair])
    sizes = (4 * KIB, 9 * KIB, 1 * KIB)  # one record, more than one, and less
    for number in range(9):
        parts.send("data", 0, bytes([number]) * sizes[number % 3], peer=clients[number % 3])
    if way == "queued":
        parts.admission.lift(REASON)
    elif way == "at a gate":
        parts.write_path.open_gates([pair])
    for _ in range(20):
        await turns()
        parts.workers.finish_all()
    expected = b"\x08" * KIB + b"\x07" * 8 * KIB
    assert parts.content("data", 0, 9 * KIB) == (expected, expected)
    assert [len(client.answers) for client in clients] == [3, 3, 3]


async def test_a_stale_write_of_a_client_that_went_does_not_come_back() -> None:
    """Held, sent again over another connection, and written over there."""
    parts, first, second = Parts(), Peer(), Peer()
    parts.write_path.close_gates([parts.pair()])
    parts.send("data", 0, b"old", peer=first)
    parts.write_path.disconnected(first)
    parts.send("data", 0, b"old", peer=second)
    parts.write_path.open_gates([parts.pair()])
    await turns()
    parts.send("data", 0, b"new", peer=second)
    assert parts.content("data", 0, 3) == (b"new", b"new")
    assert (first.answers, len(second.answers)) == ([], 2)

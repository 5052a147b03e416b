"""Leases: which changes wait, until when, and how a hold ends. No cut is made here but where its
making matters to the lease.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import weakref
from typing import TYPE_CHECKING

import pytest

from duplexd.core import lease as ends
from duplexd.core.markers import MakeCut, Open
from duplexd.core.participant import FENCES_OF_A_START
from duplexd.engine.leases import Leases
from duplexd.errors import LeaseLostError, LimitError, NotFoundError, UsageError, WrongStateError
from duplexd.units import KIB
from tests.unit.engine.cores import Peer, running
from tests.unit.engine.parts import NAMES, SMALL, Parts, turns

if TYPE_CHECKING:
    from duplexd.engine.leases import Hold


class Payload(bytearray):
    """One that can be watched."""


CUT, OTHER = "00000000000000aa", "00000000000000bb"


async def hold(
    parts: Parts, *names: str, hold_s: float = 5.0, cut_id: str = "", owner: str = "me"
) -> Hold:
    pairs = [parts.pair(name) for name in names or NAMES]
    return await parts.leases.quiesce(pairs, hold_s, owner, cut_id)


# --------------------------------------------------------------------------- which changes wait


async def test_changes_of_held_volumes_wait_and_others_do_not() -> None:
    parts = Parts()
    lease = await hold(parts, "data")
    waiting, passing = parts.send("data", 0, b"waits"), parts.send("wal", 0, b"goes on")
    assert (parts.answered(waiting), parts.answered(passing)) == (False, True)
    assert parts.leases.release(lease.id)
    await turns()
    assert (parts.answered(waiting), waiting.error) == (True, 0)


async def test_a_hold_begins_when_nothing_is_in_flight() -> None:
    parts = Parts()
    started = parts.send("data", 0, bytes(9 * KIB))
    queued = parts.send("data", 0, b"queued")
    taking = asyncio.ensure_future(hold(parts, "data"))
    await turns()
    assert not taking.done()
    parts.workers.finish()
    lease = await taking
    assert (parts.answered(started), parts.answered(queued)) == (True, False)
    parts.leases.release(lease.id)
    await turns()
    assert parts.answered(queued)


async def test_a_quiesce_that_is_cancelled_holds_nothing() -> None:
    parts = Parts()
    parts.send("data", 0, bytes(9 * KIB))
    taking = asyncio.ensure_future(hold(parts, "data"))
    await turns()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    assert not parts.leases.held
    assert [event["reason"] for event in parts.named("released")] == [ends.OWNER_GONE]
    parts.workers.finish()
    assert parts.answered(parts.send("data", 0, b"x"))


async def test_flush_is_answered_during_a_hold_for_what_was_acknowledged() -> None:
    parts = Parts()
    parts.send("data", 0, b"done")
    await hold(parts, "data")
    parts.send("data", 0, b"waits")
    flush = parts.flush()
    parts.workers.finish()
    assert (parts.answered(flush), flush.error) == (True, 0)


async def test_held_changes_keep_their_order() -> None:
    parts = Parts()
    lease = await hold(parts, "data")
    changes = [parts.send("data", 0, bytes([place]) * 512) for place in range(10)]
    parts.leases.release(lease.id)
    await turns()
    assert [change.sequence for change in changes] == sorted(change.sequence for change in changes)
    assert parts.content("data", 0, 512)[0] == bytes([9]) * 512


async def test_a_held_change_is_dropped_with_its_connection() -> None:
    parts, gone = Parts(), Peer()
    lease = await hold(parts, "data")
    parts.send("data", 0, b"gone", peer=gone)
    stays = parts.send("data", 4096, b"stays")
    parts.write_path.disconnected(gone)
    parts.leases.release(lease.id)
    await turns()
    assert (parts.answered(stays), gone.answers) == (True, [])
    assert parts.content("data", 0, 4)[0] == bytes(4)


async def test_two_leases_on_one_volume_hold_until_both_are_gone() -> None:
    parts = Parts()
    first, second = await hold(parts, "data"), await hold(parts, "data")
    change = parts.send("data", 0, b"x")
    parts.leases.release(first.id)
    await turns()
    assert (parts.answered(change), parts.leases.holds(parts.pair("data"))) == (False, True)
    parts.leases.release(second.id)
    await turns()
    assert (parts.answered(change), parts.leases.holds(parts.pair("data"))) == (True, False)


async def test_a_change_that_was_held_is_refused_if_the_controller_has_failed_meanwhile() -> None:
    parts = Parts()
    lease = await hold(parts, "data")
    change = parts.send("data", 0, b"x")
    parts.timeline.fail("the disk is gone")
    parts.leases.release(lease.id)
    await turns()
    assert change.error == errno.EIO


# ---------------------------------------------------------------------------------- how it ends


async def test_a_lease_is_lost_at_its_deadline_and_what_waited_goes_on() -> None:
    parts = Parts()
    lease = await hold(parts, "data", hold_s=0.02)
    change = parts.send("data", 0, b"x")
    assert await asyncio.wait_for(lease.ended, 2) == ends.DEADLINE
    await turns()
    assert (parts.answered(change), change.error, lease.lost) == (True, 0, True)
    (released,) = parts.named("released")
    assert (released["verdict"], released["reason"]) == ("void", "deadline")
    assert (parts.leases.release(lease.id), parts.leases.lost) == (False, 1)


async def test_a_lease_ends_once() -> None:
    parts = Parts()
    lease = await hold(parts, "data")
    assert parts.leases.end(lease, ends.BY_OWNER)
    assert not parts.leases.end(lease, ends.DEADLINE)
    assert (await lease.ended, lease.lost, parts.leases.lost) == (ends.BY_OWNER, False, 0)
    assert len(parts.named("released")) == 1


async def test_a_release_by_the_owner_is_no_loss() -> None:
    parts = Parts()
    lease = await hold(parts, "data")
    parts.leases.release(lease.id)
    (released,) = parts.named("released")
    assert ("verdict" in released, lease.lost, parts.leases.lost) == (False, False, 0)


async def test_a_lease_that_never_was_is_not_found() -> None:
    parts = Parts()
    with pytest.raises(NotFoundError):
        parts.leases.release("nonesuch")


async def test_a_hold_for_a_groups_cut_that_has_ended_is_known_by_the_cut_too() -> None:
    parts = Parts()
    lease = await hold(parts, cut_id=CUT)
    parts.leases.release(lease.id)
    assert not parts.leases.release(CUT)
    with pytest.raises(NotFoundError):
        parts.leases.release(OTHER)


async def test_a_hold_is_released_by_the_cut_it_is_for() -> None:
    parts = Parts()
    lease = await hold(parts, cut_id=CUT)
    assert parts.leases.release_cut(OTHER, ends.BY_OWNER) == ""
    assert parts.leases.release_cut(CUT, ends.BY_OWNER) == lease.id
    assert parts.leases.release_cut(CUT, ends.BY_OWNER) == ""


async def test_a_hold_for_no_cut_is_not_released_by_an_empty_id() -> None:
    parts = Parts()
    await hold(parts)
    assert parts.leases.release_cut("", ends.BY_OWNER) == ""
    assert len(parts.leases.held) == 1


@pytest.mark.parametrize("made", [True, False])
async def test_the_end_of_a_hold_whose_cut_was_made_is_signalled(made: bool) -> None:
    parts, ended = Parts(), list[str]()
    parts.leases.on_cut_hold_ended = lambda lease: ended.append(lease.cut_id)
    lease = await hold(parts, cut_id=CUT)
    if made:
        marker = MakeCut(CUT, "", [1, 2], "db", ["alpha", "beta"])
        parts.leases.participant.cut(lease.id, lease.fence, marker)
        lease.cut_at = parts.clock.monotonic()
    parts.leases.release(lease.id)
    assert ended == ([CUT] if made else [])


async def test_stopping_ends_every_hold() -> None:
    parts = Parts()
    leases = [await hold(parts, "data"), await hold(parts, "wal")]
    parts.leases.stop()
    assert [await lease.ended for lease in leases] == [ends.STOPPING] * 2
    assert not parts.leases.held


async def test_a_daemon_that_stops_answers_what_waited() -> None:
    async with running() as core:
        lease = await core.controller.quiesce(["data"], 5.0, "me")
        change = core.send("data", 0, b"x")
    assert (lease.state, await lease.ended) == (ends.LOST, ends.STOPPING)
    assert (change in core.peer.answers, change.error) == (True, 0)


# ------------------------------------------------------------------------------ what is refused


async def test_no_volume_is_a_mistake() -> None:
    parts = Parts()
    with pytest.raises(UsageError):
        await parts.leases.quiesce([], 1.0, "me")


@pytest.mark.parametrize("hold_s", [0, -1, SMALL.hold_seconds_max + 0.001])
async def test_a_hold_has_a_length_that_clients_survive(hold_s: float) -> None:
    parts = Parts()
    with pytest.raises(UsageError, match="at most 10 seconds"):
        await hold(parts, hold_s=hold_s)
    assert not parts.leases.held


async def test_there_are_at_most_leases_max_leases() -> None:
    parts = Parts(dataclasses.replace(SMALL, leases_max=3))
    leases = [await hold(parts, "data") for _ in range(3)]
    with pytest.raises(LimitError, match="3 leases already"):
        await hold(parts, "data")
    parts.leases.release(leases[-1].id)
    await hold(parts, "data")


async def test_pairs_that_are_not_duplex_are_not_even_held_for_a_groups_cut() -> None:
    """Writes would wait for a cut that cannot be made."""
    parts = Parts()
    parts.timeline.append(MakeCut(OTHER, "", [parts.pair("wal").id]))
    with pytest.raises(WrongStateError, match="wal is SUSPENDED"):
        await hold(parts, cut_id=CUT)
    assert not parts.leases.held
    assert parts.answered(parts.send("data", 0, b"x"))
    await hold(parts)


async def test_two_group_cuts_of_the_same_volumes_are_not_held_for_at_the_same_time() -> None:
    parts = Parts()
    await hold(parts, "data", cut_id=CUT)
    with pytest.raises(WrongStateError, match="another suspend"):
        await hold(parts, cut_id=OTHER)
    await hold(parts, "wal", cut_id=OTHER)
    assert len(parts.leases.held) == 2


async def test_a_cut_that_is_decided_already_is_not_held_for() -> None:
    parts = Parts()
    parts.leases.participant.abort(CUT)
    with pytest.raises(LeaseLostError, match="void on this controller already"):
        await hold(parts, cut_id=CUT)
    assert not parts.leases.held


# ----------------------------------------------------------------------------------- renewals


async def test_a_renewed_lease_is_not_its_former_owners_any_more() -> None:
    parts = Parts()
    lease = await hold(parts)
    old = lease.fence
    assert parts.leases.renew(lease.id, old, 1.0).fence > old
    calls = (
        lambda: parts.leases.renew(lease.id, old, 1.0),
        lambda: parts.leases.release(lease.id, fence=old),
    )
    for call in calls:
        with pytest.raises(LeaseLostError, match="renewed by another"):
            call()
    assert parts.leases.release(lease.id, fence=lease.fence)


async def test_renewals_do_not_make_a_hold_longer_than_clients_survive() -> None:
    parts = Parts()
    lease = await hold(parts)
    parts.clock.now += 9.5
    with pytest.raises(UsageError, match="10 s"):
        parts.leases.renew(lease.id, None, 1.0)
    renewed = parts.leases.renew(lease.id, None, 0.4)
    assert renewed.show(parts.clock.now)["remaining_s"] == pytest.approx(0.4)


async def test_a_renewal_replaces_the_deadline() -> None:
    parts = Parts()
    lease = await hold(parts, hold_s=0.05)
    parts.leases.renew(lease.id, None, 5.0)
    await asyncio.sleep(0.1)
    assert lease.id in parts.leases.held
    parts.leases.renew(lease.id, None, 0.05)
    await asyncio.sleep(0.1)
    assert await lease.ended == ends.DEADLINE


async def test_the_fences_of_a_start_are_above_those_of_the_starts_before() -> None:
    parts = Parts()
    first = await hold(parts)
    parts.leases.release(first.id)
    parts.timeline.append(Open("boot"))
    again = Leases(parts.timeline, parts.write_path, parts.clock, parts.events, SMALL)
    second = await again.quiesce([parts.pair()], 1.0, "me")
    assert second.fence >= first.fence + FENCES_OF_A_START
    with pytest.raises(LeaseLostError, match="restarted"):
        again.renew(first.id, first.fence, 1.0)


# ------------------------------------------------------- how long a write waits, over all leases


async def test_a_lease_over_a_held_volume_ends_when_the_first_had_to() -> None:
    parts = Parts()
    first = await hold(parts, "data", hold_s=10.0)
    parts.clock.now += 8.0
    with pytest.raises(WrongStateError, match=r"'data' wait for 8 s already.* at most for 2;"):
        await hold(parts, "data", hold_s=2.5)
    second = await hold(parts, "data", hold_s=2.0)
    parts.leases.release(first.id)
    with pytest.raises(WrongStateError):
        parts.leases.renew(second.id, None, 2.5)


async def test_a_lease_over_several_volumes_is_bounded_by_the_one_held_longest() -> None:
    parts = Parts()
    await hold(parts, "data", hold_s=10.0)
    parts.clock.now += 8.0
    with pytest.raises(WrongStateError, match="'data'"):
        await hold(parts, "wal", "data")
    assert not parts.write_path.is_gated(parts.pair("wal"))
    await hold(parts, "wal", hold_s=10.0)


async def test_writes_that_have_not_passed_since_a_release_count_as_held() -> None:
    parts = Parts()
    first = await hold(parts, "data", hold_s=10.0)
    waiting = parts.send("data", 0, b"waits")
    parts.clock.now += 8.0
    parts.leases.release(first.id)
    with pytest.raises(WrongStateError):
        await hold(parts, "data", hold_s=5.0)
    second = await hold(parts, "data", hold_s=2.0)
    parts.clock.now += 1.0
    parts.leases.release(second.id)
    assert not parts.answered(waiting)
    with pytest.raises(WrongStateError):
        await hold(parts, "data", hold_s=2.0)
    await parts.leases.passed([parts.pair("data")])
    assert parts.answered(waiting)
    await hold(parts, "data", hold_s=10.0)


async def test_a_volume_that_was_refused_meanwhile_was_not_held() -> None:
    parts = Parts()
    data = parts.pair("data")
    parts.write_path.refuse_volume(data, errno.EIO)
    parts.clock.now += 60.0
    await hold(parts, "data", hold_s=10.0)
    parts.write_path.accept_volume(data)
    await hold(parts, "data", hold_s=10.0)


async def test_a_write_that_was_dropped_bounds_no_later_lease() -> None:
    parts, gone = Parts(), Peer()
    first = await hold(parts, "data", hold_s=10.0)
    parts.send("data", 0, b"waits", peer=gone)
    parts.clock.now += 8.0
    parts.leases.release(first.id)
    parts.write_path.disconnected(gone)
    await hold(parts, "data", hold_s=10.0)


# ------------------------------------------------------------------------------------ figures


async def test_how_long_writes_waited_is_counted_by_volume_and_phase() -> None:
    parts = Parts()
    lease = await hold(parts)
    parts.clock.now += 0.25
    parts.send("data", 0, b"x")
    parts.clock.now += 0.25
    lease.cut_at = parts.clock.now
    parts.clock.now += 0.25
    parts.send("wal", 0, b"x")
    parts.clock.now += 0.25
    parts.leases.release(lease.id)
    figures = parts.leases.figures(lease)
    assert (figures["writes_held"], figures["seconds_max"], figures["held_s"]) == (2, 0.75, 1.0)
    assert figures["phases"] == {
        "draining": {"seconds": 0.0, "writes": 0},
        "held": {"seconds": 0.5, "writes": 1},
        "cut": {"seconds": 0.5, "writes": 1},
    }
    assert [(row["name"], row["count"], row["max_s"]) for row in figures["volumes"]] == [
        ("data", 1, 0.75),
        ("wal", 1, 0.25),
    ]
    (released,) = parts.named("released")
    assert (released["writes_held"], released["held_s"]) == (2, 1.0)


@pytest.mark.parametrize(("held_s", "within"), [(0.5, True), (1.5, False)])
async def test_a_hold_is_compared_with_what_the_configuration_allows(
    held_s: float, within: bool
) -> None:
    parts = Parts()
    parts.leases.longest_allowed_s = 1.0
    lease = await hold(parts)
    parts.clock.now += held_s
    parts.leases.release(lease.id)
    figures = parts.leases.figures(lease)
    assert (figures["within_limit"], figures["hold_max_s"]) == (within, 1.0)


async def test_a_cut_without_a_hold_has_the_pause_of_its_step() -> None:
    figures = Parts().leases.figures(None, 0.003)
    assert (figures["seconds_max"], figures["held_s"], figures["writes_held"]) == (0.003, 0.003, 0)
    assert figures["phases"]["cut"] == {"seconds": 0.003, "writes": 0}


async def test_a_hold_that_is_over_keeps_no_payload() -> None:
    """It lives on until its cut is settled: the payloads would be in memory beside new ones."""
    parts = Parts()
    lease = await hold(parts, "data")
    payload = Payload(b"x" * 4 * KIB)
    parts.send("data", 0, payload)
    kept = weakref.ref(payload)
    del payload
    parts.leases.release(lease.id)
    await turns()
    assert parts.leases.figures(lease)["writes_held"] == 1
    parts.peer.answers.clear()
    assert kept() is None


async def test_a_write_waits_for_a_second_lease_from_when_that_began() -> None:
    parts = Parts()
    first = await hold(parts, "data")
    parts.send("data", 0, b"x")
    parts.clock.now += 1.0
    second = await hold(parts, "data")
    parts.clock.now += 0.5
    for lease in (first, second):
        parts.leases.release(lease.id)
    assert [parts.leases.figures(lease)["seconds_max"] for lease in (first, second)] == [1.5, 0.5]


# ------------------------------------------------------------------------------------- events


async def test_the_events_of_a_hold_name_its_owner_and_its_cut() -> None:
    parts = Parts()
    lease = await hold(parts, cut_id=CUT, owner="uid 7")
    parts.leases.release(lease.id)
    (quiesced,), (released,) = parts.named("quiesced"), parts.named("released")
    assert (quiesced["owner"], quiesced["cut"], quiesced["volumes"]) == ("uid 7", CUT, list(NAMES))
    assert (released["lease"], released["cut"]) == (lease.id, CUT)

"""A controller as a member of cuts of several: which command it takes, and what it makes of its cut. What a refusal leaves is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from duplexd.core import cut_states as votes
from duplexd.core import lease as gate
from duplexd.core import participant as member
from duplexd.core.cut_states import AGREE, CONSISTENT, CUT, NONE, READY, VOID
from duplexd.core.lease import Lease
from duplexd.core.pair import Pair
from duplexd.core.participant import FENCES_OF_A_START, Member
from duplexd.errors import DuplexdError, LeaseLostError, NotFoundError, UsageError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable

DATA, WAL = Pair(1, "data", 4096), Pair(2, "wal", 4096)


class Journal:
    """What a member's journal says of cuts."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.member = Member(lambda cut: self.states.get(cut, NONE), self.mark)

    def mark(self, marker: dict[str, Any]) -> None:
        cut = marker.get("cut") or marker["id"]
        after = votes.after(self.states.get(cut, NONE), votes.MARKERS[marker["m"]])
        assert after is not None, f"{marker} does not fit"
        self.states[cut] = after

    def close(self, name: str = "L", cut: str = "c", *pairs: Pair) -> Lease:
        lease = Lease(name, pairs or (DATA,), "me", 2.0, 0.0, None, cut)
        self.member.close(lease)
        return lease

    def cut(self, lease: Lease, cut: str = "c") -> None:
        self.member.cut(lease.id, lease.fence, {"m": "cut", "id": cut})

    def open(self, lease: Lease, cut: str = "c") -> None:
        self.member.end(self.member.may_open(cut, lease.id, lease.fence), gate.BY_SUSPEND)
        self.member.lost(cut)

    def ready(self) -> Lease:
        lease = self.close()
        self.cut(lease)
        self.open(lease)
        self.member.stood("c", whole=True)
        return lease


@pytest.fixture
def journal() -> Journal:
    return Journal()


def refused(error: type[DuplexdError], call: Callable[[], object], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_in_order_it_is_ready_and_then_consistent(journal: Journal) -> None:
    journal.ready()
    assert (journal.states, journal.member.opened) == ({"c": READY}, set())
    assert journal.member.agree("c") == CONSISTENT
    assert journal.member.agree("c") == CONSISTENT, "told twice"


def test_secondaries_that_fall_short_make_it_void(journal: Journal) -> None:
    lease = journal.close()
    journal.cut(lease)
    journal.open(lease)
    journal.member.stood("c", whole=False)
    assert journal.states["c"] == VOID


@pytest.mark.parametrize("reason", [gate.DEADLINE, gate.OWNER_GONE, gate.STOPPING, gate.BY_OWNER])
def test_a_hold_that_ends_after_its_cut_makes_it_void(journal: Journal, reason: str) -> None:
    lease = journal.close()
    journal.cut(lease)
    assert journal.member.end(lease, reason)
    journal.member.lost("c")
    journal.member.stood("c", whole=True)
    assert journal.states["c"] == VOID


def test_a_hold_that_ends_before_its_cut_leaves_nothing_and_its_commands_are_too_late(
    journal: Journal,
) -> None:
    lease = journal.close()
    journal.member.end(lease, gate.DEADLINE)
    journal.member.lost("c")
    refused(LeaseLostError, lambda: journal.cut(lease), "ended before .deadline.")
    assert (journal.states, journal.member.leases) == ({}, {})
    assert not journal.member.end(lease, gate.BY_OWNER)


def test_a_lease_renewed_by_another_refuses_its_old_owner(journal: Journal) -> None:
    lease = journal.close()
    old = lease.fence
    assert journal.member.renew("L", old).fence > old
    refused(
        LeaseLostError,
        lambda: journal.member.cut("L", old, {"m": "cut", "id": "c"}),
        "renewed by another",
    )
    refused(LeaseLostError, lambda: journal.member.renew("L", old), "renewed by another")
    journal.cut(lease)
    refused(LeaseLostError, lambda: journal.member.may_open("c", "L", old), "renewed by another")
    assert journal.member.opened == set()


def test_no_fence_is_given_twice_not_even_after_a_restart(journal: Journal) -> None:
    fences = [
        journal.close("1", "").fence,
        journal.close("2", "").fence,
        journal.member.renew("1", None).fence,
    ]
    after = Journal()
    after.member.start = journal.member.start + 1
    assert sorted({*fences, after.close().fence}) == [*fences, after.member.leases["L"].fence]
    assert after.member.leases["L"].fence > FENCES_OF_A_START
    refused(LeaseLostError, lambda: after.member.find("1", fences[0]), "started again since")


def test_a_lease_that_never_was(journal: Journal) -> None:
    refused(NotFoundError, lambda: journal.member.find("L", None), "no such lease")
    refused(NotFoundError, lambda: journal.member.find("L", 1), "no such lease")


def test_so_many_ended_leases_are_remembered(journal: Journal) -> None:
    for number in range(member._ENDED_KEPT + 1):
        journal.member.end(journal.close(str(number), ""), gate.BY_OWNER)
    assert len(journal.member.ended) == member._ENDED_KEPT
    refused(NotFoundError, lambda: journal.member.find("0", None), "no such lease")


def test_two_cuts_of_the_same_pairs_do_not_get_in_each_others_way(journal: Journal) -> None:
    journal.close("L", "c", DATA, WAL)
    refused(
        WrongStateError, lambda: journal.close("M", "d", WAL), "another suspend of these volumes"
    )
    journal.close("N", "", WAL)  # a hold without a cut may come beside
    assert set(journal.member.leases) == {"L", "N"}
    other = Journal()
    other.close("L", "c", DATA)
    other.close("M", "d", WAL)
    assert set(other.member.leases) == {"L", "M"}


@pytest.mark.parametrize("state", [CUT, READY, CONSISTENT, VOID])
def test_a_late_close_finds_that_its_cut_is_known(journal: Journal, state: str) -> None:
    journal.states["c"] = state
    refused(LeaseLostError, journal.close, f"is {state} here already")
    assert journal.member.leases == {}


def test_a_cut_needs_the_lease_that_is_held_for_it(journal: Journal) -> None:
    lease = journal.close()
    refused(UsageError, lambda: journal.cut(lease, "another"), "is not held for cut another")
    journal.cut(lease)
    refused(WrongStateError, lambda: journal.cut(lease), "is there already")
    assert journal.states == {"c": CUT}


def test_a_gate_is_opened_only_after_the_cut_it_is_held_for(journal: Journal) -> None:
    lease = journal.close()
    refused(WrongStateError, lambda: journal.open(lease), "has no cut")
    journal.cut(lease)
    refused(UsageError, lambda: journal.open(lease, "another"), "held for cut c, not another")
    assert journal.member.opened == set(), "a hold that is lost now is lost"
    plain = journal.close("M", "", WAL)
    refused(UsageError, lambda: journal.open(plain), "held for cut none, not c")


def test_an_abort_of_an_unknown_cut_is_remembered(journal: Journal) -> None:
    assert journal.member.abort("c") == VOID
    refused(LeaseLostError, journal.close, "is void here already")
    assert journal.member.abort("c") == VOID


def test_an_abort_meets_a_late_cut(journal: Journal) -> None:
    lease = journal.close()
    journal.member.abort("c")
    refused(WrongStateError, lambda: journal.cut(lease), "is there already")
    assert journal.states == {"c": VOID}


def test_a_promise_is_not_aborted_and_not_broken_by_a_restart(journal: Journal) -> None:
    journal.ready()
    assert journal.member.abort("c") == READY
    journal.member.lost("c")
    journal.member.restarted(["c"])
    assert journal.states["c"] == READY
    assert journal.member.refuse("c") == VOID


def test_a_restart_makes_void_what_was_not_promised(journal: Journal) -> None:
    journal.states |= {"a": CUT, "b": CONSISTENT, "d": VOID}
    journal.member.restarted(["a", "b", "d", "unknown"])
    assert journal.states == {"a": VOID, "b": CONSISTENT, "d": VOID}


@pytest.mark.parametrize("state", [NONE, CUT])
def test_who_has_not_promised_can_not_agree(journal: Journal, state: str) -> None:
    journal.states["c"] = state
    refused(WrongStateError, lambda: journal.member.agree("c"), f"{AGREE} is not possible")
    assert journal.states["c"] == state


def test_an_abort_between_open_and_the_vote_counts(journal: Journal) -> None:
    lease = journal.close()
    journal.cut(lease)
    journal.open(lease)
    assert journal.member.abort("c") == VOID
    journal.member.stood("c", whole=True)
    assert (journal.states["c"], journal.member.opened) == (VOID, set())

"""A controller as a participant of group cuts: which command it takes, and what that does to its
cut. A refused command changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.core import cut_states, participant
from duplexd.core import lease as ends
from duplexd.core.cut_states import AGREE, CONSISTENT, CUT, NONE, READY, VOID
from duplexd.core.lease import Lease
from duplexd.core.markers import Agreed, MakeCut, Mark, Marker, Ready, Void
from duplexd.core.participant import FENCES_OF_A_START, Participant
from duplexd.core.transitions import CUT_EVENTS
from duplexd.errors import DuplexdError, LeaseLostError, NotFoundError, UsageError, WrongStateError
from tests.unit.core.ledgers import Story, served

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair

STORY = Story("data", "wal")
DATA, WAL = served(STORY.pair(1)), served(STORY.pair(2))


class Journal:
    """What a controller's journal says of cuts, and the participant that writes to it."""

    def __init__(self, start: int = 0) -> None:
        self.states: dict[str, str] = {}
        self.participant: Participant[Lease] = Participant(
            lambda cut: self.states.get(cut, NONE), self.mark, start
        )

    def mark(self, marker: Marker) -> None:
        assert isinstance(marker, MakeCut | Mark | Ready | Agreed | Void)
        cut = marker.id if isinstance(marker, MakeCut | Mark) else marker.cut
        after = cut_states.after(self.states.get(cut, NONE), CUT_EVENTS[type(marker)])
        assert after is not None, f"{marker} does not fit"
        self.states[cut] = after

    def close(self, name: str = "L", cut: str = "c", *pairs: Pair) -> Lease:
        lease = Lease(name, pairs or (DATA,), "me", 2.0, 0.0, cut)
        self.participant.close(lease)
        return lease

    def cut(self, lease: Lease, cut: str = "c") -> None:
        self.participant.cut(lease.id, lease.fence, MakeCut(cut, "", [1], "db", ["alpha", "beta"]))

    def open(self, lease: Lease, cut: str = "c") -> None:
        found = self.participant.may_open(cut, lease.id, lease.fence)
        self.participant.end(found, ends.BY_SUSPEND)
        self.participant.lost(cut)

    def ready(self) -> Lease:
        lease = self.close()
        self.cut(lease)
        self.open(lease)
        self.participant.stood("c", whole=True)
        return lease


@pytest.fixture
def journal() -> Journal:
    return Journal()


def refused(error: type[DuplexdError], call: Callable[[], object], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_in_order_it_is_ready_and_then_consistent(journal: Journal) -> None:
    journal.ready()
    assert (journal.states, journal.participant.opened) == ({"c": READY}, set())
    assert journal.participant.agree("c") == CONSISTENT
    assert journal.participant.agree("c") == CONSISTENT, "a second AGREE changes nothing"


def test_secondaries_that_are_not_durable_at_the_cut_make_it_void(journal: Journal) -> None:
    lease = journal.close()
    journal.cut(lease)
    journal.open(lease)
    journal.participant.stood("c", whole=False)
    assert journal.states["c"] == VOID


@pytest.mark.parametrize("reason", [ends.DEADLINE, ends.OWNER_GONE, ends.STOPPING, ends.BY_OWNER])
def test_a_hold_that_ends_after_its_cut_makes_it_void(journal: Journal, reason: str) -> None:
    lease = journal.close()
    journal.cut(lease)
    assert journal.participant.end(lease, reason)
    journal.participant.lost("c")
    journal.participant.stood("c", whole=True)
    assert journal.states["c"] == VOID


def test_a_hold_that_ends_before_its_cut_leaves_nothing_and_its_commands_are_too_late(
    journal: Journal,
) -> None:
    lease = journal.close()
    journal.participant.end(lease, ends.DEADLINE)
    journal.participant.lost("c")
    refused(LeaseLostError, lambda: journal.cut(lease), "expired .deadline.")
    assert (journal.states, journal.participant.leases) == ({}, {})
    assert not journal.participant.end(lease, ends.BY_OWNER)


def test_a_lease_renewed_by_another_refuses_its_old_owner(journal: Journal) -> None:
    lease = journal.close()
    old = lease.fence
    assert journal.participant.renew("L", old).fence > old
    refused(
        LeaseLostError,
        lambda: journal.participant.cut("L", old, MakeCut("c", "", [1])),
        "renewed by another",
    )
    refused(LeaseLostError, lambda: journal.participant.renew("L", old), "renewed by another")
    journal.cut(lease)
    refused(
        LeaseLostError, lambda: journal.participant.may_open("c", "L", old), "renewed by another"
    )
    assert journal.participant.opened == set()


def test_no_fence_is_given_twice_not_even_after_a_restart(journal: Journal) -> None:
    fences = [
        journal.close("1", "").fence,
        journal.close("2", "").fence,
        journal.participant.renew("1", None).fence,
    ]
    after = Journal(journal.participant.start + 1)
    assert sorted({*fences, after.close().fence}) == [*fences, after.participant.leases["L"].fence]
    assert after.participant.leases["L"].fence > FENCES_OF_A_START
    refused(LeaseLostError, lambda: after.participant.find("1", fences[0]), "restarted since")


def test_a_lease_that_never_was(journal: Journal) -> None:
    refused(NotFoundError, lambda: journal.participant.find("L", None), "no such lease")
    refused(NotFoundError, lambda: journal.participant.find("L", 1), "no such lease")


def test_the_number_of_ended_leases_that_are_remembered_is_bounded(journal: Journal) -> None:
    for number in range(participant._ENDED_KEPT + 1):
        journal.participant.end(journal.close(str(number), ""), ends.BY_OWNER)
    assert len(journal.participant.ended) == participant._ENDED_KEPT
    refused(NotFoundError, lambda: journal.participant.find("0", None), "no such lease")


def test_a_second_cut_of_the_same_pairs_is_refused_while_they_are_held(journal: Journal) -> None:
    journal.close("L", "c", DATA, WAL)
    refused(
        WrongStateError, lambda: journal.close("M", "d", WAL), "another suspend of these volumes"
    )
    journal.close("N", "", WAL)  # a hold without a cut is possible beside it
    assert set(journal.participant.leases) == {"L", "N"}
    other = Journal()
    other.close("L", "c", DATA)
    other.close("M", "d", WAL)
    assert set(other.participant.leases) == {"L", "M"}


@pytest.mark.parametrize("state", [CUT, READY, CONSISTENT, VOID])
def test_a_late_close_finds_that_its_cut_is_known(journal: Journal, state: str) -> None:
    journal.states["c"] = state
    refused(LeaseLostError, journal.close, f"is {state} on this controller already")
    assert journal.participant.leases == {}


def test_a_cut_needs_the_lease_that_is_held_for_it(journal: Journal) -> None:
    lease = journal.close()
    refused(UsageError, lambda: journal.cut(lease, "another"), "is not held for cut another")
    journal.cut(lease)
    refused(WrongStateError, lambda: journal.cut(lease), "exists already")
    assert journal.states == {"c": CUT}


def test_a_gate_is_opened_only_after_the_cut_it_is_held_for(journal: Journal) -> None:
    lease = journal.close()
    refused(WrongStateError, lambda: journal.open(lease), "its cut was not made yet")
    journal.cut(lease)
    refused(UsageError, lambda: journal.open(lease, "another"), "held for cut c, not another")
    assert journal.participant.opened == set(), "the hold can still be lost"
    plain = journal.close("M", "", WAL)
    refused(UsageError, lambda: journal.open(plain), "held for cut none, not c")


def test_an_abort_of_an_unknown_cut_is_remembered(journal: Journal) -> None:
    assert journal.participant.abort("c") == VOID
    refused(LeaseLostError, journal.close, "is void on this controller already")
    assert journal.participant.abort("c") == VOID


def test_an_abort_meets_a_late_cut(journal: Journal) -> None:
    lease = journal.close()
    journal.participant.abort("c")
    refused(WrongStateError, lambda: journal.cut(lease), "exists already")
    assert journal.states == {"c": VOID}


def test_a_prepared_cut_is_neither_aborted_nor_lost_by_a_restart(journal: Journal) -> None:
    journal.ready()
    assert journal.participant.abort("c") == READY
    journal.participant.lost("c")
    journal.participant.restarted(["c"])
    assert journal.states["c"] == READY
    assert journal.participant.refuse("c") == VOID


def test_a_restart_makes_void_what_was_not_prepared(journal: Journal) -> None:
    journal.states |= {"a": CUT, "b": CONSISTENT, "d": VOID}
    journal.participant.restarted(["a", "b", "d", "unknown"])
    assert journal.states == {"a": VOID, "b": CONSISTENT, "d": VOID}


@pytest.mark.parametrize("state", [NONE, CUT])
def test_a_cut_that_is_not_prepared_cannot_be_committed(journal: Journal, state: str) -> None:
    journal.states["c"] = state
    refused(WrongStateError, lambda: journal.participant.agree("c"), f"{AGREE} is not possible")
    assert journal.states["c"] == state


def test_an_abort_between_open_and_the_vote_counts(journal: Journal) -> None:
    lease = journal.close()
    journal.cut(lease)
    journal.open(lease)
    assert journal.participant.abort("c") == VOID
    journal.participant.stood("c", whole=True)
    assert (journal.states["c"], journal.participant.opened) == (VOID, set())


# -------------------------------------------------------------------------------------- marks


def marking(journal: Journal, name: str = "M", mark: str = "m") -> Lease:
    lease = Lease(name, (DATA,), "me", 2.0, 0.0, mark, mark=True)
    journal.participant.close(lease)
    return lease


def test_a_mark_and_a_cut_of_the_same_pairs_are_in_nobodys_way(journal: Journal) -> None:
    first = marking(journal)
    cut = journal.close()
    second = marking(journal, "N", "n")
    journal.cut(cut)
    for lease in (first, second):
        members = ["alpha", "beta"]
        marker = Mark(lease.cut_id, "", [1], "db", members)
        journal.participant.cut(lease.id, lease.fence, marker)
        journal.open(lease, lease.cut_id)
        journal.participant.stood(lease.cut_id, whole=True)
    journal.open(cut)
    journal.participant.stood("c", whole=True)
    assert journal.states == {"c": READY, "m": READY, "n": READY}


def test_two_cuts_of_the_same_pairs_are_in_each_others_way_beside_a_mark(journal: Journal) -> None:
    marking(journal)
    journal.close()
    refused(WrongStateError, lambda: journal.close("O", "o"), "another suspend")


def test_a_second_copy_of_close_gets_no_lease_of_its_own(journal: Journal) -> None:
    """An abort would open the gate of one of them only."""
    marking(journal)
    refused(WrongStateError, lambda: marking(journal, "N"), "held for already")
    assert list(journal.participant.leases) == ["M"]


def test_a_mark_whose_hold_was_lost_is_void(journal: Journal) -> None:
    lease = marking(journal)
    journal.participant.cut(lease.id, lease.fence, Mark("m", "", [1], "db", ["alpha", "beta"]))
    journal.participant.end(lease, ends.DEADLINE)
    journal.participant.lost("m")
    assert journal.states == {"m": VOID}
    refused(LeaseLostError, lambda: journal.open(lease, "m"), "expired")


def test_a_lease_for_a_mark_makes_no_cut_and_one_for_a_cut_no_mark(journal: Journal) -> None:
    lease = marking(journal)
    with pytest.raises(RuntimeError, match="under a lease for a mark"):
        journal.participant.cut(lease.id, lease.fence, MakeCut("m", "", [1], "db", ["alpha"]))
    other = journal.close()
    with pytest.raises(RuntimeError, match="under a lease for a cut"):
        journal.participant.cut(other.id, other.fence, Mark("c", "", [1], "db", ["alpha"]))
    assert journal.states == {}

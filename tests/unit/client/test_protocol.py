"""A coordinator as a machine.

What it asks whom, and what it knows. All orders and crashes are in tests/model.
"""

from __future__ import annotations

from itertools import product

import pytest

from duplexd.client import protocol
from duplexd.client.protocol import (
    ABORT,
    AGREE,
    CLOSE,
    CUT_ALL,
    DONE,
    HELD,
    OPEN,
    OPENING,
    REFUSE,
    RELEASE,
    RELEASING,
    RESOLVING,
    SUSPEND,
    SUSPENDING,
    Round,
    Send,
    outcome,
    resolve,
)
from duplexd.core import cut_states as votes
from duplexd.core.cut_states import CONSISTENT, CUT, NONE, READY, VOID

MEMBERS = ("alpha", "beta")


def to_all(request: str) -> list[Send]:
    return [Send(member, request) for member in MEMBERS]


def answered(told: Round, request: str, state: str | None = None) -> list[Send]:
    """All members answer; what the coordinator sends then."""
    assert told.replied("alpha", request, state) == []
    return told.replied("beta", request, state)


def held() -> Round:
    told = Round(MEMBERS)
    assert told.close() == to_all(CLOSE)
    assert answered(told, CLOSE) == []
    assert told.phase == HELD
    return told


def opening() -> Round:
    told = held()
    assert told.cut() == to_all(CUT_ALL)
    assert answered(told, CUT_ALL) == to_all(OPEN)
    assert told.phase == OPENING
    return told


def test_in_order() -> None:
    told = opening()
    assert opening().outcome is None
    assert answered(told, OPEN, READY) == to_all(AGREE)
    assert (told.phase, told.outcome, told.untold) == (RESOLVING, CONSISTENT, list(MEMBERS))
    assert answered(told, AGREE, CONSISTENT) == []
    assert (told.phase, told.outcome, told.untold, told.why) == (DONE, CONSISTENT, [], "")


def test_released_without_a_cut() -> None:
    told = held()
    assert told.release() == to_all(RELEASE)
    assert answered(told, RELEASE) == []
    assert (told.phase, told.outcome) == (DONE, None)


def test_nothing_is_cut_or_released_but_what_is_held() -> None:
    told = Round(MEMBERS)
    told.close()
    assert (told.cut(), told.release()) == ([], [])
    told = opening()
    assert (told.cut(), told.release()) == ([], [])


def test_a_member_that_refuses_to_close_releases_all() -> None:
    told = Round(MEMBERS)
    told.close()
    told.replied("alpha", CLOSE)
    assert told.failed("beta", CLOSE, "wrong state") == to_all(RELEASE)
    assert (told.phase, told.why) == (RELEASING, "beta: wrong state")
    assert told.failed("beta", RELEASE, "no answer") == []
    assert told.replied("alpha", RELEASE) == []
    assert told.phase == DONE


def test_the_callers_change_of_mind_while_all_is_held() -> None:
    told = held()
    assert told.abandon("a lease was lost") == to_all(RELEASE)
    assert told.abandon("again") == []
    assert told.why == "a lease was lost", "the first reason counts"


def test_a_cut_that_is_not_answered_may_have_been_made() -> None:
    told = held()
    told.cut()
    told.replied("alpha", CUT_ALL)
    assert told.failed("beta", CUT_ALL, "no answer") == to_all(ABORT)
    assert told.phase == RESOLVING
    assert answered(told, ABORT, VOID) == []
    assert (told.phase, told.outcome) == (DONE, VOID)


def test_an_open_that_is_not_answered_may_have_led_to_a_promise() -> None:
    told = opening()
    told.replied("alpha", OPEN, READY)
    assert told.failed("beta", OPEN, "no answer") == [Send("beta", ABORT)]
    assert told.replied("beta", ABORT, READY) == to_all(AGREE)


def test_one_void_member_voids_all() -> None:
    told = opening()
    told.replied("alpha", OPEN, READY)
    assert told.replied("beta", OPEN, VOID) == [Send("alpha", REFUSE)]
    assert told.replied("alpha", REFUSE, VOID) == []
    assert (told.phase, told.outcome, told.untold) == (DONE, VOID, [])


def test_a_member_that_does_not_answer_gets_the_outcome_later() -> None:
    told = opening()
    answered(told, OPEN, READY)
    told.replied("alpha", AGREE, CONSISTENT)
    assert told.failed("beta", AGREE, "no answer") == []
    assert (told.phase, told.outcome, told.untold, told.unreached) == (
        DONE,
        CONSISTENT,
        ["beta"],
        {"beta": "no answer"},
    )
    assert told.settle() == [Send("beta", AGREE)]
    assert told.replied("beta", AGREE, CONSISTENT) == []
    assert (told.phase, told.untold, told.unreached) == (DONE, [], {})


def test_settling_what_another_left() -> None:
    told = Round(MEMBERS)
    assert told.settle() == to_all(ABORT)
    told.replied("alpha", ABORT, READY)
    assert told.failed("beta", ABORT, "no answer") == []
    assert (told.phase, told.outcome, told.untold) == (DONE, None, list(MEMBERS)), (
        "beta may have promised, or not"
    )


def test_settling_when_one_has_the_outcome() -> None:
    told = Round(MEMBERS)
    told.settle()
    told.replied("alpha", ABORT, CONSISTENT)
    assert told.replied("beta", ABORT, READY) == [Send("beta", AGREE)]


@pytest.mark.parametrize("request_", [CLOSE, CUT_ALL, OPEN, RELEASE, ABORT, AGREE, REFUSE])
def test_an_answer_that_nobody_waits_for_changes_nothing(request_: str) -> None:
    told = held()
    assert (told.replied("alpha", request_, VOID), told.failed("alpha", request_, "no answer")) == (
        [],
        [],
    )
    assert (told.phase, told.outcome, told.why) == (HELD, None, "")


def test_an_answer_counts_once() -> None:
    told = opening()
    told.replied("alpha", OPEN, READY)
    assert told.replied("alpha", OPEN, VOID) == []
    assert told.known == {"alpha": READY, "beta": None}


KNOWN: list[str | None] = [None, NONE, CUT, READY, CONSISTENT, VOID]


@pytest.mark.parametrize("states", list(product(KNOWN, repeat=2)))
def test_what_is_asked_follows_from_what_is_known(states: tuple[str | None, str | None]) -> None:
    known = dict(zip(MEMBERS, states, strict=True))
    asked, result = resolve(known), outcome(known)
    expected = {VOID: REFUSE, CONSISTENT: AGREE, None: ABORT}[result]
    assert set(asked.values()) <= {expected}
    if result is None:
        assert set(asked) == {member for member, state in known.items() if state != READY}, (
            "a member that has promised is left alone"
        )
    else:
        assert set(asked) == {member for member, state in known.items() if state != result}


@pytest.mark.parametrize("states", list(product(votes.STATES, repeat=2)))
def test_an_outcome_is_never_guessed(states: tuple[str, str]) -> None:
    result = outcome(dict(zip(MEMBERS, states, strict=True)))
    assert (result == VOID) == (VOID in states)
    assert (result == CONSISTENT) == (
        VOID not in states and (CONSISTENT in states or set(states) == {READY})
    )


def test_the_phases_are_those_of_the_page() -> None:
    for phase in (protocol.CLOSING, HELD, protocol.CUTTING, OPENING, RESOLVING, RELEASING, DONE):
        assert f"\n    {phase.upper()}" in str(protocol.__doc__)


# --------------------------------------------------------------------------------- one member alone

ALONE = ("alpha",)


def held_alone() -> Round:
    told = Round(ALONE)
    assert told.close() == [Send("alpha", CLOSE)]
    assert told.replied("alpha", CLOSE) == []
    assert told.phase == HELD
    return told


@pytest.mark.parametrize("verdict", [CONSISTENT, VOID])
@pytest.mark.parametrize("under_a_hold", [False, True])
def test_one_member_is_suspended_with_one_request(verdict: str, under_a_hold: bool) -> None:
    told = held_alone() if under_a_hold else Round(ALONE)
    sends = told.cut() if under_a_hold else told.suspend()
    assert (sends, told.phase) == ([Send("alpha", SUSPEND)], SUSPENDING)
    assert told.replied("alpha", SUSPEND, verdict) == []
    assert (told.phase, told.outcome, told.untold) == (DONE, verdict, [])


def test_what_one_member_did_that_does_not_answer_is_not_known() -> None:
    told = Round(ALONE)
    told.suspend()
    assert told.failed("alpha", SUSPEND, "no answer") == []
    assert (told.phase, told.outcome, told.unreached) == (DONE, None, {"alpha": "no answer"})


def test_a_request_to_one_member_can_not_be_taken_back() -> None:
    told = Round(ALONE)
    told.suspend()
    assert told.abandon("interrupted") == []
    assert told.phase == SUSPENDING
    assert told.replied("alpha", SUSPEND, CONSISTENT) == []
    assert told.outcome == CONSISTENT


def test_a_hold_of_one_member_under_which_another_command_suspended_is_over() -> None:
    told = held_alone()
    told.used()
    assert (told.phase, told.release(), told.cut()) == (DONE, [], [])


def test_several_members_are_never_suspended_with_one_request() -> None:
    with pytest.raises(ValueError, match="alone"):
        Round(MEMBERS).suspend()

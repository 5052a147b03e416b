"""The states of a cut: every state with every event."""

from __future__ import annotations

import re

import pytest

from duplexd.core import cut_states
from duplexd.core.cut_states import (
    ABORT,
    AGREE,
    ALONE,
    CONSISTENT,
    CUT,
    EVENTS,
    LOSE,
    NONE,
    READY,
    STATES,
    TRANSITIONS,
    VOID,
    after,
    verdict,
)
from duplexd.core.transitions import CUT_EVENTS


def test_the_docstring_names_the_states() -> None:
    rows = re.findall(r"^    ([A-Z]+) {2,}\S", str(cut_states.__doc__), re.MULTILINE)
    assert rows == [(state or "none").upper() for state in STATES]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_in_every_state(state: str, event: str) -> None:
    assert after(state, event) == TRANSITIONS.get((state, event))
    assert after(state, event) in {None, *STATES}


def test_the_table_has_known_states_and_events_only() -> None:
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(STATES)
    assert {event for _, event in TRANSITIONS} == set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_void_is_final(event: str) -> None:
    assert after(VOID, event) in {None, VOID}


@pytest.mark.parametrize(("state", "event"), TRANSITIONS)
def test_states_only_go_forward(state: str, event: str) -> None:
    order = {NONE: 0, CUT: 1, READY: 2, CONSISTENT: 3, VOID: 4}
    assert order[TRANSITIONS[state, event]] >= order[state]


def test_only_a_prepared_cut_can_be_committed() -> None:
    assert [state for state in STATES if after(state, AGREE) == CONSISTENT] == [
        READY,
        CONSISTENT,
    ]


@pytest.mark.parametrize("state", [READY, CONSISTENT])
def test_a_later_failure_changes_no_promise(state: str) -> None:
    assert after(state, LOSE) == state


def test_a_cut_of_one_controller_is_decided_when_it_is_durable() -> None:
    assert after(CUT, ALONE) == CONSISTENT


def test_a_prepared_cut_is_not_aborted_by_request() -> None:
    assert after(READY, ABORT) == READY
    assert {after(state, ABORT) for state in (NONE, CUT)} == {VOID}


def test_only_what_is_decided_has_a_verdict() -> None:
    assert {state: verdict(state) for state in STATES} == {
        NONE: None,
        CUT: None,
        READY: None,
        CONSISTENT: CONSISTENT,
        VOID: VOID,
    }


def test_markers_lead_to_every_state() -> None:
    reached = {NONE}
    for _ in STATES:
        reached |= {
            state
            for before in reached
            for event in CUT_EVENTS.values()
            if (state := after(before, event)) is not None
        }
    assert reached == set(STATES)

"""The states of a pair: every state with every event, and the document drawn from the table."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from duplexd.core import pair_states
from duplexd.core.pair_states import (
    ABANDON,
    ATTACH,
    COPY,
    DETACH,
    DUPLEX,
    EQUAL,
    EVENTS,
    FAIL,
    ONWARD,
    PENDING,
    RESYNC,
    SIMPLEX,
    STATES,
    SUSPEND,
    SUSPENDED,
    SWAP,
    TRANSITIONS,
    after,
)
from tests.unit.core import draw

DOCUMENT = Path(__file__).parents[3] / "docs" / "states.md"
_: str | None = None

# Columns in the order of EVENTS: attach, copy, suspend, onward, fail, resync, abandon, equal,
# detach, swap.
S = SUSPENDED
EXPECTED = {
    SIMPLEX:   (DUPLEX, PENDING, _, _, _, _,       _, _,      _,       _),
    PENDING:   (_,      PENDING, _, _, S, _,       S, DUPLEX, SIMPLEX, _),
    DUPLEX:    (_,      PENDING, S, _, S, _,       _, _,      SIMPLEX, DUPLEX),
    SUSPENDED: (_,      PENDING, _, S, S, PENDING, _, _,      SIMPLEX, S),
}  # fmt: skip


def test_the_columns_are_the_events() -> None:
    assert EVENTS == (ATTACH, COPY, SUSPEND, ONWARD, FAIL, RESYNC, ABANDON, EQUAL, DETACH, SWAP)
    assert tuple(EXPECTED) == STATES


@pytest.mark.parametrize(("before", "event"), list(itertools.product(STATES, EVENTS)))
def test_every_event_in_every_state(before: str, event: str) -> None:
    assert after(before, event) == EXPECTED[before][EVENTS.index(event)]


def test_nothing_is_in_the_table_but_states_and_events() -> None:
    assert {before for before, _event in TRANSITIONS} | set(TRANSITIONS.values()) == set(STATES)
    assert {event for _before, event in TRANSITIONS} == set(EVENTS)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {SIMPLEX}
    for _round in STATES:
        reached |= {then for (before, _event), then in TRANSITIONS.items() if before in reached}
    assert reached == set(STATES)
    assert {before for (before, _event), then in TRANSITIONS.items() if then != before} == set(
        STATES
    )


def test_every_pair_with_a_secondary_can_lose_it_and_come_back_to_duplex() -> None:
    for before in (PENDING, DUPLEX, SUSPENDED):
        assert after(before, DETACH) == SIMPLEX
        assert after(before, COPY) == PENDING
    assert after(PENDING, EQUAL) == DUPLEX


def test_the_document_is_drawn_from_the_table() -> None:
    assert DOCUMENT.read_text() == draw.document(), (
        "docs/states.md is not what the table says; run: python -m tests.unit.core.draw"
    )


def test_the_document_explains_every_reason() -> None:
    reasons = {
        pair_states.BY_COMMAND,
        pair_states.BY_ERROR,
        pair_states.BY_GROUP,
        pair_states.FIRST_COPY,
        pair_states.UNCLEAN_STOP,
        pair_states.RESYNCING,
    }
    text = DOCUMENT.read_text()
    assert [reason for reason in reasons if f"`{reason}`" not in text] == []

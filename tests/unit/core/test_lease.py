"""Leases: every state with every event, as the table says, and how long each phase took."""

from __future__ import annotations

import pytest

from duplexd.core.lease import (
    ABORTED,
    BY_OWNER,
    BY_SUSPEND,
    CUTTING,
    DEADLINE,
    DRAINING,
    HELD,
    HOLDING,
    LOST,
    OWNER_GONE,
    REASONS,
    RELEASED,
    STOPPING,
    TRANSITIONS,
    Lease,
)
from duplexd.core.participant import Participant
from tests.unit.core.ledgers import Story, served


def lease() -> Lease:
    story = Story("data", "wal")
    return Lease("id", [served(story.pair(1)), served(story.pair(2))], "me", 2.0, 100.0)


def test_the_owners_will_releases_and_every_other_end_loses() -> None:
    assert {state for state, _ in TRANSITIONS} == {HELD}
    assert {reason: after for (_, reason), after in TRANSITIONS.items()} == {
        BY_OWNER: RELEASED,
        BY_SUSPEND: RELEASED,
        DEADLINE: LOST,
        OWNER_GONE: LOST,
        STOPPING: LOST,
        ABORTED: LOST,
    }


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("first", [None, *REASONS])
def test_every_event_in_every_state(first: str | None, reason: str) -> None:
    held = lease()
    participant: Participant[Lease] = Participant(lambda _cut: "", lambda _marker: None)
    participant.close(held)
    if first is not None:
        assert participant.end(held, first)
    before = held.state
    assert participant.end(held, reason) == (before == HELD)
    assert held.state == TRANSITIONS.get((before, reason), before), "the first end counts"
    assert held.lost == (held.state == LOST)
    assert participant.ended == {"id": first or reason}
    assert participant.leases == {}


def test_it_knows_its_volumes_and_its_deadline() -> None:
    held = lease()
    assert (held.volumes, held.deadline, held.state) == (["data", "wal"], 102.0, HELD)


def test_a_write_is_counted_in_the_phase_in_which_it_came() -> None:
    held = lease()
    assert held.phase(100.1) == DRAINING
    held.drained = 100.2
    assert [held.phase(arrival) for arrival in (100.1, 100.3)] == [DRAINING, HOLDING]
    held.cut_at = 100.4
    assert [held.phase(arrival) for arrival in (100.1, 100.3, 100.5)] == [
        DRAINING,
        HOLDING,
        CUTTING,
    ]


@pytest.mark.parametrize(
    ("drained", "cut_at", "spans"),
    [
        (None, None, [1.0, 0.0, 0.0]),
        (100.25, None, [0.25, 0.75, 0.0]),
        (100.25, 100.5, [0.25, 0.25, 0.5]),
    ],
)
def test_the_phases_of_a_hold_add_up(
    drained: float | None, cut_at: float | None, spans: list[float]
) -> None:
    held = lease()
    held.drained, held.cut_at, held.held_s = drained, cut_at, 1.0
    assert list(held.spans().values()) == spans
    assert list(held.spans()) == [DRAINING, HOLDING, CUTTING]

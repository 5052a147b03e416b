"""What the simulation asks for, and what not."""

from __future__ import annotations

import pytest

from duplexd.core.pair_states import BY_JOURNAL
from tests.sim.checks import check_failures
from tests.sim.history import History
from tests.sim.machine import Machine

OURS, ANOTHER = bytes(4), b"else"


def machine_after(served: list[str]) -> Machine:
    machine = Machine(1)
    machine.failures.append(
        {"event": "suspended", "reason": BY_JOURNAL, "volumes": ["data"], "served": served}
    )
    return machine


def test_the_journal_is_kept_for_what_is_served_on_a_bad_day_too() -> None:
    with pytest.raises(AssertionError, match="the journal can be read"):
        check_failures(machine_after(["data"]), faults=True)


def test_the_journal_is_not_kept_for_what_is_not_served() -> None:
    check_failures(machine_after([]), faults=True)


def test_a_new_volume_begins_with_what_it_holds_until_its_image_is_recorded() -> None:
    history = History(bases={1: OURS}, unseen={1})
    history.seen(1, OURS, recorded=False)
    history.seen(1, ANOTHER, recorded=True)
    assert not history.found(1, ANOTHER)


def test_an_image_that_is_recorded_is_not_exchanged() -> None:
    history = History(bases={1: OURS}, unseen={1})
    history.seen(1, OURS, recorded=True)
    history.seen(1, ANOTHER, recorded=True)
    assert history.found(1, ANOTHER)

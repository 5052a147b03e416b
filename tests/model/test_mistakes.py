"""The model can fail: each of these mistakes, in a table, a member or a coordinator, is found, with
the steps that lead there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import pytest

from duplexd.client import protocol
from duplexd.core import cut_states
from tests.model import mistakes
from tests.model.explorer import ViolationError
from tests.model.local import OURS, World
from tests.model.properties import ALONE, KNOWN, ONE_OUTCOME, SEQUENCE_CONSISTENT, SETTLED
from tests.model.whole import Model, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.client.protocol import Round
    from duplexd.core.lease import Lease
    from duplexd.core.participant import Participant

BROKEN = "has a write without the one that it depends on"
DIFFER = "one member shows a consistent cut that another does not have"
pytestmark = pytest.mark.timeout(600)


def found(scenario: Scenario, what: str) -> list[str]:
    """The steps that lead to it, after printing them."""
    with pytest.raises(ViolationError, match=what) as caught:
        Model(scenario).run()
    print(caught.value)
    return str(caught.value).splitlines()[1:]


# what members promise for themselves


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (mistakes.TakesLeasesThatEnded, "undecided without a promise"),
        (mistakes.IgnoresFences, "an older fencing number was taken"),
        (mistakes.KeepsACutWhoseLeaseWasLost, "undecided without a promise"),
        (mistakes.KeepsACutOverARestart, "undecided without a promise"),
        (mistakes.PromisesTooEarly, "a hold that was lost can still become ready"),
        (mistakes.OpensUponAnyWord, "was refused, and changed"),
    ],
)
def test_a_member_that_breaks_its_own_promise(kind: type[Participant[Lease]], what: str) -> None:
    found(Scenario(members=2, kind=kind, only=ALONE), what)


# cuts that are not consistent


def test_cutting_one_member_after_the_other() -> None:
    steps = found(Scenario(members=2, rounds=mistakes.OneAfterTheOther), BROKEN)
    assert "a is acknowledged, after the cut" in "".join(steps)


def test_gates_opened_before_the_last_is_cut() -> None:
    scenario = Scenario(
        members=2, rounds=mistakes.OpensAllUponTheFirstCut, kind=mistakes.OpensBeforeItHasCut
    )
    found(scenario._replace(only=SEQUENCE_CONSISTENT), BROKEN)


def test_cutting_before_all_are_drained() -> None:
    found(
        Scenario(members=2, rounds=mistakes.CutsUponItsOwnClose, answers_before_drained=True),
        BROKEN,
    )


def test_members_without_fencing() -> None:
    steps = found(
        Scenario(members=2, kind=mistakes.TakesLeasesThatEnded, only=SEQUENCE_CONSISTENT), BROKEN
    )
    opened = next(at for at, step in enumerate(steps) if "is acknowledged, after the cut" in step)
    assert any("takes open" in step for step in steps[opened:]), "a late command was taken"


def test_deadlines_on_wall_clocks() -> None:
    steps = found(
        Scenario(
            members=2,
            kind=mistakes.AsksTheWallClock,
            world=World(clocks=True),
            only=SEQUENCE_CONSISTENT,
        ),
        BROKEN,
    )
    assert any("clock stepped" in step for step in steps)


def test_the_wall_clock_is_a_mistake_only_if_it_is_set() -> None:
    Model(Scenario(members=2, kind=mistakes.AsksTheWallClock)).run()


# marks

MARKS = World(marks=(OURS,))


def test_a_mark_whose_gates_were_open_again() -> None:
    scenario = Scenario(members=2, kind=mistakes.MarksWithoutAHold, world=MARKS)
    found(scenario._replace(only=ALONE), "undecided without a promise")
    steps = found(scenario._replace(only=SEQUENCE_CONSISTENT), BROKEN)
    assert any("takes open" in step for step in steps), "a late command was taken"


@pytest.mark.long
def test_marking_one_member_after_the_other() -> None:
    found(Scenario(members=2, rounds=mistakes.OneAfterTheOther, world=MARKS), BROKEN)


def test_a_mark_that_is_ready_with_its_marker() -> None:
    scenario = Scenario(members=2, kind=mistakes.PromisesTooEarly, world=MARKS, only=ALONE)
    found(scenario, "a hold that was lost can still become ready")


# members that do not agree


@pytest.mark.parametrize("settlers", [0, 1])
def test_a_member_that_breaks_its_promise_after_a_while(settlers: int) -> None:
    found(
        Scenario(members=2, settlers=settlers, kind=mistakes.BreaksItsPromise, only=ONE_OUTCOME),
        DIFFER,
    )


def test_forgetting_the_abort_of_an_unknown_cut() -> None:
    scenario = Scenario(members=2, kind=mistakes.ForgetsAborts)
    steps = found(
        scenario._replace(only=KNOWN),
        "coordinator 1 knows the outcome as void, and a member shows another",
    )
    aborted = next(at for at, step in enumerate(steps) if "takes abort of coordinator 1" in step)
    assert any("takes close" in step or "takes cut" in step for step in steps[aborted:]), (
        "a late command did it"
    )
    found(scenario._replace(only=ONE_OUTCOME), DIFFER)
    found(scenario._replace(only=SETTLED), "settling does not settle it")


@pytest.mark.parametrize("rounds", [mistakes.TrustsItsMemory, mistakes.AgreesWithTheFirst])
def test_a_coordinator_that_decides_without_the_votes(rounds: type[Round]) -> None:
    found(Scenario(members=2, rounds=rounds, only=ONE_OUTCOME), DIFFER)
    found(Scenario(members=2, rounds=rounds, only=KNOWN), "knows the outcome as")


def test_agreeing_before_all_are_ready() -> None:
    with mock.patch.object(protocol, "resolve", mistakes.agree_if_one_is_ready(protocol.resolve)):
        found(Scenario(members=2), DIFFER)


def test_answers_before_the_journal_is_synced() -> None:
    steps = found(
        Scenario(members=2, world=World(power=True), answers_before_sync=True),
        "knows the outcome as consistent",
    )
    assert any("power cut" in step for step in steps)


# tables


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (mistakes.void_cuts_can_be_agreed, "agree made a void cut consistent"),
        (mistakes.undecided_cuts_can_be_agreed, "a hold that was lost can still become ready"),
        (mistakes.promises_are_lost, "knows the outcome as consistent"),
        (mistakes.promises_are_aborted, "knows the outcome as consistent"),
    ],
)
def test_a_wrong_line_in_the_table_of_votes(
    change: Callable[[dict[tuple[str, str], str]], None], what: str
) -> None:
    with mock.patch.dict(cut_states.TRANSITIONS):
        change(cut_states.TRANSITIONS)
        found(Scenario(members=2, world=World(secondaries=True)), what)

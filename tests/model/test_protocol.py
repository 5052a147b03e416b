"""Three controllers, two coordinators, everything that can go wrong, in every order: what must
hold, holds in each state. Each test prints their number.
"""

from __future__ import annotations

import pytest

from duplexd.core.cut_states import CONSISTENT, CUT, NONE, READY, VOID
from tests.model.local import OTHER, OURS, World
from tests.model.mistakes import CutsUponItsOwnClose, OpensAllUponTheFirstCut, OpensUponItsOwnCut
from tests.model.whole import Model, Scenario

pytestmark = pytest.mark.timeout(900)  # they compute, and the machine may be busy


def explored(scenario: Scenario) -> Model:
    model = Model(scenario)
    count = model.run()
    print(
        f"{count} states; a member has {model.behaviour.states}, in {len(model.behaviour.locals)} "
        "classes"
    )
    return model


def test_a_coordinator_and_one_that_settles_the_same_cut() -> None:
    seen = explored(Scenario()).properties.seen()
    assert {(state,) * 3 for state in (NONE, CUT, READY, CONSISTENT, VOID)} <= seen, (
        "the model gets nowhere"
    )
    assert {
        (CONSISTENT, CONSISTENT, READY),
        (READY, READY, VOID),
        (CUT, READY, READY),
        (NONE, NONE, CUT),
    } <= seen


def test_other_coordinators_cut_the_same_pairs() -> None:
    explored(Scenario(settlers=0, world=World(others=True)))


def test_other_coordinators_and_a_settler() -> None:
    explored(Scenario(members=2, world=World(others=True)))


@pytest.mark.long
def test_three_controllers_other_coordinators_and_a_settler() -> None:
    explored(Scenario(world=World(others=True)))


def test_two_settlers_beside_the_coordinator() -> None:
    explored(Scenario(members=2, settlers=2))


def test_power_cuts() -> None:
    explored(Scenario(members=2, world=World(power=True)))


@pytest.mark.long
def test_power_cuts_of_three_controllers() -> None:
    explored(Scenario(world=World(power=True)))


def test_secondaries_that_fail_after_the_promise() -> None:
    seen = explored(Scenario(members=2, world=World(secondaries=True))).properties.seen()
    assert (CONSISTENT, CONSISTENT) in seen


def test_clocks_that_are_set() -> None:
    explored(Scenario(members=2, world=World(clocks=True)))


def test_merging_indistinguishable_members_loses_nothing() -> None:
    merged, plain = Scenario(members=2, settlers=0), Scenario(members=2, settlers=0, merge=False)
    assert explored(merged).properties.seen() == explored(plain).properties.seen()


# Marks: neither is in the way of the other, whatever is sent for either, in any order.


@pytest.mark.parametrize("mark", [OURS, OTHER], ids=["a mark", "a cut beside marks"])
def test_a_mark_beside_cuts_of_the_same_pairs(mark: str) -> None:
    world = World(others=True, marks=(mark,))
    seen = explored(Scenario(members=2, settlers=0, world=world)).properties.seen()
    assert {(CONSISTENT, CONSISTENT), (READY, VOID), (CUT, CUT)} <= seen


@pytest.mark.long
@pytest.mark.parametrize("marks", [(OURS,), (OTHER,), (OURS, OTHER)])
def test_marks_beside_cuts_and_a_settler(marks: tuple[str, ...]) -> None:
    explored(Scenario(members=2, world=World(others=True, marks=marks)))


@pytest.mark.long
def test_marks_of_three_controllers_and_power_cuts() -> None:
    explored(Scenario(world=World(marks=(OURS,))))
    explored(Scenario(settlers=0, world=World(others=True, marks=(OURS,))))
    explored(Scenario(members=2, world=World(power=True, marks=(OURS,))))


# Facts about the order of the phases. Two barriers are kept, all closed before one is cut, all cut
# before one is opened; any one would do.


def test_opening_upon_the_own_cut_is_safe_with_the_first_barrier() -> None:
    explored(Scenario(members=2, rounds=OpensUponItsOwnCut))


def test_cutting_upon_the_own_close_is_safe_with_the_second_barrier() -> None:
    explored(Scenario(members=2, rounds=CutsUponItsOwnClose))


def test_members_refuse_a_coordinator_that_opens_too_early() -> None:
    explored(Scenario(members=2, rounds=OpensAllUponTheFirstCut))


def test_both_barriers_tolerate_an_answer_before_all_is_drained() -> None:
    explored(Scenario(members=2, answers_before_drained=True))

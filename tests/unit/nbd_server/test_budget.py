"""Room that many connections share: who waits for it gets it, whatever the others ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.nbd_server.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable


class Greedy:
    """Has always more to ask for than there is room, and asks again as soon as it may."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.taken = 0
        budget.wait(self)

    def resume(self) -> None:
        while self._budget.fits(1):
            self._budget.add(1)
            self.taken += 1
        self._budget.wait(self)


def test_who_waits_behind_others_that_ask_without_end_has_its_turn() -> None:
    soon: list[Callable[[], None]] = []
    budget = Budget(4, soon.append)
    budget.add(4)
    waiting = [Greedy(budget) for _ in range(3)]
    for _ in range(12):  # one of those that were served is done
        budget.add(-1)
        soon.pop()()
    assert [each.taken for each in waiting] == [4, 4, 4]


def test_nobody_is_called_who_has_gone() -> None:
    soon: list[Callable[[], None]] = []
    budget = Budget(4, soon.append)
    gone = Greedy(budget)
    budget.add(4)
    budget.add(-4)
    budget.forget(gone)
    soon.pop()()
    assert gone.taken == 0

"""Breadth first through every state that can be reached, and the shortest way to one that must not
be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

State = TypeVar("State", bound="Hashable")


class ViolationError(AssertionError):
    """A property does not hold; the text has the steps that lead there."""


def explore(
    first: State,
    successors: Callable[[State], Iterable[State]],
    wrong: Callable[[State], str],
    steps_to: Callable[[list[State]], list[str]],
) -> dict[State, State | None]:
    """All states and how each was first reached.

    Raises ViolationError with `steps_to` of the way to the first for which `wrong` has a text.
    """
    came_from: dict[State, State | None] = {first: None}
    frontier = [first]
    while frontier:
        found: list[State] = []
        for state in frontier:
            for after in successors(state):
                if after not in came_from:
                    came_from[after] = state
                    found.append(after)
                    what = wrong(after)
                    if what:
                        raise ViolationError("\n".join([what, *steps_to(_way(after, came_from))]))
        frontier = found
    return came_from


def _way(state: State | None, came_from: dict[State, State | None]) -> list[State]:
    way: list[State] = []
    while state is not None:
        way.append(state)
        state = came_from[state]
    return way[::-1]

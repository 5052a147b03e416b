"""What must hold in every state.

Each has a name; the text that comes back says how it is broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.client.protocol import DONE, Round, Send, outcome
from duplexd.core.cut_states import CONSISTENT, READY, VOID
from tests.model.coordinators import MEMBERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.model.graph import Behaviour
    from tests.model.local import World

    Votes = tuple[str, ...]
    Known = Sequence[tuple[str | None, ...]]

ALONE = "alone"  # what each member promises for itself: see `graph.py`
ONE_OUTCOME = "one outcome"
SEQUENCE_CONSISTENT = "sequence-consistent"
KNOWN = "known"
SETTLED = "settled"


class Properties:
    """Of all members together. `rounds` makes who settles in the end."""

    def __init__(self, behaviour: Behaviour, rounds: type[Round], world: World, only: str) -> None:
        self._behaviour = behaviour
        self._rounds = rounds
        self._ends: dict[tuple[int, ...], str] = {}
        checks: dict[str, Callable[[tuple[int, ...], Votes, Known, bool], str]] = {
            SEQUENCE_CONSISTENT: lambda _, shown, __, broken: _sequence_consistent(shown, broken),
            SETTLED: lambda members, *_: self._settled(members),
            ONE_OUTCOME: lambda _, shown, *__: _one_outcome(shown),
            KNOWN: lambda _, shown, known, __: _known(shown, known),
        }
        self._checks = [check for name, check in checks.items() if only in {"", name}]

    def wrong(self, members: tuple[int, ...], known: Known, broken: bool) -> str:
        """`members` are classes, `known` what each coordinator knows of their votes; `broken`: the
        cut has b, and not a, which b depends on.
        """
        shown = self.votes(members)
        return next(
            filter(None, (check(members, shown, known, broken) for check in self._checks)), ""
        )

    def votes(self, members: tuple[int, ...]) -> Votes:
        """What these members show."""
        return tuple(self._behaviour.locals[member].vote for member in members)

    def seen(self) -> set[Votes]:
        """All that members have shown at a time, in order."""
        return {tuple(sorted(self.votes(members))) for members in self._ends}

    def _settled(self, members: tuple[int, ...]) -> str:
        """If from now on all answer, and nothing else happens: does settling end, and have all the
        outcome then?
        """
        members = tuple(sorted(members))
        if members not in self._ends:
            self._ends[members] = self._settle(list(members))
        return self._ends[members]

    def _settle(self, members: list[int]) -> str:
        coordinator = self._rounds(MEMBERS[: len(members)])
        pending = coordinator.settle()
        for _ in range(10):  # more rounds than there can be
            pending = [
                next_one
                for send, answer in [(send, self._ask(members, send)) for send in pending]
                for next_one in _deliver(coordinator, send, answer)
            ]
        shown = set(self.votes(tuple(members)))
        if (
            coordinator.phase != DONE
            or shown not in ({CONSISTENT}, {VOID})
            or coordinator.outcome not in shown
        ):
            return (
                f"settling does not settle it: members show {sorted(shown)}, "
                f"the outcome is known as {coordinator.outcome} ({coordinator.phase})"
            )
        return ""

    def _ask(self, members: list[int], send: Send) -> str | None:
        at = MEMBERS.index(send.member)
        for edge in self._behaviour.edges[members[at]]:
            if edge.name == send.request and edge.answer:
                members[at] = edge.after
                return edge.answer
        return None


def _deliver(coordinator: Round, send: Send, answer: str | None) -> list[Send]:
    if answer is None:
        return coordinator.failed(send.member, send.request, "refused")
    return coordinator.replied(send.member, send.request, answer)


def _one_outcome(shown: Votes) -> str:
    if CONSISTENT in shown and not set(shown) <= {CONSISTENT, READY}:
        return "one member shows a consistent cut that another does not have"
    return ""


def _sequence_consistent(shown: Votes, broken: bool) -> str:
    if broken and CONSISTENT in shown and VOID not in shown:
        return "the cut is called consistent, and has a write without the one that it depends on"
    return ""


def _known(shown: Votes, known: Known) -> str:
    for who, votes in enumerate(known):
        result = outcome(dict(enumerate(votes)))  # type: ignore[arg-type]
        if result is not None and ({VOID, CONSISTENT} - {result}) & set(shown):
            return f"coordinator {who} knows the outcome as {result}, and a member shows another"
    return ""

"""Everything that one member can do: all its states under every input in any order, and which of
them are equivalent.

The real code runs here, once for each (state, input). The exploration of the whole then walks on
classes of states: two members are of one class if whatever is asked of them, now and later, gets
the same answers and shows the same vote and gate (weak bisimulation). This loses nothing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import cut_states
from tests.model.explorer import ViolationError, explore
from tests.model.local import NAMES, OTHER, OURS, REQUESTS, Local, Running, World, by_itself, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.core.lease import Lease
    from duplexd.core.participant import Participant

# inputs that others have a part in; all else is a member's own affair
_SEEN = {
    *NAMES,
    "drained",
    "stood",
    "clock stepped",
}
_ANSWERS_ARE_VOTES = {"abort", "agree", "refuse", "stood"}


class Edge(NamedTuple):
    """An input, what it answers ("" if nothing), and what the member is afterwards: a Local, or the
    number of its class.
    """

    name: str
    answer: str
    after: int


class Behaviour(NamedTuple):
    """A member as a graph of classes; the class of a new one is 0. All lists are by class."""

    locals: list[Local]  # one of each class
    edges: list[list[Edge]]
    alive: list[frozenset[str]]  # the requests that can still change anything, sooner or later
    states: int  # before they were put in classes


def behaviour(
    kind: type[Participant[Lease]],
    world: World,
    answers_before_sync: bool = False,
    alone: bool = True,
    merge: bool = True,
) -> Behaviour:
    """Runs `kind`, a `Participant`, through all it can meet.

    With `alone`, raises ViolationError if it breaks a promise that is its own.
    """
    cuts = (OURS, OTHER) if world.others else (OURS,)
    first = Local(("",) * len(cuts), ("",) * len(cuts), marks=world.marks)
    edges: dict[Local, list[tuple[str, str, Local]]] = {}

    def successors(local: Local) -> list[Local]:
        edges[local] = list(_edges(local, kind, world, answers_before_sync))
        return [after for _, _, after in edges[local]]

    def steps(way: list[Local]) -> list[str]:
        names = [
            next(name for name, _, after in edges[before] if after == then)
            for before, then in pairwise(way)
        ]
        return [
            f"  {name:22} {_shown(local)}" for name, local in zip(["", *names], way, strict=True)
        ]

    explore(first, successors, lambda local: _wrong(local, kind, world) if alone else "", steps)
    # after a power cut the same id could be used again here: a lease of that id is given once only,
    # see `whole.py`
    if alone and not world.power:
        _lost_is_never_ready(edges)
    classes = _classes(edges) if merge else {local: at for at, local in enumerate(edges)}
    number: dict[int, int] = {}
    for local in edges:  # in order of first reach: that of `first` is 0
        number.setdefault(classes[local], len(number))
    whole: list[Local] = []
    by_class: list[
        dict[Edge, None]
    ] = []  # of all in it: what one can do at once, another can after a step of its own
    for local, out in edges.items():
        at = number[classes[local]]
        if at == len(whole):
            whole.append(local)
            by_class.append({})
        by_class[at] |= {
            edge: None
            for name, answer, after in out
            if (edge := Edge(name, answer, number[classes[after]])).answer or edge.after != at
        }
    merged = [list(out) for out in by_class]
    return Behaviour(whole, merged, _alive(merged), len(edges))


def _edges(
    local: Local, kind: type[Participant[Lease]], world: World, answers_before_sync: bool
) -> Iterator[tuple[str, str, Local]]:
    inputs = [(name, request, OURS) for name, request in REQUESTS.items()]
    for name, call, argument in (*inputs, *by_itself(local, world)):
        done = run(local, kind, call, argument)
        if done is None:
            continue
        answer, after = done
        if not world.power:
            after = after._replace(durable=after.votes)
        elif answer and name in _ANSWERS_ARE_VOTES and not answers_before_sync:
            yield name, "", after  # it is not yet durable, and so not answered
            after = after._replace(durable=after.votes)
        yield name, answer, after


def _wrong(local: Local, kind: type[Participant[Lease]], world: World) -> str:
    """What one member promises alone."""
    waits_for = {held.cut for held in local.leases} | {*local.opened, *local.losing}
    if local.vote == cut_states.CUT and OURS not in waits_for:
        return "undecided without a promise: neither held, nor opened under its lease, but not void"
    if local.vote == cut_states.VOID and not world.power:
        for name, _, after in _edges(local, kind, world, False):
            if after.vote != cut_states.VOID:
                return f"{name} made a void cut {after.vote}"
    for held in local.leases:
        opened = run(local, kind, Running.deadline, held.id)
        if opened is None or any(each.id == held.id for each in opened[1].leases):
            return f"nothing opens the gate of lease {held.id}"
        if held.id == OURS and held.fence != 1:
            for late in (Running.cut, Running.open):
                if run(local, kind, late, OURS) is not None:
                    return f"the command of an older fencing number was taken: {late.__name__}"
    for decision in (Running.abort, Running.refuse):
        done = run(local, kind, decision, OURS)
        if done is not None and _ours(done[1]):
            return f"writes are held for a cut that is given up: {decision.__name__}"
    return ""


def _lost_is_never_ready(edges: dict[Local, list[tuple[str, str, Local]]]) -> None:
    """A hold that was lost after its cut makes it void."""
    ready = {local for local in edges if local.vote in {cut_states.READY, cut_states.CONSISTENT}}
    while more := {
        local
        for local, out in edges.items()
        if local not in ready and any(after in ready for _, _, after in out)
    }:
        ready |= more
    for local, out in edges.items():
        for name, _, after in out:
            if (
                local.vote == cut_states.CUT
                and name == "deadline"
                and _ours(local)
                and not _ours(after)
                and after in ready
            ):
                raise ViolationError(
                    f"a hold that was lost can still become ready: {_shown(local)}; {name}: "
                    f"{_shown(after)}"
                )


def _ours(local: Local) -> bool:
    return any(held.cut == OURS for held in local.leases)


def _shown(local: Local) -> str:
    held = ", ".join(f"lease {each.id} fence {each.fence}" for each in local.leases) or "no lease"
    return f"{local.vote or 'none'}, {held}" + "".join(
        f", {name}" for name in ("opened", "losing", "stepped") if getattr(local, name)
    )


def _classes(edges: dict[Local, list[tuple[str, str, Local]]]) -> dict[Local, int]:
    """Number of the class of each: the coarsest partition in which members of one class can do the
    same, own steps in between left aside.
    """
    own = {
        local: [after for name, _, after in out if name not in _SEEN]
        for local, out in edges.items()
    }
    # after own steps, or none
    soon = {local: explore(local, own.__getitem__, lambda _: "", lambda _: []) for local in edges}
    asked = {
        local: {
            (name, answer, after)
            for before in soon[local]
            for name, answer, after in edges[before]
            if name in _SEEN and (answer or after != before)
        }
        for local in edges
    }
    numbers: dict[object, int] = {}
    classes = {
        local: numbers.setdefault((local.vote, local.closed), len(numbers)) for local in edges
    }
    while True:
        count, numbers = len(numbers), {}
        soon_classes = {
            local: frozenset(classes[after] for after in soon[local]) for local in edges
        }
        refined: dict[Local, int] = {}
        for local in edges:
            kinds = {
                (name, answer, each)
                for name, answer, after in asked[local]
                for each in soon_classes[after]
            }
            refined[local] = numbers.setdefault(
                (classes[local], soon_classes[local], frozenset(kinds)), len(numbers)
            )
        classes = refined
        if len(numbers) == count:
            return classes


def _alive(edges: list[list[Edge]]) -> list[frozenset[str]]:
    alive = [
        frozenset(edge.name for edge in out if edge.name in REQUESTS and edge.after != at)
        for at, out in enumerate(edges)
    ]
    while True:
        more = [
            known.union(*(alive[edge.after] for edge in out))
            for known, out in zip(alive, edges, strict=True)
        ]
        if more == alive:
            return alive
        alive = more

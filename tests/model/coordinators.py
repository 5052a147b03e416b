"""A coordinator as a value: a real `Round` is made of it, given an input, and read back.

What it learns between two of its actions (a request sent, a phase left) concerns no member. So one
step here is all of that at once: for each awaited answer whether it was received or never came, up
to what makes it act.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.client import protocol
from tests.model.local import BIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.client.protocol import Round

MEMBERS = ("0", "1", "2")


class View(NamedTuple):
    """The view that a coordinator has of one member."""

    awaited: str = ""  # the request whose answer it waits for
    answer: str | None = None  # on its way; None: there is none yet
    known: str | None = None  # the vote
    unreached: bool = False


class Step(NamedTuple):
    """What a coordinator did; `views` and `sends` (the requests, as `BIT`s) by member."""

    text: str
    phase: str
    views: tuple[View, ...]
    sends: tuple[int, ...]


def begin(kind: type[Round], settles: bool, count: int) -> Step:
    """A coordinator that has asked all to close, or a later one that may settle at any time."""
    begun = kind(MEMBERS[:count])
    if settles:
        begun.phase = protocol.DONE
        return _step("", begun, (View(),) * count, [])
    return _step("", begun, (View(),) * count, begun.close())


def steps(kind: type[Round], phase: str, views: tuple[View, ...]) -> list[Step]:
    """All that it may do next."""
    return list({step[1:]: step for step in _steps(kind, phase, views)}.values())


def _steps(kind: type[Round], phase: str, views: tuple[View, ...]) -> Iterator[Step]:
    if phase == protocol.HELD:
        for name, call in (("cuts", kind.cut), ("releases", kind.release)):
            coordinator = _round(kind, phase, views)
            yield _step(name, coordinator, views, call(coordinator))
    elif phase == protocol.DONE:
        coordinator = _round(kind, phase, views)
        if coordinator.untold:
            yield _step("settles", coordinator, views, coordinator.settle())
    for at, view in enumerate(views):
        for received in (True, False):
            if not view.awaited or (received and view.answer is None):
                continue
            coordinator = _round(kind, phase, views)
            if received:
                vote = view.answer if view.awaited in {"open", "abort", "agree", "refuse"} else None
                sends = coordinator.replied(MEMBERS[at], view.awaited, vote)
                text = f"gets {view.awaited}: {view.answer or 'none'} from {{{at}}}"
            else:
                sends = coordinator.failed(MEMBERS[at], view.awaited, "no answer")
                text = f"gets no answer to {view.awaited} from {{{at}}}"
            after = _step(text, coordinator, views, sends)
            if any(after.sends) or after.phase != phase:
                yield after
            else:  # no other member is concerned yet
                for later in _steps(kind, phase, after.views):
                    yield later._replace(text=f"{text}, {later.text}")


def _round(kind: type[Round], phase: str, views: tuple[View, ...]) -> Round:
    members = MEMBERS[: len(views)]
    coordinator = kind(members)
    coordinator.phase = phase
    coordinator.open_requests = {
        name: view.awaited for name, view in zip(members, views, strict=True) if view.awaited
    }
    coordinator.known = {name: view.known for name, view in zip(members, views, strict=True)}
    coordinator.unreached = {
        name: "no answer" for name, view in zip(members, views, strict=True) if view.unreached
    }
    return coordinator


def _step(
    text: str, coordinator: Round, before: tuple[View, ...], sends: list[protocol.Send]
) -> Step:
    sent = [0] * len(before)
    for send in sends:
        sent[MEMBERS.index(send.member)] |= BIT[send.request]
    views = []
    for name, view, bits in zip(MEMBERS, before, sent, strict=False):
        awaited = coordinator.open_requests.get(name, "")
        answer = (
            view.answer if awaited and awaited == view.awaited and not bits & BIT[awaited] else None
        )
        views.append(View(awaited, answer, coordinator.known[name], name in coordinator.unreached))
    return Step(text, coordinator.phase, tuple(views), tuple(sent))

"""Cuts as their members know them, and what to say when that is not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

from duplexd.client import survey
from duplexd.client.answers import check_cut, check_sender
from duplexd.client.results import Cut
from duplexd.core.cut_states import CONSISTENT, NONE, VOID
from duplexd.errors import NotFoundError, UndecidedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from duplexd.client.http import Http
    from duplexd.client.results import Suspended
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json

    OnCut = Callable[[Suspended | UndecidedError], object]

C = TypeVar("C", bound=Cut)


async def ask(
    links: Mapping[str, Http], cut: str = "", targets: Mapping[str, Sequence[str]] | None = None
) -> tuple[dict[str, Cut], dict[str, DuplexdError]]:
    """The cuts, or this one, by id; and the errors of controllers that do not answer. With
    `targets` (by controller) those of these alone: what is unknown is a NotFoundError.

    A controller that may have any name goes by its own, as in the cuts.
    """
    wanted = targets or {}
    answers, errors = await survey.gather(
        {name: _ask_one(link, cut, wanted.get(name, ())) for name, link in links.items()}
    )
    found: dict[str, dict[str, Json]] = {}
    for name, cuts in answers.items():
        for each in cuts:
            found.setdefault(each["id"], {})[
                each["controller"] if links[name].any_name else name
            ] = each
    return {cut_id: merge(cut_id, known, answers) for cut_id, known in found.items()}, errors


async def _ask_one(link: Http, cut: str, targets: Sequence[str]) -> list[Json]:
    query = urlencode([("target", target) for target in targets])
    path = f"/v1/cuts/{cut}" if cut else "/v1/cuts" + ("?" + query if query else "")
    try:
        answer = await link.call("GET", path, timeout_s=link.limits.answer_seconds_max)
    except NotFoundError:
        if targets:
            raise
        return []
    cuts: list[Json] = [answer] if cut else answer["cuts"]
    if cut:
        check_cut(answer, link, cut)
    if not link.any_name:
        for each in cuts:
            check_sender(each, link)
    return cuts


def merge(cut_id: str, known: dict[str, Json], asked: Mapping[str, object]) -> Cut:
    """What its members know of a cut, in one."""
    first = next(iter(known.values()))
    members = list(first.get("members") or known)
    states: dict[str, str | None] = {
        name: known[name]["state"] if name in known else NONE if name in asked else None
        for name in members
    }
    alone = not first.get("members")
    return Cut(
        cut_id,
        first["verdict"] if alone else _verdict(states),
        first.get("tag", ""),
        first.get("group") or "",
        max(each["time"] for each in known.values()),
        {name: each["sequence"] for name, each in known.items()},
        states,
        members,
        {name: each["canary"] for name, each in known.items() if each.get("canary")},
        list(dict.fromkeys(who for each in known.values() for who in each.get("readers") or ())),
    )


def _verdict(states: Mapping[str, str | None]) -> str | None:
    """What may be claimed already: void if one is, consistent once a member knows it."""
    if VOID in states.values():
        return VOID
    return CONSISTENT if CONSISTENT in states.values() else None


def in_order(cuts: Iterable[C]) -> list[C]:
    """Oldest first, which on each controller is by number: its clock may have been set back.

    Numbers of different controllers say nothing of each other, so their cuts go by time, as far as
    the numbers leave it open.
    """
    waiting: dict[str, list[C]] = {}
    for cut in cuts:
        for name in cut.controllers:
            waiting.setdefault(name, []).append(cut)
    for name, queue in waiting.items():
        queue.sort(key=lambda cut: cut.controllers[name] or 0, reverse=True)
    found: list[C] = []
    while heads := [queue[-1] for queue in waiting.values() if queue]:
        ready = [cut for cut in heads if all(waiting[name][-1] is cut for name in cut.controllers)]
        oldest = min(ready or heads, key=lambda cut: cut.time)
        found.append(oldest)
        for name in oldest.controllers:
            waiting[name].remove(oldest)
    return found


def undecided_error(cut: str, unreached: Mapping[str, str], group: str) -> UndecidedError:
    """What to say when the members that know the outcome do not answer."""
    who = "; ".join(unreached.values()) or "no member says what became of it"
    return UndecidedError(
        f"cut {cut} was made, but whether it is consistent can't be known until"
        f" {' and '.join(unreached) or 'its members'} can be asked: {who};"
        f" then run `duplexctl settle {group or 'GROUP'}`"
    )


def held(statuses: dict[str, Json], everything: bool, plain: bool) -> dict[str, str]:
    """Leases, and the cuts they are held for. `plain`: also those that are held for none."""
    found: dict[str, str] = {}
    for each in statuses.values():
        names = {volume["name"] for volume in each["volumes"]}
        for lease in each.get("leases", ()):
            ours = everything or names.intersection(lease.get("volumes", ()))
            if ours and (lease.get("cut") or plain):
                found[lease["id"]] = lease.get("cut") or ""
    return found

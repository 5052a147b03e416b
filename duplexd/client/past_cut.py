"""Bringing the secondaries of several controllers to a mark that they have in common.

A mark is a consistent point already, so no gate closes. What is left is that all come to stand at
it, or that none is called consistent: that is the second half of a cut's two-phase commit. First
everything is asked and decided, and no secondary moves. Then each member goes there and votes; when
all are prepared, the cut is committed. If one fails in between, the cut is in doubt, and its id is
what the next run of the same command finds at the others and goes on with.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import takewhile
from time import monotonic, time
from typing import TYPE_CHECKING, NamedTuple

from duplexd.client import kept_points, outcomes, survey
from duplexd.client.coordinator import Drive
from duplexd.client.member import new_cut_id
from duplexd.client.results import Suspended
from duplexd.core.cut_states import CONSISTENT, NONE, VOID
from duplexd.errors import NotFoundError, UndecidedError, WrongStateError
from duplexd.known import known
from duplexd.printable import printable
from duplexd.units import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.client.http import Http
    from duplexd.client.member import Plan
    from duplexd.client.outcomes import OnCut
    from duplexd.client.results import Cut, KeptPoint
    from duplexd.client.survey import Links
    from duplexd.config.groups import Group
    from duplexd.core.past_point import PastPoint
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json


class Wanted(NamedTuple):
    """The cut that all members are to be at, with the tag that it has or gets. `already`: as it is
    shown, if they are there.
    """

    mark: KeptPoint
    cut_id: str
    tag: str
    already: Json | None = None


async def stand(plan: Plan, links: Links, settle_s: float, on_cut: OnCut | None) -> Suspended:
    """Raises with nothing done where a member cannot go there; UndecidedError where one could not
    be brought there, and others were: the same command goes on then.
    """
    group, began = plan.group, monotonic()
    with survey.nothing_suspended():
        statuses = await survey.ask_status(group, links)
        survey.check_members(statuses)
        survey.check_free(statuses)
        answers, errors = await kept_points.ask(group, links)
        survey.raise_all(errors)
        points = kept_points.merge(answers, group)
        wanted = await _wanted(plan, links, statuses, points)
        if wanted.already is None:
            await _check(plan, links, wanted, points)
    if wanted.already is not None:
        return _marked(already(group, wanted.already, statuses), plan, wanted.mark)
    try:
        found = await _together(plan, links, wanted, settle_s)
    except asyncio.CancelledError:
        if on_cut is not None:
            on_cut(_in_doubt(group, wanted, [], {"the command": "was interrupted"}))
        raise
    found = replace(_marked(found, plan, wanted.mark), seconds=monotonic() - began)
    if on_cut is not None:
        on_cut(found)
    return found


def already(group: Group, cut: Json, statuses: Mapping[str, Json]) -> Suspended:
    """The result if all secondaries are at one consistent cut."""
    volumes = [(name, each) for name, status in statuses.items() for each in status["volumes"]]
    return Suspended(
        cut["verdict"],
        cut["id"],
        cut.get("tag", ""),
        group.name,
        {name: volume["secondary"]["cut"]["sequence"] for name, volume in volumes},
        [group.title(name, volume["name"]) for name, volume in volumes],
        already=True,
        time=cut.get("time"),
        mark=cut.get("mark") or "",
    )


def _marked(found: Suspended, plan: Plan, mark: KeptPoint) -> Suspended:
    """With what became of the time that was asked for."""
    asked = plan.at.time if plan.at is not None else None
    earlier_s = None if asked is None else asked - mark.time
    return replace(found, mark=mark.cut, time=mark.time, earlier_s=earlier_s)


# ---------------------------------------------------------------------------------- what is decided


def choose(points: Sequence[KeptPoint], group: Group, at: PastPoint) -> KeptPoint:
    """The mark that is meant, of `points` in their order: the newest of that tag, or the last one
    before the first that is later than that time. A clock may have been set back: then a mark with
    an earlier time may be a later one. Raises NotFoundError, WrongStateError.
    """
    if at.sequence is not None:
        raise WrongStateError(
            f"{group.name} is of several controllers, which have no numbers in common: name a mark"
            " or a time"
        )
    marks = [point for point in points if point.kind == "mark"]
    whole = [mark for mark in marks if mark.whole and set(group.members) <= set(mark.members)]
    good = [mark for mark in whole if mark.verdict == CONSISTENT]
    if (until := at.time) is not None:
        fitting = list(takewhile(lambda mark: mark.time <= until, good))
    else:
        fitting = [mark for mark in good if at.mark in {mark.cut, mark.tag}]
    if fitting:
        return fitting[-1]
    if at.time is not None:
        raise WrongStateError(
            f"no consistent mark of {group.name} is at or before {at}{in_reach(good)}"
        )
    named = [mark for mark in marks if at.mark in {mark.cut, mark.tag}]
    if not named:
        raise NotFoundError(f"{at}: no such mark of {group.name}; `duplexctl points {group.name}`")
    why = "is of other volumes or controllers"
    if named[-1] in whole:
        why = f"is {named[-1].verdict or 'in doubt'}"
    raise WrongStateError(f"{at} {why}{in_reach(good)}")


def in_reach(marks: Sequence[KeptPoint]) -> str:
    """For the end of an error: which marks all secondaries can be brought to."""
    found = sorted((m for m in marks if m.within_reach), key=lambda mark: mark.time)
    if not found:
        return "; no mark is within reach"
    first, last = (f"{mark.cut} of {format_time(mark.time)}" for mark in (found[0], found[-1]))
    if len(found) == 1:
        return f"; within reach is mark {first}"
    return f"; within reach are {len(found)} marks, from {first} to {last}"


async def _wanted(
    plan: Plan, links: Links, statuses: Mapping[str, Json], points: Sequence[KeptPoint]
) -> Wanted:
    at = known(plan.at, "asked for a point of the past")
    if at.time is not None and at.time > time():
        raise WrongStateError(f"{at} has not come yet; it is {format_time(time())}")
    mark = choose(points, plan.group, at)
    standing = survey.common_cut(statuses)
    if standing is not None and standing.get("mark") == mark.cut:
        return Wanted(mark, standing["id"], plan.tag, standing)
    begun = {
        cut["id"]
        for volume in survey.volumes(statuses).values()
        if volume["state"] == "SUSPENDED"
        and (cut := survey.cut_of(volume)).get("mark") == mark.cut
        and cut.get("verdict") != VOID
    }
    for cut_id in begun:
        found, _ = await outcomes.ask(links, cut_id)
        other = found.get(cut_id)
        if other is not None and other.group == plan.group.name and can_go_on(other, statuses):
            return Wanted(mark, cut_id, other.tag)
    return Wanted(mark, new_cut_id(), plan.tag)


def can_go_on(cut: Cut, statuses: Mapping[str, Json]) -> bool:
    """Whether each member is at a cut that was begun, or does not know it yet."""
    if set(cut.members) != set(statuses):
        return False
    for name, status in statuses.items():
        at_it = all(survey.cut_of(volume).get("id") == cut.cut for volume in status["volumes"])
        if cut.states.get(name) == VOID or not (at_it or cut.states.get(name) == NONE):
            return False
    return True


# ------------------------------------------------------------------------------------ what is done


async def _ask(
    plan: Plan, links: Links, wanted: Wanted, check: bool
) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    def one(link: Http) -> Json:
        return {
            "targets": list(plan.group.members[link.name]),
            "mark": wanted.mark.cut,
            "tag": wanted.tag,
            "group": plan.group.name,
            "members": list(plan.group.members),
            "onward": plan.onward,
            "check": check,
        }

    path = f"/v1/cuts/{wanted.cut_id}/stand"
    return await survey.gather(
        {name: link.call_patiently("POST", path, one(link)) for name, link in links.items()}
    )


async def _check(plan: Plan, links: Links, wanted: Wanted, points: Sequence[KeptPoint]) -> None:
    _, errors = await _ask(plan, links, wanted, check=True)
    try:
        survey.raise_all(errors)
    except WrongStateError as error:
        marks = [point for point in points if point.kind == "mark" and point.whole]
        text = f"nothing was suspended: {error}{in_reach(marks)}"
        raise WrongStateError(text) from None


async def _together(plan: Plan, links: Links, wanted: Wanted, settle_s: float) -> Suspended:
    done, errors = await _ask(plan, links, wanted, check=False)
    if errors and not done and all(isinstance(each, WrongStateError) for each in errors.values()):
        survey.raise_all(errors)
    if errors:
        raise _in_doubt(plan.group, wanted, list(done), {n: str(e) for n, e in errors.items()})
    plan.cut_id = wanted.cut_id
    drive = Drive(plan, links)
    try:
        await drive.settle()
        await drive.finish(settle_s)
    finally:
        await drive.end()
    if drive.round.outcome is None:
        raise _in_doubt(plan.group, wanted, list(done), drive.round.unreached)
    return _result(plan, wanted, done, drive)


def _result(plan: Plan, wanted: Wanted, done: Mapping[str, Json], drive: Drive) -> Suspended:
    statuses = {name: each["status"] for name, each in done.items()}
    proofs = {name: each.get("proof") for name, each in statuses.items()}
    titles = {
        name: [(volume, plan.group.title(name, volume)) for volume in each["volumes"]]
        for name, each in statuses.items()
    }
    verdict = str(drive.round.outcome)
    left = [
        title
        for name, names in titles.items()
        for volume, title in names
        if verdict != VOID and volume not in drive.members[name].standing
    ]
    void = [f"{name}: {each.get('why')}" for name, each in statuses.items() if each.get("why")]
    why = f"{' '.join(left)}: left the cut before the command was done" if left else ""
    if verdict == VOID:
        why = "; ".join(void) or "the secondaries of a member did not reach the mark"
    return Suspended(
        verdict=verdict,
        cut=plan.cut_id,
        tag=wanted.tag,
        group=plan.group.name,
        controllers={name: each["sequence"] for name, each in statuses.items()},
        volumes=[title for names in titles.values() for _, title in names],
        why=why,
        left=left,
        untold=drive.round.untold,
        members=[proof for proof in proofs.values() if proof],
    )


def _in_doubt(
    group: Group, wanted: Wanted, done: Sequence[str], errors: Mapping[str, str]
) -> UndecidedError:
    there = f"{', '.join(done)} stand at it" if done else "no member is known to stand at it"
    others = "; ".join(f"{name}: {why.removeprefix(name + ': ')}" for name, why in errors.items())
    return UndecidedError(
        printable(
            f"cut {wanted.cut_id} of {group.name} at mark {wanted.mark.cut} is not complete:"
            f" {there}; {others}; run the same command again to go on, or `duplexctl settle"
            f" {group.name}` to give it up"
        )
    )

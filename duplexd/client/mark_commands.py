"""Marks: consistent points of one or several controllers that suspend nobody.

Over several controllers a mark is a cut's two-phase commit (`coordinator.py`), with the same
verdict; only that no member suspends anything, so that none needs to be in any state. One
controller alone is asked for one marker, and no write waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.client import kept_points, survey
from duplexd.client.coordinator import Drive
from duplexd.client.member import Plan, new_cut_id
from duplexd.client.results import Kept, Marked, merge_holds
from duplexd.client.suspend import INTERRUPTED, check_tag, close
from duplexd.core.cut_states import CONSISTENT
from duplexd.errors import NotFoundError, UndecidedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.client.http import Http
    from duplexd.client.survey import Links
    from duplexd.config.groups import Group

    GroupOf = Callable[[tuple[str, ...], float | None], tuple[Group, float]]


class Marking:
    """Marks of the targets of a client. `group_of`: what targets mean, and how long a hold may be;
    `settle_s`: how long members that do not answer are asked for their votes.
    """

    def __init__(
        self,
        group_of: GroupOf,
        links_to: Callable[[Iterable[str]], dict[str, Http]],
        settle_s: float,
    ) -> None:
        self._group_of = group_of
        self._links_to = links_to
        self._settle_s = settle_s

    async def make(self, *targets: str, tag: str = "", hold_max: float | None = None) -> Marked:
        """Mark this point of all targets. A `void` result is not raised as an error.

        Raises with nothing marked if it can't be done; UndecidedError if a member that was marked
        no longer answers. A cancelled one leaves no gate closed.
        """
        check_tag(tag)
        group, hold_max_s = self._group_of(targets, hold_max)
        links = self._links_to(group.members)
        survey.raise_all(await survey.identify(links))
        plan = Plan(new_cut_id(), group, hold_max_s, tag, mark=True)
        if plan.alone:
            return await _mark_one(plan, *links.values())
        await survey.measure(links, hold_max_s, plan.cut_id)
        return await _mark_together(plan, links, self._settle_s)

    async def points(self, *targets: str) -> Kept:
        """The cuts and marks of the targets that are kept, oldest first, and which of them are
        within reach. Raises NotFoundError for a target that its controller does not know.
        """
        group, _ = self._group_of(targets, None)
        links = self._links_to(group.members)
        await survey.identify(links)
        answers, errors = await kept_points.ask(group, links)
        unknown = {name: each for name, each in errors.items() if isinstance(each, NotFoundError)}
        survey.raise_all(errors if not answers else unknown)
        called = await survey.own_names(links)
        return Kept(
            group.name,
            kept_points.merge({called[name]: rows for name, rows in answers.items()}, group),
            {name: str(error) for name, error in errors.items()},
        )


async def _mark_one(plan: Plan, link: Http) -> Marked:
    group, (targets,) = plan.group, plan.group.members.values()
    body = {"targets": list(targets), "tag": plan.tag}
    answer = await link.call_patiently("POST", "/v1/marks", body)
    name = answer["controller"] if link.any_name else link.name
    return Marked(
        verdict=answer["verdict"],
        mark=answer["id"],
        tag=plan.tag,
        group=group.name,
        controllers={name: answer["sequence"]},
        volumes=[group.title(link.name, each) for each in answer["volumes"]],
        time=answer["time"],
    )


async def _mark_together(plan: Plan, links: Links, settle_s: float) -> Marked:
    drive = Drive(plan, links)
    try:
        await close(drive)
        try:
            await drive.cut(plan.tag)
            await drive.finish(settle_s)
        except asyncio.CancelledError:
            await drive.give_up(INTERRUPTED)
            raise
        return _marked(drive)
    finally:
        await drive.end()


def _marked(drive: Drive) -> Marked:
    plan, verdict = drive.plan, drive.round.outcome
    if verdict is None:
        who = "; ".join(drive.round.unreached.values()) or "no member says what became of it"
        raise UndecidedError(
            f"mark {plan.cut_id} was made, but whether it is consistent can't be known until its"
            f" members can be asked: {who}; then run `duplexctl settle {plan.group.name}`"
        )
    figures = {name: member.hold for name, member in drive.members.items()}
    good = verdict == CONSISTENT
    return Marked(
        verdict=verdict,
        mark=plan.cut_id,
        tag=plan.tag,
        group=plan.group.name,
        controllers={name: each["sequence"] for name, each in drive.made.items()},
        volumes=drive.volumes,
        time=max((each["time"] for each in drive.made.values()), default=None),
        hold=merge_holds(plan.group, figures, plan.hold_max_s),
        why="" if good else str(drive.error or "a member found that it is void"),
        untold=drive.round.untold,
    )

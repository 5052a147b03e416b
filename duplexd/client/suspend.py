"""Suspending: from what the members answered to what may be claimed of the cut.

What is known of a cut goes to `on_cut` before anything else is awaited: then no interrupt can come
between a cut and its certificate. A cancelled command hands over what became of the cut, if one was
made or may have been.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from duplexd.client import hooking, outcomes, past_cut, reading, survey
from duplexd.client.coordinator import Drive
from duplexd.client.results import Hold, Suspended, merge_holds
from duplexd.core.cut_states import CONSISTENT, VOID
from duplexd.core.cuttable import Standing, check_standing
from duplexd.core.pair_states import BY_COMMAND
from duplexd.errors import DuplexdError, UndecidedError, UsageError, WrongStateError
from duplexd.limits import TAG_CHARACTERS_MAX
from duplexd.runtime.hooks import faults

if TYPE_CHECKING:
    from duplexd.client.member import Plan
    from duplexd.client.outcomes import OnCut
    from duplexd.client.settle import Settling
    from duplexd.client.survey import Links
    from duplexd.json_object import Json

INTERRUPTED = "the command was interrupted"


def check_tag(tag: str) -> str:
    """A text that every controller takes with a cut. Raises UsageError.

    To be asked before anything is held: a cut that is refused is void.
    """
    if len(tag) > TAG_CHARACTERS_MAX:
        raise UsageError(
            f"a tag of {len(tag)} characters is too long; write at most {TAG_CHARACTERS_MAX}"
            " (TAG_CHARACTERS_MAX)"
        )
    if any("\ud800" <= character <= "\udfff" for character in tag):
        raise UsageError("the tag is not UTF-8 text; write it in UTF-8")
    return tag


async def suspend_one(
    plan: Plan, links: Links, settling: Settling, on_cut: OnCut | None
) -> Suspended:
    """The one-step cut.

    Only its name is asked first: its status of 1,000 volumes makes writes wait.
    """
    with survey.nothing_suspended():
        survey.raise_all(await survey.identify(links))
    if plan.at is not None:  # nothing that a hook does now would be in the past
        return await _one_step(plan, links, settling, on_cut)
    found = await hooking.around(plan, lambda: _one_step(plan, links, settling, on_cut))
    if found.already:  # a daemon that runs on after an upgrade may not know that this is an error
        now = time.time()
        age_s = now - (now if found.time is None else found.time)
        standing = Standing(found.cut, found.tag, age_s, frozenset({BY_COMMAND}))
        check_standing(standing, plan.existing)
    return found


async def _one_step(
    plan: Plan, links: Links, settling: Settling, on_cut: OnCut | None
) -> Suspended:
    try:
        return await _cut(Drive(plan, links), settling.settle_s, on_cut)
    except WrongStateError:
        if plan.group.alone:
            raise
        # they may be at a cut of several controllers that is in doubt
        await settling.calm(plan.group, links)
        return await _cut(Drive(plan, links), settling.settle_s, on_cut)


async def suspend_together(
    plan: Plan, links: Links, settling: Settling, on_cut: OnCut | None
) -> Suspended:
    """The cut of several controllers: two-phase commit under a hold."""
    if plan.lease is not None:
        raise UsageError("lease: a hold of several controllers is cut by its own `suspend`")
    if plan.at is not None:
        found = await past_cut.stand(plan, links, settling.settle_s, on_cut)
        return await _read(plan, links, found)
    with survey.nothing_suspended():
        statuses = await settling.calm(plan.group, links)
        survey.check_members(statuses)
        if (cut := survey.common_cut(statuses)) is not None:
            check_standing(_standing(cut, statuses), plan.existing)
            return await _read(plan, links, past_cut.already(plan.group, cut, statuses))
        survey.check_duplex(statuses)
        survey.check_equal(statuses)
        await survey.measure(links, plan.hold_max_s, plan.cut_id)
    work = hooking.around(plan, lambda: _cut(Drive(plan, links), settling.settle_s, on_cut))
    return await _read(plan, links, await work)


async def _read(plan: Plan, links: Links, found: Suspended) -> Suspended:
    """Name who reads the cut. One that is no backup source has no reader."""
    if not plan.reader or found.verdict != CONSISTENT or found.left:
        return found
    try:
        await reading.begin(plan.group, links, plan.reader, found.cut)
    except DuplexdError as error:
        if wrong := faults(found.hooks):  # there is no result that would say it
            raise type(error)(f"{error}; {'; '.join(wrong)}") from None
        raise
    return replace(found, reader=plan.reader)


async def _cut(drive: Drive, settle_s: float, on_cut: OnCut | None) -> Suspended:
    try:
        if not drive.alone:
            await close(drive)
        return await suspended(drive, drive.plan.tag, settle_s, on_cut)
    finally:
        await drive.end()


async def close(drive: Drive) -> None:
    """Close all gates. A cancelled one leaves none closed."""
    try:
        await drive.close()
    except asyncio.CancelledError:
        await drive.give_up(INTERRUPTED)
        raise


async def suspended(
    drive: Drive, tag: str, settle_s: float, on_cut: OnCut | None = None
) -> Suspended:
    """Cut what `drive` holds, or without a hold if it has one member.

    Raises UndecidedError if the outcome can't be known because a member does not answer. A
    cancelled one opens the gates first. One member does what it was asked to: its answer is waited
    for if there is an `on_cut` that wants it, no longer than a hold may last.
    """
    try:
        await drive.cut(tag)
        await drive.finish(settle_s)
    except asyncio.CancelledError:
        try:
            if on_cut is not None or not drive.alone:
                await drive.give_up(INTERRUPTED)
        finally:
            if on_cut is not None and not drive.nothing_cut:
                on_cut(_outcome(drive))
        raise
    found = _result(drive)
    if on_cut is not None:
        on_cut(found)
    return found


def _outcome(drive: Drive) -> Suspended | UndecidedError:
    try:
        return _result(drive)
    except UndecidedError as error:
        return error


def _result(drive: Drive) -> Suspended:
    plan, verdict = drive.plan, drive.round.outcome
    if verdict is None:
        if plan.alone:
            raise UndecidedError(
                f"{plan.group.name} may be suspended nevertheless:"
                f" `duplexctl status {plan.group.name}`"
            )
        raise outcomes.undecided_error(plan.cut_id, drive.round.unreached, plan.group.name)
    figures = {name: member.hold for name, member in drive.members.items()}
    hold = merge_holds(plan.group, figures, plan.hold_max_s)
    if plan.alone:
        return _of_one(drive, verdict, hold)
    left = drive.left if verdict != VOID else []
    return Suspended(
        verdict=verdict,
        cut=plan.cut_id,
        tag=plan.tag,
        group=plan.group.name,
        controllers={name: each["sequence"] for name, each in drive.made.items()},
        volumes=drive.volumes,
        hold=hold,
        phases=dict(drive.seconds),
        why=_why(drive, verdict, left),
        left=left,
        untold=drive.round.untold,
        members=list(drive.made.values()),
        time=max((each["time"] for each in drive.made.values()), default=None),
        seconds=sum(drive.seconds.values()),
    )


def _of_one(drive: Drive, verdict: str, hold: Hold) -> Suspended:
    """The answer of one controller is the result, in the shape of the others."""
    group, ((name, answer),) = drive.plan.group, drive.made.items()
    why = ""
    if verdict == VOID:
        why = f"{drive.only.link.prefix}{answer.get('why') or 'see its events and its log'}"
    return Suspended(
        verdict=verdict,
        cut=answer["cut"],
        tag=answer.get("tag", ""),
        group=group.name,
        controllers=answer["controllers"],
        volumes=[group.title(name, volume) for volume in answer["volumes"]],
        hold=hold,
        why=why,
        already=answer.get("already", False),
        members=answer.get("members", []),
        time=answer.get("time"),
        seconds=answer.get("seconds", 0.0),
        reader=answer.get("reader") or "",
        hooks=answer.get("hooks", []),
        mark=answer.get("mark") or "",
    )


def _why(drive: Drive, verdict: str, left: list[str]) -> str:
    if verdict == VOID:
        return str(drive.error or "the secondaries of a member did not reach the cut")
    if not left:
        return ""
    return f"{' '.join(left)}: reached the cut, but left it before the suspend was done (resynced)"


def _standing(cut: Json, statuses: dict[str, Json]) -> Standing:
    reasons = frozenset(str(each["reason"]) for each in survey.volumes(statuses).values())
    return Standing(cut["id"], cut.get("tag", ""), time.time() - cut.get("time", 0.0), reasons)

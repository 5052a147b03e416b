"""A suspend of a group on one controller: one journal orders everything, and no hold is needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from duplexd.client import survey
from duplexd.client.answers import need
from duplexd.client.results import Suspended, merge_holds
from duplexd.errors import TimedOutError, UndecidedError, UnreachableError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.client.hold import OnCut
    from duplexd.client.http import Http
    from duplexd.config.groups_file import Group

    Json = dict[str, Any]


async def suspend_alone(
    link: Http,
    group: Group,
    tag: str,
    certificate: bool,
    calm: Callable[[], Awaitable[object]],
    on_cut: OnCut | None,
) -> Suspended:
    """Only its name is asked first: while a daemon tells the state of 1,000 volumes, writes wait. `calm` settles what stands at an old cut.

    What it is asked to do a controller does, whoever goes away. So with `on_cut` a command that is cancelled waits for the answer, no longer than a hold may last.
    """
    with survey.nothing_suspended():
        survey.raise_all(await survey.identify({link.name: link}))
    asked = asyncio.ensure_future(_ask(link, group, tag, certificate, calm, on_cut))
    try:
        return await asyncio.shield(asked)
    except asyncio.CancelledError:
        if on_cut is not None:
            try:
                await asyncio.wait((asked,), timeout=max(group.hold_max, 1.0))
            finally:
                if _unknown(asked):
                    on_cut(
                        UndecidedError(
                            f"{link.name}: may be suspended all the same: `duplexctl status {group.name}`"
                        )
                    )
        raise
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


def _unknown(asked: asyncio.Future[Suspended]) -> bool:
    return not asked.done() or isinstance(asked.exception(), UnreachableError | TimedOutError)


async def _ask(
    link: Http,
    group: Group,
    tag: str,
    certificate: bool,
    calm: Callable[[], Awaitable[object]],
    on_cut: OnCut | None,
) -> Suspended:
    body = {"targets": list(group.members[link.name]), "tag": tag, "certificate": certificate}
    try:
        answer = await link.call_patiently("POST", "/v1/suspend", body)
    except WrongStateError:
        await calm()  # they may stand at a cut of several controllers that was left undecided
        answer = await link.call_patiently("POST", "/v1/suspend", body)
    found = _result(link.name, group, answer)
    if on_cut is not None:
        on_cut(found)
    return found


def _result(name: str, group: Group, answer: Json) -> Suspended:
    verdict = need(answer, name, "verdict")
    return Suspended(
        verdict=verdict,
        cut=need(answer, name, "cut"),
        tag=answer.get("tag", ""),
        group=group.name,
        controllers=need(answer, name, "controllers"),
        volumes=[f"{name}:{volume}" for volume in need(answer, name, "volumes")],
        hold=merge_holds({name: answer.get("hold")}, group.hold_max),
        why=""
        if verdict == "consistent"
        else f"{name}: {answer.get('why') or 'see its events and its log'}",
        already=answer.get("already", False),
        members=answer.get("members", []),
    )

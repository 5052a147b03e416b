"""Cuts that a coordinator left undecided: in-doubt transactions, resolved by asking all members.

Any coordinator can do it at any time, several at once: the outcome follows from what is in the
members' journals. A suspend and a resync do it first for the cut that the secondaries are at.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.client import outcomes, survey
from duplexd.client.coordinator import SETTLE_PAUSE_S, Drive
from duplexd.client.member import Plan
from duplexd.config.groups import Group
from duplexd.core.cut_states import CUT, NONE, VOID
from duplexd.errors import DuplexdError, UndecidedError
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from duplexd.client.results import Cut
    from duplexd.client.survey import Links
    from duplexd.json_object import Json

_POLL_S = 0.05


class Settling:
    """`links_of` gives the connections to controllers; `known` are all that can be asked."""

    def __init__(
        self, known: Iterable[str], links_of: Callable[[Iterable[str]], Links], settle_s: float
    ) -> None:
        self._known = frozenset(known)
        self._links_of = links_of
        self.settle_s = settle_s

    async def calm(self, group: Group, links: Links) -> dict[str, Json]:
        """The status of all members, once none of these volumes is at an undecided cut.

        Raises UndecidedError; WrongStateError if a cut of them is being made.
        """
        statuses = await survey.ask_status(group, links)
        survey.check_free(statuses)
        found = survey.undecided(statuses)
        if not found:
            return statuses
        _, undecided = await self.settle(found, group.name)
        for error in undecided.values():
            raise UndecidedError(
                f"{error}; or, if that will never be, `duplexctl resync {group.name} --wait` gives"
                " the cut up: then suspend"
            )
        return await survey.ask_status(group, links)

    async def settle(
        self, cuts: Mapping[str, list[str]], group: str
    ) -> tuple[list[Cut], dict[str, DuplexdError]]:
        """What became of each, and why that can't be known of the others, by id."""
        settled: list[Cut] = []
        undecided: dict[str, DuplexdError] = {}
        for cut, members in cuts.items():
            try:
                settled.append(await self._one(cut, members, group))
            except UndecidedError as error:
                undecided[cut] = error
        return settled, undecided

    async def contradicted(self, cuts: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Those of these cuts that are void on a member, and not on all.

        Perhaps on a member whose secondaries have left them.
        """
        found: dict[str, list[str]] = {}
        for cut, members in cuts.items():
            known = [name for name in members if name in self._known]
            asked, _ = await outcomes.ask(self._links_of(known), cut)
            states = {asked[cut].states.get(name) for name in known} if cut in asked else set()
            states -= {NONE, None}
            if VOID in states and len(states) > 1:
                found[cut] = members
        return found

    async def _one(self, cut: str, members: list[str], group_name: str) -> Cut:
        unknown = [name for name in members if name not in self._known]
        if unknown:
            raise UndecidedError(
                f"cut {cut} was taken together with {printable(', '.join(unknown))}, which the"
                " groups file"
                f" does not know; add it there, and run `duplexctl settle {group_name}`"
            )
        links = self._links_of(members)
        await self._wait_for_votes(cut, links)
        drive = Drive(Plan(cut, Group(group_name, dict.fromkeys(members, ()))), links)
        try:
            await drive.settle()
            await drive.finish(self.settle_s)
        finally:
            await drive.end()
        found, _ = await outcomes.ask(links, cut)
        whole = found.get(cut)
        if drive.round.outcome is None or whole is None:
            raise outcomes.undecided_error(cut, drive.round.unreached, group_name)
        return whole

    async def _wait_for_votes(self, cut: str, links: Links) -> None:
        """Wait while members decide by themselves: to ask one of these would make the cut void.

        A member does so while its lease lasts, or its secondaries are on their way, however long
        its disks take. One whose journal has failed cannot decide anything.
        """
        loop = asyncio.get_running_loop()
        pause_s, look_at = _POLL_S, loop.time() + self.settle_s
        while True:
            found, _ = await outcomes.ask(links, cut)
            states = found[cut].states if cut in found else {}
            deciding = {name: links[name] for name, state in states.items() if state == CUT}
            if not deciding or VOID in states.values():
                return
            if loop.time() >= look_at:
                statuses, _ = await survey.try_status(deciding, dict.fromkeys(deciding, ()))
                if all(status["controller"].get("failed") for status in statuses.values()):
                    return
                look_at = loop.time() + self.settle_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, SETTLE_PAUSE_S)

"""Clones of cuts, of one or several controllers: made on all of them, or on none.

What is asked for by `latest` or a tag is looked up once, for all of them together, and has to be
one consistent cut; each controller is then asked for that cut by its id.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

from duplexd.client import manifest, survey
from duplexd.client.results import Cloned, CloneDropped, Clones
from duplexd.core.cut_states import CONSISTENT
from duplexd.core.point import LATEST
from duplexd.errors import (
    DuplexdError,
    NotFoundError,
    TimedOutError,
    UnreachableError,
    WrongStateError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from duplexd.client.http import Http
    from duplexd.client.results import Points
    from duplexd.client.survey import Links
    from duplexd.config.groups import Directory, Group
    from duplexd.json_object import Json

_UNSURE = (UnreachableError, TimedOutError)


class Cloning:
    """Clones of the targets of a client."""

    def __init__(
        self, groups: Directory, links_to: Callable[[Iterable[str]], dict[str, Http]]
    ) -> None:
        self._groups = groups
        self._links_to = links_to

    def _of(self, group: Group) -> tuple[Group, Links]:
        return group, self._links_to(group.members)

    async def make(
        self, *targets: str, point: str, name: str, limit_bytes: int | None = None
    ) -> Cloned:
        """Writable clones `VOLUME@CUT+NAME` of all targets at one cut: its id, its tag or `latest`.

        Raises WrongStateError where they are not at one, or, by tag or `latest`, at one that is not
        consistent; NotFoundError where it is another one.
        """
        return await _make(*self._of(self._groups.resolve(targets)), point, name, limit_bytes)

    def held(self, *targets: str, point: str, name: str, limit_bytes: int | None = None) -> Held:
        """The same for an `async with` block, with which they end; and with this process."""
        return Held(*self._of(self._groups.resolve(targets)), point, name, limit_bytes)

    async def drop(self, *targets: str, name: str) -> CloneDropped:
        """End clones, and disconnect their clients. Raises NotFoundError if there are none."""
        return await _drop(*self._of(self._groups.resolve(targets)), name)

    async def show(self, *targets: str) -> Clones:
        """The clones of the targets, by default of everything."""
        named = self._groups.resolve(targets) if targets else self._groups.everything()
        return await _show(*self._of(named))


async def _make(
    group: Group, links: Links, point: str, name: str, limit_bytes: int | None
) -> Cloned:
    """Raises with no clone left, also where an answer was lost: a clone may have been made there.
    One that refused may have another clone of that name.
    """
    found = await manifest.ask(group, links)
    cut = _cut_of(found, point)
    body = {"cut": cut, "name": name, "limit_bytes": limit_bytes}
    made, errors = await survey.command(group, links, "/v1/clones", body)
    if errors:
        unsure = [each for each, error in errors.items() if isinstance(error, _UNSURE)]
        ends = {each: links[each] for each in (*made, *unsure)}
        await survey.command(group, ends, "/v1/clones/drop", {"name": name})
        survey.raise_all(errors)
    return Cloned(name, cut, found.tag, found.verdict, _titled(group, found, made))


class Held:
    """`async with client.clones.held("db", ...) as held`: the clones are there within the block, or
    `held.lost` says why not. They end with it, and with this process, however it ends. `points`
    are those of the clones; `faults`, from `why_lost` on, the first failed request of each.
    """

    points: Points

    def __init__(
        self, group: Group, links: Links, point: str, name: str, limit: int | None
    ) -> None:
        self._group = group
        self._links = links
        self._point = point
        self._name = name
        self._limit = limit
        self._streams: list[asyncio.Task[None]] = []
        self._made: dict[str, asyncio.Future[Json]] = {}
        self.lost = ""
        self.faults: list[str] = []

    async def __aenter__(self) -> Self:
        found = await manifest.ask(self._group, self._links)
        self.cut = _cut_of(found, self._point)
        for member in self._links:
            made = self._made[member] = asyncio.get_running_loop().create_future()
            self._streams.append(asyncio.ensure_future(self._hold(member, made)))
        try:
            answers, errors = await survey.gather(self._made)
            survey.raise_all(errors)
        except BaseException:
            await self._end()
            raise
        self.points = replace(found, volumes=_titled(self._group, found, answers))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def why_lost(self) -> str:
        """Why they are not all there any more; "" if they are. The controllers are asked: what was
        read from clones counts only if they were there until now.
        """
        found = (await _show(self._group, self._links)).clones
        here = {(each["name"], each["export"]) for each in self.points.volumes}
        # two may have one export; an older daemon says nothing of faults
        there = {(each["volume"], each["export"]): each.get("first_fault", "") for each in found}
        self.faults = [f"{of[0]}: {text}" for of, text in there.items() if text and of in here]
        if not self.lost and not here <= there.keys():
            self.lost = "the cut was left"
        return self.lost

    async def record_drill(self, exit_code: int, took_ms: int) -> None:
        """What was found on them, on all controllers under one id. Raises if one has not recorded
        it: it does so while its clones are there.
        """
        found = {"exit_code": exit_code, "took_ms": took_ms}
        body = {"id": secrets.token_hex(8), "cut": self.cut, "clone": self._name, **found}
        _, errors = await survey.command(self._group, self._links, "/v1/drills", body)
        survey.raise_all(errors)

    async def _hold(self, member: str, made: asyncio.Future[Json]) -> None:
        """One controller's clones, until they end or this is cancelled."""
        body = {
            "targets": list(self._group.members[member]),
            "cut": self.cut,
            "name": self._name,
            "limit_bytes": self._limit,
            "while_connected": True,
        }
        link = self._links[member]
        try:
            async with aclosing(link.lines_patiently("POST", "/v1/clones", body)) as lines:
                async for line in lines:
                    if line["event"] == "made" and not made.done():
                        made.set_result(line)
                    elif line["event"] == "ended":
                        self.lost = self.lost or f"{link.prefix}{line['reason']}"
                        return
            raise UnreachableError(f"{link.prefix}broke off, and its clones ended")
        except DuplexdError as error:
            if made.done():
                self.lost = self.lost or str(error)
            else:
                made.set_exception(error)

    async def _end(self) -> None:
        """Drop them, and wait until they are gone, as far as they can be reached."""
        made = [member for member, each in self._made.items() if _is_made(each)]
        links = {member: self._links[member] for member in made}
        await survey.command(self._group, links, "/v1/clones/drop", {"name": self._name})
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)


def _is_made(made: asyncio.Future[Json]) -> bool:
    if not made.done():
        made.cancel()
        return False
    return not made.cancelled() and made.exception() is None


def _cut_of(found: Points, point: str) -> str:
    """The id of the cut that is meant, which all volumes can be read at."""
    if found.cut is None:
        why = [f"{row['name']}: {row['why']}" for row in found.volumes if row["why"]]
        raise WrongStateError(
            f"{'; '.join(why) or 'the volumes are at different cuts'}; no clone was made. Suspend"
            " them first: `duplexctl suspend`, or --suspend of a drill"
        )
    if point == found.cut:
        return found.cut
    if point not in {LATEST, found.tag}:
        tag = f", tag {found.tag!r}" if found.tag else ""
        raise NotFoundError(
            f"the secondaries are not at {point!r} but at cut {found.cut}{tag}; no clone was made"
        )
    if found.verdict != CONSISTENT:
        raise WrongStateError(
            f"cut {found.cut} is {found.verdict or 'in doubt'}; no clone was made. Its volumes do "
            f"not belong together; name the cut by its id, {found.cut}, to look into it"
        )
    return found.cut


def _titled(group: Group, found: Points, answers: Mapping[str, Json]) -> list[Json]:
    """What controllers made, called as in targets, with the addresses."""
    return [
        each
        | {
            "name": group.title(member, each["volume"]),
            "controller": member,
            "uris": [
                str(uri) for uri in manifest.uris(each["export"], found.controllers[member]["nbd"])
            ],
        }
        for member, answer in answers.items()
        for each in answer["volumes"]
    ]


async def _drop(group: Group, links: Links, name: str) -> CloneDropped:
    return CloneDropped(name, await survey.end(group, links, "/v1/clones/drop", {"name": name}))


async def _show(group: Group, links: Links) -> Clones:
    survey.raise_all(await survey.identify(links))
    found, errors = await survey.gather(
        {
            name: link.call_patiently("GET", "/v1/clones?" + _query(group.members[name]))
            for name, link in links.items()
        }
    )
    survey.raise_all(errors)
    return Clones(
        [
            each | {"volume": group.title(name, each["volume"])}
            for name, answer in found.items()
            for each in answer["clones"]
        ]
    )


def _query(targets: Iterable[str]) -> str:
    return urlencode([("target", target) for target in targets])

"""Clones of cuts, of one or several controllers: made on all of them, or on none.

What is asked for by `latest` or a tag is looked up once, for all of them together, and has to be
one consistent cut; each controller is then asked for that cut by its id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from duplexd.client import manifest, survey
from duplexd.client.results import Cloned, CloneDropped, Clones
from duplexd.core.cut_states import CONSISTENT
from duplexd.core.point import LATEST
from duplexd.errors import NotFoundError, TimedOutError, UnreachableError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.client.results import Points
    from duplexd.client.survey import Links
    from duplexd.config.groups import Group
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json

_UNSURE = (UnreachableError, TimedOutError)


async def make(
    group: Group, links: Links, point: str, name: str, limit_bytes: int | None
) -> Cloned:
    """See `Client.clone`. Raises with no clone left, also where an answer was lost: a clone may
    have been made there. One that refused may have another clone of that name.
    """
    found = await manifest.ask(group, links)
    cut = _cut_of(found, point)
    body = {"cut": cut, "name": name, "limit_bytes": limit_bytes}
    made, errors = await _ask(group, links, "/v1/clones", body)
    if errors:
        unsure = [each for each, error in errors.items() if isinstance(error, _UNSURE)]
        ends = {each: links[each] for each in (*made, *unsure)}
        await _ask(group, ends, "/v1/clones/drop", {"name": name})
        survey.raise_all(errors)
    return Cloned(name, cut, found.tag, found.verdict, _titled(group, found, made))


def _cut_of(found: Points, point: str) -> str:
    """The id of the cut that is meant, which all volumes can be read at."""
    if found.cut is None:
        why = [f"{row['name']}: {row['why']}" for row in found.volumes if row["why"]]
        raise WrongStateError(
            f"{'; '.join(why) or 'the volumes are at different cuts'}; no clone was made"
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


async def drop(group: Group, links: Links, name: str) -> CloneDropped:
    """See `Client.drop_clone`."""
    if not group.alone:
        survey.raise_all(await survey.identify(links))
    done, errors = await _ask(group, links, "/v1/clones/drop", {"name": name})
    unknown = {each: error for each, error in errors.items() if isinstance(error, NotFoundError)}
    survey.raise_all({each: e for each, e in errors.items() if each not in unknown})
    if not done:
        survey.raise_all(unknown)
    volumes = [group.title(each, volume) for each, row in done.items() for volume in row["volumes"]]
    return CloneDropped(name, volumes)


async def show(group: Group, links: Links) -> Clones:
    """See `Client.clones`."""
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


async def _ask(
    group: Group, links: Links, path: str, body: Json
) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    return await survey.gather(
        {
            name: link.call_patiently("POST", path, {"targets": list(group.members[name]), **body})
            for name, link in links.items()
        }
    )

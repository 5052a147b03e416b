"""Resyncs: first all controllers are asked whether anything is in the way, then all begin.

A cut of several controllers is left by all of its secondaries or by none. What keeps one of them
(another cut than the one that is meant, somebody who reads it) is in the status, so it is found
before the first of them has begun. Each controller checks it again for itself.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from duplexd.client import reading, survey
from duplexd.client.results import Resynced, titled
from duplexd.errors import UnreachableError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.client.http import Http
    from duplexd.client.settle import Settling
    from duplexd.client.survey import Links
    from duplexd.config.groups import Group
    from duplexd.core.leaving import Leaving
    from duplexd.json_object import Json

_LINES = {"started", "progress", "done"}  # a later version may have others
_READ = "read"  # `how` of a volume whose cut others read


class Order(NamedTuple):
    """What a resync is to be. `progress` gets (controller, line)."""

    wait: bool
    leaving: Leaving
    progress: Callable[[str, Json], None] | None

    def body(self, targets: tuple[str, ...]) -> Json:
        """The request; with what an older daemon does not know only where it is wanted."""
        cut, reader, force = self.leaving
        more: Json = {"wait": True} if self.wait else {}
        more |= {"cut": cut} if cut else {}
        more |= {"reader": reader} if reader else {}
        more |= {"force": True} if force else {}
        return {"targets": list(targets), "partial": True, **more}


async def resync(group: Group, links: Links, settling: Settling, order: Order) -> Resynced:
    """See `Client.resync`."""
    warnings: list[str] = []
    if not group.alone:
        statuses = await survey.ask_status(group, links)
        survey.check_free(statuses)
        volumes = survey.volumes(statuses)
        if still := reading.in_the_way(volumes, order.leaving):
            return await _only_ended(group, links, order, still, volumes)
        warnings = await _settle(group, settling, statuses)
    done, errors = await survey.gather(
        {name: _one(link, group, order) for name, link in links.items()}
    )
    refusing = {name: error for name, error in errors.items() if isinstance(error, WrongStateError)}
    if not done or len(refusing) < len(errors):
        survey.raise_all(errors)
    return _result(group, order, done, refusing, warnings)


async def _settle(group: Group, settling: Settling, statuses: Mapping[str, Json]) -> list[str]:
    _, undecided = await settling.settle(survey.undecided(statuses), group.name)
    return [
        f"secondaries gave up a cut of which nobody knows whether it is consistent: {error}"
        for error in undecided.values()
    ]


async def _only_ended(
    group: Group, links: Links, order: Order, still: list[str], volumes: Mapping[str, Json]
) -> Resynced:
    """Others read the cut: the reader ends, and nothing is begun."""
    await reading.release(group, links, order.leaving.reader)
    rows = [
        {"name": name, "how": _READ, "state": volume["state"], "reason": volume.get("reason")}
        for name, volume in volumes.items()
    ]
    return Resynced(rows, order.wait, True, readers=still)


def _result(
    group: Group,
    order: Order,
    done: Mapping[str, Json],
    refusing: Mapping[str, WrongStateError],
    warnings: list[str],
) -> Resynced:
    volumes = [row for answer in done.values() for row in answer["volumes"]]
    refused = [row for answer in done.values() for row in answer.get("refused", ())]
    for name, error in refusing.items():
        titles = (group.title(name, target) for target in group.members[name])
        refused += [{"name": title, "error": str(error)} for title in titles]
    still = [name for answer in done.values() for name in answer.get("readers") or ()]
    ok = not refused and (not order.wait or all(map(_is_back, volumes)))
    jobs = [str(answer.get("job", "")) for answer in done.values()]
    job = jobs[0] if len(group.members) == 1 else ""
    return Resynced(volumes, order.wait, ok, warnings, job, refused, still)


def _is_back(row: Json) -> bool:
    """Or is left at its cut, for others who read it."""
    return (row["state"] == "DUPLEX" and not row.get("differs")) or row.get("how") == _READ


async def _one(link: Http, group: Group, order: Order) -> Json:
    body = order.body(tuple(group.members[link.name]))
    if order.wait:
        return await _waited_for(link, group, order, body)
    return titled(group, link.name, await link.call_patiently("POST", "/v1/resync", body))


async def _waited_for(link: Http, group: Group, order: Order, body: Json) -> Json:
    how: dict[str, str] = {}
    async with aclosing(link.lines_patiently("POST", "/v1/resync", body)) as lines:
        async for bare in lines:
            if bare["event"] not in _LINES:
                continue
            line = titled(group, link.name, bare)
            if order.progress is not None:
                order.progress(link.name, line)
            if line["event"] == "started":
                how = {row["name"]: row["how"] for row in line["volumes"]}
            elif line["event"] == "done":
                rows = [row | {"how": how.get(row["name"])} for row in line["volumes"]]
                return line | {"volumes": rows}
    raise UnreachableError(
        f"{link.prefix}broke off before the resync ended; `duplexctl status` shows its state"
    )

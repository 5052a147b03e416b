"""What changed between two cuts, of all volumes of a group: each controller answers for its own.

A group's cut has one id and one tag on all of its members, so the same two names are asked
everywhere. Until now is a moment of each controller's own: only cuts are common points.

Who asks for more of a volume names the cuts of its first answer by their ids: a tag and `latest`
may mean a newer cut by then, and what changed before that would be missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from duplexd.client import survey
from duplexd.client.results import Changes
from duplexd.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.client.http import Http
    from duplexd.config.groups import Group
    from duplexd.json_object import Json


async def ask(group: Group, links: Mapping[str, Http], since: str, until: str | None) -> Changes:
    """All of them, or the error of one that does not know."""
    survey.raise_all(await survey.identify(links))
    points = [("since", since), *([("until", until)] if until is not None else [])]
    done, errors = await survey.gather(
        {name: _of_one(link, group.members[name], points) for name, link in links.items()}
    )
    survey.raise_all(errors)
    rows = [
        row | {"name": group.title(name, row["name"])} for name, own in done.items() for row in own
    ]
    total = sum(row["changed_bytes"] for row in rows)
    return Changes(total, all(row["exact"] for row in rows), rows)


async def _of_one(link: Http, targets: Iterable[str], points: list[tuple[str, str]]) -> list[Json]:
    answer = await _get(link, [*(("target", target) for target in targets), *points])
    return [await _whole(link, row) for row in answer["volumes"]]


async def _whole(link: Http, first: Json) -> Json:
    """A volume with all of its extents: an answer has only so many."""
    row, extents = first, list(first["extents"])
    ends = ((end, first[end].get("cut")) for end in ("since", "until"))
    points = [(end, cut) for end, cut in ends if cut is not None]
    for _ in range(link.limits.changes_answers_max):
        offset = row["next_offset"]
        if offset is None:
            del first["next_offset"]
            return first | {"extents": extents}
        more = await _get(link, [("target", first["name"]), ("offset", str(offset)), *points])
        (row,) = more["volumes"]
        extents += row["extents"]
    raise UnreachableError(f"{link.prefix}the extents of {first['name']} do not come to an end")


async def _get(link: Http, query: list[tuple[str, str]]) -> Json:
    return await link.call_patiently("GET", "/v1/changes?" + urlencode(query))

"""Verify: each controller compares the legs of its own pairs, all controllers at once."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from duplexd.client import survey
from duplexd.client.results import Verified, titled
from duplexd.core.leg_differences import all_equal
from duplexd.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.client.http import Http
    from duplexd.config.groups import Group
    from duplexd.json_object import Json

    Progress = Callable[[str, Json], None]


async def verify(group: Group, links: Mapping[str, Http], progress: Progress | None) -> Verified:
    """Raises what one of them answered instead, or UnreachableError if it broke off. `progress`
    gets (controller, line).
    """
    survey.raise_all(await survey.identify(dict(links)))
    done, errors = await survey.gather(
        {name: _verify(link, group, progress) for name, link in links.items()}
    )
    survey.raise_all(errors)
    volumes = [row for answer in done.values() for row in answer["volumes"]]
    return Verified(all_equal([row["equal"] for row in volumes]), volumes)


async def _verify(link: Http, group: Group, progress: Progress | None) -> Json:
    body = {"targets": list(group.members[link.name]), "progress": True}
    async with aclosing(link.lines_patiently("POST", "/v1/verify", body)) as lines:
        async for line in lines:
            if line["event"] == "done":
                return titled(group, link.name, line)
            if progress is not None and line["event"] == "progress":
                progress(link.name, line | {"name": group.title(link.name, line["name"])})
    raise UnreachableError(f"{link.prefix}broke off before the comparison ended")

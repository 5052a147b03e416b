"""Swap, adopt and repair: what each controller does to its own images.

None of them needs a common point, even of a group: a swap changes no byte that a client reads, and
a repair those of one volume, so every controller does its part between two batches of its own. That
is why there is one request for each controller and no coordination. One that fails does not undo
the others, and the answer says of each what happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.client import survey
from duplexd.client.results import Repaired, Roles
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.client.http import Http
    from duplexd.config.groups import Group
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json


async def change(group: Group, links: Mapping[str, Http], path: str, options: Json) -> Roles:
    """Ask every controller of the group. Raises if none did its part, else says which did not."""
    return _roles(group, *await _ask(group, links, path, options))


async def repair(group: Group, links: Mapping[str, Http], source: str, dry_run: bool) -> Repaired:
    """The same. A controller none of whose volumes differs has nothing to do; WrongStateError if
    that is true of all of them.
    """
    options: Json = {"from": source, "dry_run": dry_run, "some": True}
    done, errors = await _ask(group, links, "/v1/repair", options)
    result = _roles(group, done, errors)
    others = [
        group.title(name, volume)
        for name, answer in done.items()
        for volume in answer.get("no_difference", ())
    ]
    if not result.volumes and not errors:
        raise WrongStateError(
            f"{' '.join(others)}: no difference of the legs is recorded, so there is nothing to"
            " repair; `duplexctl verify` compares them"
        )
    return Repaired(result.volumes, result.failed, result.exit_codes, others)


async def _ask(
    group: Group, links: Mapping[str, Http], path: str, options: Json
) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    silent = await survey.identify(links)
    done, refused = await survey.gather(
        {
            name: link.call_patiently(
                "POST", path, {"targets": list(group.members[name]), **options}
            )
            for name, link in links.items()
            if name not in silent
        }
    )
    errors = silent | refused
    if not done:
        survey.raise_all(errors)
    return done, errors


def _roles(group: Group, done: Mapping[str, Json], errors: Mapping[str, DuplexdError]) -> Roles:
    return Roles(
        volumes=[
            row | {"name": group.title(name, row["name"])}
            for name, answer in done.items()
            for row in answer["volumes"]
        ],
        failed={name: str(error) for name, error in errors.items()},
        exit_codes={name: error.exit_code for name, error in errors.items()},
    )

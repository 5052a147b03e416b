"""Rollbacks, of one controller or of several.

One controller does it whole. Several take part in one rollback, of one id: all are asked whether
anything is in the way, then all close their volumes and copy, and only when all are done the first
of them opens. A controller that has opened is not asked again: its volumes are in use by then. So
the same command goes on, whatever ended it and from any client.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from duplexd.client import survey
from duplexd.client.member import new_cut_id
from duplexd.client.results import RolledBack, titled
from duplexd.core import rollback as steps
from duplexd.core.rollback_state import ABANDONED, DONE
from duplexd.errors import UnreachableError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.client.http import Http
    from duplexd.client.survey import Links
    from duplexd.config.groups import Group
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json

_ENDED = frozenset({DONE, ABANDONED})


class Wanted(NamedTuple):
    """What a command wants: to go back to the point `to`, or to `abandon` that. `progress` gets
    (controller, line).
    """

    to: str
    dry_run: bool
    force: bool
    abandon: bool
    progress: Callable[[str, Json], None] | None = None

    def body(self, step: str, rollback_id: str = "") -> Json:
        """The request, but for its targets."""
        named: Json = {"id": rollback_id} if rollback_id else {}
        return {"to": self.to, "step": step, "force": self.force, **named}


async def rollback(group: Group, links: Links, wanted: Wanted) -> RolledBack:
    """`dry_run`: only compare. `force`: disconnect clients. `abandon`: serve volumes half-way whose
    rollback is not finished.

    Raises WrongStateError, NotFoundError with nothing done. One daemon's failure is raised, too; of
    several controllers the result names those that failed, and no volume is served that was not.
    """
    if wanted.abandon:
        return await _abandon(group, links)
    survey.raise_all(await survey.identify(links))
    if wanted.dry_run:
        done = await _all(group, links, wanted.body(steps.MEASURE))
        return _result(group, "measured", done)
    if len(links) == 1:
        ((name, link),) = links.items()
        done = {name: await _lines(group, link, wanted, wanted.body(steps.WHOLE))}
        return _result(group, "rolled back", done)
    return await _together(group, links, wanted)


async def _abandon(group: Group, links: Links) -> RolledBack:
    """Open the volumes of unfinished rollbacks as they are. One that does not answer keeps none of
    the others from it: the result names it.
    """
    silent = await survey.identify(links)
    asked = {name: link for name, link in links.items() if name not in silent}
    done, refused = await _ask(group, asked, {"step": steps.ABANDON})
    errors = silent | refused
    if not done:
        survey.raise_all(errors)
    return _result(group, "abandoned", done, errors)


async def _together(group: Group, links: Links, wanted: Wanted) -> RolledBack:
    statuses = await survey.ask_status(group, links)
    unfinished = _unfinished(statuses)
    if not unfinished and survey.common_cut(statuses) is None:
        raise WrongStateError(
            "the secondaries are not all at one consistent cut, so the volumes cannot go back to "
            "one; `duplexctl status` shows where they are"
        )
    rollback_id = unfinished or new_cut_id()
    left = {name: link for name, link in links.items() if not _done(statuses[name], rollback_id)}
    checked = await _all(group, left, wanted.body(steps.CHECK, rollback_id))
    cut = _only_cut(statuses, rollback_id, checked)
    # by its id: a tag or `latest` may mean another cut of a controller by now
    body = wanted.body(steps.COPY_ONLY, rollback_id) | {"to": cut}
    copied, errors = await survey.gather(
        {name: _lines(group, link, wanted, body) for name, link in left.items()}
    )
    if errors:
        return _result(group, "not finished", copied, errors)
    opened, errors = await _ask(group, left, wanted.body(steps.OPEN, rollback_id))
    for name, answer in opened.items():
        served = {row["name"]: row["served"] for row in answer["volumes"]}
        for row in copied[name]["volumes"]:
            row["served"] = served.get(row["name"], row["served"])
    return _result(group, "not finished" if errors else "rolled back", copied, errors)


def _only_cut(statuses: Mapping[str, Json], rollback_id: str, checked: Mapping[str, Json]) -> str:
    """The cut that all go back to. One that the rollback has not reached yet may have left it
    meanwhile, and been suspended at another one since.

    Raises WrongStateError if there are several.
    """
    cuts = {name: {str(answer["cut"])} for name, answer in checked.items()}
    for name, status in statuses.items():
        for volume in status["volumes"]:
            if (rollback := _rollback(volume)).get("id") == rollback_id:
                cuts.setdefault(name, set()).add(str(rollback["cut"]))
    found = set().union(*cuts.values())
    if len(found) > 1:
        listed = "; ".join(f"{name}: {', '.join(sorted(each))}" for name, each in cuts.items())
        raise WrongStateError(
            f"these would not go back to one cut ({listed}): `duplexctl rollback --abandon` gives "
            "up what is not finished"
        )
    return found.pop()


def _unfinished(statuses: Mapping[str, Json]) -> str:
    """The rollback that some of these volumes are in; "" for none."""
    found = {
        rollback["id"]: rollback["cut"]
        for volume in survey.volumes(statuses).values()
        if (rollback := _rollback(volume)) and rollback["state"] not in _ENDED
    }
    if len(found) > 1:
        listed = ", ".join(f"{each} to cut {cut}" for each, cut in found.items())
        raise WrongStateError(
            f"several rollbacks of these volumes are not finished ({listed}): finish or abandon "
            "each of them, by its own targets"
        )
    return next(iter(found), "")


def _done(status: Json, rollback_id: str) -> bool:
    """Whether all of a controller's volumes are back by this rollback, and open."""
    return all(
        (rollback := _rollback(volume)).get("id") == rollback_id and rollback["state"] == DONE
        for volume in status["volumes"]
    )


def _rollback(volume: Json) -> Json:
    return volume.get("rollback") or {}


async def _all(group: Group, links: Links, body: Json) -> dict[str, Json]:
    """The answers of all, or raises."""
    done, errors = await _ask(group, links, body)
    survey.raise_all(errors)
    return done


async def _ask(
    group: Group, links: Links, body: Json
) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    return await survey.gather({name: _one(group, link, body) for name, link in links.items()})


async def _one(group: Group, link: Http, body: Json) -> Json:
    asked = {"targets": list(group.members[link.name]), **body}
    return titled(group, link.name, await link.call_patiently("POST", "/v1/rollback", asked))


async def _lines(group: Group, link: Http, wanted: Wanted, body: Json) -> Json:
    asked = {"targets": list(group.members[link.name]), "progress": True, **body}
    async with aclosing(link.lines_patiently("POST", "/v1/rollback", asked)) as lines:
        async for line in lines:
            if line["event"] == "done":
                return titled(group, link.name, line)
            if line["event"] == "progress" and wanted.progress is not None:
                title = group.title(link.name, line["name"])
                wanted.progress(link.name, line | {"name": title})
    raise UnreachableError(
        f"{link.prefix}broke off before the rollback ended: its volumes may be half-way, and are "
        "not served then; the same command goes on with it"
    )


def _result(
    group: Group, outcome: str, done: Mapping[str, Json], errors: Mapping[str, DuplexdError] = {}
) -> RolledBack:
    answers = list(done.values())
    first = answers[0] if answers else {}
    return RolledBack(
        group.name,
        outcome,
        str(first.get("cut", "")),
        str(first.get("tag", "")),
        [row for answer in answers for row in answer["volumes"]],
        {name: str(error) for name, error in errors.items()},
        {name: error.exit_code for name, error in errors.items()},
    )

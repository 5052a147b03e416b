"""What is asked and checked before any gate closes.

Does every member answer, soon enough, in the same protocol, with all pairs DUPLEX? What can fail is
to fail here, while no write waits yet. Members are asked all at once, and an error of one hides no
other.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

from duplexd.client.http import MAY_BE_DONE
from duplexd.errors import (
    ConfigurationError,
    DuplexdError,
    ForbiddenError,
    NotFoundError,
    TimedOutError,
    UndecidedError,
    UnreachableError,
    WrongStateError,
)
from duplexd.limits import GROUP_PROTOCOL
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping

    from duplexd.client.http import Http
    from duplexd.config.groups import Group
    from duplexd.json_object import Json

    Links = Mapping[str, Http]

T = TypeVar("T")
PHASES = 3  # CLOSE, CUT, OPEN: each is a round trip to all members
REHEARSALS = 2
_LISTED = 5
_NOTHING = "nothing was suspended"


async def gather(
    asked: Mapping[str, Awaitable[T]],
) -> tuple[dict[str, T], dict[str, DuplexdError]]:
    """Results by name, and the errors of those that failed. All run at once and are waited for."""
    done = await asyncio.gather(*asked.values(), return_exceptions=True)
    results: dict[str, T] = {}
    errors: dict[str, DuplexdError] = {}
    for name, result in zip(asked, done, strict=True):
        if isinstance(result, DuplexdError):
            errors[name] = result
        elif isinstance(result, BaseException):
            raise result
        else:
            results[name] = result
    return results, errors


async def command(
    group: Group, links: Links, path: str, body: Json
) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    """The same of one command to these members, each about its own targets."""
    return await gather(
        {
            name: link.call_patiently("POST", path, {"targets": list(group.members[name]), **body})
            for name, link in links.items()
        }
    )


async def end(group: Group, links: Links, path: str, body: Json) -> list[str]:
    """End what has a name, and which not all members need know; the volumes that had it. Raises
    NotFoundError if no member knows it.
    """
    if not group.alone:
        raise_all(await identify(links))
    done, errors = await command(group, links, path, body)
    unknown = {name: each for name, each in errors.items() if isinstance(each, NotFoundError)}
    raise_all({name: each for name, each in errors.items() if name not in unknown})
    if not done:
        raise_all(unknown)
    return [group.title(name, each) for name, row in done.items() for each in row["volumes"]]


def raise_all(errors: Mapping[str, DuplexdError]) -> None:
    """One error with the texts of all; of the class of the first."""
    if errors:
        first, *others = list(errors.values())[:_LISTED]
        raise type(first)("; ".join(map(str, [first, *others]))) if others else first


async def ask_status(group: Group, links: Links) -> dict[str, Json]:
    """The status of the group's volumes on every member.

    Raises if one does not answer, is another controller, or does not know one of the volumes.
    """
    statuses, errors = await try_status(links, group.members)
    if any(isinstance(error, NotFoundError) for error in errors.values()):
        # perhaps because another controller was asked
        check_names((await try_status(links, dict.fromkeys(links, ())))[0], links)
    raise_all(errors)
    check_names(statuses, links)
    return statuses


async def try_status(
    links: Links, targets: Mapping[str, Iterable[str]]
) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    """The same, with the errors of those that fail. No targets mean all volumes."""
    return await gather({name: _status(link, targets[name]) for name, link in links.items()})


async def _status(link: Http, targets: Iterable[str]) -> Json:
    query = urlencode([("target", target) for target in targets])
    path = "/v1/status" + ("?" + query if query else "")
    status = await link.call("GET", path, timeout_s=link.limits.answer_seconds_max)
    if starting := status["controller"].get("starting"):  # it says nothing of volumes yet
        why = printable(starting["text"])
        raise UnreachableError(f"{link.prefix}the daemon is not ready: {why}")
    return status


async def identify(links: Links) -> dict[str, DuplexdError]:
    """Are they the controllers that the groups file names? Costs them next to nothing.

    Raises ConfigurationError; returns why others could not be asked.
    """
    names, errors = await ask_names(links)
    check_names(names, links)
    return errors


async def ask_names(links: Links) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    """As much of their status as `misplaced` needs, and the errors of those that fail."""
    return await gather(
        {name: _identity(link) for name, link in links.items() if not link.any_name}
    )


async def own_names(links: Links) -> dict[str, str]:
    """What each is called in answers: one that may have any name goes by its own."""
    free = {name: _identity(link) for name, link in links.items() if link.any_name}
    known, _ = await gather(free)
    return {name: known[name]["controller"]["name"] if name in known else name for name in links}


async def _identity(link: Http) -> Json:
    answer = await link.call("GET", "/healthz", timeout_s=link.limits.answer_seconds_max)
    if answer.get("controller") is None:  # of a version that says it in its status only
        return await _status(link, ())
    return {"controller": {"name": answer["controller"]}}


@contextmanager
def nothing_suspended() -> Iterator[None]:
    """Within, the error of a controller that does not answer says that nothing was suspended."""
    try:
        yield
    except (UnreachableError, ForbiddenError, TimedOutError) as error:
        if isinstance(error, UndecidedError) or str(error).startswith(_NOTHING):
            raise
        raise type(error)(f"{_NOTHING}: {str(error).removesuffix(MAY_BE_DONE)}") from None


async def measure(links: Links, hold_max_s: float, cut: str) -> None:
    """Open the connections that the cut needs; raise if its phases do not fit in `hold_max_s`.

    Then rehearse: a release of what is not held yet takes the same role and the same code as all
    that follows while writes wait. Raises TimedOutError, ForbiddenError.
    """
    raise_all((await gather({name: link.warm(2) for name, link in links.items()}))[1])
    began = monotonic()
    took: dict[str, float] = {}

    async def ask(link: Http) -> None:
        await link.call("GET", "/healthz", timeout_s=max(hold_max_s, 1.0))
        took[link.name] = monotonic() - began

    raise_all((await gather({name: ask(link) for name, link in links.items()}))[1])
    needed = PHASES * max(took.values())
    if needed > hold_max_s:
        slowest = max(took, key=lambda name: took[name])
        raise TimedOutError(
            f"{_NOTHING}: writes may wait {hold_max_s:g} s (hold_max), but {PHASES} round trips"
            f" to all {len(links)} controllers take {needed:.3g} s, {slowest} being the slowest;"
            " allow more, up to 10 s, or make the group smaller"
        )
    for _ in range(REHEARSALS):
        release = {
            name: link.call("POST", f"/v1/cuts/{cut}/release", {}, max(hold_max_s, 1.0))
            for name, link in links.items()
        }
        raise_all((await gather(release))[1])


def check_members(statuses: Mapping[str, Json]) -> None:
    """Raises WrongStateError unless all are of one protocol. One alone may be of any version."""
    versions = {
        name: status["controller"].get("group_protocol") for name, status in statuses.items()
    }
    others = [name for name, version in versions.items() if version != GROUP_PROTOCOL]
    if len(statuses) > 1 and others:
        listed = ", ".join(f"{name}: {_version(status)}" for name, status in statuses.items())
        raise WrongStateError(
            f"these do not cut together ({listed}; this is group protocol {GROUP_PROTOCOL});"
            f" upgrade duplexd on {' and '.join(others)}, or duplexctl here, to the same version"
        )


def _version(status: Json) -> str:
    controller = status["controller"]
    protocol = controller.get("group_protocol")
    said = f"group protocol {protocol}" if protocol else "no group protocol"
    return f"duplexd {printable(controller.get('version') or 'of an old version')}, {said}"


def check_names(statuses: Mapping[str, Json], links: Links) -> None:
    """Raises ConfigurationError unless each is the controller that the groups file names."""
    for error in misplaced(statuses, links).values():
        raise error


def misplaced(statuses: Mapping[str, Json], links: Links) -> dict[str, ConfigurationError]:
    """Those that are another controller than the groups file names: nothing they say counts."""
    names: dict[str, str] = {
        name: status["controller"]["name"]
        for name, status in statuses.items()
        if not links[name].any_name
    }
    errors = {}
    for name, real in names.items():
        if real == name:
            continue
        if twins := [other for other in names if other != name and names[other] == real]:
            why = (
                f"controllers.{name} and controllers.{twins[0]} of the groups file are the same"
                f" controller, {real!r}; remove one, or correct where it is"
            )
        else:
            why = (
                f"controllers.{name} of the groups file leads to a controller that calls itself"
                f" {real!r}; correct its socket or url, or write [controllers.{printable(real)}]"
            )
        errors[name] = ConfigurationError(why)
    return errors


def volumes(statuses: Mapping[str, Json]) -> dict[str, Json]:
    """The status of every volume, as `controller:volume`."""
    return {
        f"{name}:{volume['name']}": volume
        for name, status in statuses.items()
        for volume in status["volumes"]
    }


def check_duplex(statuses: Mapping[str, Json]) -> None:
    """Raises WrongStateError with the pairs that are not DUPLEX, or controllers that failed."""
    failed = {
        name: status["controller"]["failed"]
        for name, status in statuses.items()
        if status["controller"].get("failed")
    }
    if failed:
        listed = [f"{name}: refuses changes: {why}" for name, why in failed.items()]
        raise WrongStateError(printable("; ".join(f"{each}; restart it" for each in listed)))
    wrong = {
        name: volume for name, volume in volumes(statuses).items() if volume["state"] != "DUPLEX"
    }
    if wrong:
        raise _not_duplex(wrong)


def check_equal(statuses: Mapping[str, Json]) -> None:
    """Raises WrongStateError with the pairs whose legs are known to differ."""
    found = {
        name: volume["differs"]["text"]
        for name, volume in volumes(statuses).items()
        if volume.get("differs")
    }
    if found:
        listed = [f"{name}: {text}" for name, text in found.items()]
        more = f"; and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        raise WrongStateError(
            "a pair whose legs differ cannot be suspended, because its secondary may be wrong: "
            f"{printable('; '.join(listed[:_LISTED]))}{more}; find out which image is right, then "
            f"`duplexctl repair {next(iter(found))} --from primary|secondary`"
        )


def _not_duplex(wrong: Mapping[str, Json]) -> WrongStateError:
    listed = [
        f"{name} is {volume['state']}" + (f" ({volume['reason']})" if volume.get("reason") else "")
        for name, volume in wrong.items()
    ]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    states = {volume["state"] for volume in wrong.values()}
    if "SIMPLEX" in states:
        todo = "a volume without secondary can't be suspended: take it out of the group"
    elif states == {"PENDING"}:
        todo = "wait until they are DUPLEX"
    else:
        todo = "`duplexctl resync GROUP --wait` brings suspended pairs back"
    return WrongStateError(
        "only pairs that are all DUPLEX can be suspended at one cut:"
        f" {printable(', '.join(listed[:_LISTED]))}{more}; {todo}"
    )


def check_free(statuses: Mapping[str, Json]) -> None:
    """Raises WrongStateError if some of these volumes are held for a cut."""
    for name, status in statuses.items():
        names = {volume["name"] for volume in status["volumes"]}
        for lease in status.get("leases", ()):
            if lease.get("cut") and names.intersection(lease.get("volumes", ())):
                raise WrongStateError(
                    f"another suspend of these volumes is under way ({name} holds for cut"
                    f" {lease['cut']}); try again when it is done"
                )


def cut_of(volume: Json) -> Json:
    """The cut that a secondary is at; empty if there is none."""
    cut: Json | None = (volume.get("secondary") or {}).get("cut")
    return cut or {}


def common_cut(statuses: Mapping[str, Json]) -> Json | None:
    """The cut of all of these volumes, if it is one, and consistent on every member."""
    every = list(volumes(statuses).values())
    cuts = [cut_of(volume) for volume in every if _is_consistent(volume)]
    one = len(cuts) == len(every) and len({cut["id"] for cut in cuts}) == 1
    return cuts[0] if one else None


def _is_consistent(volume: Json) -> bool:
    usable = volume["state"] == "SUSPENDED" and (volume["secondary"] or {}).get("usable")
    return bool(usable) and cut_of(volume).get("verdict") == "consistent"


def undecided(statuses: Mapping[str, Json], group_name: str | None = None) -> dict[str, list[str]]:
    """Cuts of several controllers without one verdict: id, and the controllers that take part.

    Those of these volumes; with `group_name` also those of that group that all secondaries
    have left. They were left undecided; or they are void on one member (its secondary failed, a
    canary could grade the cut there only) and consistent on another.
    """
    members: dict[str, list[str]] = {}
    verdicts: dict[str, set[str | None]] = {}
    for status in statuses.values():
        cuts = [cut_of(volume) for volume in status["volumes"]]
        if group_name is not None:
            cuts += [cut for cut in status.get("cuts", ()) if cut.get("group") == group_name]
        for cut in cuts:
            if cut.get("members"):
                members[cut["id"]] = cut["members"]
                verdicts.setdefault(cut["id"], set()).add(cut.get("verdict"))
    return {cut: members[cut] for cut, known in verdicts.items() if None in known or len(known) > 1}


def standing(statuses: Mapping[str, Json]) -> dict[str, list[str]]:
    """Cuts of several controllers that some of these secondaries are at, and their members."""
    cuts = [cut_of(volume) for volume in volumes(statuses).values()]
    return {cut["id"]: cut["members"] for cut in cuts if cut.get("members")}

"""What is asked and checked before any gate closes: does every member answer, soon enough, in the same protocol, with all pairs DUPLEX?"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from duplexd.client.answers import need
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
from duplexd.limits import CLIENT_ANSWER_SECONDS_MAX, GROUP_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from duplexd.client.http import Http
    from duplexd.config.groups_file import Group

    Json = dict[str, Any]

PHASES = 3  # CLOSE, CUT, OPEN: each is a round trip to all members
REHEARSALS = 2
_LISTED = 5
_NOTHING = "nothing was suspended"


async def gather(asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, DuplexdError]]:
    """The results of coroutines by name, and the errors of those that failed. All run at once and are waited for."""
    done = await asyncio.gather(*asked.values(), return_exceptions=True)
    results, errors = {}, {}
    for name, result in zip(asked, done, strict=True):
        if isinstance(result, DuplexdError):
            errors[name] = result
        elif isinstance(result, BaseException):
            raise result
        else:
            results[name] = result
    return results, errors


def raise_all(errors: Mapping[str, DuplexdError]) -> None:
    """One error that says what all do; of the class of the first."""
    if errors:
        first = next(iter(errors.values()))
        raise type(first)("; ".join(map(str, list(errors.values())[:_LISTED])))


async def ask_status(group: Group, links: Mapping[str, Http]) -> dict[str, Json]:
    """The status of the group's volumes on every member. Raises if one does not answer, is another, or does not know one of them."""
    statuses, errors = await try_status(links, group.members)
    if any(
        isinstance(error, NotFoundError) for error in errors.values()
    ):  # perhaps because it is another controller
        check_names((await try_status(links, dict.fromkeys(links, ())))[0], links)
    raise_all(errors)
    check_names(statuses, links)
    return statuses


async def try_status(
    links: Mapping[str, Http], targets: Mapping[str, Iterable[str]]
) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    """The same, with the errors of those that fail. No targets mean all volumes."""
    return await gather({name: _status(link, targets[name]) for name, link in links.items()})


async def _status(link: Http, targets: Iterable[str]) -> Json:
    query = urlencode([("target", target) for target in targets])
    status = await link.call(
        "GET", "/v1/status" + ("?" + query if query else ""), timeout_s=CLIENT_ANSWER_SECONDS_MAX
    )
    need(status, link.name, "controller", "name")
    need(status, link.name, "volumes")
    return status


async def identify(links: Mapping[str, Http]) -> dict[str, DuplexdError]:
    """Are they who the groups file says? Costs them next to nothing. Raises ConfigurationError; returns why others could not be asked."""
    names, errors = await ask_names(links)
    check_names(names, links)
    return errors


async def ask_names(links: Mapping[str, Http]) -> tuple[dict[str, Json], dict[str, DuplexdError]]:
    """What they call themselves, as much of their status as `misplaced` needs; and the errors of those that fail."""
    return await gather(
        {name: _identity(link) for name, link in links.items() if not link.any_name}
    )


async def _identity(link: Http) -> Json:
    answer = await link.call("GET", "/healthz", timeout_s=CLIENT_ANSWER_SECONDS_MAX)
    if "controller" not in answer:  # of a version that says it there only
        return await _status(link, ())
    return {"controller": {"name": answer["controller"]}}


@contextmanager
def nothing_suspended() -> Iterator[None]:
    """Says so if a controller does not answer in the block, or not to this one."""
    try:
        yield
    except (UnreachableError, ForbiddenError, TimedOutError) as error:
        if isinstance(error, UndecidedError) or str(error).startswith(_NOTHING):
            raise
        raise type(error)(f"{_NOTHING}: {str(error).removesuffix(MAY_BE_DONE)}") from None


async def measure(links: Mapping[str, Http], hold_max_s: float, cut: str) -> None:
    """Open the connections that the cut needs, and see that its three phases fit in `hold_max_s`. Raises TimedOutError, ForbiddenError.

    Then rehearse: to let go of what is not held yet takes the same role and the same code as all that follows while writes wait.
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
            f"{_NOTHING}: writes may wait {hold_max_s:g} s (hold_max), but {PHASES} round trips to all {len(links)} controllers take "
            f"{needed:.3g} s, {slowest} being the slowest; allow more, up to 10 s, or make the group smaller"
        )
    for _ in range(REHEARSALS):
        release = {
            name: link.call("POST", f"/v1/cuts/{cut}/release", {}, max(hold_max_s, 1.0))
            for name, link in links.items()
        }
        raise_all((await gather(release))[1])


def check_members(statuses: Mapping[str, Json]) -> None:
    """Are they all of one protocol? Raises WrongStateError. One alone may be of any version."""
    versions = {
        name: status["controller"].get("group_protocol") for name, status in statuses.items()
    }
    if len(statuses) > 1 and any(version != GROUP_PROTOCOL for version in versions.values()):
        listed = ", ".join(f"{name}: {_version(status)}" for name, status in statuses.items())
        raise WrongStateError(
            f"these do not cut together ({listed}; this is group protocol {GROUP_PROTOCOL}); upgrade duplexd on "
            f"{' and '.join(name for name, version in versions.items() if version != GROUP_PROTOCOL)}, or duplexctl here, to the same version"
        )


def check_names(statuses: Mapping[str, Json], links: Mapping[str, Http]) -> None:
    """Are they different controllers, each the one that the groups file means? Raises ConfigurationError."""
    for error in misplaced(statuses, links).values():
        raise error


def misplaced(
    statuses: Mapping[str, Json], links: Mapping[str, Http]
) -> dict[str, ConfigurationError]:
    """Those that are another controller than the groups file means: nothing that they say counts."""
    names = {
        name: need(status, name, "controller", "name")
        for name, status in statuses.items()
        if not links[name].any_name
    }
    errors = {}
    for name, real in names.items():
        if real == name:
            continue
        if twins := [other for other in names if other != name and names[other] == real]:
            why = (
                f"controllers.{name} and controllers.{twins[0]} of the groups file are the same controller, {real!r}; "
                "remove one, or correct where it is"
            )
        else:
            why = (
                f"controllers.{name} of the groups file leads to a controller that calls itself {real!r}; "
                f"correct its socket or url, or write [controllers.{real}]"
            )
        errors[name] = ConfigurationError(why)
    return errors


def _version(status: Json) -> str:
    controller = status["controller"]
    protocol = controller.get("group_protocol")
    return f"duplexd {controller.get('version') or 'of an old version'}, {f'group protocol {protocol}' if protocol else 'no group protocol'}"


def volumes(statuses: Mapping[str, Json]) -> dict[str, Json]:
    """The status of every volume, as `controller:volume`."""
    return {
        f"{name}:{volume['name']}": volume
        for name, status in statuses.items()
        for volume in status["volumes"]
    }


def check_duplex(statuses: Mapping[str, Json]) -> None:
    """Raises WrongStateError that names the pairs that are not DUPLEX, or the controllers that can't cut them any more."""
    if failed := {
        name: why
        for name, status in statuses.items()
        if (why := status["controller"].get("failed"))
    }:
        raise WrongStateError(
            "; ".join(
                f"{name}: takes no changes any more: {why}; restart it"
                for name, why in failed.items()
            )
        )
    wrong = {
        name: volume for name, volume in volumes(statuses).items() if volume["state"] != "DUPLEX"
    }
    if not wrong:
        return
    listed = [
        f"{name} is {volume['state']}" + (f" ({volume['reason']})" if volume.get("reason") else "")
        for name, volume in wrong.items()
    ]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    states = {volume["state"] for volume in wrong.values()}
    todo = (
        "wait until they are DUPLEX"
        if states == {"PENDING"}
        else "`duplexctl resync GROUP --wait` brings suspended pairs back"
    )
    if "SIMPLEX" in states:
        todo = "a volume without secondary can't be suspended: take it out of the group"
    raise WrongStateError(
        f"only pairs that are all DUPLEX can be suspended at one cut: {', '.join(listed[:_LISTED])}{more}; {todo}"
    )


def check_free(statuses: Mapping[str, Json]) -> None:
    """Raises WrongStateError if some of these volumes are held for a cut."""
    for name, status in statuses.items():
        names = {volume["name"] for volume in status["volumes"]}
        for lease in status.get("leases", ()):
            if lease.get("cut") and names.intersection(lease.get("volumes", ())):
                raise WrongStateError(
                    f"another suspend of these volumes is under way ({name} holds for cut {lease['cut']}); try again when it is done"
                )


def common_cut(statuses: Mapping[str, Json]) -> Json | None:
    """The cut that all of these volumes stand at, if it is one and consistent on every member."""
    cuts = [_consistent_cut(volume) for volume in volumes(statuses).values()]
    first = cuts[0] if cuts else None
    return (
        first
        if first is not None and all(cut is not None and cut["id"] == first["id"] for cut in cuts)
        else None
    )


def _consistent_cut(volume: Json) -> Json | None:
    secondary = volume.get("secondary") or {}
    cut: Json | None = (
        secondary.get("cut") if volume["state"] == "SUSPENDED" and secondary.get("usable") else None
    )
    return cut if cut is not None and cut.get("verdict") == "consistent" else None


def undecided(statuses: Mapping[str, Json], group_name: str | None = None) -> dict[str, list[str]]:
    """Cuts of several controllers without one verdict: id, and the controllers that take part.

    Those that these volumes stand at; with `group_name` also those of that group that no volume stands at any more. They were left undecided; or
    void on one member (its secondary failed, a canary told it alone) and consistent on another.
    """
    members: dict[str, list[str]] = {}
    verdicts: dict[str, set[str | None]] = {}
    for status in statuses.values():
        cuts = [
            volume["secondary"]["cut"]
            for volume in status["volumes"]
            if (volume.get("secondary") or {}).get("cut")
        ]
        cuts += [
            cut
            for cut in status.get("cuts", ())
            if group_name is not None and cut.get("group") == group_name
        ]
        for cut in cuts:
            if cut.get("members"):
                members[cut["id"]] = cut["members"]
                verdicts.setdefault(cut["id"], set()).add(cut.get("verdict"))
    return {cut: members[cut] for cut, known in verdicts.items() if None in known or len(known) > 1}


def standing(statuses: Mapping[str, Json]) -> dict[str, list[str]]:
    """Cuts of several controllers that some of these volumes stand at: id, and the controllers that take part."""
    cuts = [
        (volume.get("secondary") or {}).get("cut") or {} for volume in volumes(statuses).values()
    ]
    return {cut["id"]: cut["members"] for cut in cuts if cut.get("members")}

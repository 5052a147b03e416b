"""The status of several controllers as one answer, with a summary of their groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.client.results import GroupState, Status
from duplexd.client.survey import cut_of
from duplexd.config.groups import Group
from duplexd.core.cut_states import CONSISTENT, VOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json


def together(
    asked: Group,
    groups: Iterable[Group],
    statuses: Mapping[str, Json],
    errors: Mapping[str, DuplexdError],
    exit_codes: Mapping[str, int],
) -> Status:
    """One answer. `asked` says what volumes are called; one daemon has groups of its own."""
    states = [group_state(group, statuses) for group in groups]
    if asked.alone:
        states += [each for status in statuses.values() for each in _own_groups(status)]
    called = {
        name: status["controller"]["name"] if asked.alone else name
        for name, status in statuses.items()
    }
    only = len(asked.members) == 1
    return Status(
        controller=next((each["controller"] for each in statuses.values()), None) if only else None,
        volumes=list(_rows(asked, statuses, called)),
        groups=states,
        leases=list(_leases(asked, statuses, called)),
        cuts=[cut for status in statuses.values() for cut in status.get("cuts", ())],
        controllers={called[name]: status for name, status in statuses.items()},
        unreachable={name: str(error) for name, error in errors.items()},
        exit_codes=dict(exit_codes),
    )


def _rows(asked: Group, statuses: Mapping[str, Json], called: Mapping[str, str]) -> Iterator[Json]:
    for name, status in statuses.items():
        for row in status["volumes"]:
            yield row | {"name": asked.title(name, row["name"]), "controller": called[name]}


def _leases(
    asked: Group, statuses: Mapping[str, Json], called: Mapping[str, str]
) -> Iterator[Json]:
    for name, status in statuses.items():
        for lease in status.get("leases", ()):
            volumes = [asked.title(name, volume) for volume in lease.get("volumes", ())]
            yield lease | {"volumes": volumes, "controller": called[name]}


def _own_groups(status: Json) -> Iterator[GroupState]:
    """The groups of one daemon. A cut and a verdict need the status of all volumes of the group."""
    for row in status["groups"]:
        group = Group(row["name"], {"": tuple(row["volumes"])}, alone=True)
        seen = group_state(group, {"": status | {"groups": []}})
        names = list(row["volumes"])
        yield GroupState(row["name"], names, names, row.get("state"), seen.cut, seen.verdict)


def group_state(group: Group, statuses: Mapping[str, Json]) -> GroupState:
    """The state of a group at a glance.

    Never `consistent` unless all of it is at one cut that all members know to be consistent.
    """
    members = [group.title(*each) for each in _targets(group)]
    if any(controller not in statuses for controller in group.members):
        return GroupState(group.name, [], members, "UNKNOWN", None, None)
    found = [
        (controller, volume)
        for controller, targets in group.members.items()
        for volume in _volumes(statuses[controller], targets)
    ]
    names = [group.title(controller, volume["name"]) for controller, volume in found]
    known = {name: _names(statuses[name]) for name in group.members}
    if missing := [
        group.title(controller, target)
        for controller, target in _targets(group)
        if target not in known[controller]
    ]:
        return GroupState(group.name, names, members, "UNKNOWN", None, None, missing)
    return GroupState(group.name, names, members, *_standing([volume for _, volume in found]))


def _standing(volumes: list[Json]) -> tuple[str, str | None, str | None]:
    """State, cut and verdict of volumes together."""
    states = {volume["state"] for volume in volumes}
    if states != {"SUSPENDED"}:
        return states.pop() if len(states) == 1 else "MIXED", None, None
    cuts = [cut_of(volume) for volume in volumes]
    ids = {cut.get("id") for cut in cuts}
    if len(ids) > 1 or None in ids:
        return "MIXED", None, VOID
    verdicts = {
        cut.get("verdict") if volume["secondary"].get("usable") else VOID
        for cut, volume in zip(cuts, volumes, strict=True)
    }
    verdict = VOID if VOID in verdicts else CONSISTENT if verdicts == {CONSISTENT} else None
    return "SUSPENDED", ids.pop(), verdict


def _targets(group: Group) -> Iterator[tuple[str, str]]:
    for controller, targets in group.members.items():
        for target in targets:
            yield controller, target


def _names(status: Json) -> set[str]:
    return {each["name"] for each in [*status["groups"], *status["volumes"]]}


def _volumes(status: Json, targets: tuple[str, ...]) -> list[Json]:
    """The volumes that targets of a controller mean, by its own status."""
    groups = {group["name"]: group["volumes"] for group in status["groups"]}
    names = {name for target in targets for name in groups.get(target, [target])}
    return [volume for volume in status["volumes"] if volume["name"] in names]

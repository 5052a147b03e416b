"""How a group stands at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.client.results import GroupState
from duplexd.core.cut_states import CONSISTENT, VOID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.config.groups_file import Group

    Json = dict[str, Any]


def group_state(group: Group, statuses: Mapping[str, Json]) -> GroupState:
    """How a group stands. Never `consistent` unless all of it stands at one cut that all members know to be."""
    members = [
        f"{controller}:{target}"
        for controller, targets in group.members.items()
        for target in targets
    ]
    if any(controller not in statuses for controller in group.members):
        return GroupState(group.name, members, "UNKNOWN", None, None)
    if missing := [
        f"{controller}:{target}"
        for controller, targets in group.members.items()
        for target in _missing(statuses[controller], targets)
    ]:
        return GroupState(group.name, members, "UNKNOWN", None, None, missing)
    volumes = [
        volume
        for controller, targets in group.members.items()
        for volume in _volumes(statuses[controller], targets)
    ]
    states = {volume["state"] for volume in volumes}
    if states != {"SUSPENDED"}:
        return GroupState(
            group.name, members, states.pop() if len(states) == 1 else "MIXED", None, None
        )
    cuts = [(volume.get("secondary") or {}).get("cut") or {} for volume in volumes]
    ids = {cut.get("id") for cut in cuts}
    if len(ids) > 1 or None in ids:
        return GroupState(group.name, members, "MIXED", None, VOID)
    verdicts = {
        cut.get("verdict") if volume["secondary"].get("usable") else VOID
        for cut, volume in zip(cuts, volumes, strict=True)
    }
    verdict = VOID if VOID in verdicts else CONSISTENT if verdicts == {CONSISTENT} else None
    return GroupState(group.name, members, "SUSPENDED", ids.pop(), verdict)


def _missing(status: Json, targets: tuple[str, ...]) -> list[str]:
    known = {each["name"] for each in [*status["groups"], *status["volumes"]]}
    return [target for target in targets if target not in known]


def _volumes(status: Json, targets: tuple[str, ...]) -> list[Json]:
    """The volumes that targets of a controller mean, by its own status."""
    groups = {group["name"]: group["volumes"] for group in status["groups"]}
    names = {name for target in targets for name in groups.get(target, [target])}
    return [volume for volume in status["volumes"] if volume["name"] in names]

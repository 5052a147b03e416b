"""What status says, built from the state as it is. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd import __version__
from duplexd.core import state
from duplexd.core.change_map import ChangeMap
from duplexd.core.votes import CONSISTENT, CUT, READY
from duplexd.limits import GROUP_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.backend import Change
    from duplexd.core.gate import Lease
    from duplexd.core.pair import Cut, Pair
    from duplexd.engine.controller import Controller


def changes_after(pair: Pair, changes: list[Change], sequence: int) -> ChangeMap:
    """What those changes of the pair that come after number `sequence` touch."""
    changed = ChangeMap(pair.size)
    for change in changes:
        if change.volume is pair and change.sequence > sequence:
            changed.set(change.offset, change.length)
    return changed


def close_legs(pair: Pair) -> None:
    """Close a pair's images, as far as they are open."""
    for leg in (getattr(pair, "primary", None), pair.secondary):
        if leg is not None:
            leg.close()


def status(controller: Controller) -> dict[str, Any]:
    """Everything, in the shape that scripts rely on."""
    ring, now = controller.ring, controller.clock.monotonic()
    return {
        "controller": {
            "name": controller.name,
            "sequence": controller.sequence,
            "synced": controller.writer.synced,
            "failed": controller.failed or None,
            "version": __version__,
            "group_protocol": GROUP_PROTOCOL,
            "hold_max_s": controller.config.controller.hold_max,
            "nbd": [str(address) for address in controller.config.nbd.listen],
            "journal": {
                "used_bytes": ring.used_bytes,
                "size_bytes": ring.size_bytes,
                "oldest_sequence": ring.oldest,
            },
        },
        "volumes": [volume(controller, pair) for pair in controller.pairs.values()],
        "groups": [
            {
                "name": name,
                "volumes": members,
                "state": group_state([controller.pairs[member] for member in members]),
            }
            for name, members in controller.groups.items()
        ],
        "leases": [lease_status(lease, now) for lease in controller.holds.leases.values()],
        "cuts": cuts(
            controller, [each for each in controller.ledger.cuts.values() if each.verdict is None]
        ),
    }


def lease_status(lease: Lease, now: float) -> dict[str, Any]:
    """One lease."""
    return {
        "id": lease.id, "volumes": lease.volumes, "owner": lease.owner, "hold_s": lease.hold_s, "fence": lease.fence, "cut": lease.cut_id or None,
        "remaining_s": max(0.0, lease.deadline - now),
    }  # fmt: skip


def cuts(controller: Controller, wanted: Iterable[Cut]) -> list[dict[str, Any]]:
    """Cuts, whether secondaries stand at them or not."""
    standing: dict[str, list[str]] = {}
    for pair in controller.pairs.values():
        if pair.cut is not None and pair.state == state.SUSPENDED:
            standing.setdefault(pair.cut.id, []).append(pair.name)
    return [_one_cut(controller, each, standing.get(each.id, [])) for each in wanted]


def cut(controller: Controller, wanted: Cut) -> dict[str, Any]:
    """One cut."""
    return cuts(controller, [wanted])[0]


def _one_cut(controller: Controller, cut: Cut, volumes: list[str]) -> dict[str, Any]:
    return {
        "id": cut.id, "controller": controller.name, "state": _vote(controller, cut), "verdict": _verdict(controller, cut), "sequence": cut.sequence,
        "time": cut.time_us / 1e6, "tag": cut.tag, "group": cut.group or None, "members": list(cut.members),
        "volumes": volumes, "canary": cut.grade, "why": cut.why or None, "hold": cut.hold,
    }  # fmt: skip


def _vote(controller: Controller, cut: Cut) -> str:
    """`ready` only once that is known to be durable: whoever asks may take it for a promise."""
    return CUT if cut.state == READY and cut.id in controller.cuts.unsettled else cut.state


def _verdict(controller: Controller, cut: Cut) -> str | None:
    """`consistent` only once the secondaries are known to be durable there; `void` at once."""
    return (
        None if cut.verdict == CONSISTENT and cut.id in controller.cuts.unsettled else cut.verdict
    )


def group_state(pairs: list[Pair]) -> str:
    """The state that all pairs share, or MIXED. Suspended pairs share it only at one cut."""
    states = {
        (
            pair.state,
            pair.cut.sequence if pair.cut is not None and pair.state == state.SUSPENDED else 0,
        )
        for pair in pairs
    }
    return next(iter(states))[0] if len(states) == 1 else "MIXED"


def volume(controller: Controller, pair: Pair) -> dict[str, Any]:
    """One volume."""
    return {
        "name": pair.name,
        "size": pair.size,
        "state": pair.state,
        "reason": pair.reason or None,
        "held": pair.holds > 0,
        "mode": pair.mode if pair.secondary is not None else None,
        "connections": pair.connections,
        "sequence": controller.sequence,
        "secondary": _secondary(controller, pair),
        "changed_bytes": pair.changed.changed_bytes if pair.changed is not None else 0,
        "copy": _copy(controller, pair),
    }


def _secondary(controller: Controller, pair: Pair) -> dict[str, Any] | None:
    if pair.secondary is None:
        return None
    applied = controller.sequence if pair.mirrors else pair.applied
    return {
        "usable": pair.usable,
        "as_of_sequence": applied if pair.usable else None,
        "as_of_time": _as_of_time(controller, pair) if pair.usable else None,
        "cut": _cut(controller, pair),
        "lag_bytes": 0 if pair.mirrors else controller.jobs.lag_bytes(pair),
    }


def _as_of_time(controller: Controller, pair: Pair) -> float | None:
    if pair.state == state.SUSPENDED and pair.cut is not None:
        return pair.cut.time_us / 1e6
    return controller.clock.wall() if pair.mirrors else None


def _cut(controller: Controller, pair: Pair) -> dict[str, Any] | None:
    cut = pair.cut
    if cut is None or pair.state != state.SUSPENDED:
        return None
    return {
        "id": cut.id, "sequence": cut.sequence, "time": cut.time_us / 1e6, "tag": cut.tag, "verdict": _verdict(controller, cut),
        "state": _vote(controller, cut), "group": cut.group or None, "members": list(cut.members), "canary": cut.grade, "why": cut.why or None,
    }  # fmt: skip


def _copy(controller: Controller, pair: Pair) -> dict[str, Any] | None:
    if pair.state != state.PENDING:
        return None
    began = controller.jobs.began(pair)
    took = controller.clock.monotonic() - began if began is not None else 0.0
    left = pair.copy_total - pair.copy_done
    eta = took / pair.copy_done * left if pair.copy_done > 0 and took > 0 else None
    return {"done_bytes": pair.copy_done, "total_bytes": pair.copy_total, "eta_s": eta}

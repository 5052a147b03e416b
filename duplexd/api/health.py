"""What /readyz says: whether the controller takes changes, and which volumes have a fault.

Ready is about the controller, because who asks it decides about all of it: a balancer that takes a
daemon out of use for one dead secondary would turn a lost mirror into an outage. So a volume with a
fault is listed in an answer that is still 200. A pair that somebody suspended, or that is being
copied, is not listed: nothing is wrong with it. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.limits import JOURNAL_SILENT_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.json_object import Json


def unready(controller: Json) -> str:
    """Why the controller of a status takes no changes at present; empty if it takes them.

    What is final, a controller that failed, is not in it: see `Controller.failed`.
    """
    if refused := controller.get("refused"):
        return f"the controller refuses changes for now: {refused}"
    waiting_s = controller["journal"].get("waiting_s") or 0.0
    if waiting_s < JOURNAL_SILENT_SECONDS_MAX:
        return ""
    return f"changes wait: the disk of the journal has not answered for {waiting_s:.0f} s"


def degraded(volumes: Iterable[Json]) -> list[Json]:
    """The volumes of a status that lack an image they should have, each with the reason."""
    return [
        {"name": volume["name"], "served": volume.get("served", True), "why": why}
        for volume in volumes
        if (why := fault(volume))
    ]


def fault(volume: Json) -> str:
    """What is wrong with a volume of a status, in a line; empty if nothing is.

    The worst first: not served, requests that fail, its primary, its secondary.
    """
    if not volume.get("served", True):
        return f"not served: {volume.get('error') or 'its log says why'}"
    if failing := volume.get("failing"):
        return "; ".join(
            f"the last {what} of a client failed: {why}" for what, why in failing.items()
        )
    for role in ("primary", "secondary"):
        leg = volume.get(role) or {}
        if leg.get("error"):
            return f"{role}: {leg['error']}"
    return ""

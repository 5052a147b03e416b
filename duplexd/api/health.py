"""What the API says of health: alive, ready, well. Each is another question.

/healthz      Does the daemon answer: its event loop, and its disk threads? One that does not
              answer here should be restarted. A disk that hangs is no reason for that.
/readyz       Does the controller take changes? Not about single volumes, because who asks it
              decides about all of it: a balancer that takes a daemon out of use for one dead
              secondary would turn a lost mirror into an outage. They are listed in the answer.
/v1/health    Is anything not well? Everything that costs service or redundancy, as findings
              (`core/findings.py`). `duplexctl health` asks this, and metrics count them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.findings import Around, Expected, Finding, find, of_controller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from duplexd.json_object import Json


def unready(controller: Json) -> str:
    """Why the controller of a status takes no changes; empty if it takes them."""
    return next((f"the controller {each.text}" for each in of_controller(controller)), "")


def degraded(volumes: Iterable[Json]) -> list[Json]:
    """The volumes of a status that lack an image they should have, each with the reason."""
    return [
        {"name": volume["name"], "served": volume.get("served", True), "why": why}
        for volume in volumes
        if (why := fault(volume))
    ]


def fault(volume: Json) -> str:
    """What is wrong with a volume of a status, in a line; empty if nothing is.

    The worst first: not served, requests that fail, its primary, its secondary, their content.
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
    return str((volume.get("differs") or {}).get("text", ""))


async def _at_once() -> None:
    """There are no threads to ask."""


class Outlook(NamedTuple):
    """What health knows beside the controller: its disks, what is expected, its threads."""

    around: Callable[[], Around] = Around
    expected: Callable[[], Expected] = Expected
    threads: Callable[[], Awaitable[None]] = _at_once


class HealthOf:
    """The health of one controller. `differing`: see `Around`."""

    def __init__(
        self, status: Callable[[], Json], differing: Mapping[str, str], outlook: Outlook
    ) -> None:
        self._status = status
        self._differing = differing
        self._outlook = outlook

    def findings(self, status: Json) -> list[Finding]:
        """All that is not well, by this status."""
        around = self._outlook.around()._replace(differing=self._differing)
        return find(status, around, self._outlook.expected(), time.time())

    def all(self) -> list[Finding]:
        """All that is not well now."""
        return self.findings(self._status())

    def around(self) -> Around:
        """What is known of the disks."""
        return self._outlook.around()

    def show(self, names: Iterable[str]) -> Json:
        """The findings of these volumes, if any are named, and of the controller."""
        status, wanted = self._status(), {*names, ""}
        found = self.findings(status)
        if len(wanted) > 1:
            found = [each for each in found if each.volume in wanted]
        return {
            "controller": status["controller"]["name"],
            "well": not found,
            "volumes": len(status["volumes"]) if len(wanted) == 1 else len(wanted) - 1,
            "findings": [{**each._asdict(), "severity": each.severity} for each in found],
        }

    async def threads_silent(self, seconds: float) -> bool:
        """Whether no disk thread answers in this time."""
        try:
            await asyncio.wait_for(self._outlook.threads(), seconds)
        except TimeoutError:
            return True
        return False

"""What the log and the service manager learn of changes of state.

`systemctl status` shows one line, and for many operators it is the only one they look at. So it
counts what is served and names what is wrong, and never says just "serving" while an image is
missing. The log has a line for each event; what costs a volume its redundancy, or more, is a
warning or an error there, so that a filter by level finds it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from duplexd.api.health import fault
from duplexd.runtime.notify import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.json_object import Json

EVENT_LEVELS = {
    "controller-failed": "error",
    "checkpoint-failed": "warning",
    "copied": "debug",
    "drill-failed": "warning",
    "image-changed": "warning",
    "journal-full": "error",
    "legs-differ": "error",
    "mark-failed": "warning",
    "marked": "debug",  # perhaps every second
    "image-misplaced": "warning",
    "primary-error": "error",
    "primary-failed": "error",
    "range-repaired": "warning",
    "rollback-abandoned": "warning",
    "rollback-failed": "error",
    "reload-refused": "debug",  # the log has it in a line of its own
    "reloaded": "debug",
    "resync-failed": "error",
    "scrub-ended": "debug",
    "scrub-error": "error",
    "scrub-started": "debug",
    "secondary-overwritten": "warning",
    "segment-failed": "warning",
    "staging-left": "warning",
    "swapped": "warning",
    "volume-not-grown": "error",
    "grow-undone": "warning",
    "volume-not-served": "error",
}
# After these the line of the service manager may have to say something else.
_STATUS_EVENTS = frozenset(
    {
        "controller-failed",
        "duplex",
        "primary-failed",
        "restore-started",
        "restored",
        "resync-started",
        "rollback-abandoned",
        "rollback-started",
        "rolled-back",
        "suspended",
        "swapped",
        "volume-not-served",
        "volume-served",
    }
)
FAULTS_SHOWN_MAX = 3  # in a line that a person reads

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


def faults(volumes: Sequence[Json]) -> list[str]:
    """What is wrong with the volumes of a status, each as `name: why`, the worst first."""
    worst_first = sorted(volumes, key=lambda volume: bool(volume.get("served", True)))
    return [f"{volume['name']}: {why}" for volume in worst_first if (why := _fault(volume))]


def _fault(volume: Json) -> str:
    """What /readyz says, too; and that a mirror is lost, though its image is well again."""
    lost = str(volume.get("reason")).endswith("error")
    return fault(volume) or (f"suspended {volume['reason']}" if lost else "")


def summary(status: Json) -> str:
    """One line: "serving 11 of 12 volumes; vol3: not served: (why)"."""
    if failed := status["controller"].get("failed"):
        return f"failed, refusing changes: {failed}"
    volumes = status["volumes"]
    served = sum(bool(volume.get("served", True)) for volume in volumes)
    of_all = "" if served == len(volumes) else f" of {len(volumes)}"
    found = faults(volumes)
    more = len(found) - FAULTS_SHOWN_MAX
    shown = [*found[:FAULTS_SHOWN_MAX], *([f"and {more} more"] if more > 0 else [])]
    return "; ".join([f"serving {served}{of_all} volumes", *shown])


class Announcements:
    """Logs events, and keeps the line of the service manager true once `serve` was called."""

    def __init__(self) -> None:
        self._status: Callable[[], Json] | None = None
        self.reload_refused: Sequence[str] = ()  # why the last one was; empty if it was not

    def serve(self, status: Callable[[], Json]) -> str:
        """From now on events may change the line, which is made of this status; the line."""
        self._status = status
        return self.line()

    def line(self) -> str:
        """What the service manager is to show now."""
        if self._status is None:
            return "starting"
        return summary(self._status()) + _refused(self.reload_refused)

    def event(self, event: Json) -> None:
        """An event of the controller, in its loop."""
        # Later, so that the answer which a client waits for is sent first.
        asyncio.get_running_loop().call_soon(self._tell, event)

    def _tell(self, event: Json) -> None:
        fields = {key: value for key, value in event.items() if key not in {"event", "time"}}
        getattr(log, level(event))(event["event"], **fields)
        if self._status is not None and event["event"] in _STATUS_EVENTS:
            notify(f"STATUS={self.line()}")


def _refused(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"; the last reload was refused: {problems[0]}{more}"


def level(event: Json) -> str:
    """The level of an event in the log. A suspend that nobody asked for is a warning, and so is an
    image that was left with an error.
    """
    if event["event"] == "hook-ended":
        return "info" if event["status"] == "ok" else "error"
    if event["event"] == "suspended" and event.get("reason", "by command") != "by command":
        return "warning"
    if event["event"] == "secondary-left" and event["error"]:
        return "warning"
    return EVENT_LEVELS.get(event["event"], "info")

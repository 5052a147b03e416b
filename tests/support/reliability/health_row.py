"""What every interface says of health while something is not well: a row of docs/health.md.

Not one of them may be green. So a row is not only compared with the page: that health says nothing,
or that no alert fires, is an error whatever the page says.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple

from duplexd.duplexctl import faults
from duplexd.duplexctl.views import head_line
from tests.support.alerts import firing
from tests.support.reliability.rig import ANSWER_SECONDS_MAX

if TYPE_CHECKING:
    from duplexd.json_object import Json
    from tests.support.daemon import Daemon
    from tests.support.reliability.rig import Rig

_OF_A_LOOK = frozenset({"no-room", "disk-silent"})
_LEVELS = ("error", "warning", "nothing")
_WORDS = re.compile(r"[A-Z][A-Z ]+(?=:)")


class HealthRow(NamedTuple):
    """One row, as measured. `health` is kinds of findings, and the exit code of `health`."""

    part: str
    fault: str
    status: str
    health: str
    ready: str
    level: str
    alerts: str


def ask(daemon: Daemon, path: str) -> tuple[int, Json]:
    code, body = daemon.request("GET", path, timeout=ANSWER_SECONDS_MAX)
    return code, body


def metrics_text(daemon: Daemon) -> str:
    """One scrape."""
    text: str = daemon.request("GET", "/metrics", timeout=ANSWER_SECONDS_MAX)[1]
    return text


async def health_row(
    part: str, fault: str, broken: Rig, volume: str, before: str, level: str
) -> HealthRow:
    """As of now, of this volume and the controller. `before`: a scrape of good times."""
    daemon = broken.daemon
    code, found = ask(daemon, f"/v1/health?target={volume}")
    assert (code, found["well"]) == (200, False), f"{part}: {fault}: health is green: {found}"
    kinds = _at_once({each["kind"] for each in found["findings"]})
    severities = {each["severity"] for each in found["findings"] if each["kind"] in kinds}
    after, directory = metrics_text(daemon), daemon.files.directory
    alerts = _of_kinds(await asyncio.to_thread(firing, before, after, directory), kinds)
    assert alerts, f"{part}: {fault}: no alert fires"
    return HealthRow(
        part,
        fault,
        said_by_status(ask(daemon, "/v1/status")[1], volume),
        f"1: {_coded(kinds)}",
        str(ask(daemon, "/readyz")[0]),
        min({level, *severities}, key=_LEVELS.index),  # `not well` follows at that level
        _coded(alerts),
    )


def _at_once(kinds: set[str]) -> list[str]:
    """Without those of the next look at the disks, which may have come in the meantime or not."""
    return sorted(kinds - _OF_A_LOOK or kinds)


def _of_kinds(alerts: set[str], kinds: list[str]) -> list[str]:
    """Names of alerts, without those of other findings, and of a look as above."""
    named = {
        alert.partition(" ")[0].removeprefix("Duplexd")
        for alert in alerts
        if "(" not in alert or any(f"({kind})" in alert for kind in kinds)
    }
    return sorted(named - {"StateDirFilling"})


def _coded(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def said_by_status(status: Json, volume: str) -> str:
    """The word that its first line begins with; else what is said of the volume."""
    if worst := _WORDS.match(head_line(status)):
        return worst[0]
    (shown,) = [each for each in status["volumes"] if each["name"] == volume]
    more = ", a line names it" if faults.lines([shown]) else ""
    return f"{shown['state']}{more}"


def worst_level(log: str) -> str:
    """Of the lines of the log: `error`, `warning` or `nothing`."""
    return next((level for level in _LEVELS if f"{level} `" in log), "nothing")

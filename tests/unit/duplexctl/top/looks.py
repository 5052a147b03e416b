"""Looks at a controller that is not there, for tests of what `top` makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.client.looking_on import Look
from duplexd.duplexctl.top.moment import for_terminal, moment
from duplexd.duplexctl.top.overview import Overview, overview
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json

NOW = 1_800_000_000.0
CUT: Json = {
    "id": "c" * 16,
    "controller": "fake",
    "state": "consistent",
    "verdict": "consistent",
    "sequence": 7,
    "time": NOW - 7200,
    "tag": "nightly",
    "volumes": ["data"],
}


def finding(volume: str = "", severity: str = "error", text: str = "it is broken") -> Json:
    """A line of health."""
    return {"kind": "x", "severity": severity, "volume": volume, "text": text, "since": None}


def metrics(volume: str, requests: int, fast: int, started: float = 1.0) -> str:
    """A scrape with so many writes of 4 KiB, `fast` of them within 1 ms, the others within 10."""
    labels = f'op="write",volume="{volume}"'
    name = "duplexd_nbd_request_duration_seconds"
    return (
        f"process_start_time_seconds {started}\n"
        f"duplexd_nbd_requests_total{{{labels}}} {requests}.0\n"
        f"duplexd_nbd_bytes_total{{{labels}}} {4096 * requests}.0\n"
        f'{name}_bucket{{le="0.001",{labels}}} {fast}\n'
        f'{name}_bucket{{le="0.01",{labels}}} {requests}\n'
        f'{name}_bucket{{le="+Inf",{labels}}} {requests}\n'
        f"{name}_sum{{{labels}}} {requests / 1000}\n"
    )


def look(
    names: Sequence[str] = ("data", "wal"),
    findings: list[Json] | None = None,
    cuts: Sequence[Json] = (),
    text: str = "",
    cuts_of: str = "",
    **first: object,
) -> Look:
    """These volumes, in the group db; `first` is changed in the status of the first one."""
    status = FakeController(list(names), {"db": list(names)}).status()
    status["volumes"][0].update(first)
    controllers = {"fake": {"controller": status["controller"]}}
    status |= {"controllers": controllers, "unreachable": {}}
    return Look(status, [] if findings is None else findings, list(cuts), {"": text}, cuts_of)


def seen(
    found: Look, silent: str = "", before: Look | None = None, encoding: str = "utf-8"
) -> Overview:
    """What there is to see of it, ten seconds after the look before."""
    shown = for_terminal(encoding)
    old = moment(before, 10.0, NOW - 10, shown) if before is not None else None
    return overview(old, moment(found, 20.0, NOW, shown), silent, NOW)

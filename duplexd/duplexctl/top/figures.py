"""What `top` reads of /metrics: requests, bytes and times by volume and operation. Pure.

prometheus_client's own parser makes an object of each sample, which a thousand volumes have 69,000
of, and this runs every other second beside somebody's keyboard. So lines that are not wanted are
skipped by their first letters. A line that is not understood is skipped, too: a figure that is
missing shows as "-", and nothing else depends on it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Shown = Callable[[str], str]

_WANTED = ("duplexd_nbd_", "duplexd_secondary_lag_seconds", "process_start_time_seconds")
_LINE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_DURATION = "duplexd_nbd_request_duration_seconds_"


class Operation(NamedTuple):
    """Of one operation of a volume, since the daemon's start. `buckets`: how many took at most so
    many seconds, by that bound; the last bound is infinite.
    """

    requests: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    buckets: Mapping[float, float] = {}


class Figures(NamedTuple):
    """A scrape. `started` tells one run of the daemon from the next; 0 if it does not say."""

    started: float = 0.0
    operations: Mapping[str, Mapping[str, Operation]] = {}
    lag_seconds: Mapping[str, float] = {}  # by volume; NaN where the secondary is not usable
    errors: Mapping[str, float] = {}  # requests answered with an error, by volume


class _Sums:
    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.buckets: dict[float, float] = {}

    def operation(self) -> Operation:
        return Operation(
            self.sums.get("duplexd_nbd_requests_total", 0.0),
            self.sums.get("duplexd_nbd_bytes_total", 0.0),
            self.sums.get(f"{_DURATION}sum", 0.0),
            self.buckets,
        )


def parse(text: str, shown: Shown = str, prefix: str = "") -> Figures:
    """Never raises. `shown`: what names look like elsewhere on the screen, those of volumes with
    this `prefix`.
    """
    found: dict[str, dict[str, _Sums]] = {}
    started, lag_seconds, errors = 0.0, dict[str, float](), dict[str, float]()
    for line in text.splitlines():
        if not line.startswith(_WANTED) or (match := _LINE.fullmatch(line)) is None:
            continue
        name, value = match[1], _number(match[3])
        labels = dict(_LABEL.findall(match[2] or ""))
        volume = shown(prefix + _ESCAPE.sub(_unescaped, labels.get("volume", "")))
        if name == "process_start_time_seconds":
            started = value
        elif name == "duplexd_secondary_lag_seconds":
            lag_seconds[volume] = value
        elif name == "duplexd_nbd_errors_total":
            errors[volume] = errors.get(volume, 0.0) + value
        elif operation := labels.get("op"):
            sums = found.setdefault(volume, {}).setdefault(shown(operation), _Sums())
            if name == f"{_DURATION}bucket":
                sums.buckets[_number(labels.get("le", ""))] = value
            else:
                sums.sums[name] = value
    operations = {
        volume: {name: sums.operation() for name, sums in by_name.items()}
        for volume, by_name in found.items()
    }
    return Figures(started, operations, lag_seconds, errors)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]

"""Whether a directory has backups that are new enough: `duplexctl backups --max-age 26h`. Pure.

A backup that fails every night leaves the old ones sound, so that a list of them looks well. What
counts is the newest sound one of the same targets, as for `--keep`, and the time of its cut. A cut
later than now is as wrong as an old one: with it, a clock that was ahead once would hide that there
is no backup for as long.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from duplexd.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.backup.catalogue import Listed
    from duplexd.backup.saved import Manifest


def stale(listed: Iterable[Listed], age_seconds_max: float, now: float) -> list[str]:
    """What is wrong with the newest of each targets, for people."""
    newest: dict[tuple[frozenset[str], frozenset[str]], Manifest] = {}
    for each in listed:
        found = each.manifest
        if found is None or each.wrong:
            continue
        of = frozenset(found.targets), frozenset(found.controllers)
        if of not in newest or newest[of].cut_time < found.cut_time:
            newest[of] = found
    return [text for found in newest.values() if (text := _stale(found, age_seconds_max, now))]


def _stale(found: Manifest, age_seconds_max: float, now: float) -> str:
    age = now - found.cut_time
    if abs(age) <= age_seconds_max:
        return ""
    of = " ".join(found.targets)
    if age < 0:
        when = datetime.fromtimestamp(found.cut_time, UTC)
        return (
            f"{of}: the newest backup is of {when:%Y-%m-%d %H:%M:%SZ}, later than now; look at the"
            " clocks"
        )
    return (
        f"{of}: the newest sound backup is {format_duration(age)} old; at most"
        f" {format_duration(age_seconds_max)} was asked for"
    )

"""What a status says that is not well, in words: one line at the top, and a line for each fault.

A table has a row for each volume, and the one that matters is easily missed in it. So the first
line of a status counts the faults by kind, and each of them has a line of its own with the reason,
below the table. A pair that somebody suspended is no fault; whether it could be rebuilt is said, as
that is what its operator has to know when the other image fails.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from duplexd.core.findings import waits_for_room
from duplexd.duplexctl.texts import age_text, drill_text, listed, moment_text
from duplexd.limits import JOURNAL_SILENT_SECONDS_MAX
from duplexd.printable import printable
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.json_object import Json

_ROLES = ("primary", "secondary")


def of_controller(controller: Json) -> str:
    """Why the controller takes no changes, as the beginning of a line; empty if it takes them."""
    if failed := controller.get("failed"):
        return f"FAILED: {failed}: "
    if refused := controller.get("refused"):
        return f"REFUSING CHANGES: {refused}: "
    if waits := waits_for_room(controller["journal"]):
        return f"CHANGES WAIT: {waits.removeprefix('waits: ')}: "
    waiting_s = controller["journal"].get("waiting_s") or 0.0
    if waiting_s < JOURNAL_SILENT_SECONDS_MAX:
        return ""
    return f"CHANGES WAIT: the disk of the journal has not answered for {waiting_s:.0f} s: "


def summary(volumes: Sequence[Json]) -> str:
    """The faults of a status, counted by kind; pairs that differ by name, as only a person can say
    which image is right. Empty if there is none.
    """
    refused = sum(not served(volume) for volume in volumes)
    failed = {role: sum(bool(leg_error(each, role)) for each in volumes) for role in _ROLES}
    failing = sum(served(each) and bool(each.get("failing")) for each in volumes)
    counts = [f"{refused} not served"] if refused else []
    counts += [f"{failing} with failing requests"] if failing else []
    counts += [f"{count} with a failed {role}" for role, count in failed.items() if count]
    if differing := [volume["name"] for volume in volumes if volume.get("differs")]:
        counts.append(f"the legs of {listed(differing, 'volumes')} differ")
    return ", ".join(counts)


def lines(volumes: Sequence[Json]) -> list[str]:
    """A line for each fault; then which of the suspended volumes could be rebuilt."""
    found = [line for volume in volumes for line in _of_volume(volume)]
    answers: dict[str, list[str]] = {}
    for volume in volumes:
        if volume.get("rebuild"):
            answers.setdefault(_rebuilt(volume), []).append(volume["name"])
    return found + [
        f"can be rebuilt: {answer}: {listed(names, 'volumes')}" for answer, names in answers.items()
    ]


def details(volume: Json) -> Iterator[str]:
    """What is in no column: its images with the time and number of an error, and its cuts."""
    name = volume["name"]
    for role in _ROLES:
        leg = volume.get(role) or {}
        if not leg:
            continue
        why = leg_error(volume, role)
        mode = f", {volume.get('mode')}" if role == "secondary" and volume.get("mode") else ""
        yield printable(f"{name}: {role} {leg.get('path') or '-'}{mode}")
        if why:
            since = f", since {moment_text(at)}" if (at := leg.get("error_time")) else ""
            yield printable(f"{name}:   {why}{errno_of(why)}{since}")
    if volume.get("secondary"):
        last = volume.get("consistent_cut_time")
        age = f"{age_text(last)} ago, {moment_text(last)}" if last else "not known"
        yield f"{name}: last consistent cut: {age}"
        yield f"{name}: last drill: {drill_text(volume.get('last_drill'), time.time())}"


def errno_of(why: str) -> str:
    """` (EIO)` for a text that says so in the words of the C library; "" for others."""
    found = [number for number in errno.errorcode if os.strerror(number) in why]
    longest = max(found, key=lambda number: len(os.strerror(number)), default=None)
    return "" if longest is None else f" ({errno.errorcode[longest]})"


def _rebuilt(volume: Json) -> str:
    """Whether its secondary can be brought to the last change, and why not."""
    if volume["rebuild"]["possible"]:
        return "yes"
    if volume.get("differs"):
        return "no, its legs differ (`duplexctl repair`)"
    if leg_error(volume, "secondary") or not (volume["secondary"] or {}).get("usable"):
        return "no, the secondary is not usable"
    return "no, the journal does not reach back, or the primary was adopted since"


def served(volume: Json) -> bool:
    """False if NBD clients are refused; a daemon of an earlier version serves all it has."""
    return volume.get("served") is not False


def leg_error(volume: Json, role: str) -> str:
    """What is wrong with one image of a volume; empty if nothing is known."""
    leg = volume.get(role) or {}
    return str(leg.get("error") or "")


def _of_volume(volume: Json) -> Iterator[str]:
    name = volume["name"]
    if not served(volume):
        yield f"{name}: NOT SERVED: {printable(volume.get('error') or 'see its log')}"
    by_error: dict[str, list[str]] = {}
    for what, why in (volume.get("failing") or {}).items():
        by_error.setdefault(why, []).append(what)
    for why, whats in by_error.items():
        yield f"{name}: the last {' and '.join(whats)} of a client failed: {why}"
    for role in _ROLES:
        if (why := leg_error(volume, role)) and why not in (volume.get("error") or ""):
            yield f"{name}: {role} {printable(_with_path(volume[role], why))}"
    if differs := volume.get("differs"):
        first = "`duplexctl resync --wait`, then " if volume.get("state") == "SUSPENDED" else ""
        yield f"{name}: {printable(differs['text'])}: run {first}`duplexctl repair`"
    if volume.get("swapped"):
        path = (volume.get("primary") or {}).get("path") or "the other image"
        yield f"{name}: swapped: clients use {path}"
    if repaired := (volume.get("primary") or {}).get("repaired_bytes"):
        size = format_size(repaired)
        yield f"{name}: {size} of the primary were unreadable, and rewritten from the secondary"


def _with_path(leg: Json, why: str) -> str:
    """An error with the path of its image, which most name themselves."""
    path = leg.get("path") or ""
    return why if path in why else f"{path}: {why}"

"""Which backups are kept: `--keep 7d,4w,6m`, or `--keep 5`. Pure.

`7d` keeps the newest backup of each of the last seven days that have one; weeks (ISO), months and
years likewise, all in UTC. A number alone keeps that many of the newest. A backup is kept if any
part of the rule keeps it. Days without a backup do not count, so that a machine that was off for a
month does not lose its last seven. Each part keeps at least one, and so the newest is always kept.

An incremental backup cannot be read without the one that it lies on. So what a kept backup needs is
kept, too, whatever the rule says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

_PART = re.compile(r"([1-9][0-9]{0,4})([dwmy]?)")
_PERIODS: dict[str, Callable[[datetime], object]] = {
    "": lambda time: time,
    "d": lambda time: time.date(),
    "w": lambda time: time.isocalendar()[:2],
    "m": lambda time: (time.year, time.month),
    "y": lambda time: time.year,
}


class Part(NamedTuple):
    """The newest backup of each of `number` periods; of a period "" each backup is its own."""

    number: int
    period: str


class Dated(NamedTuple):
    """A backup, by its name, and the time of its cut in UTC."""

    name: str
    time: datetime


def parse(text: str) -> tuple[Part, ...]:
    """Raises ValueError that says what was expected."""
    parts = []
    for each in text.split(","):
        match = _PART.fullmatch(each.strip())
        if match is None:
            raise ValueError(
                f"{each.strip()!r} does not say what to keep; expected a number of backups, or of"
                " days, weeks, months or years: 5, or 7d,4w,6m"
            )
        parts.append(Part(int(match[1]), match[2]))
    return tuple(parts)


def surplus(parts: Iterable[Part], backups: Iterable[Dated]) -> list[str]:
    """The names of those that no part keeps, oldest first."""
    newest_first = sorted(backups, key=lambda each: (each.time, each.name), reverse=True)
    kept = {each.name for part in parts for each in _kept(part, newest_first)}
    return [each.name for each in reversed(newest_first) if each.name not in kept]


def chain(name: str, bases: Mapping[str, str]) -> list[str]:
    """A backup and those that it needs, down to a full one; `bases` has what each lies on."""
    found = [name]
    while (base := bases.get(found[-1])) is not None and base not in found:
        found.append(base)
    return found


def free(names: Iterable[str], bases: Mapping[str, str], others: Iterable[str]) -> list[str]:
    """Of `names`, in the order in which they may be removed: without those that one of the others
    needs, and none before what lies on it, so that a kill in between breaks no chain.
    """
    needed = {each for other in others for each in chain(other, bases)}
    going = [each for each in names if each not in needed]
    return sorted(going, key=lambda each: len(chain(each, bases)), reverse=True)


def _kept(part: Part, newest_first: list[Dated]) -> list[Dated]:
    if not part.period:
        return newest_first[: part.number]
    period = _PERIODS[part.period]
    newest: dict[object, Dated] = {}
    for each in newest_first:
        newest.setdefault(period(each.time), each)
    return list(newest.values())[: part.number]

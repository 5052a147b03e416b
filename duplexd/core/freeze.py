"""Where the pairs of a group are suspended when a secondary of it fails. Pure.

All are suspended at one number, the last that the failed secondary holds, so that the group stays a
crash-consistent image. Pairs that are resynced together may come from different cuts: a secondary
that already holds more than that number cannot go back, so it is suspended where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import rebuilding
from duplexd.core.markers import Fail

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair, PairRecord


def plan(
    members: Iterable[Pair],
    failed: Pair | None,
    at: int,
    error: str,
    unusable: Iterable[Pair],
    missed: Mapping[Pair, ChangeMap],
    new_id: Callable[[], str],
    others: Container[Pair] = (),
) -> list[Fail]:
    """The markers that suspend `members`; the one for number `at` comes first. `failed`: None if it
    is no secondary that failed, but what brings them along.

    `missed` is what each secondary has not received of the changes after `at`; `unusable` are the
    pairs whose secondaries hold no state that ever existed (a torn write), and so are those that
    were not compared. `others`: those of `unusable` whose secondaries may be other images, or have
    lost more than records bring back. A pair that mirrors holds the tail, at or after `at`, but is
    suspended at `at`: its later changes are in `missed`.
    """
    members = list(members)
    torn = {pair.id for pair in (*unusable, *(each for each in members if each.uncompared))}
    places: dict[int, list[Pair]] = {at: []}
    for member in members:
        ahead = not member.mirrors and member.record.usable and member.id not in torn
        place = member.applied if ahead and member.applied > at else at
        places.setdefault(place, []).append(member)
    return [
        Fail(
            new_id(),
            place,
            sorted(pair.id for pair in pairs),
            [failed.id] if failed is not None else [],
            sorted(torn) if place == at else [],
            error,
            {pair.id: missed[pair] for pair in pairs if pair in missed and missed[pair].any()},
            _rebuild(pair for pair in pairs if pair.id in torn and pair not in others),
        )
        for place, pairs in places.items()
        if pairs
    ]


def _rebuild(torn: Iterable[Pair]) -> dict[int, int]:
    """Those that the journal makes usable again, and from which number on."""
    numbers = {pair.id: rebuilding.number(pair.record) for pair in torn}
    return {volume: at for volume, at in numbers.items() if at is not None}


def time_of(at: int, pairs: Iterable[PairRecord], now_us: int) -> int:
    """The time of what secondaries hold that are suspended at number `at`: nothing there is later.
    A delayed one holds what is older by its delay; one that failed on its way to a cut, or before
    it had left one, holds nothing from after that cut.
    """
    times = [now_us]
    for pair in pairs:
        if pair.horizon is not None and at <= pair.horizon.number:
            times.append(pair.horizon.time_us)
        if pair.cut is not None and at <= pair.cut.sequence:
            times.append(pair.cut.time_us)
    return min(times)

"""Suspending delayed secondaries at a number that has passed: the retroactive suspend.

One marker, as for any suspend, but of an earlier record. What changed since has to be in it: a
restart and a resync go by that map. It is read from the journal while the secondaries stand still
and writes go on; only for what came during the last of it writes wait, for some milliseconds.

A time means the last number before the first record that is later (`replication/scout.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.cut_states import CONSISTENT
from duplexd.core.cuttable import Standing, check_can_be_cut, check_standing
from duplexd.core.markers import CutAt
from duplexd.core.past_point import PastPoint
from duplexd.engine.cut_archive import new_id
from duplexd.engine.suspend import Made, begin_reading, common_cut, refused_cut
from duplexd.errors import NotFoundError, WrongStateError
from duplexd.known import known
from duplexd.replication.scout import Scout
from duplexd.units import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.cut_readers import CutReaders
    from duplexd.engine.settling import Settling
    from duplexd.engine.timeline import Timeline
    from duplexd.limits import EngineLimits
    from duplexd.replication.backlog import Ahead, Backlog
    from duplexd.replication.followers import Followers
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.clock import Clock


class _Place(NamedTuple):
    sequence: int
    time_us: int  # of the point in time that the secondaries show


class RetroactiveSuspends:
    """Of this controller."""

    def __init__(
        self,
        timeline: Timeline,
        followers: Followers,
        backlog: Backlog,
        legs: LegCalls,
        settling: Settling,
        archive: CutArchive,
        readers: CutReaders,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._followers = followers
        self._backlog = backlog
        self._legs = legs
        self._settling = settling
        self._archive = archive
        self._readers = readers
        self._clock = clock
        self._limits = limits

    async def make(
        self, pairs: Sequence[Pair], point: PastPoint, tag: str, existing: bool, reader: str
    ) -> Made:
        """Cut delayed DUPLEX pairs at a point. Raises WrongStateError, with nothing done, if they
        cannot be brought there: the error says from when to when they can.
        """
        point, time_us = self._resolve(pairs, point)
        if (cut := common_cut(pairs)) is not None:
            return await self._standing(pairs, cut, point, existing, reader)
        self._check(pairs, point)
        async with self._followers.trailing.standing(pairs):
            place = await self._find(pairs, point)
            place = place._replace(time_us=time_us or place.time_us)
            changed = await self._backlog.ahead(place.sequence, pairs)
            cut = await self._cut(pairs, place, changed, tag, reader)
        self._followers.trailing.poke()
        return Made(cut, already=False)

    # ------------------------------------------------------------------------ what is possible

    def _resolve(self, pairs: Sequence[Pair], point: PastPoint) -> tuple[PastPoint, int]:
        """A mark is a number, and has a time. Raises NotFoundError for one that is not known, and
        WrongStateError for one that is no point of all these volumes.
        """
        if point.mark is None:
            return point, 0
        marks = self._timeline.ledger.book.marks.known
        tagged = [mark for mark in marks.values() if mark.tag == point.mark]
        mark = marks.get(point.mark) or next(reversed(tagged), None)
        if mark is None:
            raise NotFoundError(f"{point}: no such mark; `duplexctl points` lists those known")
        if mark.verdict != CONSISTENT or mark.id in self._archive.unsettled:
            raise WrongStateError(f"{point} is not consistent, or not decided yet")
        if others := [pair.name for pair in pairs if not mark.is_of([pair.id])]:
            raise WrongStateError(f"{point} was not made of {', '.join(others[:5])}")
        return PastPoint(sequence=mark.sequence), mark.time_us

    def _check(self, pairs: Sequence[Pair], point: PastPoint) -> None:
        check_can_be_cut(pairs)
        others = [pair.name for pair in pairs if not pair.is_delayed]
        if others:
            raise WrongStateError(
                "only delayed secondaries can be suspended at a point of the past, and "
                f"{', '.join(others[:5])} {'is' if len(others) == 1 else 'are'} in another mode; "
                "suspend without --at"
            )
        now, written = self._clock.wall(), self._timeline.written
        if point.time is not None and point.time > now:
            raise WrongStateError(f"{point} has not come yet; it is {format_time(now)}")
        if point.sequence is not None and point.sequence > written:
            raise WrongStateError(f"{point} does not exist yet; the last one is {written}")

    async def _find(self, pairs: Sequence[Pair], point: PastPoint) -> _Place:
        """Raises WrongStateError for a point that a secondary is beyond already."""
        start, tail = max(pair.applied for pair in pairs), self._timeline.written
        horizons = [pair.record.horizon for pair in pairs]
        newest_us = max(each.time_us if each else self._timeline.now_us() for each in horizons)
        early = start > point.sequence if point.sequence is not None else False
        early = early or (point.time is not None and point.time * 1e6 < newest_us)
        if early:
            raise WrongStateError(
                f"{point} is not within reach: secondaries of these volumes hold changes from after"
                f" it already. The earliest point is number {start}, {format_time(newest_us / 1e6)}"
                f"; the latest is number {tail}, now"
            )
        until_us, until = (
            (int(point.time * 1e6), tail)
            if point.time is not None
            else (1 << 62, point.sequence or start)
        )
        ring = self._timeline.writer.ring
        scout = Scout(ring, start, self._limits.follower_chunk_bytes, newest_us)
        await self._legs.walk(ring, scout.watch, lambda: scout.go(until_us, until))
        time_us = scout.time_us if point.time is None else until_us
        return _Place(scout.position, time_us)

    # ------------------------------------------------------------------------------ making it

    async def _cut(
        self, pairs: Sequence[Pair], place: _Place, changed: Ahead, tag: str, reader: str
    ) -> Cut:
        timeline = self._timeline

        def step(maps: dict[Pair, ChangeMap]) -> Cut:
            check_can_be_cut(pairs)
            if reader:
                self._readers.check_new(pairs, reader)
            since = {pair.id: found for pair, found in maps.items() if found.any()}
            numbers = [pair.id for pair in pairs]
            try:
                timeline.append(CutAt(new_id(), tag, numbers, place.sequence, place.time_us, since))
            except OSError as error:
                raise refused_cut(error) from error
            cut = known(pairs[0].record.cut, "the marker of a cut gives it to its pairs")
            self._settling.begin(pairs, cut)
            if reader:
                begin_reading(self._readers, pairs, cut, reader)
            return cut

        async with self._backlog.held(pairs) as tail:
            maps = await self._backlog.rest(changed, tail)
            return await timeline.at_rest(lambda: step(maps))

    async def _standing(
        self, pairs: Sequence[Pair], cut: Cut, point: PastPoint, existing: bool, reader: str
    ) -> Made:
        """They are at a cut already, which may be the one that is asked for."""
        is_there = point.sequence == cut.sequence or (
            point.time is not None and int(point.time * 1e6) == cut.time_us
        )
        age_s = self._clock.wall() - cut.time_us / 1e6
        reasons = frozenset(pair.reason for pair in pairs)
        check_standing(Standing(cut.id, cut.tag, age_s, reasons), existing and is_there)

        def step() -> None:
            if reader and common_cut(pairs) is cut:
                self._readers.check_new(pairs, reader)
                begin_reading(self._readers, pairs, cut, reader)

        await self._timeline.at_rest(step)
        return Made(cut, already=True)

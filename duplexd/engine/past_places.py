"""Which number of the sequence a point of the past means, and whether secondaries can go there.

A mark is a number, and has a time. A time means the last number before the first record that is
later (`replication/scout.py`), so that nothing from after it is in what secondaries get.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.cut_states import CONSISTENT
from duplexd.core.pair_states import SUSPENDED
from duplexd.errors import NotFoundError, WrongStateError
from duplexd.replication.scout import Scout
from duplexd.units import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.core.past_point import PastPoint
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.timeline import Timeline
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.clock import Clock


class Place(NamedTuple):
    """A number, the time of what is there, and the mark that it is, "" for none."""

    sequence: int
    time_us: int
    mark: str = ""


class PastPlaces:
    """In the journal of this controller."""

    def __init__(
        self,
        timeline: Timeline,
        archive: CutArchive,
        legs: LegCalls,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._archive = archive
        self._legs = legs
        self._clock = clock
        self._chunk_bytes = limits.follower_chunk_bytes

    def mark(self, pairs: Sequence[Pair], point: PastPoint) -> Place | None:
        """The mark that is meant; None if the point is none. Raises NotFoundError for one that is
        not known, and WrongStateError for one that is no point of all these volumes.
        """
        if point.mark is None:
            return None
        marks = self._timeline.ledger.book.marks.known
        tagged = [mark for mark in marks.values() if mark.tag == point.mark]
        mark = marks.get(point.mark) or next(reversed(tagged), None)
        if mark is None:
            raise NotFoundError(
                f"{point}: no such mark; `duplexctl points --reach` lists those known"
            )
        if mark.verdict != CONSISTENT or mark.id in self._archive.unsettled:
            raise WrongStateError(f"{point} is not consistent, or not decided yet")
        if others := [pair.name for pair in pairs if not mark.is_of([pair.id])]:
            raise WrongStateError(f"{point} was not made of {', '.join(others[:5])}")
        return Place(mark.sequence, mark.time_us, mark.id)

    async def is_at(
        self, pairs: Sequence[Pair], cut: Cut, point: PastPoint, mark: Place | None
    ) -> bool:
        """Whether the cut that these are at is what the point means. Records of one time may lie
        on both sides of a cut; where the journal has been dropped, nobody can look any more.
        """
        if point.time is None:
            return cut.sequence == (point.sequence if mark is None else mark.sequence)
        if int(point.time * 1e6) != cut.time_us:
            return False
        with suppress(WrongStateError):
            return (await self.find(pairs, point, mark)).sequence == cut.sequence
        return True

    async def find(self, pairs: Sequence[Pair], point: PastPoint, mark: Place | None) -> Place:
        """Raises WrongStateError for a point that has not come yet, or that a secondary of these
        is beyond already. They stand still meanwhile.
        """
        self._check_has_come(point)
        start, tail = max(pair.applied for pair in pairs), self._timeline.written
        newest_us = max(self._holds_us(pair) for pair in pairs)
        sequence = point.sequence if mark is None else mark.sequence
        early = start > sequence if sequence is not None else False
        early = early or (point.time is not None and point.time * 1e6 < newest_us)
        if early:
            raise WrongStateError(
                f"{point} is not within reach: secondaries of these volumes hold changes from after"
                f" it already. The earliest point is number {start}, {format_time(newest_us / 1e6)}"
                f"; the latest is number {tail}, now"
            )
        return mark or await self._scout(point, start, tail, newest_us)

    async def _scout(self, point: PastPoint, start: int, tail: int, newest_us: int) -> Place:
        until_us, until = (
            (int(point.time * 1e6), tail)
            if point.time is not None
            else (1 << 62, point.sequence or start)
        )
        ring = self._timeline.writer.ring
        scout = Scout(ring, start, self._chunk_bytes, newest_us)
        try:
            await self._legs.walk(ring, scout.watch, lambda: scout.go(until_us, until))
        except LookupError as error:
            raise WrongStateError(
                f"{point} is not within reach: {error}, which these secondaries lack; a resync"
                " without --until brings them back"
            ) from error
        return Place(scout.position, scout.time_us if point.time is None else until_us)

    def _check_has_come(self, point: PastPoint) -> None:
        now, written = self._clock.wall(), self._timeline.written
        if point.time is not None and point.time > now:
            raise WrongStateError(f"{point} has not come yet; it is {format_time(now)}")
        if point.sequence is not None and point.sequence > written:
            raise WrongStateError(f"{point} does not exist yet; the last one is {written}")

    def _holds_us(self, pair: Pair) -> int:
        """Of no later time is what its secondary holds, at its cut or up to its horizon."""
        if pair.state == SUSPENDED and pair.cut is not None:
            return pair.cut.time_us
        horizon = pair.record.horizon
        return horizon.time_us if horizon else self._timeline.now_us()

"""Marks of this controller: consistent points that suspend nobody, and which can be reached still.

One of this controller alone is a marker between two batches, with no gate closed: the journal
orders all volumes. One together with other controllers goes the way of their cut (`group_cut.py`),
under a lease that is held for it; when its gates are open, no secondary has to come to be anywhere,
so it is prepared once its marker is durable.

A mark is in nobody's way: it moves no pair, and needs none to be in any state. All that it takes is
room in the journal, and there changes come first.
"""

from __future__ import annotations

import errno
from itertools import chain
from typing import TYPE_CHECKING

from duplexd.core import mark_reach
from duplexd.core.markers import Mark
from duplexd.engine.cut_archive import new_id
from duplexd.engine.journal_space import NO_ROOM
from duplexd.errors import UsageError, WrongStateError
from duplexd.images.absent import AbsentLeg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from duplexd.core.admission import Admission
    from duplexd.core.cut import Cut
    from duplexd.core.mark_reach import Reach
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json


class Marks:
    """`archive` shows them as it shows cuts."""

    def __init__(
        self, timeline: Timeline, admission: Admission, archive: CutArchive, volumes: Volumes
    ) -> None:
        self._timeline = timeline
        self._admission = admission
        self._archive = archive
        self._volumes = volumes
        self._book = timeline.ledger.book.marks

    def check_room(self) -> None:
        """Raises WrongStateError while changes wait for room in the journal, or are refused."""
        if self._timeline.failed:
            raise WrongStateError(f"nothing was marked: {self._timeline.failed}")
        if NO_ROOM in self._admission.reasons or self._admission.refusal:
            raise WrongStateError(
                f"nothing was marked: {NO_ROOM}, and changes come first; try again when they go on"
            )

    async def mark(self, pairs: Sequence[Pair], tag: str) -> Json:
        """Mark this point of these volumes; returns when that is durable.

        Raises WrongStateError with nothing marked.
        """
        if not pairs:
            raise UsageError("name at least one volume or group")
        self.check_room()
        marker = Mark(new_id(), tag, [pair.id for pair in pairs])

        def step() -> Cut:
            check_whole(pairs)
            try:
                self._timeline.append(marker)
            except OSError as error:
                raise refused_mark(error) from error
            self._archive.unsettled.add(marker.id)
            return self._archive.find(marker.id)

        mark = await self._timeline.at_rest(step)
        await self._timeline.durable()
        self._archive.unsettled.discard(mark.id)
        names = [pair.name for pair in pairs]
        self._archive.announce_marked(mark, names)
        return self._archive.show(mark) | {"volumes": names}

    # -------------------------------------------------------------------------- what can be reached

    def points(self, names: Sequence[str] = ()) -> Json:
        """All cuts and marks that are remembered, by number; with `names`, those of any of these
        volumes. Each with whether it is within reach of the secondaries of its volumes.
        """
        ledger = self._timeline.ledger
        numbers = [self._volumes.by_name[name].id for name in names]
        found = [
            each
            for each in chain(ledger.cuts.values(), self._book.known.values())
            if not numbers or each.is_of(numbers)
        ]
        found.sort(key=lambda each: each.sequence)
        reaches: dict[tuple[int, ...], Reach] = {}
        for each in found:
            if each.of not in reaches:
                reaches[each.of] = mark_reach.together(self._reaches(each))
        return {
            "points": [
                self._show(each, reaches[each.of])
                | {"whole": all(each.is_of([number]) for number in numbers)}
                for each in found
            ]
        }

    def _reaches(self, point: Cut) -> Iterable[Reach]:
        return (self.reach(pair) for pair in self._volumes.all() if point.is_of([pair.id]))

    def reach(self, pair: Pair) -> Reach:
        """The points that the secondary of a pair can be brought to."""
        if pair.failed or isinstance(pair.secondary, AbsentLeg) or not pair.usable:
            why = pair.failed or "its secondary is not there, or is at no number"
            return mark_reach.Reach(0, -1, "", f"{pair.name}: {why}")
        at = self._timeline.written if pair.mirrors else pair.applied
        return mark_reach.of(pair.record, at, self._timeline.writer.ring.oldest)

    def _show(self, point: Cut, reach: Reach) -> Json:
        why = reach.why_not(point.sequence)
        return {
            "id": point.id,
            "kind": "mark" if point.id in self._book.known else "cut",
            "state": self._archive.state(point),
            "verdict": self._archive.verdict(point),
            "sequence": point.sequence,
            "time": point.time_us / 1e6,
            "tag": point.tag,
            "group": point.group or None,
            "members": list(point.members),
            "within_reach": not why,
            "why": why or None,
        }

    def last_time(self, names: Sequence[str]) -> float | None:
        """When these volumes were last marked together, consistently; None if that is not known."""
        by_name = self._volumes.by_name
        mark = self._book.latest([by_name[name].id for name in names if name in by_name])
        return mark.time_us / 1e6 if mark is not None else None


def check_whole(pairs: Iterable[Pair]) -> None:
    """Raises WrongStateError for a volume that is not served: half-way back to a cut it has a
    content that no client has seen. To be asked in the step that marks.
    """
    for pair in pairs:
        if why := pair.failed or pair.closed:
            raise WrongStateError(f"nothing was marked: {pair.name} is not served: {why}")


def refused_mark(error: OSError) -> WrongStateError:
    """The error for a mark whose marker could not be written."""
    why = "it has no room" if error.errno == errno.ENOSPC else error.strerror or error
    return WrongStateError(f"nothing was marked: the journal could not be written: {why}")

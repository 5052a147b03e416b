"""Recording in the journal where the legs of pairs differ, and that they do no more.

What the record is for is said in `core/leg_differences.py`. It is written as soon as a comparison
has found something: who asked for it may go away before the end, and the machine may stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.leg_differences import joined
from duplexd.core.markers import Differ, Same
from duplexd.core.pair_states import SIMPLEX, SUSPENDED
from duplexd.replication.retries import when_there_is_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.core.leg_differences import Run
    from duplexd.core.pair import Pair
    from duplexd.engine.compare import Legs
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline


class DifferenceRecord:
    """Of the pairs of a controller. What was compared counts for the images that were compared: it
    is dropped if the pair has others by then.
    """

    def __init__(
        self, timeline: Timeline, archive: CutArchive, events: Events, runs_max: int
    ) -> None:
        self._timeline = timeline
        self._archive = archive
        self._events = events
        self._runs_max = runs_max

    async def differ(self, pair: Pair, legs: Legs, runs: Iterable[Run], whole: bool) -> None:
        """The legs differ in these runs; durable when it returns. `whole`: nowhere else, because
        all was compared; else what is known already remains.
        """
        await self._durably(lambda: self._differ(pair, legs, runs, whole))

    async def equal(self, pair: Pair, legs: Legs) -> None:
        """All that may differ was compared, and does not."""
        if pair.record.differs is not None:
            await self._durably(lambda: self._equal(pair, legs))

    async def _durably(self, step: Callable[[], None]) -> None:
        """A controller that has failed records nothing any more: it takes no command either."""
        if self._timeline.failed:
            return
        await when_there_is_room(self._timeline, step)
        await self._timeline.durable()

    def _differ(self, pair: Pair, legs: Legs, runs: Iterable[Run], whole: bool) -> None:
        known = pair.record.differs
        before = () if whole or known is None else known.runs
        found = joined([*runs, *before], self._runs_max)
        if not legs.are_of(pair) or pair.state == SIMPLEX:
            return
        if known is not None and known.runs == found and not known.copied:
            return
        self._timeline.append(Differ(pair.id, found))
        self._say(pair)

    def _say(self, pair: Pair) -> None:
        differs = pair.record.differs
        if differs is None:
            return
        self._events.emit(
            "legs-differ", volume=pair.name, error=differs.text, ranges=len(differs.runs),
            bytes=differs.nbytes, offset=differs.runs[0][0],
        )  # fmt: skip
        if pair.cut is not None and pair.cut.members and pair.state == SUSPENDED:
            self._archive.announce(pair.cut)

    def _equal(self, pair: Pair, legs: Legs) -> None:
        if legs.are_of(pair) and pair.record.differs is not None:
            self._timeline.append(Same([pair.id]))
            self._events.emit("legs-equal", volume=pair.name)

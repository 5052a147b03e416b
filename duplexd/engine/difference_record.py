"""Recording in the journal where the legs of pairs differ, and that they do no more.

What the record is for is said in `core/leg_differences.py`. It is written as soon as a comparison
has found something: who asked for it may go away before the end, and the machine may stop.

Several comparisons of a pair may run at once, and a repair beside them. Each has looked at a place
at another time, so only one that was alone with the record may say that there is nothing else: what
another found since, perhaps behind it, would be forgotten, and what was repaired since would be
recorded again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.leg_differences import joined
from duplexd.core.markers import Differ, Same
from duplexd.core.pair_states import SIMPLEX
from duplexd.replication.retries import when_there_is_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.core.leg_differences import Run
    from duplexd.core.pair import Pair
    from duplexd.engine.compare import Legs
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline


class Comparison:
    """Of these images of a pair, since now. `alone`: only it has changed the record since."""

    __slots__ = ("_alone", "_known", "legs", "pair")

    def __init__(self, pair: Pair, legs: Legs) -> None:
        self.pair = pair
        self.legs = legs
        self._known = pair.record.differs
        self._alone = True

    @property
    def alone(self) -> bool:
        self._alone = self._alone and self.pair.record.differs is self._known
        return self._alone

    def recorded(self) -> None:
        """It has changed the record, just now."""
        self._known = self.pair.record.differs


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

    async def differ(self, comparison: Comparison, runs: Iterable[Run]) -> None:
        """The legs differ in these runs, too; durable when it returns."""
        await self._durably(lambda: self._differ(comparison, runs))

    async def conclude(self, comparison: Comparison, runs: Iterable[Run]) -> None:
        """All that may differ was compared, and only these runs do."""
        if comparison.pair.record.differs is not None:
            await self._durably(lambda: self._conclude(comparison, runs))

    async def _durably(self, step: Callable[[], None]) -> None:
        """A controller that has failed records nothing any more: it takes no command either."""
        if self._timeline.failed:
            return
        await when_there_is_room(self._timeline, step)
        await self._timeline.durable()

    def _differ(self, comparison: Comparison, runs: Iterable[Run]) -> None:
        known = comparison.pair.record.differs
        self._record(comparison, joined([*runs, *(known.runs if known else ())], self._runs_max))

    def _conclude(self, comparison: Comparison, runs: Iterable[Run]) -> None:
        pair, found = comparison.pair, joined(runs, self._runs_max)
        if not comparison.alone or pair.record.differs is None:
            return
        if found:
            self._record(comparison, found)
        elif comparison.legs.are_of(pair):
            self._timeline.append(Same([pair.id]))
            self._events.emit("legs-equal", volume=pair.name)

    def _record(self, comparison: Comparison, found: tuple[Run, ...]) -> None:
        pair, known = comparison.pair, comparison.pair.record.differs
        if not comparison.legs.are_of(pair) or pair.state == SIMPLEX or pair.record.removed:
            return
        if known is not None and known.runs == found and not known.copied:
            return
        was_alone = comparison.alone
        self._timeline.append(Differ(pair.id, found))
        if was_alone:
            comparison.recorded()
        self._say(pair)

    def _say(self, pair: Pair) -> None:
        differs = pair.record.differs
        if differs is None:
            return
        self._events.emit(
            "legs-differ", volume=pair.name, error=differs.text, ranges=len(differs.runs),
            bytes=differs.nbytes, offset=differs.runs[0][0],
        )  # fmt: skip
        if pair.cut is not None and pair.cut.members:
            self._archive.announce(pair.cut)

"""What is a hole in a volume, as the image that clients read says.

The primary is asked, in a worker, because listing extents reads the metadata of a file system. It
has every acknowledged change: a batch writes it before it answers. What the journal or a staging
log holds for a secondary is on the primary already.

That a range is data is always a safe answer, and the answer wherever the image gives none: it is a
block device, it fails or hangs, or it is no longer the primary by the time it has answered.

An image may have millions of extents, and a client can ask for all of them at once. So an answer
may end early, by count and by time: a client asks on from there. And all questions stand in one
line (`question_line.py`), because finding extents and replying with them takes the loop's time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from duplexd.core.patience import PRIMARY
from duplexd.images.holes import first_extents

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Extent, Volume
    from duplexd.core.pair import Pair
    from duplexd.engine.question_line import QuestionLine
    from duplexd.images.leg import Leg
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.clock import Clock


class Asked(NamedTuple):
    """An image of a pair, and its role. `counts`: whether its answer does, once it is here."""

    pair: Pair
    leg: Leg
    use: str
    counts: Callable[[], bool]


class Extents:
    """Of volumes that are served; called from the loop."""

    def __init__(
        self, legs: LegCalls, line: QuestionLine, clock: Clock, limits: EngineLimits
    ) -> None:
        self._legs = legs
        self._line = line
        self._monotonic = clock.monotonic
        self._limits = limits

    def extents(
        self,
        volume: Volume,
        offset: int,
        length: int,
        one: bool,
        done: Callable[[list[Extent]], None],
    ) -> None:
        """See `Backend`."""
        pair = cast("Pair", volume)
        leg = pair.primary
        asked = Asked(pair, leg, PRIMARY, lambda: pair.primary is leg)
        self.ask(asked, offset, length, one, done)

    def ask(
        self,
        asked: Asked,
        offset: int,
        length: int,
        one: bool,
        done: Callable[[list[Extent]], None],
    ) -> None:
        """The same of any image of a pair."""
        if asked.leg.is_block:
            done([(offset, length, True)])
            return
        self._line.ask(asked.leg, partial(self._answer, asked, offset, length, one, done))

    async def _answer(
        self,
        asked: Asked,
        offset: int,
        length: int,
        one: bool,
        done: Callable[[list[Extent]], None],
    ) -> None:
        leg, monotonic, seconds_max = asked.leg, self._monotonic, self._limits.extents_seconds_max
        count_max = 1 if one else self._limits.extents_max

        def look() -> list[Extent]:
            until = monotonic() + seconds_max
            return first_extents(
                leg,
                offset,
                length,
                lambda found: len(found) >= count_max or monotonic() >= until,
                count_max,
            )

        try:
            found = await self._legs.on(asked.pair, leg, asked.use, look)
        except OSError:
            found = []
        if not found or not asked.counts():
            found = [(offset, length, True)]
        done(found)

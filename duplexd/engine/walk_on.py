"""Secondaries that are at a cut go on to a later point that has passed, and are at a new cut there.

It is the way of a resync by journal, only that it ends earlier: the secondaries go through states
that existed, and nobody has to read what changed, see `core/delayed.py`. The journal has to reach
back to where they are, and keeps what they need from the step on that sends them.

Readers of the old cut keep it: it is left like for a resync. While a volume went back to a cut or
a backup it held a mixture that no client has seen. No mark was made of it then, but a time or a
number may lie there, so these are refused after a rollback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.leaving import AS_IT_IS
from duplexd.core.markers import Onward
from duplexd.core.pair import ONLY_THE_MAP
from duplexd.core.rollback import refuse
from duplexd.engine.suspend import begin_reading, refused_cut
from duplexd.errors import WrongStateError
from duplexd.known import known

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.delay_markers import OfMark
    from duplexd.core.mark_reach import Reach
    from duplexd.core.pair import Pair
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.cut_readers import CutReaders
    from duplexd.engine.past_places import Place
    from duplexd.engine.settling import Settling
    from duplexd.engine.timeline import Timeline
    from duplexd.replication.resync import Resyncs
    from duplexd.replication.trailing import Trailing


class WalkOn:
    """Of this controller. `reach`: the numbers that the secondary of a pair can be brought to."""

    def __init__(
        self,
        timeline: Timeline,
        trailing: Trailing,
        resyncs: Resyncs,
        checkpointer: Checkpointer,
        settling: Settling,
        readers: CutReaders,
        reach: Callable[[Pair], Reach],
    ) -> None:
        self._timeline = timeline
        self._trailing = trailing
        self._resyncs = resyncs
        self._checkpointer = checkpointer
        self._settling = settling
        self._readers = readers
        self._reach = reach

    async def arrive(self, pairs: Sequence[Pair]) -> None:
        """Wait until they are at the cuts that they leave, see `Resyncs.arrive`."""
        await self._resyncs.arrive(pairs)

    def check(self, pairs: Sequence[Pair], place: Place) -> None:
        """Raises WrongStateError if one of them cannot go on to that place, is half-way back to a
        cut or a backup, or is being read.
        """
        refuse(pair.record for pair in pairs)
        for pair in pairs:
            if why := self._reach(pair).why_not(place.sequence):
                raise WrongStateError(f"number {place.sequence} is not within reach: {why}")
            record = pair.record
            went_back = record.rollback is not None and record.tracked_bytes >= ONLY_THE_MAP
            if went_back and not place.mark:
                raise WrongStateError(
                    f"{pair.name} went back to a cut or a backup since it was suspended, and held a"
                    " mixture meanwhile; name a mark (`duplexctl points --reach`)"
                )
        self._refuse_readers(pairs)

    async def go(
        self,
        pairs: Sequence[Pair],
        place: Place,
        cut_id: str,
        tag: str,
        of: OfMark,
        reader: str,
    ) -> Cut:
        """Send them there: the new cut. Raises WrongStateError, with nothing done."""
        marker = Onward(cut_id, tag, [pair.id for pair in pairs], place.sequence, place.time_us, of)

        def step() -> Cut:
            self.check(pairs, place)
            self._checkpointer.keep_from(min(pair.applied for pair in pairs))
            try:
                self._timeline.append(marker)
            except OSError as error:
                raise refused_cut(error) from error
            cut = known(pairs[0].record.cut, "the marker of a cut gives it to its pairs")
            self._trailing.go_on(pairs)
            self._settling.begin(pairs, cut)
            if reader:
                begin_reading(self._readers, pairs, cut, reader)
            return cut

        self._refuse_readers(pairs)
        async with self._readers.leaving(pairs, AS_IT_IS):
            # another command may have sent them on meanwhile
            return await self._resyncs.from_cuts(pairs, step)

    def _refuse_readers(self, pairs: Sequence[Pair]) -> None:
        self._timeline.ledger.readers.refuse((pair.id for pair in pairs), force=False)

"""Changes that the engine itself makes of a volume: in the journal, in a batch, like a client's.

The caller has closed the gate of the volume, or the volume, and has read there what it writes
elsewhere. So the one thing that may have become false until the batch begins is that this is still
the right content: `good` says so, in the step in which the batch begins.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backend import WRITE, ZERO
from duplexd.core.pair import PairChange
from duplexd.engine.batch import Batch
from duplexd.engine.repair import NOBODY
from duplexd.journal.format import RECORD_HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.timeline import Timeline
    from duplexd.limits import EngineLimits

_PAUSE_SECONDS, _LOOKS = 0.05, 600  # half a minute in all


class Content(NamedTuple):
    """What a range is to hold: at most a record. `data` is empty where that is zeroes."""

    offset: int
    length: int
    data: bytes


class OwnWrites:
    """Of one controller."""

    def __init__(self, timeline: Timeline, limits: EngineLimits) -> None:
        self._timeline = timeline
        self._limits = limits

    async def write(
        self, pair: Pair, offset: int, data: bytearray, good: Callable[[], bool]
    ) -> bool:
        """See `write_all`, of one range."""
        return await self.write_all(pair, [Content(offset, len(data), bytes(data))], good)

    async def write_all(
        self, pair: Pair, contents: Sequence[Content], good: Callable[[], bool]
    ) -> bool:
        """Journal and apply these, in one batch; whether all are on the primary. Not if the journal
        has no room for them, or a reload has removed the volume.
        """
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        nbytes = sum(len(each.data) for each in contents)

        def answer(batch: Batch, error: BaseException | None) -> None:
            written.set_result(error is None and not batch.dead and not batch.primary_errors)

        def begin() -> None:
            fits = self._fits(nbytes, len(contents))
            if not fits or self._timeline.failed or pair.record.removed or not good():
                written.set_result(False)
                return
            fresh: set[int] = set()
            for each in contents:
                fresh.update(pair.regions.touch(each.offset, each.length))
            pair.primary_dirty = True
            pair.secondary_dirty |= pair.mirrors
            changes = [_change(pair, each) for each in contents]
            regions = {pair.id: sorted(fresh)} if fresh else {}
            self._timeline.batch(Batch(changes, regions, True, answer))

        self._timeline.when_at_rest(begin)
        return await written

    async def room(self, nbytes: int, records: int = 1) -> None:
        """Wait, as changes of clients do, while the journal makes room for so much; not for ever,
        because it may have none to make. The gate is still open: clients wait for room only.
        """
        for _ in range(_LOOKS):
            if self._fits(nbytes, records) or self._timeline.failed:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    def _fits(self, nbytes: int, records: int) -> bool:
        headers = records * RECORD_HEADER_BYTES
        room = self._limits.marker_reserve_bytes + 2 * (nbytes + headers)
        return self._timeline.writer.room(room, self._limits.record_bytes_max)


def _change(pair: Pair, content: Content) -> PairChange:
    offset, length, data = content
    return PairChange(NOBODY, 0, pair, WRITE if data else ZERO, offset, length, data)

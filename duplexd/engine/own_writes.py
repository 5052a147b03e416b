"""Changes that the engine itself makes of a volume: in the journal, in a batch, like a client's.

The caller has closed the gate of the volume, and has read there what it writes elsewhere. So the
one thing that may have become false until the batch begins is that this is still the right content:
`good` says so, in the step in which the batch begins.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.backend import WRITE
from duplexd.core.pair import PairChange
from duplexd.engine.batch import Batch
from duplexd.engine.repair import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.engine.timeline import Timeline
    from duplexd.limits import EngineLimits

_PAUSE_SECONDS, _LOOKS = 0.05, 600  # half a minute in all


class OwnWrites:
    """Of one controller."""

    def __init__(self, timeline: Timeline, limits: EngineLimits) -> None:
        self._timeline = timeline
        self._limits = limits

    async def write(
        self, pair: Pair, offset: int, data: bytearray, good: Callable[[], bool]
    ) -> bool:
        """Journal and apply it, at most a record; whether it is on the primary. Not if the journal
        has no room for it, or a reload has removed the volume.
        """
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def answer(batch: Batch, error: BaseException | None) -> None:
            written.set_result(error is None and not batch.dead and not batch.primary_errors)

        def begin() -> None:
            fits = self._fits(len(data))
            if not fits or self._timeline.failed or pair.record.removed or not good():
                written.set_result(False)
                return
            change = PairChange(NOBODY, 0, pair, WRITE, offset, len(data), bytes(data))
            fresh = pair.regions.touch(offset, len(data))
            pair.primary_dirty = pair.secondary_dirty = True
            regions = {pair.id: fresh} if fresh else {}
            self._timeline.batch(Batch([change], regions, True, answer))

        self._timeline.when_at_rest(begin)
        return await written

    async def room(self, nbytes: int) -> None:
        """Wait, as changes of clients do, while the journal makes room for so much; not for ever,
        because it may have none to make. The gate is still open: clients wait for room only.
        """
        for _ in range(_LOOKS):
            if self._fits(nbytes) or self._timeline.failed:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    def _fits(self, nbytes: int) -> bool:
        room = self._limits.marker_reserve_bytes + 2 * nbytes
        return self._timeline.writer.room(room, self._limits.record_bytes_max)

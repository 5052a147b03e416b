"""The claim that the last records of the journal are durable.

Recovery takes a broken record at the end for a torn tail, unless a later record claims that it was
synced. Every record claims that of those before its last sync, so under load nothing is to be done.
When the writes end, the last flushed records would have no claim behind them until the next
checkpoint, and damage to them would be cut off as a torn tail: a flushed change lost without a
word. So a marker is written that says nothing but this.

The marker has to become durable itself, because the disk that damages those records may take what
was not synced as well. It gets no sync of its own: the periodic one, a second later, covers it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from duplexd.core.synced import Synced

if TYPE_CHECKING:
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.timeline import Timeline


class SyncClaim:
    """Writes that marker where nothing else claims it."""

    def __init__(self, timeline: Timeline, checkpointer: Checkpointer) -> None:
        self._timeline = timeline
        self._checkpointer = checkpointer
        self._last = 0  # the number of the last one: behind it there is nothing to claim

    def write(self) -> None:
        """Claim all that is synced, if all that is written is, and no checkpoint says so already.
        So an idle journal gets one marker after each sync of new records, and none after that.
        """
        timeline = self._timeline
        written, known = timeline.written, max(self._last, self._checkpointer.sequence)
        if timeline.busy or written <= known or written > timeline.writer.synced:
            return
        with contextlib.suppress(OSError):  # the timeline has drawn the consequences
            timeline.when_at_rest(self._append)

    def _append(self) -> None:
        self._last = self._timeline.append(Synced())

"""After a cut: bringing its secondaries to it and making them durable, then giving the verdict.

This takes as long as the disks take, so it happens after the pause, while writes go on to the
primaries. There is one task for each cut, started in the same turn of the loop as its marker (or
when the hold of a group's cut ends), so that a caller that disconnects leaves no cut without a
verdict. If the journal fails meanwhile, the task fails too: the verdict stays unknown until a
restart decides it.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core.cut_states import CONSISTENT
from duplexd.core.markers import Stood, Void
from duplexd.images.absent import AbsentLeg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.core.participant import Participant
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.leases import Hold
    from duplexd.engine.timeline import Timeline


class Settling:
    """`reached` waits for async secondaries; `moved` is called when a cut is settled."""

    def __init__(
        self,
        timeline: Timeline,
        checkpointer: Checkpointer,
        archive: CutArchive,
        participant: Participant[Hold],
        reached: Callable[[Sequence[Pair], int], Awaitable[None]],
        moved: Callable[[], None],
    ) -> None:
        self._timeline = timeline
        self._checkpointer = checkpointer
        self._archive = archive
        self._reached = reached
        self._participant = participant
        self._moved = moved
        self._tasks: dict[str, asyncio.Task[None]] = {}  # a failed one stays, for later waiters

    def begin(self, pairs: Sequence[Pair], cut: Cut) -> None:
        """Begin to settle a cut that was made."""
        task = asyncio.get_running_loop().create_task(
            self.settle(pairs, cut), name=f"settle {cut.id}"
        )
        task.add_done_callback(_fetch_error)
        self._tasks[cut.id] = task

    async def wait(self, cut: Cut) -> bool:
        """Wait until a cut is settled; False if it has no task. Raises what the task raised."""
        task = self._tasks.get(cut.id)
        if task is None:
            return False
        await asyncio.shield(task)
        return True

    async def settle(self, pairs: Sequence[Pair], cut: Cut) -> None:
        """Make the secondaries durable at a cut, and record the verdict or the vote."""
        timeline = self._timeline
        await timeline.durable()  # up to the marker, which a freeze writes later than its position
        await self._reached(pairs, cut.sequence)
        await self._checkpointer.sync_secondaries(pairs)
        whole = reached(pairs, cut)
        if cut.id in self._archive.unsettled:  # one that hangs was not synced at it
            whole = whole and not any(isinstance(pair.secondary, AbsentLeg) for pair in pairs)
        if cut.members:
            vote = partial(self._participant.stood, cut.id, whole)
            await timeline.at_rest(lambda: timeline.must(vote))
        elif whole and cut.id in self._archive.unsettled:
            # Without this marker a restart would apply the records to the secondaries again, and
            # a backup may be reading them.
            with contextlib.suppress(OSError):
                await timeline.at_rest(lambda: timeline.append(Stood(cut.id)))
        elif not whole and cut.verdict == CONSISTENT:
            void = partial(timeline.append, Void(cut.id))
            await timeline.at_rest(lambda: timeline.must(void))
        if cut.members or not whole:
            await timeline.durable()  # a verdict must be durable before it is shown
        if cut.members:
            self._archive.announce(cut)
        self._archive.unsettled.discard(cut.id)
        self._tasks.pop(cut.id, None)
        self._moved()


def reached(pairs: Sequence[Pair], cut: Cut) -> bool:
    """Whether the secondaries of all these pairs are at the cut."""
    return all(pair.usable and pair.cut is cut and pair.applied == cut.sequence for pair in pairs)


def _fetch_error(task: asyncio.Task[None]) -> None:
    """Waiters get the error; without any, the loop should not report it as never retrieved."""
    if not task.cancelled():
        task.exception()

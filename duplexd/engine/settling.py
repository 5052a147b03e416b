"""After a cut: bringing its secondaries to it and making them durable, then giving the verdict.

This takes as long as the disks take, so it happens after the pause, while writes go on to the
primaries. There is one task for each cut, started in the same turn of the loop as its marker (or
when the hold of a group's cut ends), so that a caller that disconnects leaves no cut without a
verdict. Cuts that a failure makes are settled too: they are called consistent as well, and a
verdict must not change. If the journal fails meanwhile, the task fails too: the verdict stays
unknown until a restart decides it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import pair_states
from duplexd.core.cut_states import CUT
from duplexd.core.markers import Stood, Void
from duplexd.images.absent import AbsentLeg
from duplexd.replication.retries import when_there_is_room

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

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
        """Begin to settle a cut that was made. It has no verdict until then."""
        self._archive.unsettled.add(cut.id)
        if cut.mark:
            self._participant.past(cut.id)
        task = asyncio.get_running_loop().create_task(
            self._settle(pairs, cut), name=f"settle {cut.id}"
        )
        task.add_done_callback(_fetch_error)
        self._tasks[cut.id] = task

    def resume(self, pairs: Iterable[Pair]) -> None:
        """Settle what the last run left, and what failures made during this start. A cut that all
        have left gets no verdict any more.
        """
        found: dict[Cut, list[Pair]] = {}
        for pair in pairs:
            if pair.cut is not None and pair.state == pair_states.SUSPENDED:
                found.setdefault(pair.cut, []).append(pair)
        for cut, at_it in found.items():
            if cut.state == CUT and (cut.mark or not cut.members):
                self.begin(at_it, cut)

    async def wait(self, cut: Cut) -> bool:
        """Wait until a cut is settled; False if it has no task. Raises what the task raised."""
        task = self._tasks.get(cut.id)
        if task is None:
            return False
        await asyncio.shield(task)
        return True

    async def look(self, pairs: Sequence[Pair]) -> None:
        """Are these secondaries still where a backup looks for them? One that is not is suspended
        at another cut.
        """
        await self._checkpointer.sync_secondaries(pairs)

    async def _settle(self, pairs: Sequence[Pair], cut: Cut) -> None:
        """Make the secondaries durable at a cut, and record the verdict or the vote."""
        timeline = self._timeline
        await timeline.durable()  # up to the marker, which a freeze writes later than its position
        if pairs:  # none of a mark: it is where it is
            await self._reached(pairs, cut.sequence)
            await self._checkpointer.sync_secondaries(pairs)
        if cut.members:
            vote = partial(self._vote, pairs, cut)
            await timeline.at_rest(lambda: timeline.must(vote))
        else:
            await when_there_is_room(timeline, lambda: self._decide(pairs, cut))
        await timeline.durable()  # a verdict must be durable before it is shown
        if cut.members:
            self._archive.announce(cut)
        self._archive.unsettled.discard(cut.id)
        self._tasks.pop(cut.id, None)
        self._moved()

    def _vote(self, pairs: Sequence[Pair], cut: Cut) -> None:
        """At rest, so that nothing fails between the look and the marker; so is the other."""
        self._participant.stood(cut.id, _is_whole(pairs, cut))

    def _decide(self, pairs: Sequence[Pair], cut: Cut) -> None:
        if cut.state == CUT:
            self._timeline.append(Stood(cut.id) if _is_whole(pairs, cut) else Void(cut.id))


def _is_whole(pairs: Sequence[Pair], cut: Cut) -> bool:
    return reached(pairs, cut) and not any(_is_out(pair, cut) for pair in pairs)


def _is_out(pair: Pair, cut: Cut) -> bool:
    """Whether its secondary cannot be synced, and not be read. One that a failure suspended may be
    gone: where it was synced before, it is at the cut.
    """
    return isinstance(pair.secondary, AbsentLeg) and (pair.secondary_dirty or not cut.why)


def reached(pairs: Sequence[Pair], cut: Cut) -> bool:
    """Whether the secondaries of all these pairs are at the cut."""
    return all(pair.usable and pair.cut is cut and pair.applied == cut.sequence for pair in pairs)


def _fetch_error(task: asyncio.Task[None]) -> None:
    """Waiters get the error; without any, the loop should not report it as never retrieved."""
    if not task.cancelled():
        task.exception()

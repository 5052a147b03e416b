"""What secondaries have missed: the changes in the journal after the number that they are at.

It is needed when a follower or a copy fails, and is as long as that trailed. So it is read in a
worker: most of it while writes go on, and only for what came during the last of it changes of these
volumes wait at their gates. What is read is then all there is. Other volumes go on.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.patience import JournalRead, Waited
from duplexd.errors import DamageError
from duplexd.journal.format import TRIM, WRITE, ZERO
from duplexd.journal.reader import Reader
from duplexd.replication.leg_calls import JournalHungError
from duplexd.runtime.tasks import to_its_end
from duplexd.runtime.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.journal.segment import Ring
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.seams import Gates, Timeline

ROUNDS_MAX = 5  # of reading while writes go on
FEW_BYTES = 4 << 20  # of journal that may be read while they wait
UNREADABLE = (DamageError, LookupError, OSError)  # what reading the journal may raise


class Ahead(NamedTuple):
    """What the records up to number `until` changed."""

    maps: dict[Pair, ChangeMap]
    until: int


class Backlog:
    """Reads backlogs, in a worker of the journal's disk."""

    def __init__(
        self, timeline: Timeline, gates: Gates, legs: LegCalls, limits: EngineLimits
    ) -> None:
        self._timeline = timeline
        self._gates = gates
        self._legs = legs
        self._chunk_bytes = limits.follower_chunk_bytes

    @contextlib.asynccontextmanager
    async def held(self, pairs: Collection[Pair]) -> AsyncIterator[int]:
        """Meanwhile the pairs get no changes after the number that is given."""
        timeline = self._timeline
        self._gates.close_gates(pairs)
        try:
            yield await timeline.at_rest(lambda: timeline.written)
        finally:
            self._gates.open_gates(pairs)

    @contextlib.asynccontextmanager
    async def after(
        self, position: int, pairs: Collection[Pair], why: Exception
    ) -> AsyncIterator[dict[Pair, ChangeMap]]:
        """What the pairs have missed after number `position`: everything, if a journal that hangs
        is `why` that is asked. Meanwhile they get no more.
        """
        if isinstance(why, JournalHungError):
            async with self.held(pairs):
                yield _everything(pairs)
            return
        ahead = await self.ahead(position, pairs)
        async with self.held(pairs) as tail:
            yield await self.rest(ahead, tail)

    async def ahead(self, position: int, pairs: Collection[Pair]) -> Ahead:
        """What the pairs have missed after number `position`, but for the last of it: nobody waits
        meanwhile.
        """
        timeline = self._timeline
        maps, until, until_bytes = {pair: pair.new_map() for pair in pairs}, position, 0
        for _ in range(ROUNDS_MAX):
            tail, tail_bytes = timeline.performed, timeline.log_position
            if tail <= until or tail_bytes - until_bytes <= FEW_BYTES:
                break
            _merge(maps, await self.read(until, pairs, tail))
            until, until_bytes = tail, tail_bytes
        return Ahead(maps, until)

    async def rest(self, ahead: Ahead, tail: int) -> dict[Pair, ChangeMap]:
        """All of it, up to `tail`, after which the pairs get no more."""
        maps = ahead.maps
        _merge(maps, await self.read(ahead.until, list(maps), tail))
        return maps

    async def read(
        self, position: int, pairs: Collection[Pair], tail: int
    ) -> dict[Pair, ChangeMap]:
        """What the records after number `position`, up to `tail`, change of each pair."""
        ring, watch = self._timeline.writer.ring, Watch[Waited]()
        read = partial(backlog, ring, pairs, position, tail, self._chunk_bytes, watch)
        try:
            return await to_its_end(self._legs.walk(ring, watch, read))
        except JournalHungError:
            return _everything(pairs)


def _merge(maps: dict[Pair, ChangeMap], more: dict[Pair, ChangeMap]) -> None:
    for pair, found in more.items():
        maps[pair].merge(found)


def _everything(pairs: Iterable[Pair]) -> dict[Pair, ChangeMap]:
    return {pair: pair.record.full_map() for pair in pairs}


def backlog(
    ring: Ring,
    pairs: Collection[Pair],
    position: int,
    until: int,
    chunk_bytes: int,
    watch: Watch[Waited] | None = None,
) -> dict[Pair, ChangeMap]:
    """What the records after number `position`, up to `until`, change of each pair: everything, if
    they can't be read. Blocking.
    """
    watch, note = watch or Watch(), JournalRead(ring.directory)
    changed = {pair.id: (pair, pair.new_map()) for pair in pairs}
    try:
        with watch.at(note):
            reader = Reader(ring, position + 1) if pairs and position < until else None
        while reader is not None and reader.sequence <= until:
            with watch.at(note):
                _, records = reader.read(until, chunk_bytes)
            for record in records:
                if record.volume in changed and record.kind in (WRITE, ZERO, TRIM):
                    changed[record.volume][1].set(record.offset, record.length)
    except UNREADABLE:
        for _, everything in changed.values():
            everything.set_all()
    return dict(changed.values())

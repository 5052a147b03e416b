"""Scrubs: all pairs are compared by themselves, each once in `[scrub] every`.

A copy that nobody reads can rot for years, and is found to be wrong when it is needed. So each pair
is compared in the background, one at a time, at `rate`, and with most of the time left to clients
while these do anything. Where a scrub is belongs to the journal (`core/scrub_state.py`), so it goes
on after a restart.

What is found is recorded as by `verify`, and ends no earlier record: a pass may have taken days, in
which the pair was not compared all the time. A block that cannot be read is reported, and the scrub
goes on behind it. Only DUPLEX pairs are compared; what disturbs one (it is suspended, or a disk
hangs) makes it wait.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import scrub_state
from duplexd.core.markers import Scrubbed
from duplexd.core.pair_states import DUPLEX
from duplexd.engine.compare import PIECE_BYTES, Compared, Legs
from duplexd.engine.difference_record import Comparison
from duplexd.engine.periodic import Periodic
from duplexd.errors import DuplexdError
from duplexd.images.unreadable import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair
    from duplexd.engine.difference_record import DifferenceRecord
    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.verify import Verification
    from duplexd.engine.volumes import Volumes
    from duplexd.limits import EngineLimits
    from duplexd.runtime.clock import Clock


class Scrubs:
    """Of the pairs of a controller. `unreadable`: by volume, what a pass could not read and no
    marker says yet.
    """

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        verification: Verification,
        record: DifferenceRecord,
        events: Events,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._verification = verification
        self._record = record
        self._events = events
        self._clock = clock
        self._mark_bytes = limits.scrub_mark_bytes
        self._every_s: float | None = None
        self._rate = 0
        self._periodic = Periodic("scrub", timeline, limits.scrub_look_seconds, self._look)
        self._disturbed = 0  # the number of the pair that something disturbed last
        self.reading: Callable[[], bool] = _nobody_reads  # whether clients wait for a disk
        self.unreadable: dict[str, str] = {}

    def take(self, every_s: float | None, rate: int) -> None:
        """Begin, cease, or do it in another way. A pass that is under way goes on.

        Since when scrubs are wanted is kept over restarts: one every night must not hide a delay.
        """
        self._every_s, self._rate = every_s, rate
        ledger = self._timeline.ledger
        ledger.scrub_us = (ledger.scrub_us or self._timeline.now_us()) if every_s is not None else 0
        self._periodic.enable(every_s is not None)

    async def stop(self) -> None:
        """End the task; where it is, is in the journal."""
        await self._periodic.stop()

    async def _look(self) -> None:
        """A pair that is busy, or suspended, or whose disk hangs, which others report: later."""
        with suppress(DuplexdError, OSError):
            await self.look()

    async def look(self) -> None:
        """Scrub the pair that is due for the longest time, to its end, if there is one. One that
        something disturbed lets another go first, or that would wait for as long.
        """
        if self._every_s is None:
            return
        ready = {pair.id: pair for pair in self._volumes.all() if _is_ready(pair)}
        scrubs = {number: pair.record.scrub for number, pair in ready.items()}
        others = {number: scrubs[number] for number in scrubs if number != self._disturbed}
        now_us = self._timeline.now_us()
        due = scrub_state.due(others, self._every_s, now_us)
        if due is None:
            due = scrub_state.due(scrubs, self._every_s, now_us)
        if due is not None:
            self._disturbed = due
            await self._scrub(ready[due])
            self._disturbed = 0

    async def _scrub(self, pair: Pair) -> None:
        before, legs = pair.record.scrub, Legs(pair.primary, pair.copy_of)
        began_us = before.began_us if before.under_way else self._timeline.now_us()
        at = marked = before.at
        self.unreadable.pop(pair.name, None)
        if before.under_way and before.error:
            self.unreadable[pair.name] = before.error
        if not before.under_way:
            self._events.emit("scrub-started", volume=pair.name)
        mark = partial(self._mark, pair, legs, began_us)
        try:
            while at < pair.size and _is_ready(pair) and legs.are_of(pair):
                at += await self._piece(pair, legs, at)
                if at - marked >= self._mark_bytes and at < pair.size:
                    mark(at)
                    marked = at
        finally:
            if marked < at:
                mark(at)
        if at >= pair.size:
            self._events.emit("scrub-ended", volume=pair.name)

    async def _piece(self, pair: Pair, legs: Legs, at: int) -> int:
        """Compare, then leave the disks to others; how many bytes that was."""
        now, written, began = self._clock.monotonic, self._timeline.written, self._clock.monotonic()
        try:
            found = await self._verification.piece(pair, legs, at, pair.size)
        except UnreadableError as error:
            legs.check(pair)
            if pair.record.removed:  # its images are only closed
                return 0
            self.unreadable[pair.name] = why = error.strerror or str(error)
            self._events.emit("scrub-error", volume=pair.name, error=why, path=error.filename or "")
            length = min(PIECE_BYTES, pair.size - at)
            found = Compared(length, None, 0, (), length)
        if found.runs:
            await self._record.differ(Comparison(pair, legs), found.runs)
        busy = self._timeline.written != written or self.reading()
        took_s = now() - began
        await asyncio.sleep(scrub_state.pause_s(found.read_bytes, took_s, self._rate, busy))
        return found.length

    def _mark(self, pair: Pair, legs: Legs, began_us: int, at: int) -> None:
        """Where it is. A journal without room has more important things to keep."""
        timeline, scrub = self._timeline, pair.record.scrub

        def append() -> None:
            if not legs.are_of(pair) or timeline.failed:
                return
            ended, error = at >= pair.size, self.unreadable.get(pair.name, "")
            earlier = scrub.earlier if scrub.under_way else scrub.error
            with suppress(OSError):
                timeline.append(
                    Scrubbed(pair.id, 0, 0, timeline.now_us(), error)
                    if ended
                    else Scrubbed(pair.id, at, began_us, scrub.done_us, error, earlier)
                )
                if ended:
                    self.unreadable.pop(pair.name, None)

        timeline.when_at_rest(append)


def _is_ready(pair: Pair) -> bool:
    comparable = pair.state == DUPLEX and not pair.is_delayed
    return comparable and not pair.failed and pair.id > 0 and not pair.record.removed


def _nobody_reads() -> bool:
    return False

"""The marks of images say how far the journal was durable, so that a state directory that is an
older copy than its images is noticed at the start (`core/identity.py`).

Each start writes them, and each checkpoint those of the images that were written to (`samples.py`).
Between two checkpoints this part does, once a second if the journal was synced any further. The
number is durable in the journal first, so no power cut makes a mark say too much. The mark itself
is synced with its image at some time; one that is lost says less, and that is all.

Any of the marks shows it of the whole state. So a few of them each time are enough, however many
images there are: of those that were written to since their last sync, the ones that were written
longest ago. What cannot be marked, or hangs, is not to blame here: its next use finds that out.
"""

from __future__ import annotations

import asyncio
from heapq import nsmallest
from typing import TYPE_CHECKING, NamedTuple

from duplexd.engine.periodic import Periodic
from duplexd.images.absent import AbsentLeg
from duplexd.images.probe import brand
from duplexd.runtime.one_by_one import OneByOne
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.images.probe import Mark
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls

_EACH_TIME = 16  # images


class _Marking(NamedTuple):
    leg: Leg
    mark: Mark


class MarkNumbers:
    """Of one controller. `writing` is held while marks are written: a checkpoint holds it too, as
    it may give an image another id.
    """

    def __init__(
        self, timeline: Timeline, volumes: Volumes, legs: LegCalls, limits: EngineLimits
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._legs = legs
        self._carried: dict[Leg, Mark] = {}  # since this start
        self._left: set[Leg] = set()  # could not be marked, or hung
        self._number = 0  # that was looked at
        self._writes = OneByOne(
            legs.workers, _written, _disk_of, self._note, self._leave, self._leave
        )
        self._periodic = Periodic("mark numbers", timeline, limits.sync_interval_s, self.look)
        self.writing = asyncio.Lock()

    def start(self) -> None:
        """Begin to look."""
        self._periodic.enable(True)

    async def stop(self) -> None:
        """Cease. No mark is being written then."""
        await self._periodic.stop()

    def has(self, leg: Leg) -> bool:
        """Whether an image carries a mark of this start. Any thread."""
        return leg in self._carried

    def carries(self, leg: Leg, mark: Mark) -> None:
        """An image carries this mark from now on."""
        self._carried[leg] = mark
        self._left.discard(leg)

    def keep(self, legs: Container[Leg]) -> None:
        """Forget all other images."""
        self._carried = {leg: mark for leg, mark in self._carried.items() if leg in legs}
        self._left = {leg for leg in self._left if leg in legs}

    async def look(self) -> None:
        """Mark a few images, if the journal has come further."""
        number = self._timeline.writer.synced
        if number <= self._number:
            return
        self._number = number
        async with self.writing:
            behind = nsmallest(_EACH_TIME, self._behind(number), lambda each: each.mark.number)
            todo = [_Marking(leg, mark._replace(number=number)) for leg, mark in behind]
            if todo:
                await to_its_end(self._write(todo))

    def _behind(self, number: int) -> Iterator[_Marking]:
        for pair in self._volumes.all():
            dirty = (pair.primary, pair.primary_dirty), (pair.secondary, pair.secondary_dirty)
            for leg, is_dirty in dirty:
                if not is_dirty or leg is None or leg in self._left or isinstance(leg, AbsentLeg):
                    continue
                mark = self._carried.get(leg)
                if mark is not None and mark.number < number:
                    yield _Marking(leg, mark)

    async def _write(self, todo: list[_Marking]) -> None:
        await self._writes.call_all(todo, self._legs.patience.secondary_s)

    def _leave(self, each: _Marking) -> None:
        if self.has(each.leg):  # else nobody would forget it, and a reference keeps an image open
            self._left.add(each.leg)

    def _note(self, each: _Marking, written: bool) -> None:
        if not written:
            self._leave(each)
        elif self.has(each.leg):
            self._carried[each.leg] = each.mark


def _disk_of(each: _Marking) -> str:
    return each.leg.device


def _written(each: _Marking) -> bool:
    """In a worker: False for one that was closed meanwhile, whose disk fails, or that carries no
    marks.
    """
    try:
        return brand(each.leg, each.mark, durable=False)
    except OSError:
        return False

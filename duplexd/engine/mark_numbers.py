"""The marks of images say how far the journal was durable, so that a state directory that is an
older copy than its images is noticed at the start (`core/identity.py`).

Each start writes them, and each sync of an image writes its mark first, which makes it durable
(`samples.py`). Between two syncs this part does, once a second if the journal was synced any
further. The number is durable in the journal first, so no power cut makes a mark say too much. A
mark that is lost because its image was not synced since says less, and that is all.

Any of the marks shows it of the whole state. So a few of them each time are enough, however many
images there are: of those that were written to since their last sync, the ones that were written
longest ago. What cannot be marked, or hangs, is not to blame here: its next use finds that out.
Each call has a worker of its own, and one that hangs keeps its own image only from being marked
until it returns. Two of them stand for their disk, or each of its images would hang a thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from heapq import nsmallest
from typing import TYPE_CHECKING

from duplexd.core.pair_states import SUSPENDED
from duplexd.engine.periodic import Periodic
from duplexd.images.probe import brand
from duplexd.runtime.one_by_one import HANG_MAX
from duplexd.runtime.watch import HungError, Watch, patiently

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.images.probe import Mark
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls

_EACH_TIME = 16  # images


class MarkNumbers:
    """Of one controller."""

    def __init__(
        self, timeline: Timeline, volumes: Volumes, legs: LegCalls, limits: EngineLimits
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._legs = legs
        self._marks: dict[Leg, Mark] = {}  # as they were written last by this start
        self._left: set[Leg] = set()  # could not be marked
        self._number = 0  # that was looked at
        self._writing: dict[Leg, asyncio.Task[None]] = {}  # until that is over, or given up
        self._inside: set[Leg] = set()  # that a worker marks now, given up or not
        self._periodic = Periodic("mark numbers", timeline, limits.sync_interval_s, self.look)

    def start(self) -> None:
        """Begin to look."""
        self._periodic.enable(True)

    async def stop(self) -> None:
        """Cease. No mark is being written then, but by threads that hang."""
        await self._periodic.stop()
        await self.over(list(self._writing))

    def use(self, marks: Mapping[Leg, Mark]) -> set[Leg]:
        """From now on these images are marked, and no others. Their numbers are those of this call,
        unless they have been marked with these ids before. Returns those that were not used yet.
        """
        before = self._marks
        self._marks = {
            leg: before[leg] if leg in before and before[leg].id == mark.id else mark
            for leg, mark in marks.items()
        }
        self._left &= marks.keys()
        return marks.keys() - before.keys()

    def uses(self, leg: Leg) -> bool:
        """Whether an image is one of these. Any thread."""
        return leg in self._marks

    def use_also(self, leg: Leg, mark: Mark) -> None:
        """The same of a new image, or of one with a new id, which carries it already."""
        self._marks[leg] = mark
        self._left.discard(leg)

    def wrote(self, leg: Leg, mark: Mark, written: bool = True) -> bool:
        """An image carries this mark, or could not be marked. False too if it has another id by
        now, or is not used any more.
        """
        if leg not in self._marks or self._marks[leg].id != mark.id:
            return False
        if written:
            self.use_also(leg, mark)
        else:
            self._left.add(leg)
        return written

    def write(self, leg: Leg) -> Mark | None:
        """In a worker: write the mark that an image should carry by now, and return it; None if
        there is none, or it takes none. Raises OSError.
        """
        mark = self._marks.get(leg)
        if mark is None:
            return None
        mark = mark._replace(number=self._timeline.writer.synced)
        return mark if brand(leg, mark, durable=False) else None

    async def over(self, legs: Iterable[Leg]) -> None:
        """Wait until none of these is being marked by a look, but for those that hang."""
        if writing := [self._writing[leg] for leg in legs if leg in self._writing]:
            await asyncio.wait(writing)

    def hangs(self, leg: Leg) -> bool:
        """Whether a look that was given up may still mark it."""
        return leg in self._inside

    async def look(self) -> None:
        """Begin to mark a few images, if the journal has come further."""
        number = self._timeline.writer.synced
        if number <= self._number:
            return
        self._number = number
        loop = asyncio.get_running_loop()
        for leg in nsmallest(_EACH_TIME, self._behind(number), lambda leg: self._marks[leg].number):
            mark = self._marks[leg]._replace(number=number)
            self._writing[leg] = loop.create_task(self._write(leg, mark), name="mark an image")

    def _behind(self, number: int) -> Iterator[Leg]:
        unanswered = {*self._writing, *self._inside}
        on_disk = Counter(leg.device for leg in unanswered)
        for leg in self._dirty():
            is_free = leg not in unanswered and on_disk[leg.device] < HANG_MAX
            mark = self._marks.get(leg)
            if is_free and leg not in self._left and mark is not None and mark.number < number:
                yield leg

    def _dirty(self) -> Iterator[Leg]:
        for pair in self._volumes.all():
            secondary = pair.secondary
            if pair.primary_dirty:
                yield pair.primary
            is_at_cut = pair.state == SUSPENDED  # since they were planned, or on the way there
            if secondary is not None and pair.secondary_dirty and not is_at_cut:
                yield secondary

    async def _write(self, leg: Leg, mark: Mark) -> None:
        watch: Watch[Leg] = Watch()
        seconds = self._legs.patience.secondary_s
        call = partial(self._call, watch, leg, mark)
        try:
            written = await patiently(self._legs.workers.of(leg), watch, call, lambda _leg: seconds)
        except HungError:
            return
        finally:
            del self._writing[leg]
        self.wrote(leg, mark, written)

    def _call(self, watch: Watch[Leg], leg: Leg, mark: Mark) -> bool:
        """In a worker: False for one that was closed meanwhile, whose disk fails, or that carries
        no marks.
        """
        self._inside.add(leg)
        try:
            with watch.at(leg):
                return brand(leg, mark, durable=False)
        except OSError:
            return False
        finally:
            self._inside.discard(leg)

"""What a checkpoint records of the images: their ids, times, and samples of their content.

A start compares them with what it finds (`core/identity.py`). A sample has to be exact: the content
of a block on the medium at the checkpoint's number, although writes go on while it is taken. So

    blocks written last  come from the journal, up to that number: no leg is read
    other blocks         are read after the sync, and dropped if their region was touched meanwhile

At which number an image is, and what stays true of it until the next checkpoint, is decided in
`image_snapshot.py`. The number of samples of an image depends on the number of images, so that
neither a checkpoint nor a start reads more than SAMPLES_MAX blocks, which takes a disk with a
moving head about a minute.

The time is taken before the sync, which makes it durable: after a power cut no image is older. So
is the mark written, and only a start whose mark is durable is recorded as the last one that used an
image.
"""

from __future__ import annotations

import errno
import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from duplexd.core import pair_states
from duplexd.core.image_record import Image
from duplexd.core.patience import SYNC
from duplexd.engine.image_snapshot import ImageSnapshot, PairSnapshot, Plan
from duplexd.engine.leg_syncs import Outcome, Planned
from duplexd.engine.recovery.primary_replay import touching
from duplexd.engine.sampled_blocks import UNWRITTEN, Bounds, Recent, recent
from duplexd.images.absent import AbsentLeg
from duplexd.images.place import truncated
from duplexd.images.probe import Mark, brand
from duplexd.runtime.tasks import more_as_they_wait, to_its_end
from duplexd.runtime.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from duplexd.core.pair import Pair, PairRecord
    from duplexd.core.patience import Waited
    from duplexd.engine.mark_numbers import MarkNumbers
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.stamp import Stamp

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")

SAMPLES_MAX = 8192  # of all images
_PER_IMAGE_MAX, _PER_IMAGE_MIN = 64, 4
_NEVER = 1 << 62
_AT_ONCE_MAX = 32  # images that are looked at
_CHUNK_BYTES = 1 << 20  # of the journal, read at once


class _UnsyncedError(OSError):
    """The sync of an image failed."""


class Samples:
    """Of one controller. `sync` runs in a worker, the rest in the loop."""

    def __init__(
        self,
        timeline: Timeline,
        legs: LegCalls,
        numbers: MarkNumbers,
        name: str,
        last: int = 0,
        complete: bool = False,
    ) -> None:
        """`last`: the number of the checkpoint that was read at the start. `complete`: no record
        after it was lost before the start.
        """
        self._timeline = timeline
        self._legs = legs
        self._marks = numbers
        self._owner = timeline.writer.ring.controller.hex()
        self._name = name
        self._begun_at = timeline.writer.sequence  # by this start
        self._stamps: dict[Leg, Stamp] = {}  # from before the last sync of each leg
        self._numbers: dict[Leg, int] = {}  # the last number by then
        self._written: set[Leg] = set()  # synced since they were recorded last
        self._gone: set[Leg] = set()  # primaries that had failed at the last checkpoint
        self._gone_then: set[Leg] = set()  # the same at the coming one
        self._taken: dict[Leg, Stamp] = {}  # those of them that the coming checkpoint records
        self._touched: dict[int, set[int]] = {}  # regions, by volume, since the last checkpoint
        self._dirty: set[int] = set()  # volumes whose primaries were written to since then
        self._unsynced: list[Outcome] = []  # syncs of marks that failed
        self._new: dict[Leg, str] = {}  # ids of images that are not recorded yet
        self._looked: set[Leg] = set()  # by this start, and marked if they are to be
        self._marked: set[Leg] = set()  # durably, by this start
        self._recorded = False  # by this start
        self._complete = complete  # the records since the last checkpoint
        self._last = last
        self._swaps: dict[int, int] = {}  # of each volume, at the last checkpoint
        self._copies: dict[int, int] = {}  # the same of copies, and at the coming one
        self._copies_then: dict[int, int] = {}

    def sync(self, leg: Leg) -> Callable[[], None]:
        """Sync a leg that was written to, and its time; returns what notes that.

        Raises OSError, also for a leg that has become shorter: later writes may make it long again,
        with zeroes where its content was.
        """
        number, stamp = self._timeline.written, leg.stamp()
        if stamp.size < leg.size:
            raise OSError(errno.EIO, truncated(stamp.size, leg.size), leg.path)
        try:
            mark = self._marks.write(leg)
        except OSError:
            mark = None  # it keeps the one it has; whether the image fails, its sync says
        leg.sync(times=True)
        return lambda: self._synced(leg, stamp, number, mark)

    def _synced(self, leg: Leg, stamp: Stamp, number: int, mark: Mark | None) -> None:
        self._stamps[leg], self._numbers[leg] = stamp, number
        self._written.add(leg)
        if mark is not None and self._marks.wrote(leg, mark):
            self._marked.add(leg)

    async def marks_over(self, legs: Iterable[Leg]) -> None:
        """Return when no mark is being written beside a sync of these."""
        await self._marks.over(legs)

    def plan(self, saved: Json, pairs: Sequence[Pair]) -> Plan:
        """At rest, before the regions are closed: `saved` is the checkpoint."""
        by_id = {pair["id"]: pair for pair in saved["pairs"]}
        planned = [self._plan_one(pair, by_id[pair.id]) for pair in pairs]
        self._copies_then = {pair.id: pair.record.copies for pair in pairs}
        self._gone_then = {pair.primary for pair in pairs if pair.failed}
        legs = {leg for pair in planned for leg in pair.legs if leg is not None}
        number = int(saved["sequence"])
        began = self._marks.use(dict(self._known_marks(planned, number)))
        self._looked = (self._looked & legs) - began
        self._marked -= began.union(*(_unrecorded(pair) for pair in planned))
        self._marked &= legs
        self._new = {leg: number for leg, number in self._new.items() if leg in legs}
        self._written &= legs
        self._stamps = {leg: stamp for leg, stamp in self._stamps.items() if leg in legs}
        self._numbers = {leg: self._numbers[leg] for leg in self._stamps}
        self._taken = {}
        per_image = max(min(SAMPLES_MAX // max(len(legs), 1), _PER_IMAGE_MAX), _PER_IMAGE_MIN)
        segment, end = self._timeline.writer.segment, int(saved["offset"])
        return Plan(number, planned, segment, end, per_image)

    def _known_marks(
        self, planned: Iterable[PairSnapshot], number: int
    ) -> Iterator[tuple[Leg, Mark]]:
        """Of the images that are recorded and in use. A secondary that is SUSPENDED is left alone:
        who reads it at its cut would find it changed.
        """
        for each in planned:
            ours = None if each.pair.failed else each.legs[0]
            theirs = None if each.pair.state == pair_states.SUSPENDED else each.legs[1]
            for leg, image in zip((ours, theirs), each.images, strict=True):
                if leg is not None and image is not None and not isinstance(leg, AbsentLeg):
                    yield leg, self._mark(image.id, each.pair, number)

    def _plan_one(self, pair: Pair, saved: Json) -> PairSnapshot:
        touched = self._touched.setdefault(pair.id, set())
        touched.update(saved["regions"])
        if pair.primary_dirty:  # from now on it is clean, whatever becomes of this checkpoint
            self._dirty.add(pair.id)
        if not self._recorded:  # an unclean stop may have lost records of these
            touched.update(pair.regions.open)
        known, swaps = self._known(pair, saved, touched), pair.record.swaps
        by_records = self._complete and self.has_records(pair.record)
        return PairSnapshot(pair, saved, (pair.primary, pair.secondary), known, swaps, by_records)

    def has_records(self, record: PairRecord) -> bool:
        """Whether each change of its primary since the last checkpoint has a record: it was no
        secondary, as only that is copied to; or it was one that held everything, and was not.
        """
        if self._swaps.get(record.id, 0) == record.swaps:
            return True
        image, copies = record.primary_image, self._copies.get(record.id, 0)
        return image is not None and image.sampled_at == self._last and copies == record.copies_then

    def _is_as_before(self, pair: Pair, saved: Json) -> bool:
        """Whether its images have the roles of the last checkpoint, and none was copied to."""
        if pair.secondary is not None and None in saved["images"]:
            return False  # it had no secondary; or one was copied to, as that of another role
        swaps, copies = self._swaps.get(pair.id, 0), self._copies.get(pair.id, 0)
        return (swaps, copies) == (pair.record.swaps, pair.record.copies)

    def _known(self, pair: Pair, saved: Json, touched: set[int]) -> frozenset[int] | None:
        """Where it was written to since the last checkpoint; None if that is not known."""
        if pair.secondary is None:  # nobody notes regions
            return None if pair.id in self._dirty else frozenset()
        return frozenset(touched) if self._is_as_before(pair, saved) else None

    async def take(self, plan: Plan) -> list[Outcome]:
        """Record the images, in the checkpoint that the plan was made for, once it is durable.

        An image that cannot be read here stays recorded as it was: its next use finds that out.
        Returns those whose first mark could not be synced: what was written beside it may be lost
        with it, and no later sync would say so.
        """
        self._unsynced = []
        try:
            written, unknown = await self._recent(plan), UNWRITTEN
        except OSError as error:  # then no secondary is known to be current, or where it trails
            log.warning("the journal could not be read for samples of images", error=str(error))
            written, unknown = {}, UNWRITTEN._replace(sequence=_NEVER)
        tasks = [
            ImageSnapshot(
                pair,
                role,
                written.get(pair.pair.id, unknown),
                plan,
                pair.images[role],
                self._last,
            )
            for pair in plan.pairs
            for role, leg in enumerate(pair.legs)
            if leg is not None
        ]
        todo = [task for task in tasks if self._is_due(task)]
        for task in tasks:
            if not isinstance(task.leg, AbsentLeg):
                task.record(task.unread())
        await more_as_they_wait(todo, self._record, _AT_ONCE_MAX)
        return self._unsynced

    def _is_due(self, task: ImageSnapshot) -> bool:
        """Whether an image has to be looked at: written to, not marked yet, or sampled at last."""
        known = task.known
        if (
            task.has_failed
            or known is None
            or task.leg in self._written
            or task.leg not in self._looked
        ):
            return True
        return bool(task.number) and (known.loose or not task.is_sampled)

    async def _recent(self, plan: Plan) -> dict[int, Recent]:
        def read() -> dict[int, Recent]:
            number, first = plan.number, self._begun_at
            bounds = {
                each.pair.id: Bounds(
                    max(each.after(number), first), each.saved["applied"], self._last, each.offsets
                )
                for each in plan.pairs
            }
            return recent(plan.segment, plan.end, plan.per_image, bounds)

        return await to_its_end(self._legs.on_journal(self._timeline.writer.ring, read))

    async def _record(self, task: ImageSnapshot) -> None:
        pair, leg = task.pair, task.leg
        stamp, written = self._stamps.get(leg), leg in self._written
        if task.has_failed:
            task.record((await self._with_written(task)).unseen())
            return
        image: Image | None
        try:
            image = await self._looked_at(task, stamp, written)
        except OSError as error:
            if isinstance(error, _UnsyncedError) and not _has_failed(pair.pair, leg):
                planned = Planned(pair.pair, leg, dirty=True, looked_for=False)
                self._unsynced.append(Outcome(planned, None, error))
            task = await self._with_written(task)
            image = task.still_absent() if _is_settled(leg) else task.unseen()
        else:
            self._looked.add(leg)
            if stamp is not None:
                self._taken[leg] = stamp
        task.record(image)

    async def _with_written(self, task: ImageSnapshot) -> ImageSnapshot:
        """With what the journal has since the last checkpoint for a primary that failed: an older
        copy may differ only in other blocks of the regions that were written to. If it had failed
        by then, that is nothing: what is served again is another leg. What a start has counted of
        one that failed in it, that start has left out.
        """
        pair, known = task.pair.pair, task.known
        if task.role or known is None:
            return task
        if pair.lacks is not None or (task.leg in self._gone and task.pair.by_records):
            return replace(task, written=())
        if not task.pair.by_records:
            return task
        first, last = self._last + 1, task.plan.number
        ring = self._timeline.writer.ring
        watch: Watch[Waited] = Watch()
        look = partial(touching, ring, pair, first, last, known.offsets, _CHUNK_BYTES, watch)
        try:
            written = await to_its_end(self._legs.walk(ring, watch, look))
            return replace(task, written=written)
        except OSError:  # that disk hangs: all of the regions may have been written to
            return task

    async def _looked_at(self, task: ImageSnapshot, stamp: Stamp | None, written: bool) -> Image:
        leg, is_new = task.leg, task.known is None
        if is_new:  # it may be known by another id, in a call that writes that when it returns
            await self._marks.over((leg,))
            if self._marks.hangs(leg):
                raise OSError(errno.EBUSY, "a call has not returned", leg.path)
            self._new.setdefault(leg, secrets.token_hex(16))
        image, mark = await to_its_end(
            self._legs.on(task.pair.pair, leg, SYNC, lambda: self._image(task, stamp, written))
        )
        if mark is not None and is_new:
            self._marks.use_also(leg, mark)
            self._marked.add(leg)
        elif mark is not None:
            self._marks.wrote(leg, mark)
        return image

    def _mark(self, image_id: str, pair: Pair, number: int) -> Mark:
        """That an image is to carry. `number` has to be durable before it is written."""
        starts = self._timeline.ledger.starts
        return Mark(image_id, self._owner, self._name, pair.name, starts, number)

    def recorded(self, plan: Plan) -> None:
        """The checkpoint is on the disk. Meanwhile images may have changed roles, or have come."""
        ledger = self._timeline.ledger
        for leg, stamp in self._taken.items():
            if self._stamps.get(leg) is stamp and self._numbers[leg] <= plan.number:
                self._written.discard(leg)
        self._touched.clear()
        self._dirty.clear()
        self._recorded = self._complete = True
        self._last = plan.number
        self._swaps = {each.pair.id: each.swaps for each in plan.pairs}
        self._copies, self._gone = self._copies_then, self._gone_then
        for each in plan.pairs:
            for image in each.legs:
                if isinstance(image, AbsentLeg):
                    image.settled = True
            pair, record = each.pair, each.pair.record
            ours, theirs = each.now
            if record.swaps != each.swaps:  # a swap may have given up changes of the journal
                number = self._timeline.written
                ours, theirs = (image and image.taken_at(number) for image in (ours, theirs))
            ledger.use_images(record, ours, theirs if pair.secondary is not None else None)

    # ------------------------------------------------------------------------------- in a worker

    def _image(
        self, task: ImageSnapshot, stamp: Stamp | None, written: bool
    ) -> tuple[Image, Mark | None]:
        """What is recorded of it, and the mark that was written for that."""
        image, mark = self._recognisable(task)
        sampled = not task.number or task.is_sampled
        if task.known is not None and not written and not image.loose and sampled:
            return image, mark
        stamp = stamp or task.leg.stamp()
        image = image._replace(
            path=task.leg.path,
            place=stamp.place,
            mtime_ns=stamp.mtime_ns,
            samples=task.samples(),
            sampled_at=task.number,
            loose=False,
            until_ns=0,
        )
        return image, mark

    def _recognisable(self, task: ImageSnapshot) -> tuple[Image, Mark | None]:
        """Its id, and its mark, which each start writes, unless a sync has. A new one is tried
        again with the same id: a mark that hung, and was given up, may be written after the next.
        """
        leg, image, mark = task.leg, task.unread(), None
        if image is None:
            mark = self._brand(task, self._new[leg], durable=True)
            marked, number = mark is not None, task.plan.number
            starts = self._timeline.ledger.starts
            return Image(self._new[leg], leg.path, "", 0, marked, starts, after=number), mark
        if leg not in self._looked:
            marked = bool(leg.read_mark())
            if self._marks.uses(leg) and leg not in self._marked:
                mark = self._brand(task, image.id, durable=not marked)
                marked = mark is not None
            image = image._replace(path=leg.path, place=leg.stamp().place, marked=marked)
        if leg in self._marked:
            image = image._replace(marked=True, generation=self._timeline.ledger.starts)
        return image, mark

    def _brand(self, task: ImageSnapshot, image_id: str, durable: bool) -> Mark | None:
        """None if it takes no mark. The first one of an image is durable: once it is recorded that
        it has one, an image without is another.
        """
        leg, mark = task.leg, self._mark(image_id, task.pair.pair, task.plan.number)
        try:
            return mark if brand(leg, mark, durable) else None
        except OSError as error:
            if not durable:
                raise
            raise _UnsyncedError(error.errno, error.strerror, leg.path) from error


def _unrecorded(pair: PairSnapshot) -> set[Leg | None]:
    """Those that have no id, or no longer the one that they had."""
    return {leg for leg, image in zip(pair.legs, pair.images, strict=True) if image is None}


def _has_failed(pair: Pair, leg: Leg) -> bool:
    """Whether nothing is claimed of the image anyhow."""
    lost = leg is pair.secondary and pair.state == pair_states.SUSPENDED and not pair.usable
    return lost or bool(pair.failed) or isinstance(leg, AbsentLeg)


def _is_settled(leg: Leg) -> bool:
    """Whether what is recorded of an absent image allows for all that may be on it."""
    return isinstance(leg, AbsentLeg) and leg.settled

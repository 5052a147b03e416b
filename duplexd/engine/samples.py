"""What a checkpoint records of the images: their ids, times, and samples of their content.

A start compares them with what it finds (`core/identity.py`). A sample has to be exact: the content
of a block on the medium at the checkpoint's number, although writes go on while it is taken. So

    blocks written last  come from the journal, up to that number: no leg is read
    other blocks         are read after the sync, and dropped if their region was touched meanwhile

An image that was not written to since it was recorded stays recorded as it was. The number of
samples of an image depends on the number of images, so that neither a checkpoint nor a start reads
more than SAMPLES_MAX blocks, which takes a disk with a moving head about a minute.

The time is taken before the sync, which makes it durable: after a power cut no image is older.
"""

from __future__ import annotations

import errno
import secrets
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.core.image_record import Image
from duplexd.core.patience import SYNC
from duplexd.core.since import EVERYTHING
from duplexd.engine.leg_syncs import Outcome, Planned
from duplexd.engine.sampled_blocks import Recent, bounded, fixed, read
from duplexd.engine.sampled_blocks import recent as recent_blocks
from duplexd.images.absent import AbsentLeg
from duplexd.images.place import truncated
from duplexd.images.probe import Mark, brand
from duplexd.runtime.tasks import several_at_once, to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.journal.segment import Segment
    from duplexd.json_object import Json
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.stamp import Stamp

SAMPLES_MAX = 8192  # of all images
_PER_IMAGE_MAX, _PER_IMAGE_MIN = 64, 4
_NEVER = 1 << 62
_AT_ONCE = 32  # images that are looked at


class _Pair(NamedTuple):
    """A pair at the checkpoint's number; `saved` is its part of the checkpoint. `legs`: its primary
    and secondary. `touched`: regions that were written to since the checkpoint before, None if that
    is not known: nobody notes what is copied to a secondary that takes the primary's place.
    """

    pair: Pair
    saved: Json
    legs: tuple[Leg, Leg | None]
    touched: frozenset[int] | None
    number: int  # of the checkpoint
    swaps: int  # before it

    @property
    def after(self) -> int:
        """The number after which its changes are on its images: they may have been adopted."""
        images: tuple[Image | None, Image | None] = self.saved["images"]
        ours, theirs = images
        if ours is None:
            return self.number
        return max(ours.after, theirs.after if theirs is not None else 0)

    def is_old(self, offset: int) -> bool:
        """Whether nothing was written there since the checkpoint before."""
        return self.touched is not None and offset >> self.pair.regions.shift not in self.touched


class Plan(NamedTuple):
    """What is to be recorded at a checkpoint."""

    number: int
    pairs: list[_Pair]
    segment: Segment
    end: int  # of the checkpoint's last record, in `segment`
    per_image: int


class _UnsyncedError(OSError):
    """The sync of an image failed."""


class _Task(NamedTuple):
    """One image to be recorded. `role`: 0 for the primary, 1 for the secondary."""

    pair: _Pair
    role: int
    recent: Recent
    was_current: bool  # at the last checkpoint
    plan: Plan

    @property
    def leg(self) -> Leg:
        """That is open."""
        leg = self.pair.legs[self.role]
        assert leg is not None
        return leg

    @property
    def has_failed(self) -> bool:
        """Whether it is a primary that may lack what the journal has: its volume is not served."""
        return (
            self.role == 0 and bool(self.pair.pair.failed) and not isinstance(self.leg, AbsentLeg)
        )

    @property
    def known(self) -> Image | None:
        """As it was recorded before."""
        images: tuple[Image | None, Image | None] = self.pair.saved["images"]
        return images[self.role]

    def record(self, image: Image | None) -> None:
        """In the checkpoint."""
        images = self.pair.saved["images"]
        self.pair.saved["images"] = tuple(
            image if role == self.role else other for role, other in enumerate(images)
        )


class Samples:
    """Of one controller. `sync` runs in a worker, the rest in the loop."""

    def __init__(self, timeline: Timeline, legs: LegCalls, name: str) -> None:
        self._timeline = timeline
        self._legs = legs
        self._owner = timeline.writer.ring.controller.hex()
        self._name = name
        self._begun_at = timeline.writer.sequence  # by this start
        self._stamps: dict[Leg, Stamp] = {}  # from before the last sync of each leg
        self._numbers: dict[Leg, int] = {}  # the last number by then
        self._written: set[Leg] = set()  # synced since they were recorded last
        self._taken: dict[Leg, Stamp] = {}  # those of them that the coming checkpoint records
        self._touched: dict[int, set[int]] = {}  # regions, by volume, since the last checkpoint
        # How often each volume with a secondary had been swapped; None before the first checkpoint
        self._noted: dict[int, int] | None = None
        self._unsynced: list[Outcome] = []  # syncs of marks that failed
        self._branded: set[Leg] = set()  # carry the mark of this start
        # That held all changes at the last checkpoint, with their role, and the swaps before it
        self._current: set[tuple[Leg, int, int]] = set()

    def sync(self, leg: Leg) -> Callable[[], None]:
        """Sync a leg that was written to, and its time; returns what notes that.

        Raises OSError, also for a leg that has become shorter: later writes may make it long again,
        with zeroes where its content was.
        """
        number, stamp = self._timeline.written, leg.stamp()
        if stamp.size < leg.size:
            raise OSError(errno.EIO, truncated(stamp.size, leg.size), leg.path)
        leg.sync(times=True)
        return lambda: self._synced(leg, stamp, number)

    def _synced(self, leg: Leg, stamp: Stamp, number: int) -> None:
        self._stamps[leg], self._numbers[leg] = stamp, number
        self._written.add(leg)

    def plan(self, saved: Json, pairs: Sequence[Pair]) -> Plan:
        """At rest, before the regions are closed: `saved` is the checkpoint."""
        by_id = {pair["id"]: pair for pair in saved["pairs"]}
        written = int(saved["sequence"])
        planned = [self._plan_one(pair, by_id[pair.id], written) for pair in pairs]
        legs = {leg for pair in planned for leg in pair.legs if leg is not None}
        self._branded &= legs
        self._written &= legs
        self._stamps = {leg: stamp for leg, stamp in self._stamps.items() if leg in legs}
        self._numbers = {leg: self._numbers[leg] for leg in self._stamps}
        self._taken = {}
        per_image = max(min(SAMPLES_MAX // max(len(legs), 1), _PER_IMAGE_MAX), _PER_IMAGE_MIN)
        return Plan(written, planned, self._timeline.writer.segment, saved["offset"], per_image)

    def _plan_one(self, pair: Pair, saved: Json, written: int) -> _Pair:
        touched = self._touched.setdefault(pair.id, set())
        touched.update(saved["regions"])
        swaps = pair.record.swaps
        before = 0 if self._noted is None else self._noted.get(pair.id)
        is_noted = pair.secondary is not None and before == swaps
        known = frozenset(touched) if is_noted else None
        return _Pair(pair, saved, (pair.primary, pair.secondary), known, written, swaps)

    async def take(self, plan: Plan) -> list[Outcome]:
        """Record the images, in the checkpoint that the plan was made for, once it is durable.

        An image that cannot be read here stays recorded as it was: its next use finds that out.
        Returns those whose first mark could not be synced: what was written beside it may be lost
        with it, and no later sync would say so.
        """
        self._unsynced = []
        try:
            recent, unknown = await self._recent(plan), Recent({}, 0)
        except OSError:  # then no secondary is known to be current
            recent, unknown = {}, Recent({}, _NEVER)
        tasks = [
            _Task(
                pair,
                role,
                recent.get(pair.pair.id, unknown),
                (leg, role, pair.pair.record.swaps) in self._current,
                plan,
            )
            for pair in plan.pairs
            for role, leg in enumerate(pair.legs)
            if leg is not None
        ]
        # While a pair has no secondary, nobody notes which regions of it are written to; nor what
        # is copied to the former primary after a swap.
        self._current = {
            (task.leg, task.role, task.pair.pair.record.swaps)
            for task in tasks
            if _is_current(task) and task.pair.legs[1]
        }
        todo = [task for task in tasks if self._is_due(task)]
        for task in tasks:
            # one that is about to get changes from before this checkpoint
            if not (_has_arrived(task) or isinstance(task.leg, AbsentLeg)):
                task.record(task.known and task.known._replace(samples=()))
        await several_at_once(todo, self._record, _AT_ONCE)
        return self._unsynced

    def _is_due(self, task: _Task) -> bool:
        """Whether an image has to be looked at: written to, not marked yet, or sampled at last."""
        known = task.known
        if (
            task.has_failed
            or known is None
            or task.leg in self._written
            or task.leg not in self._branded
        ):
            return True
        return (known.loose or not known.samples) and _has_arrived(task)

    async def _recent(self, plan: Plan) -> dict[int, Recent]:
        def read() -> dict[int, Recent]:
            after = {pair.pair.id: max(pair.after, self._begun_at) for pair in plan.pairs}
            return recent_blocks(plan.segment, plan.end, plan.per_image, after)

        return await to_its_end(self._legs.workers.run(read))

    async def _record(self, task: _Task) -> None:
        pair, leg, known = task.pair, task.leg, task.known
        stamp, written = self._stamps.get(leg), leg in self._written
        if task.has_failed:
            task.record(_unseen(task))
            return
        try:
            image: Image | None = await to_its_end(
                self._legs.on(pair.pair, leg, SYNC, lambda: self._image(task, stamp, written))
            )
        except OSError as error:
            if isinstance(error, _UnsyncedError) and not _has_failed(pair.pair, leg):
                planned = Planned(pair.pair, leg, dirty=True, looked_for=False)
                self._unsynced.append(Outcome(planned, None, error))
            image = known if _is_settled(leg) else _unseen(task)
        else:
            self._branded.add(leg)
            if stamp is not None:
                self._taken[leg] = stamp
        task.record(image)

    def recorded(self, plan: Plan) -> None:
        """The checkpoint is on the disk. Meanwhile images may have changed roles, or have come."""
        ledger = self._timeline.ledger
        for leg, stamp in self._taken.items():
            if self._stamps.get(leg) is stamp and self._numbers[leg] <= plan.number:
                self._written.discard(leg)
        self._touched.clear()
        self._noted = {pair.pair.id: pair.swaps for pair in plan.pairs if pair.legs[1] is not None}
        for pair, saved, legs, *_ in plan.pairs:
            record, images = pair.record, dict(zip(legs, saved["images"], strict=True))
            ours = images.get(pair.primary, record.primary_image)
            theirs = images.get(pair.secondary, record.secondary_image)
            ledger.use_images(record, ours, theirs if pair.secondary is not None else None)

    # ------------------------------------------------------------------------------- in a worker

    def _image(self, task: _Task, stamp: Stamp | None, written: bool) -> Image:
        image = self._marked(task, written)
        if task.known is not None and not written and not image.loose:
            return image
        stamp = stamp or task.leg.stamp()
        return image._replace(
            path=task.leg.path,
            place=stamp.place,
            mtime_ns=stamp.mtime_ns,
            samples=_samples(task, dict(image.samples)),
            loose=False,
            until_ns=0,
        )

    def _marked(self, task: _Task, synced: bool) -> Image:
        """Its id and mark, which are written once in each run of the daemon. That of a known image
        is durable, and so recorded, from its next sync on.
        """
        leg, known, generation = task.leg, task.known, self._timeline.ledger.starts
        if known is not None and leg in self._branded:
            return known._replace(generation=generation) if synced and known.marked else known
        number = secrets.token_hex(16) if known is None else known.id
        mark = Mark(number, self._owner, self._name, task.pair.pair.name, generation)
        marked = _first_mark(leg, mark) if known is None else brand(leg, mark, durable=False)
        if known is None:
            after = task.pair.number
            return Image(number, leg.path, "", 0, marked, generation, after=after)
        return known._replace(path=leg.path, place=leg.stamp().place, marked=marked)


def _first_mark(leg: Leg, mark: Mark) -> bool:
    try:
        return brand(leg, mark, durable=True)
    except OSError as error:
        raise _UnsyncedError(error.errno, error.strerror, leg.path) from error


def _has_failed(pair: Pair, leg: Leg) -> bool:
    """Whether nothing is claimed of the image anyhow."""
    lost = leg is pair.secondary and pair.state == pair_states.SUSPENDED and not pair.usable
    return lost or bool(pair.failed) or isinstance(leg, AbsentLeg)


def _is_settled(leg: Leg) -> bool:
    """Whether what is recorded of an absent image allows for all that may be on it."""
    settled = isinstance(leg, AbsentLeg) and leg.settled
    if isinstance(leg, AbsentLeg):
        leg.settled = True
    return settled


def _unseen(task: _Task) -> Image | None:
    """An image that is not there, or fails: what was written since the last checkpoint may be on
    it, or not. A call that hangs may also change its time when it returns at last.
    """
    pair, leg, known = task.pair, task.leg, task.known
    touched = EVERYTHING if pair.touched is None else pair.touched
    is_busy = isinstance(leg, AbsentLeg) and leg.busy
    if known is None or (touched == frozenset() and not is_busy):
        return known
    return known.written(touched, pair.pair.regions.shift)


def _samples(task: _Task, known: dict[int, int]) -> tuple[tuple[int, int], ...]:
    pair, recent, plan = task.pair, task.recent.blocks, task.plan
    always = fixed(pair.pair.id, pair.pair.size, plan.per_image // 2)
    wanted = always | known.keys()  # what was written last before this start is so still
    if _is_current(task):
        kept = {
            offset: crc
            for offset, crc in known.items()
            if task.was_current and pair.is_old(offset) and offset not in recent
        }
        found = read(task.leg, wanted - kept.keys() - recent.keys(), _untouched(pair))
        return bounded({**kept, **found, **recent}, always, plan.per_image)
    if _is_at_cut(pair):
        found = read(task.leg, wanted | recent.keys(), _still_at_cut(pair))
        return bounded(found, always, plan.per_image)
    return ()


def _untouched(pair: _Pair) -> Callable[[int], bool]:
    """Whether nothing was written there since the checkpoint's number. The write path says where it
    is going to write before it does; of a pair without a secondary only that it does.
    """
    of, regions = pair.pair, pair.pair.regions
    if pair.legs[1] is None:
        return lambda _offset: not of.primary_dirty
    return lambda offset: offset >> regions.shift not in regions.touched


def _has_arrived(task: _Task) -> bool:
    """Whether all changes that it will get are in the journal after the checkpoint."""
    return _is_current(task) or _is_at_cut(task.pair)


def _is_current(task: _Task) -> bool:
    """Whether the image held all changes of the volume."""
    if task.role == 0:
        return True
    first, saved = max(task.plan.segment.first - 1, task.recent.sequence), task.pair.saved
    return saved["state"] == pair_states.DUPLEX and bool(saved["applied"] >= first)


def _is_at_cut(pair: _Pair) -> bool:
    saved, cut = pair.saved, pair.saved["cut"]
    at_cut = cut is not None and saved["applied"] >= cut[1]
    return saved["state"] == pair_states.SUSPENDED and saved["usable"] and at_cut


def _still_at_cut(pair: _Pair) -> Callable[[int], bool]:
    """Whether nothing is written to the secondary, or was meanwhile."""
    of, state = pair.pair, pair.saved["state"]
    return lambda _offset: of.state == state and not of.secondary_dirty

"""Checkpoints, and syncs of the legs.

A checkpoint records that both legs durably hold all changes up to a number, and the states at that
number. Recovery starts from it, and journal segments before it may be recycled. It syncs the
journal, then the legs, then replaces the checkpoint file; until then the old one stays valid.

A leg is marked clean when its sync is planned (`leg_syncs.py`); a write during the sync marks it
dirty again. One that a suspend is syncing at that moment is clean, and not durable yet: a
checkpoint waits for that sync too. Therefore a planned sync always runs to completion, even if its
caller is cancelled, and a checkpoint that fails marks the legs dirty again.

A primary that cannot be synced, or hangs, has failed. A checkpoint is then taken only if
`FailedLegs.on_primary_failed` has made another image the primary, or has noted that the volume is
not served: what is called durable has to be on a primary.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, NamedTuple

import structlog

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from duplexd.core.patience import SYNC
from duplexd.engine.checkpoint_on_disk import UNKNOWN_MOUNT, forget_mount, replay_floor
from duplexd.engine.hung import leave_hung, took_its_place
from duplexd.engine.leg_syncs import LegSyncs, Outcome, Planned, make_dirty
from duplexd.engine.opening import why_absent
from duplexd.errors import DamageError, DuplexdError
from duplexd.images.absent import AbsentLeg
from duplexd.replication.leg_calls import JournalHungError
from duplexd.runtime.tasks import to_its_end
from duplexd.runtime.watch import HungError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from duplexd.core.pair import Pair, PairRecord
    from duplexd.engine.checkpoint_on_disk import CheckpointFile
    from duplexd.engine.failed_legs import FailedLegs
    from duplexd.engine.image_snapshot import Plan
    from duplexd.engine.samples import Samples
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.clock import Clock

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")

_NEVER = 1 << 62


class _Snapshot(NamedTuple):
    saved: Json
    images: Plan  # what is to be recorded of them
    planned: list[Planned]  # syncs that it needs
    others: list[asyncio.Future[bool]]  # of others that it needs, under way already
    swaps: dict[int, int]  # of each pair, by then
    whole: bool  # whether these syncs cover everything


class Checkpointer:
    """Takes checkpoints, one at a time. `replay_floor`: a restart replays what comes after it."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        failed_legs: FailedLegs,
        file: CheckpointFile,
        samples: Samples,
        legs: LegCalls,
        clock: Clock,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._failed_legs = failed_legs
        self._file = file
        self._legs = legs
        self._samples = samples
        self._syncs = LegSyncs(timeline, legs, samples.sync)
        self._clock = clock
        self._taking = asyncio.Lock()
        self._unsynced: dict[Leg, OSError] = {}  # primaries whose sync has failed
        self._putting: asyncio.Future[None] | None = None  # a replacement of the file
        self._distrusting: asyncio.Task[None] | None = None
        self._kept_from = _NEVER  # the floor of what began since the last snapshot
        self._time = 0.0  # monotonic
        self.copying = asyncio.Lock()  # a snapshot and the copy of a run exclude each other
        self.replay_floor = 0
        self.sequence, self.swaps = 0, dict[int, int]()  # of the last one; of each pair by then
        self.log_position = 0
        self.taken = 0
        self.is_known = True  # False after an error: the file may be a later one than is known

    def keep_from(self, number: int) -> None:
        """Keep the records after this number for a restart, until a checkpoint is complete whose
        snapshot was taken after this call.
        """
        self._kept_from = min(self._kept_from, number)
        self.replay_floor = min(self.replay_floor, number)

    def age_s(self) -> float:
        """How long ago the last one was taken."""
        return self._clock.monotonic() - self._time

    def would_free(self) -> bool:
        """Whether a checkpoint now would free older segments.

        It may even without a new record: if a follower trailed at the last one and does not now.
        """
        written = self._timeline.written
        return replay_floor({"sequence": written, **self._ledger_at(written)}) > self.replay_floor

    def would_close_regions(self) -> bool:
        """Whether a checkpoint now would leave fewer regions to compare after an unclean stop."""
        return any(pair.regions.open - pair.regions.touched for pair in self._volumes.all())

    async def know(self) -> str:
        """Take one if the file may be a later one than is known: what is applied to a primary again
        then is older than what that says it holds. Why that is not known still; "" if it is.
        """
        why = ""
        if not self.is_known:
            why = "images fail"
            try:
                await self.checkpoint()
            except (OSError, DuplexdError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        failed = "the last checkpoint failed, and may be there or not"
        return "" if self.is_known else f"{failed}: {why}; try again"

    def has_records(self, record: PairRecord) -> bool:
        """Whether each change of its primary since the last one of this run has a record."""
        return record.id in self.swaps and self._samples.has_records(record)

    def would_record_images(self) -> bool:
        """Whether a checkpoint now would record images that are current, and not known yet; or as
        the primary one that was the secondary at the last one, perhaps at a cut.
        """
        served = [pair for pair in self._volumes.all() if not pair.failed]
        swapped = any(self.swaps.get(pair.id, 0) != pair.record.swaps for pair in served)
        return swapped or any(map(_is_unrecorded, served))

    def _ledger_at(self, tail: int) -> Json:
        pairs = self._volumes.all()
        mirrored = {pair.id: pair.mirrors for pair in pairs}
        behind = {pair.id: _primary_at(pair, tail) for pair in pairs if pair.failed}
        halfway = {pair.id for pair in pairs if pair.halfway is not None}
        return self._timeline.ledger.snapshot(tail, mirrored, behind, halfway)

    # ---------------------------------------------------------------------------- checkpoints

    async def checkpoint(self) -> None:
        """Make both legs durable up to now, and record that in the checkpoint file.

        Raises OSError, DuplexdError: the old one stays valid.
        """
        await to_its_end(self._checkpoint())

    async def _checkpoint(self) -> None:
        async with self._taking:
            durable = await self._with_images() or await self._with_images()
            if durable is None:  # legs failed twice; the next checkpoint tries again
                return
            saved, self.is_known = durable.saved, False
            await to_its_end(self._put(lambda: self._replace(saved)))
            self._samples.recorded(durable.images)
            self.is_known = True
        segment_size = int(saved["segment_size"])
        self.replay_floor = min(replay_floor(saved), self._kept_from)
        self.sequence, self.swaps = saved["sequence"], durable.swaps
        self.log_position = saved["index"] * segment_size + saved["offset"]
        self._time = self._clock.monotonic()
        self.taken += 1
        self._note_durable(durable)

    def _note_durable(self, durable: _Snapshot) -> None:
        """What is durable on which image, as in the file: of its role, or the other one by now."""
        for why in self._file.changes.refused:
            log.warning("what changed between two cuts is in memory only", error=why)
        ledger, saved = self._timeline.ledger, {each["id"]: each for each in durable.saved["pairs"]}
        for number, files in self._file.stored.items():
            ledger.stored(ledger.pairs[number], files)
        for pair in self._volumes.all():
            if pair.record.swaps == durable.swaps.get(pair.id):
                ledger.secondary_holds(pair.record, saved[pair.id]["applied"])
                ledger.primary_holds(pair.record, saved[pair.id]["primary_at"])
            elif pair.record.swaps - 1 == durable.swaps.get(pair.id):
                ledger.primary_holds(pair.record, saved[pair.id]["applied"])

    async def _with_images(self) -> _Snapshot | None:
        """What is durable, with what is recorded of the images. None as of `_make_durable`."""
        durable = await self._make_durable() or await self._make_durable()
        unsynced = [] if durable is None else await self._samples.take(durable.images)
        if unsynced:
            await self._timeline.at_rest(lambda: self._legs_failed(unsynced))
        return None if unsynced else durable

    def _replace(self, saved: Json) -> None:
        mount, time_ns = self._file.mount(), int(self._clock.wall() * 1e9)
        if self._timeline.failed:
            mount = UNKNOWN_MOUNT
        taken = {**saved, "mount": mount, "time": time_ns}
        self._file.take_over(taken, self._timeline.ledger.pack_snapshot)

    def distrust_journal(self) -> None:
        """The journal could not be written or synced: what it shows now it may lose, on this boot
        and this mount. Let the next start know, as far as that disk still takes a file.
        """
        loop = asyncio.get_running_loop()
        self._distrusting = loop.create_task(self._distrust(), name="distrust journal")

    async def _distrust(self) -> None:
        # One that hangs and was given up may still replace the file, and does not know of this.
        while self._putting is not None and not self._putting.done():
            await asyncio.wait((self._putting,))
        async with self._taking:
            with contextlib.suppress(OSError, DamageError):
                await to_its_end(self._put(self._forget_mount))

    async def _put(self, replace: Callable[[], None]) -> None:
        """Have a worker replace the file. Raises what that raises; JournalHungError when the disk
        does not answer in time. The thread that hangs may still replace it, which is harmless, as
        the checkpoint was good. But it must not replace a later one: that waits for it.
        """
        seconds = self._legs.patience.primary_s
        if self._putting is not None:
            await self._in_time(self._putting, seconds)
        self._putting = putting = asyncio.ensure_future(self._legs.workers.run(replace))
        putting.add_done_callback(_fetched)
        await self._in_time(putting, seconds)
        self._putting = None
        putting.result()

    async def _in_time(self, putting: asyncio.Future[None], seconds: float) -> None:
        await asyncio.wait((putting,), timeout=seconds)
        if not putting.done():
            path, why = self._file.path, f"the disk has not answered for {seconds:g} s"
            text = f"{path}: the checkpoint cannot be written: {why}"
            raise JournalHungError(errno.ETIMEDOUT, text, path)

    def _forget_mount(self) -> None:
        self._file.replace(forget_mount(self._file.read()))

    async def _make_durable(self) -> _Snapshot | None:
        """Sync everything that a checkpoint covers, and return that. None if legs failed, so that
        the content is out of date.

        Raises OSError for a primary that has failed and still is one, DuplexdError.
        """
        snapshot = await self._snapshot_at_rest()
        durable = False
        try:
            durable = await self._is_durable(snapshot)
        finally:
            if not durable:
                for pair in self._volumes.all():
                    pair.regions.not_checkpointed()
        return snapshot if durable else None

    async def _is_durable(self, snapshot: _Snapshot) -> bool:
        """Sync what it needs; whether nothing of that failed."""
        timeline, planned = self._timeline, snapshot.planned
        try:
            try:
                await timeline.durable(snapshot.saved["sequence"])
                outcomes = await to_its_end(self._syncs.run(planned))
            except BaseException:
                make_dirty(planned)  # a suspend that waits for these must sync them
                raise
            failed = [outcome for outcome in outcomes if outcome.failed or outcome.lost]
            if failed:
                await timeline.at_rest(lambda: self._legs_failed(failed))
        finally:
            self._syncs.end(planned)
        if snapshot.others:
            await asyncio.wait(snapshot.others)
        return snapshot.whole and not failed and all(other.result() for other in snapshot.others)

    async def _snapshot_at_rest(self) -> _Snapshot:
        made: list[_Snapshot] = []
        async with self.copying, self._syncs.planning:
            try:
                await self._timeline.at_rest(lambda: made.append(self._snapshot()))
            except BaseException:  # of a step that was run: the journal cannot be written
                for snapshot in made:
                    self._syncs.give_up(snapshot.planned)
                raise
        return made[0]

    def _snapshot(self) -> _Snapshot:
        writer, pairs = self._timeline.writer, self._volumes.all()
        for pair in pairs:
            if pair.failed:  # its legs were not compared
                pair.regions.touched |= pair.regions.open
        self._kept_from = _NEVER
        saved: Json = {
            "controller": writer.ring.controller.hex(),
            "segment_size": writer.ring.segment_size,
            "sequence": writer.sequence,
            "chain": writer.chain,
            "index": writer.segment.index,
            "offset": writer.position,
            **self._ledger_at(writer.sequence),
        }
        duplex = {pair for pair in pairs if pair.state == DUPLEX and not pair.failed}
        served = [pair for pair in pairs if not pair.failed]
        self._refuse_unsynced(served)
        images = self._samples.plan(saved, [pair for pair in pairs if pair.id > 0])
        others = self._syncs.under_way()
        planned = self._syncs.plan(served, pairs, duplex)
        for pair in pairs:
            pair.regions.checkpointed()
        swaps = {pair.id: pair.record.swaps for pair in pairs if pair.id > 0}
        return _Snapshot(saved, images, planned, others, swaps, not self._syncs.left_dirty)

    def _refuse_unsynced(self, served: Sequence[Pair]) -> None:
        """A second sync would succeed and prove nothing: the kernel reports an error once."""
        primaries = [pair.primary for pair in served]
        self._unsynced = {leg: self._unsynced[leg] for leg in primaries if leg in self._unsynced}
        for error in self._unsynced.values():
            raise error

    def _legs_failed(self, outcomes: Sequence[Outcome]) -> None:
        """Primaries first, because their pairs may swap. Legs are judged by what they are now."""
        error: OSError | None = None
        for outcome in sorted(outcomes, key=_is_of_secondary):
            pair, leg = outcome.planned.pair, outcome.planned.leg
            if leg is pair.primary and outcome.failed is not None:
                error = self._primary_failed(pair, leg, outcome.failed) or error
            elif leg is pair.secondary or took_its_place(pair.secondary, leg):
                self._secondary_failed(outcome)
        if error is not None:
            raise error

    def _primary_failed(self, pair: Pair, leg: Leg, error: OSError) -> OSError | None:
        """The error, if what was called durable is on no primary."""
        self._unsynced[leg] = error
        self._failed_legs.on_primary_failed(pair, error)
        if pair.primary is not leg:
            pair.primary_dirty = True
            return None
        return None if pair.failed else error

    # ---------------------------------------------------------------------------------- syncs

    @contextlib.asynccontextmanager
    async def no_syncs(self) -> AsyncIterator[None]:
        """Meanwhile no leg is synced, and none is copied to."""
        async with self.copying, self._syncs.none():
            yield

    @contextlib.asynccontextmanager
    async def none(self) -> AsyncIterator[None]:
        """Meanwhile no checkpoint is taken, and none is under way."""
        async with self._taking:
            yield

    async def sync_leg(self, pair: Pair, leg: Leg) -> None:
        """Make an image durable now whose length has changed, and its time. Raises OSError: then it
        has failed as in any other sync, because the next one would prove nothing.
        """
        try:
            synced = await self._legs.on(pair, leg, SYNC, lambda: self._samples.sync(leg))
        except OSError as error:
            outcome = Outcome(Planned(pair, leg, dirty=True, looked_for=False), None, error)
            await self._timeline.at_rest(lambda: self._legs_failed([outcome]))
            raise
        synced()

    async def sync_secondaries(self, pairs: Sequence[Pair]) -> dict[Pair, OSError]:
        """Make these secondaries durable, at the paths where a backup looks for them. A secondary
        that fails, hangs, or whose path no longer names the open image, is suspended, and its cut
        is void.

        Returns an error for each path that no longer names the open image, usable or not.
        """
        return await to_its_end(self._sync_secondaries(pairs))

    async def _sync_secondaries(self, pairs: Sequence[Pair]) -> dict[Pair, OSError]:
        syncs = self._syncs
        await self._samples.marks_over([pair.secondary for pair in pairs if pair.secondary])
        await syncs.others(pairs)
        planned = await syncs.planned_at_rest((), pairs, set(pairs))
        try:
            outcomes = await syncs.run(planned)
            failed = [outcome for outcome in outcomes if outcome.failed or outcome.lost]
            if failed:
                await self._timeline.at_rest(lambda: self._legs_failed(failed))
        finally:
            syncs.end(planned)
        await syncs.others(pairs)  # planned by others meanwhile, so they cover ours too
        return {each.planned.pair: each.lost for each in outcomes if each.lost is not None}

    def _secondary_failed(self, outcome: Outcome) -> None:
        """One that is absent, or unusable as it is, is not worse off for its path. Nor is one
        that is durably at its cut, and whose disk does not answer: it will be there again.
        """
        pair, error = outcome.planned.pair, outcome.failed
        unsynced = outcome.planned.dirty or pair.secondary_dirty
        if isinstance(error, HungError) and pair.state == SUSPENDED and not unsynced:
            leave_hung(pair, error)
            return
        absent = isinstance(outcome.planned.leg, AbsentLeg)
        if error is None and not (pair.state == SUSPENDED and (absent or not pair.usable)):
            error = outcome.lost
        if error is not None:
            self._failed_legs.lost(pair, error)


def _primary_at(pair: Pair, tail: int) -> int:
    """Up to which number the primary of a volume that is not served holds every change. Always less
    than `tail`, because its legs may differ where no record says so.
    """
    whole = pair.lacks is not None and not pair.lacks.records
    return tail - 1 if whole else min(pair.record.primary_at, tail - 1)


def _is_unrecorded(pair: Pair) -> bool:
    record = pair.record
    secondary = pair.state == DUPLEX and record.secondary_image is None
    return secondary or record.primary_image is None or _is_unsampled(pair)


def _is_unsampled(pair: Pair) -> bool:
    """Whether the secondary is at a cut, and only samples would show a start which image it is."""
    image, cut = pair.record.secondary_image, pair.cut
    if pair.state != SUSPENDED or image is None or image.marked or cut is None:
        return False
    is_there = pair.usable and pair.applied >= cut.sequence and not why_absent(pair.secondary)
    return is_there and image.sampled_at != cut.sequence


def _is_of_secondary(outcome: Outcome) -> bool:
    return outcome.planned.leg is outcome.planned.pair.secondary


def _fetched(putting: asyncio.Future[None]) -> None:
    """Nobody waits any more for one that ends late with an error."""
    if not putting.cancelled():
        putting.exception()

"""Checkpoints, and syncs of the legs.

A checkpoint records that both legs durably hold all changes up to a number, and the states at that
number. Recovery starts from it, and journal segments before it may be recycled. It syncs the
journal, then the legs, then replaces the checkpoint file; until then the old one stays valid.

A leg is marked clean when its sync is planned (at rest, so that no batch is half on it); a write
during the sync marks it dirty again. Therefore a planned sync always runs to completion, even if
its caller is cancelled, and a checkpoint that fails marks the secondaries dirty again.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.markers import Missed
from duplexd.images.place import lost_image
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.failures import Failures
    from duplexd.engine.samples import Plan, Samples
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.disk import Disk
    from duplexd.runtime.threads import Workers

_NEVER = 1 << 62


class SyncFailure(NamedTuple):
    """A leg that could not be synced, or whose path leads to another image."""

    pair: Pair
    error: OSError


class _Snapshot(NamedTuple):
    saved: Json
    images: Plan  # what is to be recorded of them
    primaries: list[Pair]  # to be synced
    secondaries: list[Pair]


class CheckpointFile:
    """Where the checkpoint is. Blocking."""

    def __init__(self, disk: Disk, state_dir: str) -> None:
        self._disk = disk
        self.path = f"{state_dir}/checkpoint"

    def exists(self) -> bool:
        """Whether there is one."""
        return self._disk.exists(self.path)

    def read(self) -> Json:
        """What it says. Raises DamageError, OSError."""
        return checkpoint.unpack(self._disk.read_file(self.path), self.path)

    def mount(self) -> str:
        """Of the file system it is on, on this boot; "" if that is not known."""
        try:
            return self._disk.mount(self.path)
        except OSError:
            return ""

    def replace(self, saved: Json) -> None:
        """Replace it, atomically and durably. Raises OSError: the old one stays."""
        self._disk.replace_file(self.path, checkpoint.pack(saved))


class Checkpointer:
    """Takes checkpoints, one at a time. `replay_floor`: a restart replays what comes after it."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        failures: Failures,
        file: CheckpointFile,
        samples: Samples,
        workers: Workers,
        clock: Clock,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._failures = failures
        self._file = file
        self._samples = samples
        self._workers = workers
        self._clock = clock
        self.copying = asyncio.Lock()  # a checkpoint and the copy of a run exclude each other
        self._syncing = asyncio.Lock()
        self._kept_from = _NEVER  # the floor of what began since the last snapshot
        self.replay_floor = 0
        self.sequence = 0  # of the last one
        self.log_position = 0
        self._time = 0.0  # monotonic
        self.taken = 0

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

    def _ledger_at(self, tail: int) -> Json:
        pairs = self._volumes.all()
        mirrored = {pair.id: pair.mirrors for pair in pairs}
        unserved = {pair.id for pair in pairs if pair.failed}
        return self._timeline.ledger.snapshot(tail, mirrored, unserved)

    # ---------------------------------------------------------------------------- checkpoints

    async def checkpoint(self) -> None:
        """Make both legs durable up to now, and record that in the checkpoint file.

        Raises OSError, DuplexdError: the old one stays valid.
        """
        await to_its_end(self._checkpoint())

    async def _checkpoint(self) -> None:
        async with self.copying, self._syncing:
            durable = await self._make_durable() or await self._make_durable()
            if durable is None:  # secondaries failed twice; the next checkpoint tries again
                return
            saved, images = durable.saved, durable.images
            pack = self._timeline.ledger.pack_snapshot
            await to_its_end(self._workers.run(lambda: self._samples.take(images)))
            await to_its_end(self._workers.run(lambda: self._replace(pack(saved))))
            self._samples.recorded(images)
        segment_size = int(saved["segment_size"])
        self.replay_floor = min(replay_floor(saved), self._kept_from)
        self.sequence = saved["sequence"]
        self.log_position = saved["index"] * segment_size + saved["offset"]
        self._time = self._clock.monotonic()
        self.taken += 1

    def _replace(self, saved: Json) -> None:
        self._file.replace({**saved, "mount": self._file.mount()})

    async def _make_durable(self) -> _Snapshot | None:
        """Sync everything that a checkpoint covers, and return that. None if secondaries
        failed: their pairs were suspended, so the content is out of date.
        """
        timeline = self._timeline
        snapshot = await timeline.at_rest(self._snapshot)
        saved, _, primaries, secondaries = snapshot
        duplex = [pair for pair in self._volumes.all() if pair.state == pair_states.DUPLEX]
        try:
            await timeline.durable(saved["sequence"])
            await self._sync_primaries(primaries)
        except BaseException:
            for pair in secondaries:
                pair.secondary_dirty = True  # a suspend that waits for this lock must sync them
            raise
        failures = await to_its_end(
            self._workers.run(lambda: _lost(duplex) + self._sync_all(secondaries))
        )
        if failures:
            await timeline.at_rest(lambda: self._secondaries_failed(failures))
        return None if failures else snapshot

    def _snapshot(self) -> _Snapshot:
        writer, pairs = self._timeline.writer, self._volumes.all()
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
        images = self._samples.plan(saved, pairs)
        primaries = [pair for pair in pairs if pair.primary_dirty]
        secondaries = _take_dirty(pairs)
        for pair in primaries:
            pair.primary_dirty = False
        for pair in pairs:
            pair.regions.checkpointed()
        return _Snapshot(saved, images, primaries, secondaries)

    async def _sync_primaries(self, pairs: Sequence[Pair]) -> None:
        failures = await to_its_end(self._workers.run(lambda: self._sync_all_primaries(pairs)))
        for pair, error in failures:
            self._timeline.fail(
                f"{pair.primary.path}: could not be synced: {error.strerror}; "
                "restart the daemon: recovery restores it from the journal"
            )
            raise error

    # ---------------------------------------------------------------------------------- syncs

    @contextlib.asynccontextmanager
    async def no_syncs(self) -> AsyncIterator[None]:
        """Meanwhile no leg is synced, and none is copied to."""
        async with self.copying, self._syncing:
            yield

    async def sync_secondaries(self, pairs: Sequence[Pair]) -> list[OSError]:
        """Make these secondaries durable, at the paths where a backup looks for them. A secondary
        that fails, or whose path no longer names the open image, is suspended, and its cut is void.

        Returns an error for each path that no longer names the open image, usable or not.
        """
        return await to_its_end(self._sync_secondaries(pairs))

    async def _sync_secondaries(self, pairs: Sequence[Pair]) -> list[OSError]:
        async with self._syncing:
            dirty = await self._timeline.at_rest(lambda: _take_dirty(pairs))
            usable = {pair for pair in pairs if pair.usable}
            lost, failures = await to_its_end(
                self._workers.run(lambda: (_lost(pairs), self._sync_all(dirty)))
            )
        failures = [failure for failure in lost if failure.pair in usable] + failures
        if failures:
            await self._timeline.at_rest(lambda: self._secondaries_failed(failures))
        return [failure.error for failure in lost]

    def _sync_all_primaries(self, pairs: Sequence[Pair]) -> list[SyncFailure]:
        failures: list[SyncFailure] = []
        for pair in pairs:
            try:
                self._samples.sync(pair.primary)
            except OSError as error:
                failures.append(SyncFailure(pair, error))
        return failures

    def _sync_all(self, pairs: Sequence[Pair]) -> list[SyncFailure]:
        failures: list[SyncFailure] = []
        for pair in pairs:
            try:
                self._samples.sync(pair.copy_of)
            except OSError as error:
                failures.append(SyncFailure(pair, error))
        return failures

    def _secondaries_failed(self, failures: Sequence[SyncFailure]) -> None:
        """What a failed sync lost is unknown, so all of the secondary has to be copied again. That
        must be in the journal: the kernel reports the error once, and the next sync succeeds.
        """
        timeline = self._timeline
        for pair, error in failures:
            lost = pair.record.full_map()
            suspended = pair.state == pair_states.SUSPENDED
            if suspended and not pair.usable:
                timeline.must(partial(timeline.append, Missed({pair.id: lost})))
                continue
            duplex = pair.state == pair_states.DUPLEX
            members = self._volumes.group_of(pair) if duplex else {pair}
            at = pair.applied if suspended else timeline.written
            self._failures.freeze(members, pair, at, error, {pair}, {pair: lost})


def replay_floor(saved: Json) -> int:
    """The number after which a restart from this checkpoint needs records."""
    floor = int(saved["sequence"])
    for pair in saved["pairs"]:
        if not pair["removed"]:
            floor = min(floor, int(pair.get("primary_at", floor)))
        at_cut = pair["state"] == pair_states.SUSPENDED and (
            not pair["usable"] or pair["cut"] is None or pair["applied"] >= pair["cut"][1]
        )
        # A restart abandons a resync that was not committed: the pair is at its cut again.
        at_cut = at_cut or pair["staging"] == UNCOMMITTED
        if pair["state"] != pair_states.SIMPLEX and not at_cut and not pair["removed"]:
            floor = min(floor, int(pair["applied"]))
    return floor


def _lost(pairs: Sequence[Pair]) -> list[SyncFailure]:
    """Pairs whose secondary path no longer names the image that is open."""
    return [
        SyncFailure(pair, error)
        for pair in pairs
        if (error := lost_image(pair.secondary)) is not None
    ]


def _take_dirty(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose secondaries need a sync; they count as clean from now on. At rest, because a
    running batch may write after the sync. Clean secondaries are left alone: a follower may be
    writing to one in its thread, and marks it dirty itself.
    """
    dirty = [pair for pair in pairs if pair.secondary_dirty and pair.secondary is not None]
    for pair in dirty:
        pair.secondary_dirty = False
    return dirty

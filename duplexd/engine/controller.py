"""The controller: assembles the engine, and is its entrance for the NBD server and the API.

This is the one place that knows all parts. It makes each of them from what it uses, and connects
the signals of one to the reactions of another; it decides nothing itself. No other module of the
engine imports it.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.admission import Admission
from duplexd.core.markers import Close
from duplexd.core.patience import Patience
from duplexd.engine.adopt import Adoptions
from duplexd.engine.apply import Executor
from duplexd.engine.auto_resync import AutoResync
from duplexd.engine.bad_ranges import BadRanges
from duplexd.engine.checkpoint import Checkpointer, CheckpointFile
from duplexd.engine.commands import Commands
from duplexd.engine.counters import Counters
from duplexd.engine.cut_archive import CutArchive
from duplexd.engine.cuts import Cuts
from duplexd.engine.failed_legs import FailedLegs
from duplexd.engine.failures import Failures
from duplexd.engine.group_cut import GroupCuts
from duplexd.engine.journal_space import NO_ROOM, JournalSpace
from duplexd.engine.leases import Leases
from duplexd.engine.live_changes import LiveChanges
from duplexd.engine.opening import Opener
from duplexd.engine.reads import Reads
from duplexd.engine.recovery.progress import FINISHING, ignore
from duplexd.engine.recovery.reconcile import reconcile
from duplexd.engine.recovery.recovered import recover
from duplexd.engine.recovery.room import ensure_room
from duplexd.engine.reload import Reload
from duplexd.engine.reopen import Reopening
from duplexd.engine.samples import Samples
from duplexd.engine.settling import Settling
from duplexd.engine.status import Facts, Status
from duplexd.engine.suspend import Origin, Suspends
from duplexd.engine.swapping import Swaps
from duplexd.engine.timeline import Timeline
from duplexd.engine.verify import Verification
from duplexd.engine.volumes import Volumes
from duplexd.engine.write_path import WritePath
from duplexd.errors import DuplexdError
from duplexd.journal.writer import Writer
from duplexd.limits import EngineLimits
from duplexd.replication.async_follower import AsyncFollower
from duplexd.replication.backlog import Backlog
from duplexd.replication.copying import Copying
from duplexd.replication.followers import Followers
from duplexd.replication.job_runner import Runner
from duplexd.replication.leg_calls import LegCalls
from duplexd.replication.resync import Resyncs
from duplexd.replication.staging import StagingArea
from duplexd.runtime.tasks import Steps

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.engine.events import Events
    from duplexd.engine.recovery.progress import Report
    from duplexd.engine.recovery.recovered import Recovered
    from duplexd.json_object import Json
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.disk import Disk
    from duplexd.runtime.threads import Workers


class Machine(NamedTuple):
    """What a controller runs on. `write_workers` run what takes microseconds unless a disk hangs;
    `journal_workers` run large batches and journal syncs, so that these never queue behind a copy,
    which `workers` do.
    """

    disk: Disk
    clock: Clock
    workers: Workers
    journal_workers: Workers
    write_workers: Workers


async def start(
    config: Config,
    machine: Machine,
    events: Events,
    limits: EngineLimits | None = None,
    progress: Report = ignore,
    adopt: bool = False,
) -> Controller:
    """Recover, then serve. Raises DuplexdError or OSError; trying again loses no acknowledged
    change. `progress` is called with how far it is, in the loop or in a worker.
    """
    limits = limits or EngineLimits()
    state_dir = str(config.controller.state_dir)
    file = CheckpointFile(machine.disk, state_dir)
    staging = StagingArea(machine.disk, f"{state_dir}/staging")
    boot_id = machine.clock.boot_id()
    recovered = await recover(
        config, machine.disk, file, staging, boot_id, machine.workers, limits, progress, adopt
    )
    steps = Steps()
    try:
        controller = Controller(config, machine, events, limits, recovered, file, staging)
        progress(FINISHING, 0, 0)
        await controller.reconcile(recovered, steps)
    except BaseException:
        steps.afterwards(recovered.close)
        raise
    return controller


class Controller:
    """Implements `backend.Backend`; `api/actions.py` is its other user. Called from the loop."""

    def __init__(
        self,
        config: Config,
        machine: Machine,
        events: Events,
        limits: EngineLimits,
        recovered: Recovered,
        file: CheckpointFile,
        staging: StagingArea,
    ) -> None:
        disk, clock, workers, journal_workers, write_workers = machine
        self._file, self._staging, self._machine, self._limits = file, staging, machine, limits
        self.config = config
        self.name = config.controller.name
        self.events = events
        self.listeners = events.listeners
        ring, tail = recovered.journal.ring, recovered.journal.tail
        writer, ledger = Writer(ring, tail.sequence, tail.chain), recovered.journal.ledger
        self.admission = admission = Admission()
        self.volumes = volumes = Volumes()
        self.executor = Executor(
            writer, volumes.group_of, write_workers, journal_workers, limits.record_bytes_max
        )
        self.timeline = timeline = Timeline(
            writer, ledger, volumes.by_number, self.executor, journal_workers, clock
        )
        self.archive = archive = CutArchive(self.name, ledger, volumes, events, limits)
        self.failures = failures = Failures(timeline, volumes, archive, events)
        self.failed_legs = FailedLegs(timeline, volumes, failures)
        self.legs = legs = LegCalls(workers)
        legs.on_hung = self.failed_legs.found
        samples = Samples(timeline, legs, self.name)
        self.checkpointer = checkpointer = Checkpointer(
            timeline, volumes, self.failed_legs, file, samples, legs, clock
        )
        self.space = JournalSpace(timeline, admission, checkpointer, workers, events, limits)
        self.write_path = WritePath(timeline, admission, self.space.want, clock, limits)
        self.leases = leases = Leases(timeline, self.write_path, clock, events, limits)
        backlog = Backlog(timeline, self.write_path, legs, limits)
        self.async_follower = AsyncFollower(
            timeline,
            self.write_path,
            backlog,
            failures.freeze,
            volumes.group_of,
            legs,
            clock,
            limits,
        )
        self.copying = Copying(timeline, checkpointer, staging, legs, clock, events.emit, limits)
        self.runner = Runner(
            timeline,
            failures.freeze,
            backlog,
            self.copying,
            self.async_follower,
            events.emit,
            clock,
            limits,
        )
        self.followers = followers = Followers(
            timeline, self.write_path, legs, self.async_follower, self.runner.run, clock
        )
        self.resyncs = Resyncs(timeline, checkpointer, followers, archive.unsettled, events.emit)
        self.settling = Settling(
            timeline, checkpointer, archive, leases.participant, followers.reached, followers.moved
        )
        origin = Origin(self.name, str(config.controller.state_dir), ring.controller)
        self.suspends = Suspends(timeline, leases, self.settling, archive, clock, origin)
        self.group_cuts = GroupCuts(timeline, leases, self.settling, archive, clock, events, origin)
        self.cuts = Cuts(self.group_cuts, timeline, archive, volumes, legs, events)
        self.verification = Verification(timeline, leases, followers, legs, limits)
        self.reads = Reads(legs, events)
        self.reads.on_leg_failed = self.failed_legs.found
        self.bad_ranges = BadRanges(timeline, self.write_path, legs, events, limits)
        self.status_of = Status(timeline, admission, volumes, leases, archive, followers, clock)
        live_changes = LiveChanges(volumes, leases, archive)
        opener = Opener(disk, workers, config.controller)
        self.reloads = Reload(timeline, volumes, checkpointer, followers, live_changes, opener)
        self._connect()
        self._take_settings(config)
        # See `Backend`; bound here, they cost no call more than there.
        self.submit = self.write_path.submit
        self.flush = self.write_path.flush
        self.disconnected = self.write_path.disconnected
        self.read = self.reads.read
        self.volume = volumes.find
        # And what the API's clients can ask for.
        reopening = Reopening(
            timeline, checkpointer.copying, followers, failures, opener, workers,
            lambda: self.config, events.emit, limits,
        )  # fmt: skip
        adoptions = Adoptions(
            timeline, volumes, checkpointer, failures, reopening, workers, events.emit, limits
        )
        swaps = Swaps(timeline, leases, followers, self.resyncs, failures, legs, disk)
        commands = Commands(
            volumes, leases, self.suspends, self.resyncs, self.verification, reopening, adoptions,
            swaps, clock,
        )  # fmt: skip
        self.resolve = volumes.resolve
        self.quiesce, self.renew, self.release = commands.quiesce, commands.renew, leases.release
        self.suspend, self.verify = commands.suspend, commands.verify
        self.resync, self.resync_wait = commands.resync, commands.resync_wait
        self.adopt, self.swap = commands.adopt, commands.swap
        self.auto_resync = AutoResync(
            timeline, volumes, commands.resync_again, events, clock, limits
        )

    def _connect(self) -> None:
        """What one part signals, and what another does about it."""
        timeline, admission, followers = self.timeline, self.admission, self.followers
        self.events.journal = timeline.writer
        timeline.consequences = self.failures.after
        self.failures.on_served = self.write_path.accept_volume
        self.failures.on_unserved = lambda pair: self.write_path.refuse_volume(pair, errno.EIO)
        self.failed_legs.on_primary_failed = self.failures.primary_failed
        self.reads.on_unreadable = self.bad_ranges.found
        self.bad_ranges.on_rewritten = self.reads.repaired
        self.bad_ranges.on_primary_failed = self.failed_legs.found
        timeline.on_rest = self.write_path.kick
        timeline.on_segment = self.space.segment_begun
        timeline.on_no_room = self.space.no_space
        timeline.on_failed += [
            lambda why: self.events.emit("controller-failed", error=why),
            lambda _why: admission.refuse(errno.EIO),
            lambda _why: followers.moved(),
        ]
        admission.on_open = self.write_path.kick_soon
        self.space.followers_floor = followers.floor
        self.async_follower.on_moved = self.copying.on_moved = followers.moved
        followers.on_moved.append(self.space.may_be_free)
        self.runner.again = self.resyncs.begin_again
        self.reloads.on_switched = self._switched
        self.leases.on_cut_hold_ended = self.group_cuts.hold_ended

    def _take_settings(self, config: Config) -> None:
        """What a reload may change of the parts' behaviour."""
        self.config = config
        self.leases.longest_allowed_s = config.controller.hold_max
        self.copying.rate = config.controller.copy_rate
        seconds = config.controller.secondary_timeout, config.controller.primary_timeout
        self.legs.patience = self.executor.patience = Patience(*seconds)
        self.executor.swaps = self.failures.swaps = config.controller.on_primary_error == "swap"

    # --------------------------------------------------------------------- start, stop, reload

    async def reconcile(self, recovered: Recovered, steps: Steps) -> None:
        """The end of a start: the journal is brought up to date, and the tasks begin."""
        timeline, workers, staging = self.timeline, self._machine.workers, self._staging
        writer, limits = timeline.writer, self._limits
        await steps.do(workers.run(lambda: ensure_room(recovered, writer, self._file, limits)))
        boot_id = self._machine.clock.boot_id()
        interrupted = await timeline.at_rest(
            lambda: reconcile(
                recovered,
                self.config,
                boot_id,
                timeline,
                self.volumes,
                self.failures,
                self.leases.participant,
                self.events.emit,
                limits,
            )
        )
        await steps.do(timeline.durable())
        await steps.do(workers.run(staging.clear))
        await steps.do(self.checkpointer.checkpoint())
        if recovered.journal.tail.torn:
            self.events.emit("torn-tail", kept=recovered.journal.tail.torn)
        self.space.start()
        self.followers.start([pair for pair in self.volumes.all() if not pair.failed])
        self.resyncs.resume(interrupted)
        if self.config.controller.auto_resync:
            self.auto_resync.start()

    async def stop(self) -> None:
        """Release holds, finish what runs, sync everything, close. Changes that are still queued
        were never acknowledged.
        """
        timeline = self.timeline
        self.leases.stop()
        await self.auto_resync.stop()
        await self.bad_ranges.stop()
        await self.followers.stop()
        # A reason that a follower set is not lifted any more: what waits for it is given up.
        while self.write_path.queued and not (self.admission.refusal or self._followers_hold()):
            await timeline.at_rest(self.write_path.kick)
            await asyncio.sleep(0.001)
        await self.space.stop()
        if not timeline.failed:
            try:
                await timeline.at_rest(lambda: timeline.append(Close()))
                await self.checkpointer.checkpoint()
            except (OSError, DuplexdError) as error:  # the next start replays the journal
                self.events.emit("checkpoint-failed", error=str(error))
        for pair in self.volumes.all():
            pair.close()
        timeline.writer.ring.close()

    def _followers_hold(self) -> bool:
        return bool(self.admission.reasons - {NO_ROOM})

    async def reload(self, config: Config) -> list[str]:
        """See `Reload.reload`."""
        return await self.reloads.reload(self.config, config)

    def _switched(self, config: Config, changes: list[str]) -> None:
        self._take_settings(config)
        self.events.emit("reloaded", changes=changes)

    # ------------------------------------------------------------------------- the NBD server's

    @property
    def failed(self) -> str:
        """Why changes are refused until a restart; "" for a controller that has not failed."""
        return self.timeline.failed

    def volume_names(self) -> list[str]:
        """See `Backend`."""
        return list(self.volumes.by_name)

    # -------------------------------------------------------------------------------- the API's

    def status(self) -> Json:
        """Everything, in the shape that scripts rely on."""
        own, listen = self.config.controller, self.config.nbd.listen
        nbd = [str(address) for address in listen]
        syncs = self.timeline.group_commit
        waits_s = max(self.executor.journal_waits_s(), syncs.waits_s())
        return self.status_of.show(Facts(self.name, own.hold_max, nbd, waits_s))

    def counters(self) -> Counters:
        """What the parts count."""
        commit = self.timeline.group_commit
        return Counters(
            batches=self.write_path.batches,
            changes_by_threads=self.executor.heavy_changes,
            cuts=self.archive.made,
            holds_lost=self.leases.lost,
            checkpoints=self.checkpointer.taken,
            copied_bytes=self.copying.copied_bytes,
            journal_syncs=commit.syncs,
            journal_sync_seconds=commit.sync_seconds,
        )

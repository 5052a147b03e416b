"""The controller: assembles the engine, and is its entrance for the NBD server and the API.

This is the one place that knows all parts. It makes each of them from what it uses, and connects
the signals of one to the reactions of another; it decides nothing itself. No other module of the
engine imports it.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.admission import Admission
from duplexd.core.markers import Close
from duplexd.core.patience import Patience
from duplexd.engine.answering import Answering
from duplexd.engine.apply import Executor
from duplexd.engine.auto_resync import AutoResync
from duplexd.engine.changes import Changes
from duplexd.engine.checkpoint import Checkpointer
from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.engine.client_reads import ClientReads
from duplexd.engine.commands import Commands
from duplexd.engine.comparisons import Comparisons
from duplexd.engine.counters import count
from duplexd.engine.cut_archive import CutArchive
from duplexd.engine.cut_exports import CutExports
from duplexd.engine.cuts import Cuts
from duplexd.engine.dirty_bitmaps import DirtyBitmaps
from duplexd.engine.failed_legs import FailedLegs
from duplexd.engine.failures import Failures
from duplexd.engine.group_cut import GroupCuts
from duplexd.engine.hung_disks import HungDisks
from duplexd.engine.image_changes import ImageChanges
from duplexd.engine.image_places import ImagePlaces
from duplexd.engine.journal_space import NO_ROOM, JournalSpace
from duplexd.engine.leases import Leases
from duplexd.engine.live_settings import delay_changes, settings_changes
from duplexd.engine.mark_every import Marking
from duplexd.engine.mark_numbers import MarkNumbers
from duplexd.engine.marks import Marks
from duplexd.engine.opening import Opener
from duplexd.engine.own_writes import OwnWrites
from duplexd.engine.recovery.last_calls import EndOfStart, leave
from duplexd.engine.recovery.progress import FINISHING, ignore
from duplexd.engine.recovery.reconcile import reconcile
from duplexd.engine.recovery.recovered import recover
from duplexd.engine.samples import Samples
from duplexd.engine.settling import Settling
from duplexd.engine.splices import Splices
from duplexd.engine.status import Facts, Status
from duplexd.engine.suspend import Origin, Suspends
from duplexd.engine.suspend_at import RetroactiveSuspends
from duplexd.engine.swapping import Swaps
from duplexd.engine.timeline import Timeline
from duplexd.engine.volumes import Volumes
from duplexd.engine.write_path import WritePath
from duplexd.errors import DuplexdError
from duplexd.journal.writer import Writer
from duplexd.limits import EngineLimits
from duplexd.replication.leg_calls import LegCalls
from duplexd.replication.secondaries import Secondaries
from duplexd.replication.staging import StagingArea
from duplexd.runtime.tasks import Steps

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.core.pair import Pair
    from duplexd.engine.counters import Counters
    from duplexd.engine.events import Events
    from duplexd.engine.recovery.progress import Report
    from duplexd.engine.recovery.recovered import Recovered
    from duplexd.json_object import Json
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.disk import Disk
    from duplexd.runtime.tally_file import TallyFile
    from duplexd.runtime.threads import Workers


class Machine(NamedTuple):
    """What a controller runs on. `write_workers` run what takes microseconds unless a disk hangs;
    `journal_workers` run large batches and journal syncs, so that these never queue behind a copy,
    which `workers` do. `tally`: where the end of the journal is noted, see `journal/tally.py`.
    """

    disk: Disk
    clock: Clock
    workers: Workers
    journal_workers: Workers
    write_workers: Workers
    tally: TallyFile | None = None


async def start(
    config: Config,
    machine: Machine,
    events: Events,
    limits: EngineLimits | None = None,
    progress: Report = ignore,
    adopt: bool = False,
    grow: bool = True,
) -> Controller:
    """Recover, then serve. Raises DuplexdError or OSError; trying again loses no acknowledged
    change. `progress` is called with how far it is, in the loop or a worker. `grow`: see `growing`.
    """
    limits, state_dir = limits or EngineLimits(), str(config.controller.state_dir)
    file = CheckpointFile(machine.disk, state_dir)
    staging = StagingArea(machine.disk, f"{state_dir}/staging")
    recovered = await recover(
        config, machine.disk, file, staging, machine.clock.boot_id(), machine.workers, limits,
        progress, adopt, machine.tally,
    )  # fmt: skip
    steps = Steps()
    try:
        controller = Controller(config, machine, events, limits, recovered, file, staging)
        progress(FINISHING, 0, 0)
        await controller.reconcile(recovered, steps, grow)
    except BaseException as error:
        leave(recovered, steps, machine.workers, error)
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
        """The parts, in the order in which they use each other; then what connects them."""
        self._file, self._staging, self._machine, self._limits = file, staging, machine, limits
        self.config, self.name = config, config.controller.name
        self.events, self.listeners = events, events.listeners
        self._journal(recovered)
        self._legs_and_checkpoints(recovered)
        self._writes_and_reads()
        self._copies()
        self._cuts()
        self._changes_of_volumes()
        self._connect()
        self._take_settings(config)
        self._serve()

    # ------------------------------------------------------------------------------- the parts

    def _journal(self, recovered: Recovered) -> None:
        """One journal, its states, and what writes to it and to the legs."""
        machine, limits = self._machine, self._limits
        ring, tail = recovered.journal.ring, recovered.journal.tail
        writer, ledger = Writer(ring, tail.sequence, tail.chain), recovered.journal.ledger
        self.admission = Admission()
        self.volumes = volumes = Volumes()
        light, heavy, pairs = machine.write_workers, machine.journal_workers, volumes.by_number
        self.legs = LegCalls(machine.workers)
        self.executor = executor = Executor(
            writer, volumes.group_of, HungDisks(pairs, self.legs), light, heavy,
            limits.record_bytes_max,
        )  # fmt: skip
        self.timeline = timeline = Timeline(writer, ledger, pairs, executor, heavy, machine.clock)
        self.archive = CutArchive(self.name, ledger, volumes, self.events, limits)
        self.failures = Failures(timeline, volumes, self.archive, self.events)

    def _legs_and_checkpoints(self, recovered: Recovered) -> None:
        """What uses legs outside of batches."""
        timeline, machine, volumes, legs = self.timeline, self._machine, self.volumes, self.legs
        self.failed_legs = FailedLegs(timeline, volumes, self.failures)
        legs.on_hung = self.failed_legs.found
        numbers = MarkNumbers(timeline, volumes, legs, self._limits)
        samples = Samples(timeline, legs, numbers, self.name, *recovered.journal.since_checkpoint)
        self.checkpointer = checkpointer = Checkpointer(
            timeline, volumes, self.failed_legs, self._file, samples, legs, machine.clock
        )
        self.space = JournalSpace(
            timeline, self.admission, checkpointer, numbers, legs.workers, self.events, self._limits
        )

    def _writes_and_reads(self) -> None:
        """What clients of volumes use, and what makes them wait."""
        timeline, clock, limits = self.timeline, self._machine.clock, self._limits
        self.write_path = WritePath(timeline, self.admission, self.space.want, clock, limits)
        self.leases = Leases(timeline, self.write_path, clock, self.events, limits)
        self.own_writes = own = OwnWrites(timeline, limits)
        reading = ClientReads(
            timeline, self.write_path, own, self.failed_legs, self.legs, self.events
        )
        self.reads, self.bad_ranges = reading.reads, reading.bad_ranges
        exports = CutExports(
            timeline, self.volumes, self.archive, self.legs, self.reads, self.write_path,
            self._machine.disk, str(self.config.controller.state_dir), self.failed_legs.found,
            self.events, clock, limits,
        )  # fmt: skip
        self.points, self.readers, self.clones = exports.points, exports.readers, exports.clones
        self.drills = exports.drills

    def _copies(self) -> None:
        """What brings secondaries along the journal."""
        self.secondaries = secondaries = Secondaries(
            self.timeline, self.checkpointer, self._staging, self.write_path, self.legs,
            self.failures.freeze, self.volumes.group_of, self.archive.unsettled, self.events.emit,
            self._machine.clock, self._limits,
        )  # fmt: skip
        self.followers, self.resyncs = secondaries.followers, secondaries.resyncs
        self.copying = secondaries.copying

    def _cuts(self) -> None:
        """What makes cuts, and looks at them."""
        timeline, volumes, archive, leases = self.timeline, self.volumes, self.archive, self.leases
        followers, clock, own = self.followers, self._machine.clock, self.config.controller
        self.settling = settling = Settling(
            timeline, self.checkpointer, archive, leases.participant, followers.reached,
            followers.moved,
        )  # fmt: skip
        origin = Origin(self.name, str(own.state_dir), timeline.writer.ring.controller)
        self.suspends = Suspends(timeline, leases, settling, archive, clock, origin, self.readers)
        self.marks = Marks(timeline, self.admission, archive, volumes)
        self.retroactive = RetroactiveSuspends(
            timeline, self.secondaries, self.checkpointer, self.legs, settling, archive,
            self.readers, self.marks.reach, clock, self._limits,
        )  # fmt: skip
        self.group_cuts = GroupCuts(timeline, leases, settling, archive, clock, self.events, origin)
        self.cuts = Cuts(self.group_cuts, timeline, archive, volumes, self.legs, self.events)
        files, limits = self._file.changes, self._limits
        self.changes = Changes(timeline, volumes, files, archive, self.legs, limits)
        self.comparisons = Comparisons(
            timeline, leases, followers, self.resyncs, archive, self.own_writes, self.legs,
            volumes, self.points, self.events, clock, self._limits,
        )  # fmt: skip
        self.comparisons.scrubs.reading = self.reads.waiting
        self.places = ImagePlaces(volumes, self.legs, self.failed_legs, self.events, self._limits)
        self.status_of = Status(
            timeline, self.admission, volumes, leases, archive, followers, self.places.error,
            self.comparisons.scrubs.unreadable, self.comparisons.rollbacks.show,
            self.marks.last_time, clock,
        )  # fmt: skip

    def _changes_of_volumes(self) -> None:
        """What opens images while the daemon runs, or changes their roles; what clients ask for."""
        timeline, volumes, limits = self.timeline, self.volumes, self._limits
        failures, followers = self.failures, self.followers
        disk, clock, workers = self._machine.disk, self._machine.clock, self._machine.workers
        self.opener = opener = Opener(disk, workers, self.config.controller)
        images = ImageChanges(
            timeline, volumes, self.checkpointer, self.write_path, self.leases, self.archive,
            followers, self.readers, failures, opener, self.legs, workers, lambda: self.config,
            self.events, limits,
        )  # fmt: skip
        self.reloads, self.growing = images.reloads, images.growing
        swaps = Swaps(
            timeline, self.leases, followers, self.resyncs, failures, self.legs, disk, self.readers
        )
        self.commands = commands = Commands(
            volumes, self.leases, self.suspends, self.retroactive, self.marks, self.resyncs,
            self.comparisons, images.reopening, images.adoptions, swaps, self.readers, clock,
            Answering(timeline.writer.ring.directory, self.journal_waits_s,
                      lambda: self.config.controller.primary_timeout),
        )  # fmt: skip
        self.auto_resync = AutoResync(
            timeline, volumes, commands.resync_again, self.events, clock, limits
        )
        self.marking = Marking(timeline, volumes, commands.mark, self.events, clock, limits)

    def _serve(self) -> None:
        """See `Backend`; bound here, they cost no call more than there. And what the API asks."""
        write_path, commands = self.write_path, self.commands
        self.submit, self.flush = write_path.submit, write_path.flush
        exports, self.disconnected = self.clones, write_path.disconnected
        self.read, self.read_sparse = exports.read, exports.read_sparse
        self.extents, self.changes_of = exports.extents, exports.changes_of
        self.splice = Splices(self._machine.write_workers).splice
        self.changed = DirtyBitmaps(self.changes, self._limits).changed
        self.volume, self.point_names = exports.volume, exports.point_names
        self.resolve, self.volume_names = self.volumes.resolve, self.volumes.names
        self.add_reader, self.release_reader = commands.add_reader, commands.release_reader
        self.quiesce, self.renew, self.adopt = commands.quiesce, commands.renew, commands.adopt
        self.release, self.look_again = self.leases.release, self.places.look_again
        self.suspend, self.rollback, self.mark = commands.suspend, commands.rollback, commands.mark
        self.stand, self.restore = commands.stand, commands.restore
        self.resync, self.resync_wait = commands.resync, commands.resync_wait
        self.verify, self.swap, self.repair = commands.verify, commands.swap, commands.repair

    def _connect(self) -> None:
        """What one part signals, and what another does about it."""
        timeline, admission, followers = self.timeline, self.admission, self.followers
        self.events.journal = timeline.writer
        timeline.consequences = self.failures.after
        self.failures.on_served = self.write_path.accept_volume
        self.failures.on_unserved += [
            lambda pair: self.write_path.refuse_volume(pair, errno.EIO),
            followers.unserved,
        ]
        self.failed_legs.on_primary_failed = self.failures.primary_failed
        timeline.on_rest = self.write_path.kick
        timeline.on_segment = self.space.segment_begun
        timeline.on_no_room = self.space.no_space
        timeline.on_failed += [
            lambda why: self.events.emit("controller-failed", error=why),
            lambda _why: self.write_path.fail(errno.EIO),
            lambda _why: self.checkpointer.distrust_journal(),
            lambda _why: followers.moved(),
        ]
        admission.on_open = self.write_path.kick_soon
        self.space.followers_floor = followers.floor
        followers.trailing.delay_of = self._delay_of
        followers.trailing.hurries = lambda: NO_ROOM in admission.reasons
        followers.on_moved.append(self.space.may_be_free)
        self.reloads.on_switched = self._switched
        self.leases.on_cut_hold_ended = self.group_cuts.hold_ended

    def _take_settings(self, config: Config) -> None:
        """What a reload may change of the parts' behaviour."""
        self.config, own = config, config.controller
        self.leases.longest_allowed_s = own.hold_max
        self.copying.rate, self.clones.limit_bytes = own.copy_rate, own.clone_limit
        self.changes.remember(own.tracked_cuts)
        self.timeline.ledger.book.marks.keep(own.marks_kept)
        seconds = own.secondary_timeout, own.primary_timeout
        self.legs.patience = self.opener.patience = Patience(*seconds)
        self.executor.swaps = self.failures.swaps = own.on_primary_error == "swap"

    # --------------------------------------------------------------------- start, stop, reload

    async def reconcile(self, recovered: Recovered, steps: Steps, grow: bool = True) -> None:
        """The end of a start: the journal is brought up to date, and the tasks begin."""
        timeline, config, workers = self.timeline, self.config, self._machine.workers
        writer, limits, boot_id = timeline.writer, self._limits, self._machine.clock.boot_id()
        end = EndOfStart(recovered, config, workers, steps, self.journal_waits_s)
        await end.keep_tally(writer, self._machine.tally, boot_id)
        await end.make_room(writer, self._file, limits)
        markers = partial(
            reconcile, recovered, config, boot_id, timeline, self.volumes, self.failures,
            self.leases.participant, self.events.emit, limits,
        )  # fmt: skip
        interrupted = await end.written(timeline.at_rest(markers))
        await end.written(timeline.durable())
        await end.clear(self._staging)
        await end.checkpoint(self.growing.at_start(config.volumes, grow), self.volumes.all())
        if recovered.journal.tail.torn:
            self.events.emit("torn-tail", kept=recovered.journal.tail.torn)
        self.space.start()
        self.followers.start([pair for pair in self.volumes.all() if pair.halfway is None])
        self.places.start()
        self.settling.resume(self.volumes.all())
        self.failures.on_cut = self.settling.begin
        self.resyncs.resume(interrupted)
        self._take_tasks()

    def _take_tasks(self) -> None:
        """What goes on by itself, if the configuration says so."""
        self.auto_resync.enable(self.config.controller.auto_resync)
        self.comparisons.scrubs.take(self.config.scrub.every, self.config.scrub.rate)
        groups = self.config.groups.items()
        self.marking.take({name: each.mark_every for name, each in groups if each.mark_every})

    async def stop(self) -> None:
        """Release holds, finish what runs, sync everything, close. Changes that are still queued
        were never acknowledged.
        """
        timeline, admission = self.timeline, self.admission
        self.leases.stop()
        self.commands.stop()
        await self.places.stop()
        await self.auto_resync.stop()
        await self.marking.stop()
        await self.comparisons.stop()
        await self.bad_ranges.stop()
        await self.clones.stop()
        await self.followers.stop()
        # A reason that a follower set is not lifted any more: what waits for it is given up. So is
        # what waits for room that a secondary needs which stays behind.
        while self.write_path.queued and not (
            admission.refusal
            or admission.reasons - {NO_ROOM}
            or (admission.reasons and self.followers.floor() < timeline.written)
        ):
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

    async def reload(self, config: Config) -> list[str]:
        """See `Reload.reload`."""
        return await self.reloads.reload(self.config, config)

    async def check_reload(self, config: Config) -> None:
        """See `Reload.check`."""
        await self.reloads.check(self.config, config)

    def _switched(self, config: Config, changes: list[str]) -> None:
        changes += settings_changes(self.config.controller, config.controller)
        changes += delay_changes(self.config, config)
        self._take_settings(config)
        self._take_tasks()
        self.followers.trailing.poke()
        self.events.emit("reloaded", changes=changes)

    def _delay_of(self, pair: Pair) -> float:
        volume = self.config.volumes.get(pair.name)
        return (volume.delay or 0.0) if volume is not None else 0.0

    # ------------------------------------------------------------------------- the NBD server's

    @property
    def failed(self) -> str:
        """Why changes are refused until a restart; "" for a controller that has not failed."""
        return self.timeline.failed

    @property
    def sequence(self) -> int:
        """The last number given out."""
        return self.timeline.written

    # -------------------------------------------------------------------------------- the API's

    def status(self) -> Json:
        """Everything, in the shape that scripts rely on."""
        own, nbd = self.config.controller, [str(each) for each in self.config.nbd.addresses]
        pinned_bytes, short_s = self.space.pinned_bytes, self.space.waits_s()
        waits = self.journal_waits_s(), short_s, self.followers.needing() if short_s else ()
        facts = Facts(
            self.name, own.hold_max, nbd, *waits, pinned_bytes, mark_every=self.marking.every
        )
        return self.status_of.show(facts)

    def journal_waits_s(self) -> float:
        """How long a write or a sync of the journal has not been answered; 0 if there is none."""
        return max(self.executor.journal_waits_s(), self.timeline.group_commit.waits_s())

    def counters(self) -> Counters:
        """What the parts count."""
        return count(
            self.write_path, self.executor, self.archive, self.leases, self.checkpointer,
            self.copying, self.timeline, self.space,
        )  # fmt: skip

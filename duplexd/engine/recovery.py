"""Recovery: from whatever is on disk to a controller that serves. Can be interrupted anywhere and done again.

1  open the journal after the checkpoint: fold the markers, judge the end (torn or damaged)
2  open the images
3  apply a committed staging log; apply the records to the primaries, and to each secondary up to where it may go
4  tell the journal: what failed, what a power cut may have made unequal, what is new in the configuration, which boot this is
5  take a checkpoint
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from duplexd.core import state
from duplexd.core.change_map import ChangeMap
from duplexd.core.ledger import UNCOMMITTED, pack_map
from duplexd.engine.maintenance import replay_floor
from duplexd.engine.volumes import assign_groups, introduce, open_images
from duplexd.errors import ConfigurationError, DamageError
from duplexd.journal import checkpoint
from duplexd.journal.format import MARKER, SEGMENT_HEADER_BYTES, TRIM, WRITE, ZERO, unpack_marker
from duplexd.journal.group_commit import Flusher
from duplexd.journal.reader import Reader
from duplexd.journal.recover import Position, Walk
from duplexd.journal.segment import Ring
from duplexd.journal.writer import Writer
from duplexd.limits import (
    FOLLOWER_CHUNK_BYTES,
    JOURNAL_SEGMENTS,
    MARKER_RESERVE_BYTES,
    RECORD_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
)
from duplexd.replication.follower import Follower, SecondarySink, SinkError, put
from duplexd.replication.staging import apply_staging, remove_staging
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller
    from duplexd.journal.recover import Tail


class PrimarySink:
    """Applies records to primaries."""

    moves_secondary = False

    def write(self, pair: Pair, offset: int, data: Any) -> None:
        """See `follower.Sink`."""
        pair.primary_dirty = True
        pair.primary.write(offset, data)

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        """See `follower.Sink`."""
        pair.primary_dirty = True
        pair.primary.zero(offset, length, allocate)


class Recovery:
    """One recovery of one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._directory = str(controller.config.controller.state_dir)
        self._legs: dict[str, tuple[Any, Any, bool, bool]] = {}
        self._failures: list[tuple[Pair, OSError]] = []
        self._saved: dict[str, Any] = {}
        self._grow_error: OSError | None = None
        self._unapplied: set[int] = set()  # volumes with records after the checkpoint

    async def run(self) -> None:
        """Do all of it. Raises DamageError, ConfigurationError, OSError."""
        controller, workers = self._controller, self._controller.workers
        try:
            tail, same_boot = await workers.run(self._read_journal)
            await workers.run(self._open_images)
            await workers.run(lambda: self._replay(tail))
        except BaseException:
            self._close()
            raise
        controller.writer = Writer(controller.ring, tail.sequence, tail.chain)
        controller.flusher = Flusher(
            controller.writer, controller.journal_workers, controller.clock, controller.fail
        )
        await workers.run(self._ensure_room)
        await controller.step(lambda: self._tell_journal(same_boot, tail.sequence))
        await controller.durable(controller.writer.written)
        await workers.run(
            lambda: remove_staging(controller.disk, controller.jobs.staging_directory, set())
        )
        await controller.maintenance.checkpoint()
        if tail.torn:
            controller.emit("torn-tail", kept=tail.torn)
        controller.on_progress("done")

    def _close(self) -> None:
        for primary, secondary, *_ in self._legs.values():
            for leg in (primary, secondary):
                if leg is not None:
                    leg.close()
        if hasattr(self._controller, "ring"):
            self._controller.ring.close()

    # ------------------------------------------------------------------------------------------------------------- 1: journal

    def _read_journal(self) -> tuple[Tail, bool]:
        controller, disk = self._controller, self._controller.disk
        path, journal = f"{self._directory}/checkpoint", f"{self._directory}/journal"
        disk.make_directory(journal)
        if not disk.exists(path):
            self._create(path, journal)
        saved = self._saved = checkpoint.unpack(disk.read_file(path), path)
        controller.ledger.restore(saved)
        segments = max(controller.config.controller.journal_size // saved["segment_size"], 4)
        controller.ring = Ring(
            disk, journal, bytes.fromhex(saved["controller"]), saved["segment_size"], segments
        )
        controller.ring.open_existing()
        if not controller.ring.live and saved["sequence"] == 0:
            controller.ring.live.append(controller.ring.grow())
        walk = Walk(
            controller.ring,
            Position(saved["sequence"], saved["chain"], saved["index"], saved["offset"]),
        )
        self._fold(walk)
        same_boot = (
            controller.ledger.boot in {"", controller.clock.boot_id()}
            and controller.clock.boot_id() != ""
        )
        return walk.close(same_boot), same_boot

    def _create(self, path: str, journal: str) -> None:
        disk, size = self._controller.disk, self._controller.config.controller.journal_size
        if any(name.endswith(".seg") for name in disk.list(journal)):
            raise DamageError(
                f"{path}: the checkpoint is missing, but there is a journal; the states of all pairs are at risk. Restore it from a copy, "
                "or move the state directory away and copy the pairs anew"
            )
        segment = (
            min(max(size // JOURNAL_SEGMENTS, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX) // 4096 * 4096
        )
        fresh = {
            "controller": secrets.token_bytes(16).hex(), "segment_size": segment, "sequence": 0, "chain": 0, "index": 1,
            "offset": SEGMENT_HEADER_BYTES, "boot": self._controller.clock.boot_id(), "closed": True, "pairs": [],
        }  # fmt: skip
        disk.replace_file(path, checkpoint.pack(fresh))

    def _fold(self, walk: Walk) -> None:
        controller = self._controller
        ledger, done_bytes = controller.ledger, 0
        for buffer, record in walk:
            if record.kind == MARKER:
                ledger.apply(
                    record.sequence,
                    record.time_us,
                    unpack_marker(memoryview(buffer)[record.payload_start : record.end]),
                )
            elif record.kind in (WRITE, ZERO, TRIM):
                pair = ledger.pairs[record.volume]
                self._unapplied.add(record.volume)
                if pair.tracks:
                    ledger.track(pair, record.kind, record.offset, record.length)
                pair.touched.update(pair.regions_of(record.offset, record.length))
            done_bytes += record.payload_length
            if record.sequence % 65536 == 0:
                controller.on_progress(f"journal read: {format_size(done_bytes)}")

    # -------------------------------------------------------------------------------------------------------------- 2: images

    def _open_images(self) -> None:
        controller = self._controller
        known = {pair.name: pair for pair in controller.ledger.pairs.values() if not pair.removed}
        for name, pair in known.items():
            if name not in controller.config.volumes and (
                pair.id in self._unapplied or pair.staging not in ("", UNCOMMITTED)
            ):
                raise ConfigurationError(
                    f"volumes.{name}: is missing in the configuration, but the journal has changes for it that are not on its images yet; "
                    "put it back, start and stop the daemon once, then remove it"
                )
        for name, config in controller.config.volumes.items():
            legs = self._legs[name] = open_images(controller, config, name, known.get(name))
            if name in known:
                known[name].set_legs(legs[0], legs[1], config.mode)

    # -------------------------------------------------------------------------------------------------------------- 3: replay

    def _opened(self) -> list[Pair]:
        return [
            pair
            for pair in self._controller.ledger.pairs.values()
            if not pair.removed and pair.name in self._legs
        ]

    def _replay(self, tail: Tail) -> None:
        controller, pairs = self._controller, self._opened()
        names = [pair for pair in pairs if pair.secondary is not None]
        # A killed daemon may have left the journal in the cache only: no leg may get what it could still lose.
        for segment in controller.ring.live:
            segment.file.sync()
        for job in {pair.staging for pair in names} - {"", UNCOMMITTED}:
            theirs = {pair.id: pair for pair in names if pair.staging == job}
            count = next(iter(theirs.values())).staged
            try:
                apply_staging(
                    controller.disk,
                    controller.jobs.staging_directory,
                    job,
                    theirs,
                    count,
                    SecondarySink(),
                )
                self._sync_staged(theirs.values())
            except SinkError as error:
                self._failures += [(pair, error.error) for pair in theirs.values()]
        if self._unapplied:
            self._replay_primaries({pair.id: pair for pair in pairs}, tail.sequence)
        self._replay_secondaries(names, tail.sequence)
        self._sync_replayed(names)

    def _sync_staged(self, pairs: Iterable[Pair]) -> None:
        """What was staged survives a power cut before the journal says that the staging log is done with."""
        for pair in pairs:
            assert pair.secondary is not None
            try:
                pair.secondary.sync()
            except OSError as error:
                raise SinkError(pair, 0, error) from error

    def _replay_primaries(self, pairs: dict[int, Pair], tail: int) -> None:
        controller, sink = self._controller, PrimarySink()
        reader = Reader(controller.ring, self._saved["sequence"] + 1)
        while reader.sequence <= tail:
            buffer, records = reader.read(tail, FOLLOWER_CHUNK_BYTES)
            for record in records:
                pair = pairs.get(record.volume)
                if pair is not None and record.kind in (WRITE, ZERO, TRIM):
                    try:
                        put(sink, pair, record, buffer)
                    except SinkError as error:
                        raise OSError(
                            error.error.errno,
                            f"{pair.primary.path}: recovery can't write to it: {error.error.strerror}",
                        ) from error
            controller.on_progress(f"primaries: {reader.sequence - 1} of {tail}")

    def _replay_secondaries(self, pairs: list[Pair], tail: int) -> None:
        controller = self._controller
        failed = {pair for pair, _ in self._failures}
        self._abandoned(pairs)
        todo = [
            pair
            for pair in pairs
            if pair not in failed and pair.staging != UNCOMMITTED and self._follows(pair, tail)
        ]
        if not todo:
            return
        self._follow(
            Follower(controller.ring, todo, min(pair.applied for pair in todo), SecondarySink()),
            tail,
        )

    def _abandoned(self, pairs: list[Pair]) -> None:
        """A resync that was not committed leaves its secondaries at their cuts: some may have to be brought there."""
        for pair in pairs:
            if (
                pair.staging == UNCOMMITTED
                and pair.cut is not None
                and pair.applied < pair.cut.sequence
            ):
                self._follow(
                    Follower(self._controller.ring, [pair], pair.applied, SecondarySink()),
                    pair.cut.sequence,
                )

    def _follow(self, follower: Follower, until: int) -> None:
        """To the end, whatever becomes of single secondaries: one that fails may have been further before, so nothing is known of it."""
        while follower.position < until and follower.pairs:
            try:
                follower.step(until, FOLLOWER_CHUNK_BYTES)
            except SinkError as error:
                self._failures.append((error.pair, error.error))
                del follower.pairs[error.pair.id]
            self._controller.on_progress(f"secondaries: {follower.position} of {until}")

    def _sync_replayed(self, pairs: list[Pair]) -> None:
        """What the journal is told next may say that a secondary needs no older records any more, also after another power cut."""
        failed = {pair for pair, _ in self._failures}
        for pair in pairs:
            if pair.secondary_dirty and pair.secondary is not None and pair not in failed:
                try:
                    pair.secondary.sync()
                except OSError as error:
                    self._failures.append((pair, error))

    def _follows(self, pair: Pair, tail: int) -> bool:
        if pair.state == state.SIMPLEX or (pair.state == state.SUSPENDED and not pair.usable):
            return False
        return pair.applied < pair.limit(tail)

    # ------------------------------------------------------------------------------------------------------- 4: tell the journal

    def _ensure_room(self) -> None:
        """Room for what `_tell_journal` says. If all of the journal is still wanted, a checkpoint of the replayed state ends that."""
        if not self._make_room(replay_floor(self._saved)):
            self._checkpoint_replayed()
            if not self._make_room(replay_floor(self._saved)):
                directory = self._controller.ring.directory
                if self._grow_error is not None:
                    why = f"{directory}: the journal can't get the room that it needs to start: {self._grow_error.strerror}; make space there"
                    raise OSError(self._grow_error.errno, why)
                raise DamageError(
                    f"{directory}: the journal has no room for recovery; give it a larger journal_size and start again"
                )

    def _make_room(self, floor: int) -> bool:
        controller = self._controller
        ring = controller.ring
        while not controller.writer.room(MARKER_RESERVE_BYTES * 2, RECORD_BYTES_MAX):
            if ring.can_grow() and self._grow_error is None:
                try:
                    ring.spares.append(ring.grow())
                except OSError as error:
                    self._grow_error = error  # what is there already may do
                continue
            segment = ring.droppable(floor)
            if segment is None:
                return False
            ring.live.remove(segment)
            ring.spares.append(ring.recycle(segment))
        return True

    def _checkpoint_replayed(self) -> None:
        """The state at the end of the journal, as the replay left it: both legs durable, nothing told to the journal yet."""
        controller = self._controller
        writer, ledger = controller.writer, controller.ledger
        failed = {pair for pair, _ in self._failures}
        for pair in self._opened():
            pair.primary.sync()
            if pair.secondary is not None:
                pair.secondary.sync()
        position = {
            "sequence": writer.sequence,
            "chain": writer.chain,
            "index": writer.segment.index,
            "offset": writer.position,
        }
        state_now = ledger.snapshot(writer.sequence)
        for saved in state_now["pairs"]:
            pair = ledger.pairs[saved["id"]]
            saved["applied"], saved["regions"] = pair.applied, sorted(pair.regions | pair.touched)
            if pair.staging != UNCOMMITTED and pair not in failed:
                saved["staging"] = ""  # it was applied, and what followed too
        self._saved = {**self._saved, **position, **state_now}
        controller.disk.replace_file(
            f"{self._directory}/checkpoint", checkpoint.pack(ledger.pack_snapshot(self._saved))
        )

    def _tell_journal(self, same_boot: bool, tail: int) -> None:
        controller = self._controller
        known = {pair.name: pair for pair in controller.ledger.pairs.values() if not pair.removed}
        clean = controller.ledger.closed
        for pair in (
            known.values()
        ):  # what a killed daemon wrote may not be on the disk yet, replayed or not
            pair.primary_dirty, pair.secondary_dirty = (
                True,
                pair.name in self._legs and self._legs[pair.name][1] is not None,
            )
        for name, config in controller.config.volumes.items():
            if name in known:
                controller.pairs[name] = introduce(
                    controller, name, config, self._legs[name], known[name]
                )
        assign_groups(controller, controller.config)
        self._tell_failures(tail)
        self._tell_interrupted()
        if not same_boot and not clean:
            self._tell_power_cut()
        self._tell_arrived()
        for name, pair in known.items():
            if name not in controller.config.volumes:
                controller.mark({"m": "remove", "id": pair.id})
        for name, config in controller.config.volumes.items():
            if name not in known:
                controller.pairs[name] = introduce(controller, name, config, self._legs[name], None)
        assign_groups(controller, controller.config)
        stood_at = [
            pair.cut.id for pair in controller.ledger.pairs.values() if pair.cut is not None
        ]
        controller.holds.member.restarted([*controller.ledger.cuts, *stood_at])
        controller.mark({"m": "open", "boot": controller.clock.boot_id(), "version": 1})

    def _tell_failures(self, tail: int) -> None:
        """Suspend what failed, unusable; with a DUPLEX pair those of its group, which all stand at the end of the journal."""
        trouble = self._controller.trouble
        for failed, error in self._failures:
            if failed.state == state.SIMPLEX:
                continue
            members = trouble.group_of(failed) if failed.state == state.DUPLEX else {failed}
            everything = ChangeMap(failed.size)
            everything.set_all()  # which part it missed is not worth finding out: comparing will tell
            trouble.freeze(members, failed, tail, error, {failed}, {failed: everything})

    def _tell_interrupted(self) -> None:
        controller = self._controller
        halfway = [
            pair
            for pair in controller.pairs.values()
            if pair.state == state.PENDING and pair.staging == UNCOMMITTED
        ]
        if halfway:
            controller.mark({"m": "abandon", "job": "", "volumes": [pair.id for pair in halfway]})
            controller.jobs.again = halfway

    def _tell_power_cut(self) -> None:
        """The legs may differ where regions were open: compare those; a suspended pair may have changed there unseen."""
        controller = self._controller
        copies: dict[str, str] = {}
        missed: dict[str, str] = {}
        for pair in controller.pairs.values():
            if pair.state == state.SIMPLEX or not pair.regions:
                continue
            changed = ChangeMap(pair.size)
            for region in pair.regions:
                offset = region << pair.region_shift
                changed.set(offset, min(1 << pair.region_shift, pair.size - offset))
            if pair.state == state.SUSPENDED:
                missed[str(pair.id)] = pack_map(changed)
            else:
                if pair.state == state.PENDING and not pair.usable and pair.changed is not None:
                    changed.merge(pair.changed)
                copies[str(pair.id)] = pack_map(changed)
        if copies:
            controller.mark({"m": "copy", "volumes": copies, "reason": state.POWER_CUT})
        if missed:
            controller.mark({"m": "missed", "volumes": missed})

    def _tell_arrived(self) -> None:
        """Resyncs that recovery has brought to the tail."""
        controller = self._controller
        arrived = [
            pair
            for pair in controller.pairs.values()
            if pair.state == state.PENDING and pair.usable
        ]
        if arrived:
            sequence = controller.mark({"m": "equal", "volumes": [pair.id for pair in arrived]})
            for pair in arrived:
                pair.applied = sequence

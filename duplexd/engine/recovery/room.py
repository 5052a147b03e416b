"""Room in the journal for the markers of the start.

A journal that was full when the daemon was killed has none, and nothing frees any before these
markers are written. If every segment is still needed, a checkpoint of the replayed state frees
them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.pair_states import SUSPENDED
from duplexd.core.patience import JournalRead
from duplexd.engine.checkpoint_on_disk import replay_floor
from duplexd.engine.opening import PRIMARY, SECONDARY, why_absent
from duplexd.engine.recovery.image_faults import Fault, Side
from duplexd.errors import DamageError

if TYPE_CHECKING:
    from duplexd.core.image_record import Image
    from duplexd.core.pair import PairRecord
    from duplexd.engine.checkpoint_on_disk import CheckpointFile
    from duplexd.engine.recovery.image_faults import Noted
    from duplexd.engine.recovery.recovered import Recovered
    from duplexd.journal.writer import Writer
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.runtime.watch import Watch


def ensure_room(
    recovered: Recovered,
    writer: Writer,
    file: CheckpointFile,
    limits: EngineLimits,
    watch: Watch[Noted],
) -> None:
    """Make room. Blocking; each call is noted in `watch`. Raises OSError if the disk is full,
    DamageError if the journal is too small.
    """
    _Room(recovered, writer, file, limits, watch).ensure()


class _Room:
    def __init__(
        self,
        recovered: Recovered,
        writer: Writer,
        file: CheckpointFile,
        limits: EngineLimits,
        watch: Watch[Noted],
    ) -> None:
        self._recovered = recovered
        self._writer = writer
        self._file = file
        self._limits = limits
        self._watch = watch
        self._note = JournalRead(writer.ring.directory, does="written")
        self._grow_error: OSError | None = None

    def ensure(self) -> None:
        journal = self._recovered.journal
        saved = journal.saved
        if self._make(journal.floor) or self._make(replay_floor(self._checkpoint(saved))):
            return
        directory = self._writer.ring.directory
        if self._grow_error is not None:
            raise OSError(
                self._grow_error.errno,
                f"{directory}: no space for a new journal segment, which the start needs: "
                f"{self._grow_error.strerror}; free some space on that file system",
            )
        raise DamageError(
            f"{directory}: the journal has no room for recovery; "
            "configure a larger journal_size and start again"
        )

    def _make(self, floor: int) -> bool:
        limits, ring = self._limits, self._writer.ring
        while not self._writer.room(limits.marker_reserve_bytes * 2, limits.record_bytes_max):
            if ring.can_grow() and self._grow_error is None:
                try:
                    with self._watch.at(self._note):
                        segment = ring.grow()
                    ring.spares.append(segment)
                except OSError as error:
                    self._grow_error = error  # recycling a segment may be enough
                continue
            old = ring.droppable(floor)
            if old is None:
                return False
            ring.live.remove(old)
            with self._watch.at(self._note):
                segment = ring.recycle(old)
            ring.spares.append(segment)
        return True

    def _sync(self, side: Side) -> None:
        """Sync an image that is good; one that fails now has failed as in the replay."""
        pair, faults = side.pair, self._recovered.faults
        if pair.secondary is None and side.role == SECONDARY:
            return
        leg = side.leg
        if side in faults or why_absent(leg):
            return
        try:
            with self._watch.at(side._replace(syncs=True)):
                leg.sync()
        except OSError as error:
            why = f"{leg.path}: {error.strerror or error}"
            faults.add(side, Fault(OSError(error.errno or errno.EIO, why)))
            if side.role == SECONDARY:
                record = pair.record
                self._recovered.journal.ledger.secondary_lacks(record, record.secondary_at)

    def _checkpoint(self, before: Json) -> Json:
        """The state at the end of the journal, as the replay left it: both legs durable."""
        writer, recovered = self._writer, self._recovered
        ledger = recovered.journal.ledger
        faults, behind = recovered.faults, {}
        for pair in recovered.pairs.values():
            self._sync(Side(pair, PRIMARY))
            self._sync(Side(pair, SECONDARY))
            if pair in faults.primaries or why_absent(pair.primary):
                behind[pair.id] = pair.record.primary_at
        failed = {pair.id for pair in faults.secondaries}
        absent = {pair.id for pair in recovered.pairs.values() if why_absent(pair.secondary)}
        # What a secondary lacks that failed does not keep the others from starting.
        now = ledger.snapshot(writer.sequence, {}, behind, failed | absent)
        for saved in now["pairs"]:
            record = ledger.pairs[saved["id"]]
            saved["regions"] = sorted(record.regions.open | record.regions.touched)
            images: tuple[Image | None, Image | None] = saved["images"]
            last, number = int(before["sequence"]), writer.sequence
            ours = images[0] and left(record, images[0], last, number)
            theirs = images[1] and left(record, images[1], last, number, record.state == SUSPENDED)
            saved["images"] = (ours, theirs)
            if record.staging != UNCOMMITTED and record.id not in failed:
                saved["staging"] = ""  # it was applied, and what followed too
        after = {
            **before,
            "sequence": writer.sequence,
            "chain": writer.chain,
            "index": writer.segment.index,
            "offset": writer.position,
            **now,
        }
        with self._watch.at(self._note):
            self._file.replace(ledger.pack_snapshot(after))
        return after


def left(record: PairRecord, image: Image, last: int, number: int, at_cut: bool = False) -> Image:
    """What is still true of an image: as `engine/image_snapshot.py` decides it, after a replay."""
    if at_cut and image.sampled_at == record.limit(number):
        return image._replace(loose=True)
    regions, shift = record.regions.open | record.regions.touched, record.regions.shift
    is_last = image.sampled_at == last and not record.swaps
    left = image.at(number, lambda offset: is_last and offset >> shift not in regions)
    return left._replace(loose=True)

"""Reading the journal: the checkpoint, the markers after it, and how the journal ends.

Changes are not applied here: whether they are is decided later, for each leg. But which volumes
have changes, and which grains and regions these touch, is noted on the way, because the ledger
needs it in any case.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.ledger import Ledger, Place
from duplexd.core.since import Since
from duplexd.engine.checkpoint_on_disk import replay_floor
from duplexd.engine.recovery.progress import JOURNAL
from duplexd.errors import DamageError
from duplexd.journal.format import (
    MARKER,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TRIM,
    WRITE,
    ZERO,
    unpack_marker,
)
from duplexd.journal.recover import Position, Walk
from duplexd.journal.segment import Ring
from duplexd.journal.tally import Search, unpack
from duplexd.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import ControllerConfig
    from duplexd.core.pair import PairRecord
    from duplexd.engine.checkpoint_on_disk import CheckpointFile
    from duplexd.engine.recovery.progress import Report
    from duplexd.journal.recover import Tail
    from duplexd.journal.tally import Verdict
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.runtime.disk import Disk

# A start gives up a journal that makes no progress for `primary_timeout`. Records without content
# take some 5 us for each 88 bytes: 16 MiB of them would be a second of processor time.
_PROGRESS_BYTES = MIB
_SEGMENTS_MIN = 4
_NOTHING_TO_FIND = Search(None, 0, 0, 0)


class ReadJournal(NamedTuple):
    """What the journal says. `saved`: the checkpoint. `unapplied`: numbers of volumes with changes
    after it. `floor`: the number after which this start needs records, and each one until there is
    another checkpoint. Markers since the checkpoint may need more than it says: a resync that began
    at an older cut. `since`: what these changed of the images that the checkpoint recorded.
    `witnessed`: what the tally of the last start says of the journal (`journal/tally.py`).
    `complete`: neither has the machine rebooted since, nor was the file system of the journal
    mounted anew, nor did it refuse a write or a sync, as far as that could be noted
    (`Checkpointer.distrust_journal`); so no record was lost.
    """

    ring: Ring
    ledger: Ledger
    tail: Tail
    saved: Json
    unapplied: set[int]
    floor: int
    since: Since
    complete: bool
    witnessed: Verdict

    @property
    def lost(self) -> bool:
        """Whether changes that were acknowledged may be missing, before this start says so."""
        if self.witnessed == "unknown":
            return not (self.ledger.closed or self.complete)
        return self.witnessed == "lost"

    @property
    def since_checkpoint(self) -> tuple[int, bool]:
        """The number of the checkpoint, and whether no record after it was lost. Before this start
        writes any.
        """
        complete = self.complete or (self.ledger.closed and not self.unapplied)
        return int(self.saved["sequence"]), complete

    def is_clean(self, pair: PairRecord) -> bool:
        """Whether the legs of a pair differ only where records say so: the daemon was stopped, and
        the volume was served then. One that the checkpoint does not know was made by a start that
        died before it was done.
        """
        return self.ledger.closed and self.was_served(pair)

    def was_served(self, pair: PairRecord) -> bool:
        """Whether the checkpoint knows the pair, and its primary held everything by then."""
        known = any(each["id"] == pair.id for each in self.saved["pairs"])
        return known and pair.primary_at >= int(self.saved["sequence"])


def read_journal(
    disk: Disk,
    file: CheckpointFile,
    settings: ControllerConfig,
    boot_id: str,
    limits: EngineLimits,
    progress: Report,
    tally: bytes = b"",
) -> ReadJournal:
    """Open the journal, or make a new one. `boot_id` is "" where the machine has none. `tally`: the
    content of that file, if there is one. Blocking. Raises DamageError, OSError, with nothing left
    open.
    """
    directory = f"{settings.state_dir}/journal"
    disk.make_directory(directory)
    if not file.exists():
        refuse_journal_alone(disk, file, directory)
        file.replace(_nothing_yet(settings.journal_size, boot_id, limits))
    saved = file.read()
    ledger = Ledger(limits, settings.tracked_cuts)
    ledger.restore(saved)
    segments = max(settings.journal_size // saved["segment_size"], _SEGMENTS_MIN)
    identity = bytes.fromhex(saved["controller"])
    ring = Ring(disk, directory, identity, saved["segment_size"], segments)
    try:
        ring.open_existing()
        if not ring.live and saved["sequence"] == 0:
            ring.live.append(ring.grow())
        start = Position(saved["sequence"], saved["chain"], saved["index"], saved["offset"])
        walk, since = Walk(ring, start), Since(ledger, saved["sequence"], saved.get("time", 0))
        progress(JOURNAL, 0, total := _bytes_after(ring, start))
        said = unpack(tally, identity, boot_id)
        search = Search(said, walk.sequence, walk.chain, ledger.starts)
        unapplied = fold(walk, ledger, since, lambda done: progress(JOURNAL, done, total), search)
        behind = {number: pair.primary_at for number, pair in ledger.pairs.items()}
        now = ledger.snapshot(walk.sequence, {}, behind)
        floor = min(replay_floor(saved), replay_floor({**saved, "pairs": now["pairs"]}))
        complete = is_complete(ledger.boot, boot_id, saved, file)
        tail = walk.close()
    except BaseException:
        ring.close()
        raise
    witnessed = search.verdict(ledger.starts, ledger.ahead.next_start(ledger.starts))
    return ReadJournal(ring, ledger, tail, saved, unapplied, floor, since, complete, witnessed)


def is_complete(boot: str, boot_id: str, saved: Json, file: CheckpointFile) -> bool:
    """See `ReadJournal`. `boot`: the last one that the journal knows."""
    same_boot = boot_id != "" and boot in {"", boot_id}
    return same_boot and saved.get("mount", "") == file.mount() != ""


def refuse_journal_alone(disk: Disk, file: CheckpointFile, directory: str) -> None:
    """Raises DamageError for a journal without its checkpoint."""
    if any(name.endswith(".seg") for name in disk.list(directory)):
        raise DamageError(
            f"{file.path}: the checkpoint is missing, but the journal exists; the states of all "
            "pairs are at risk. Restore the checkpoint from a copy, or move the state directory "
            "away and make a new first copy of every pair"
        )


def _nothing_yet(journal_size: int, boot_id: str, limits: EngineLimits) -> Json:
    """The checkpoint of a controller that was never started."""
    segment = max(journal_size // limits.journal_segments, limits.segment_bytes_min)
    return {
        "controller": secrets.token_bytes(16).hex(),
        "segment_size": min(segment, limits.segment_bytes_max) // 4096 * 4096,
        "sequence": 0,
        "chain": 0,
        "index": 1,
        "offset": SEGMENT_HEADER_BYTES,
        "boot": boot_id,
        "closed": True,
        "pairs": [],
    }


def _bytes_after(ring: Ring, start: Position) -> int:
    """How much there may be to read: whole segments, for where the last one ends is not known."""
    after = [segment.size for segment in ring.live if segment.index >= start.index]
    return max(sum(after) - start.offset, 0)


def fold(
    walk: Walk,
    ledger: Ledger,
    since: Since,
    progress: Callable[[int], None],
    search: Search = _NOTHING_TO_FIND,
) -> set[int]:
    """Fold everything; returns the volumes that have changes. `progress` gets the bytes read."""
    noted = search.number
    unapplied: set[int] = set()
    done_bytes = reported_bytes = 0
    for buffer, record in walk:
        if record.kind == MARKER:
            payload = memoryview(buffer)[record.payload_start : record.end]
            place = Place(record.sequence, record.time_us)
            fields = unpack_marker(payload)
            ledger.unpack_and_apply(place, fields)
            since.marker(record, fields)
        elif record.kind in (WRITE, ZERO, TRIM):
            pair = ledger.pairs[record.volume]
            unapplied.add(record.volume)
            if pair.tracks:
                ledger.track(pair, record.kind, record.offset, record.length)
            pair.regions.touch(record.offset, record.length)
            since.change(record, memoryview(buffer)[record.payload_start : record.end])
        if record.sequence == noted:
            search.met(record, ledger.starts)
        done_bytes += RECORD_HEADER_BYTES + record.payload_length
        if done_bytes - reported_bytes >= _PROGRESS_BYTES:
            reported_bytes = done_bytes
            progress(done_bytes)
    return unapplied

"""Reads a state directory with the code that a restart uses, into plain JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.ledger import Ledger, Place
from duplexd.core.pair import Pair, PairRecord
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.journal.format import KIND_NAMES, MARKER, TRIM, WRITE, ZERO, Record, unpack_marker
from duplexd.journal.inspect import inspect
from duplexd.journal.recover import Position, Walk
from duplexd.journal.segment import Ring
from duplexd.limits import EngineLimits
from duplexd.replication.staging import StagingArea
from duplexd.runtime.watch import Watch
from tests.support.memory_leg import MemoryLeg
from tests.unit.core.ledgers import known

if TYPE_CHECKING:
    from duplexd.json_object import Json
    from duplexd.runtime.disk import Disk


class _Collected:
    """A sink that remembers what it was given."""

    moves_secondary = False

    def __init__(self) -> None:
        self.changes: list[list[object]] = []

    def write(self, pair: Pair, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.changes.append([pair.name, "write", offset, bytes(data).hex()])

    def zero(self, pair: Pair, offset: int, length: int, allocate: bool) -> None:
        self.changes.append([pair.name, "zero", offset, length, allocate])


def read(disk: Disk, directory: str) -> Json:
    """All of it: the records after the checkpoint, the states they lead to, the staging log, what
    inspection says.
    """
    inspected = list(inspect(disk, directory))
    saved = checkpoint.unpack(disk.read_file(f"{directory}/checkpoint"), "checkpoint")
    ledger = Ledger(EngineLimits())
    ledger.restore(saved)
    ring = Ring(
        disk, f"{directory}/journal", bytes.fromhex(saved["controller"]), saved["segment_size"], 4
    )
    ring.open_existing()
    walk = Walk(ring, Position(saved["sequence"], saved["chain"], saved["index"], saved["offset"]))
    records = [_fold(ledger, record, buffer) for buffer, record in walk]
    tail = walk.close()
    ring.close()
    sink = _Collected()
    staged = {pair.id: _served(pair) for pair in ledger.pairs.values() if pair.staging}
    counts = {pair.record.staging: pair.record.staged for pair in staged.values()}
    for job, count in counts.items():
        StagingArea(disk, f"{directory}/staging").apply(job, staged, count, sink, Watch())
    return {
        "records": records,
        "tail": [tail.sequence, tail.chain, tail.torn],
        "boot": ledger.boot,
        "closed": ledger.closed,
        "pairs": [_plain(pair) for pair in ledger.pairs.values()],
        "staged": sink.changes,
        "shown": [
            entry["sequence"] for entry in inspected if entry["type"] in {"record", "marker"}
        ],
        "verdict": inspected[-1]["verdict"],
    }


def _fold(ledger: Ledger, record: Record, buffer: bytes) -> Json:
    payload = bytes(buffer[record.payload_start : record.end])
    if record.kind == MARKER:
        ledger.unpack_and_apply(Place(record.sequence, record.time_us), unpack_marker(payload))
    elif record.kind in {WRITE, ZERO, TRIM} and ledger.pairs[record.volume].tracks:
        ledger.track(ledger.pairs[record.volume], record.kind, record.offset, record.length)
    shown = {
        name: value
        for name, value in record._asdict().items()
        if name not in {"payload_crc", "payload_length"}
    }
    return {
        **shown,
        "kind": KIND_NAMES[record.kind],
        "payload": unpack_marker(payload) if record.kind == MARKER else payload.hex(),
    }


def _served(record: PairRecord) -> Pair:
    return Pair(record, MemoryLeg(record.size), MemoryLeg(record.size), "sync")


def _plain(pair: PairRecord) -> Json:
    seen = known(pair)
    return {
        **seen,
        "cut": None if seen["cut"] is None else list(seen["cut"]),
        "regions": sorted(pair.regions.open),
    }

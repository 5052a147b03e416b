"""Reading a journal with the daemon stopped, and changing nothing.

It uses the same walk and the same decision table as the next start, so that the verdict it prints
is the one that the start would reach; a reader with rules of its own would be a second opinion, and
`verify-cut` is that. What differs is the disk: it locks nothing, removes nothing and holds one
segment in memory at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from duplexd.errors import DamageError
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.journal.format import KIND_NAMES, MARKER, SEGMENT_HEADER_BYTES, Record, unpack_marker
from duplexd.journal.recover import Position, Walk
from duplexd.journal.scan import DAMAGE, END, TORN, records
from duplexd.journal.segment import Ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.json_object import Json
    from duplexd.runtime.disk import Disk

WHY = {
    END: "",
    TORN: "the bytes behind the last whole record were never durable:"
    " the next start cuts them off and keeps them aside",
    DAMAGE: "record {} is missing or damaged, although it was durable:"
    " it and every change after it are at risk",
}


def inspect(disk: Disk, directory: str) -> Iterator[Json]:
    """What is in the journal of a state directory, oldest first: objects with `type` checkpoint,
    segment, record, marker, at the end `verdict`.

    The verdict is what the next start would find: `end`, `torn` (it cuts the rest off and keeps it
    aside), or `damage` (it stops). Raises OSError, and DamageError if there is no checkpoint to
    start from.
    """
    if not disk.exists(f"{directory}/checkpoint") and disk.exists(f"{directory}/../checkpoint"):
        directory = f"{directory}/.."
    path = f"{directory}/checkpoint"
    saved = checkpoint.unpack(disk.read_file(path), path)
    yield {
        "type": "checkpoint",
        "path": path,
        "sequence": saved["sequence"],
        "volumes": {p["id"]: p["name"] for p in saved["pairs"]},
    }
    start = Position(saved["sequence"], saved["chain"], saved["index"], saved["offset"])
    ring = Ring(
        cast("Disk", Untouched(disk)),  # as much of one as a walk uses
        f"{directory}/journal",
        bytes.fromhex(saved["controller"]),
        saved["segment_size"],
        0,
    )
    walk: Walk | None = None
    try:
        if disk.exists(ring.directory):
            ring.open_existing()
        if ring.live or start.sequence:
            walk = Walk(ring, start)
            for buffer, record in _all(ring, walk):
                if record.start == SEGMENT_HEADER_BYTES:
                    yield _segment(ring, record)
                yield _describe(record, buffer)
    except DamageError as error:
        yield _verdict(DAMAGE, walk.sequence if walk else start.sequence, "", 0, str(error))
        return
    if walk is None:
        yield _verdict(END, 0, "", 0, "no journal was written yet")
        return
    verdict = walk.verdict()
    yield _verdict(verdict, walk.sequence, *walk.end, WHY[verdict].format(walk.sequence + 1))


def _all(ring: Ring, walk: Walk) -> Iterator[tuple[bytes, Record]]:
    """The records before the checkpoint, as far as they are there, then those that a restart would
    read.
    """
    for segment in ring.live:
        if segment.index <= walk.start.index and segment.first:
            buffer = segment.file.read(0, segment.size)
            for record in records(buffer, SEGMENT_HEADER_BYTES, segment.first, segment.chain):
                if record.sequence > walk.start.sequence:
                    break
                yield buffer, record
    yield from walk


def _describe(record: Record, data: bytes) -> Json:
    kind = KIND_NAMES.get(record.kind, str(record.kind))
    common = {
        "type": "record",
        "sequence": record.sequence,
        "kind": kind,
        "time": record.time_us / 1e6,
    }
    if record.kind == MARKER:
        return {
            **common,
            "type": "marker",
            "marker": unpack_marker(data[record.payload_start : record.end]),
        }
    return {**common, "volume": record.volume, "offset": record.offset, "length": record.length}


def _segment(ring: Ring, first: Record) -> Json:
    segment = next(segment for segment in ring.live if segment.first == first.sequence)
    return {
        "type": "segment",
        "path": segment.file.path,
        "index": segment.index,
        "first_sequence": first.sequence,
    }


def _verdict(verdict: str, sequence: int, path: str, offset: int, why: str) -> Json:
    return {
        "type": "verdict",
        "verdict": verdict,
        "sequence": sequence,
        "path": path,
        "offset": offset,
        "why": why,
    }


class Untouched:
    """As much of a disk as looking takes: nothing is locked, changed or removed, and only one
    segment is in memory at a time.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.list = disk.list

    def open(self, path: str) -> _Unlocked:
        return _Unlocked(self._disk, path)

    def remove(self, path: str) -> None:
        """Not now."""


class _Unlocked:
    """A file that is only read."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self.path = path
        self.size = disk.size(path)

    def read(self, offset: int, length: int) -> bytes:
        return self._disk.read_file(self.path)[offset : offset + length]

    def close(self) -> None:
        """Nothing is open."""

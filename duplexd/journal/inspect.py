"""Reading a journal with the daemon stopped, and changing nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.journal import checkpoint
from duplexd.journal.format import (
    KIND_NAMES,
    MARKER,
    SEGMENT_HEADER_BYTES,
    Record,
    SegmentHeader,
    journal_number,
    unpack_marker,
    unpack_record,
    unpack_segment_header,
)
from duplexd.journal.scan import DAMAGE, END, TORN, Beyond, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.io.disk import Disk


def inspect(disk: Disk, directory: str) -> Iterator[dict[str, Any]]:
    """What is in the journal of a state directory, oldest first: objects with `type` segment, record, marker, and one `verdict` at the end.

    The verdict: `end`, `torn` (the next start cuts the rest off and keeps it aside), or `damage`. Raises OSError, DamageError.
    """
    if not disk.exists(f"{directory}/checkpoint") and disk.exists(f"{directory}/../checkpoint"):
        directory = f"{directory}/.."
    path = f"{directory}/checkpoint"
    saved = checkpoint.unpack(disk.read_file(path), path)
    yield {"type": "checkpoint", "path": path, "sequence": saved["sequence"], "volumes": {p["id"]: p["name"] for p in saved["pairs"]}}
    segments, broken = _segments(disk, f"{directory}/journal", bytes.fromhex(saved["controller"]))
    if broken:
        yield _verdict(DAMAGE, 0, broken, 0, "the segment header is damaged")
        return
    yield from _walk(segments, saved)


def _segments(disk: Disk, directory: str, controller: bytes) -> tuple[list[tuple[SegmentHeader, str, bytes]], str]:
    found: list[tuple[SegmentHeader, str, bytes]] = []
    for name in sorted(name for name in disk.list(directory) if name.endswith(".seg")):
        path = f"{directory}/{name}"
        data = disk.read_file(path)
        if not any(data[:SEGMENT_HEADER_BYTES]):
            continue
        header = unpack_segment_header(data)
        if header is None or header.controller != controller:
            return found, path
        found.append((header, path, data))
    found.sort(key=lambda item: item[0].number)
    return found, ""


def _walk(segments: list[tuple[SegmentHeader, str, bytes]], saved: dict[str, Any]) -> Iterator[dict[str, Any]]:
    last: Record | None = None
    end: tuple[str, int, bytes] | None = None
    for place, (header, path, data) in enumerate(segments):
        first = unpack_record(data, SEGMENT_HEADER_BYTES)
        if first is None or (last is not None and first.sequence != last.sequence + 1):
            if header.number >= saved["index"]:
                end = end or (path, SEGMENT_HEADER_BYTES, data)
            continue
        yield {"type": "segment", "path": path, "index": header.number, "first_sequence": first.sequence}
        at = SEGMENT_HEADER_BYTES
        for record in records(data, at, first.sequence, first.chain):
            last, at = record, record.end
            yield _describe(record, data)
        end = (path, at, data)
        if place + 1 == len(segments):
            break
    sequence = last.sequence if last is not None else int(saved["sequence"])
    yield _judge(segments, saved, sequence, end)


def _describe(record: Record, data: bytes) -> dict[str, Any]:
    common = {
        "type": "record",
        "sequence": record.sequence,
        "kind": KIND_NAMES.get(record.kind, str(record.kind)),
        "time": record.time_us / 1e6,
    }
    if record.kind == MARKER:
        return {**common, "type": "marker", "marker": unpack_marker(data[record.payload_start : record.end])}
    return {**common, "volume": record.volume, "offset": record.offset, "length": record.length}


def _judge(
    segments: list[tuple[SegmentHeader, str, bytes]], saved: dict[str, Any], sequence: int, end: tuple[str, int, bytes] | None
) -> dict[str, Any]:
    if end is None or sequence < saved["sequence"]:
        return _verdict(DAMAGE, sequence, end[0] if end else "", end[1] if end else 0, "the journal ends before its checkpoint")
    path, at, data = end
    beyond = Beyond()
    journal = journal_number(bytes.fromhex(saved["controller"]))
    beyond.look(data, at, sequence + 1, journal)
    for _, other, content in segments:
        if other != path:
            beyond.look(content, SEGMENT_HEADER_BYTES, sequence + 1, journal)
    if beyond.synced > sequence:
        return _verdict(DAMAGE, sequence, path, at, f"record {sequence + 1} is missing or damaged, and it was known to be durable")
    if beyond.later or beyond.broken:
        return _verdict(TORN, sequence, path, at, "something was begun behind the last whole record")
    return _verdict(END, sequence, path, at, "")


def _verdict(verdict: str, sequence: int, path: str, offset: int, why: str) -> dict[str, Any]:
    return {"type": "verdict", "verdict": verdict, "sequence": sequence, "path": path, "offset": offset, "why": why}

"""The bytes of the journal on disk. Little-endian throughout. Pure.

A segment is a file of fixed size: a header of 4,096 bytes, then records without gaps.

Segment header
    offset  size  field
    0       8     magic "DUPLEXDJ"
    8       4     version, 3
    12      4     crc      CRC-32C of bytes 0 to 11 and 16 to 47
    16      16    controller, the identity of the controller that owns the journal
    32      8     index    place of the segment in the journal; never reused
    40      8     size     of the file, bytes

Versions 1 and 2 are read, too. Their crc does not cover the first 12 bytes. They lack markers (see
`core/markers.py`): 1 those of cuts of several controllers, 2 that of a swap.

Record header, followed by `payload_length` bytes
    offset  size  field
    0       4     magic "DXR1"
    4       4     crc      CRC-32C of bytes 8 to 71; represents the record in the chain
    8       4     chain    crc of the record before this one (0 before the first of all)
    12      4     payload_crc, CRC-32C of the payload
    16      8     sequence number; the record before it has the number before it
    24      8     synced   sequence number known to be durable when this was written
    32      8     offset   of the change in the volume, bytes
    40      8     length   of the change, bytes
    48      8     time     microseconds since 1970; shown to users, decides nothing
    56      4     volume   number of the volume; 0 in markers
    60      4     payload_length
    64      1     kind
    65      1     flags    1: zeroes stay allocated
    66      2     zero
    68      4     journal  first 4 bytes of the controller's identity, so that a journal within the
                           payload of another is not taken for a part of it

A record is valid if its magic and both check-sums are right, its number is the one after its
predecessor's, and its chain is its predecessor's crc. Bytes left by an earlier use of the segment
fail on number and chain.
"""

from __future__ import annotations

import json
import struct
from typing import NamedTuple

from fastcrc import crc32

SEGMENT_MAGIC = b"DUPLEXDJ"
RECORD_MAGIC = b"DXR1"
VERSION = 3
VERSIONS_READ = (1, 2, 3)
_VERSION_UNCHECKED = 2  # up to it the crc does not cover the version
SEGMENT_HEADER_BYTES = 4096
RECORD_HEADER_BYTES = 72

WRITE, ZERO, TRIM, MARKER, SEAL = 1, 2, 3, 16, 17
KIND_NAMES = {WRITE: "write", ZERO: "zero", TRIM: "trim", MARKER: "marker", SEAL: "seal"}
FLAG_ALLOCATE = 1

_SEGMENT = struct.Struct("<8sII16sQQ")
_SEGMENT_BODY = struct.Struct("<16sQQ")
_SEGMENT_START = struct.Struct("<8sI")
_BODY = struct.Struct("<IIQQQQQIIBB2xI")
_HEAD = struct.Struct("<4sI")
# The two parts of a record header: see `pack_record`. The writer packs its own, once for each
# change, because the call would cost as much as the packing.
pack_body, pack_head = _BODY.pack, _HEAD.pack
_RECORD = struct.Struct("<4sIIIQQQQQIIBB2xI")

crc32c = crc32.iscsi


class SegmentHeader(NamedTuple):
    """What a segment says of itself."""

    controller: bytes
    number: int
    size: int


class Record(NamedTuple):
    """A record header. `start` is where the record begins in the buffer it was read from."""

    sequence: int
    kind: int
    flags: int
    volume: int
    offset: int
    length: int
    payload_length: int
    payload_crc: int
    synced: int
    time_us: int
    crc: int
    chain: int
    journal: int
    start: int

    @property
    def payload_start(self) -> int:
        """Where the payload begins in the buffer."""
        return self.start + RECORD_HEADER_BYTES

    @property
    def end(self) -> int:
        """Where the next record begins in the buffer."""
        return self.start + RECORD_HEADER_BYTES + self.payload_length


def pack_segment_header(header: SegmentHeader) -> bytes:
    """The first 48 bytes of a segment."""
    return _SEGMENT.pack(SEGMENT_MAGIC, VERSION, _segment_crc(VERSION, header), *header)


def _segment_crc(version: int, header: SegmentHeader) -> int:
    body = _SEGMENT_BODY.pack(*header)
    start = _SEGMENT_START.pack(SEGMENT_MAGIC, version) if version > _VERSION_UNCHECKED else b""
    return crc32c(start + body)


def journal_number(controller: bytes) -> int:
    """The `journal` field of a controller's records."""
    return int.from_bytes(controller[:4], "little")


def unpack_segment_header(data: bytes) -> SegmentHeader | None:
    """The header, or None if these bytes are not one of this version."""
    if len(data) < _SEGMENT.size:
        return None
    magic, version, crc, controller, index, size = _SEGMENT.unpack_from(data)
    header = SegmentHeader(controller, index, size)
    if (
        magic != SEGMENT_MAGIC
        or version not in VERSIONS_READ
        or crc != _segment_crc(version, header)
    ):
        return None
    return header


def pack_record(
    chain: int,
    payload_crc: int,
    sequence: int,
    synced: int,
    offset: int,
    length: int,
    time_us: int,
    volume: int,
    payload_length: int,
    kind: int,
    flags: int,
    journal: int,
) -> tuple[bytes, int]:
    """A record header and its crc."""
    body = pack_body(
        chain,
        payload_crc,
        sequence,
        synced,
        offset,
        length,
        time_us,
        volume,
        payload_length,
        kind,
        flags,
        journal,
    )
    crc = crc32c(body)
    return pack_head(RECORD_MAGIC, crc) + body, crc


def unpack_record(buffer: bytes | bytearray | memoryview, start: int) -> Record | None:
    """The record header at `start`, or None if there is no whole one whose check-sum is right. The
    payload is not looked at.
    """
    if start + RECORD_HEADER_BYTES > len(buffer):
        return None
    fields = _RECORD.unpack_from(buffer, start)
    (
        magic,
        crc,
        chain,
        payload_crc,
        sequence,
        synced,
        offset,
        length,
        time_us,
        volume,
        payload_length,
        kind,
        flags,
        journal,
    ) = fields
    if magic != RECORD_MAGIC or crc != crc32c(
        memoryview(buffer)[start + 8 : start + RECORD_HEADER_BYTES]
    ):
        return None
    return Record(
        sequence,
        kind,
        flags,
        volume,
        offset,
        length,
        payload_length,
        payload_crc,
        synced,
        time_us,
        crc,
        chain,
        journal,
        start,
    )


def payload_is_whole(buffer: bytes | bytearray | memoryview, record: Record) -> bool:
    """Whether the payload is all there and its check-sum is right."""
    return (
        record.end <= len(buffer)
        and crc32c(memoryview(buffer)[record.payload_start : record.end]) == record.payload_crc
    )


def unpack_marker(payload: bytes | memoryview) -> dict[str, object]:
    """A marker from its payload, whose check-sum was right. Raises ValueError if it is none."""
    marker = json.loads(bytes(payload))
    if not isinstance(marker, dict):
        raise ValueError(f"a marker is a JSON object, this is {str(marker)[:40]!r}")
    return marker

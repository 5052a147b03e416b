"""The bytes on disk are those of the table at the top of `journal/format.py`."""

from __future__ import annotations

import json
import re
import struct
from typing import NamedTuple

import pytest

from duplexd.journal import format as journal_format
from duplexd.journal.format import (
    FLAG_ALLOCATE,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    VERSION,
    ZERO,
    Record,
    SegmentHeader,
    crc32c,
    journal_number,
    pack_record,
    pack_segment_header,
    payload_is_whole,
    unpack_marker,
    unpack_record,
    unpack_segment_header,
)

CONTROLLER = bytes(range(1, 17))
ROW = re.compile(r"^    (\d+) +(\d+) +(\w+)(.*)$")
RECORD = {
    "chain": 0x11111111,
    "payload_crc": 0x22222222,
    "sequence": 0x3333333333333333,
    "synced": 0x4444444444444444,
    "offset": 0x5555555555555555,
    "length": 0x6666666666666666,
    "time_us": 0x7777777777777777,
    "volume": 0x88888888,
    "payload_length": 0x99999999,
    "kind": ZERO,
    "flags": FLAG_ALLOCATE,
    "journal": journal_number(CONTROLLER),
}


class Field(NamedTuple):
    """A row of the table: `size` bytes from `offset` on."""

    offset: int
    size: int
    name: str
    meaning: str

    def of(self, data: bytes) -> bytes:
        return data[self.offset : self.offset + self.size]

    def number(self, data: bytes) -> int:
        return int.from_bytes(self.of(data), "little")


def table(title: str) -> list[Field]:
    """The rows under a title in the module's docstring."""
    assert journal_format.__doc__ is not None
    _, _, rest = journal_format.__doc__.partition(f"\n{title}")
    assert rest, f"there is no table {title!r}"
    rows = [ROW.match(line) for line in rest.split("\n\n")[0].splitlines()]
    return [Field(int(row[1]), int(row[2]), row[3], row[4].strip(" ,")) for row in rows if row]


SEGMENT_TABLE = {field.name: field for field in table("Segment header")}
RECORD_TABLE = {field.name: field for field in table("Record header")}


def record_bytes() -> bytes:
    return pack_record(**RECORD)[0]


@pytest.mark.parametrize("title", ["Segment header", "Record header"])
def test_the_fields_follow_each_other_without_gap_or_overlap(title: str) -> None:
    at = 0
    for field in table(title):
        assert field.offset == at, field
        at += field.size
    assert at == {"Segment header": 48, "Record header": RECORD_HEADER_BYTES}[title]


def test_a_segment_header_is_packed_as_the_table_says() -> None:
    data = pack_segment_header(SegmentHeader(CONTROLLER, 0x0102030405060708, 0x1112131415161718))
    fields = dict(SEGMENT_TABLE)
    assert fields.pop("magic").of(data) == SEGMENT_MAGIC
    assert fields.pop("version").number(data) == VERSION
    assert fields.pop("controller").of(data) == CONTROLLER
    assert fields.pop("index").number(data) == 0x0102030405060708
    assert fields.pop("size").number(data) == 0x1112131415161718
    assert fields.pop("crc").number(data) == crc32c(data[:12] + data[16:48])
    assert not fields, "a field of the table is not tested"
    assert len(data) == 48


def test_the_texts_of_the_table_name_the_constants() -> None:
    assert f'"{SEGMENT_MAGIC.decode()}"' in SEGMENT_TABLE["magic"].meaning
    assert f'"{RECORD_MAGIC.decode()}"' in RECORD_TABLE["magic"].meaning
    assert SEGMENT_TABLE["version"].meaning == str(VERSION)
    assert "0 to 11 and 16 to 47" in SEGMENT_TABLE["crc"].meaning
    assert f"8 to {RECORD_HEADER_BYTES - 1}" in RECORD_TABLE["crc"].meaning
    assert f"a header of {SEGMENT_HEADER_BYTES:,} bytes" in str(journal_format.__doc__)


def test_a_record_header_is_packed_as_the_table_says() -> None:
    data, crc = pack_record(**RECORD)
    fields = dict(RECORD_TABLE)
    assert fields.pop("magic").of(data) == RECORD_MAGIC
    assert fields.pop("crc").number(data) == crc == crc32c(data[8:])
    assert fields.pop("time").number(data) == RECORD["time_us"]
    assert fields.pop("zero").number(data) == 0
    assert fields.pop("journal").of(data) == CONTROLLER[:4]
    for name, field in fields.items():
        assert field.number(data) == RECORD[name], name
    assert len(data) == RECORD_HEADER_BYTES


def test_a_record_header_is_unpacked_as_it_was_packed() -> None:
    data, crc = pack_record(**RECORD)
    record = unpack_record(b"before" + data + b"behind", 6)
    assert record == Record(**RECORD, crc=crc, start=6)
    assert record is not None
    assert (record.payload_start, record.end) == (
        6 + RECORD_HEADER_BYTES,
        6 + RECORD_HEADER_BYTES + RECORD["payload_length"],
    )


def test_a_record_with_any_bit_wrong_is_none() -> None:
    data = record_bytes()
    for place in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[place // 8] ^= 1 << place % 8
        assert unpack_record(wrong, 0) is None, f"bit {place}"


@pytest.mark.parametrize("length", [0, 1, RECORD_HEADER_BYTES - 1])
def test_a_piece_of_a_record_is_none(length: int) -> None:
    assert unpack_record(record_bytes()[:length], 0) is None


def test_a_segment_header_with_any_bit_wrong_is_none() -> None:
    data = pack_segment_header(SegmentHeader(CONTROLLER, 7, 8192))
    assert unpack_segment_header(data) == SegmentHeader(CONTROLLER, 7, 8192)
    assert unpack_segment_header(data[:47]) is None
    for place in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[place // 8] ^= 1 << place % 8
        assert unpack_segment_header(bytes(wrong)) is None, f"bit {place}"


def test_a_segment_of_another_version_is_none() -> None:
    data = bytearray(pack_segment_header(SegmentHeader(CONTROLLER, 7, 8192)))
    struct.pack_into("<I", data, 8, VERSION + 1)
    assert unpack_segment_header(bytes(data)) is None


def test_a_payload_is_whole_if_all_of_it_is_there_and_right() -> None:
    payload = b"payload"
    header, _ = pack_record(
        **{**RECORD, "payload_crc": crc32c(payload), "payload_length": len(payload)}
    )
    record = unpack_record(header, 0)
    assert record is not None
    assert payload_is_whole(header + payload, record)
    assert payload_is_whole(header + payload + b"more", record)
    assert not payload_is_whole(header + payload[:-1], record)
    assert not payload_is_whole(header + b"Payload", record)


def test_a_marker_is_unpacked_as_it_was_packed() -> None:
    marker: dict[str, object] = {"m": "cut", "tag": "jeden Tag · 毎日", "volumes": [1, 2]}
    assert unpack_marker(memoryview(json.dumps(marker).encode())) == marker

"""What an image says of itself."""

from __future__ import annotations

import errno
import json

import pytest
from fastcrc import crc32

from duplexd.images.probe import (
    SAMPLE_BYTES,
    UNREADABLE,
    Mark,
    Piece,
    brand,
    checksum,
    probe,
)
from tests.support.fault_leg import FaultLeg
from tests.support.memory_leg import MemoryLeg

MARK = Mark("id", "controller", "alpha", "data", 3)


def leg() -> MemoryLeg:
    made = MemoryLeg(1 << 20, "/a.img")
    made.write(8192, b"x" * SAMPLE_BYTES)
    return made


def test_a_mark_is_read_as_it_was_written() -> None:
    assert Mark.unpack(MARK.pack()) == MARK


def with_fields(**fields: object) -> bytes:
    return json.dumps({**MARK._asdict(), **fields}).encode()


_NO_COUNTS: list[object] = [1 << 62, 1 << 64, -1, 1.5, float("inf"), True, "7", None, []]
_NO_TEXTS: list[object] = ["", 7, None, "\ud800"]
NO_MARKS: list[bytes] = [
    *(b"\xff", b"3", b"[]", b"{}", b'{"id":1}', MARK.pack()[:-1], b"[" * 3000),
    *(with_fields(generation=wrong) for wrong in _NO_COUNTS),
    *(with_fields(number=wrong) for wrong in _NO_COUNTS),
    *(with_fields(owner=wrong) for wrong in _NO_TEXTS),
]


@pytest.mark.parametrize("data", [b"", *NO_MARKS])
def test_anything_else_is_no_mark(data: bytes) -> None:
    assert Mark.unpack(data) is None


@pytest.mark.parametrize("data", NO_MARKS)
def test_what_is_no_mark_is_not_the_same_as_none(data: bytes) -> None:
    image = leg()
    assert probe(image, []).mark is None
    image.write_mark(data, durable=True)
    assert probe(image, []).mark == UNREADABLE


def test_a_mark_of_before_there_were_numbers_is_one() -> None:
    fields = MARK._asdict()
    del fields["number"]
    assert Mark.unpack(json.dumps(fields).encode()) == MARK._replace(number=0)


def test_an_image_is_found_with_its_mark_and_the_samples_asked_for() -> None:
    image = leg()
    assert brand(image, MARK, durable=True)
    found = probe(image, [0, 8192])
    assert (found.path, found.place, found.size) == ("/a.img", "memory", 1 << 20)
    assert (found.mark, found.last_there, found.unreadable) == (MARK, True, "")
    assert found.samples == {
        0: crc32.iscsi(bytes(SAMPLE_BYTES)),
        8192: crc32.iscsi(b"x" * SAMPLE_BYTES),
    }


@pytest.mark.parametrize(("content", "there"), [(b"xxx", True), (b"xxy", False)])
def test_the_last_change_is_looked_for(content: bytes, there: bool) -> None:
    last = Piece(8192, 3, crc32.iscsi(content))
    assert probe(leg(), [], last).last_there == there


def test_an_image_that_cannot_be_read_in_places_is_found() -> None:
    image = FaultLeg(leg())
    image.fail("read_into", errno.EIO, after=1)
    found = probe(image, [0, 8192])
    assert (list(found.samples), bool(found.unreadable)) == ([0], True)


def test_a_block_that_cannot_be_read_hides_no_others() -> None:
    """Any device with a bad block at the first place was taken for the image."""
    image = FaultLeg(leg())
    image.fail("read_into", errno.EIO, times=1)
    found = probe(image, [0, 8192, 16384], Piece(8192, 3, crc32.iscsi(b"xxy")))
    assert (list(found.samples), found.last_there) == ([8192, 16384], False)
    assert found.unreadable


def test_what_is_left_of_a_dead_disk_is_not_looked_at() -> None:
    image = FaultLeg(leg())
    image.fail("read_into", errno.EIO, times=3)
    assert not probe(image, range(0, 40960, 8192)).samples


def test_a_checksum_is_of_a_block() -> None:
    assert checksum(leg(), 8192) == crc32.iscsi(b"x" * SAMPLE_BYTES)
    assert checksum(leg(), 8192, 2) == crc32.iscsi(b"xx")

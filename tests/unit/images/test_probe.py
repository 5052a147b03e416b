"""What an image says of itself."""

from __future__ import annotations

import errno

import pytest
from fastcrc import crc32

from duplexd.images.probe import SAMPLE_BYTES, Mark, Piece, brand, checksum, probe
from tests.support.fault_leg import FaultLeg
from tests.support.memory_leg import MemoryLeg

MARK = Mark("id", "controller", "alpha", "data", 3)


def leg() -> MemoryLeg:
    made = MemoryLeg(1 << 20, "/a.img")
    made.write(8192, b"x" * SAMPLE_BYTES)
    return made


def test_a_mark_is_read_as_it_was_written() -> None:
    assert Mark.unpack(MARK.pack()) == MARK


@pytest.mark.parametrize("data", [b"", b"\xff", b"3", b"[]", b"{}", b'{"id":1}', MARK.pack()[:-1]])
def test_anything_else_is_no_mark(data: bytes) -> None:
    assert Mark.unpack(data) is None


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


def test_a_checksum_is_of_a_block() -> None:
    assert checksum(leg(), 8192) == crc32.iscsi(b"x" * SAMPLE_BYTES)
    assert checksum(leg(), 8192, 2) == crc32.iscsi(b"xx")

"""Chunks: what a client that knows the specification makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexd.nbd import constants as c
from duplexd.nbd import replies as r
from duplexd.nbd.extents import Extent, as_one, statuses, without_short_holes
from tests.support.nbd_chunks import DATA, HOLE, STATUS, STATUS_EXT, ChunkReader, read_from

BOTH = pytest.mark.parametrize("chunks", [r.STRUCTURED, r.EXTENDED], ids=["structured", "extended"])
COOKIE, AT = 0x1122334455667788, 1 << 40


def at_of(chunks: r.Chunks) -> int | None:
    return AT if chunks is r.EXTENDED else None


@BOTH
def test_none_is_the_whole_reply_to_a_success(chunks: r.Chunks) -> None:
    (chunk,) = ChunkReader().feed(chunks.none(COOKIE, AT))
    assert chunk == (True, c.REPLY_NONE, COOKIE, at_of(chunks), b"")


@BOTH
@pytest.mark.parametrize("number", [c.EPERM, c.EIO, c.EINVAL, c.ENOMEM, c.ESHUTDOWN])
def test_an_error_carries_its_number_and_a_text(chunks: r.Chunks, number: int) -> None:
    (chunk,) = ChunkReader().feed(chunks.error(COOKIE, AT, number))
    assert (chunk.done, chunk.kind, chunk.error) == (True, c.REPLY_ERROR, number)
    text = chunk.payload[6:]
    assert int.from_bytes(chunk.payload[4:6], "big") == len(text) <= c.STRING_BYTES_MAX
    assert text.decode().isprintable()


def test_the_header_that_is_packed_in_place_is_that_of_a_data_chunk() -> None:
    structured = r.STRUCTURED_DATA.pack(r.STRUCTURED_DATA_FIRST, COOKIE, 100 + r.OFFSET_BYTES, AT)
    assert structured == r.STRUCTURED.data_head(COOKIE, AT, AT, 100, True)
    assert len(structured) == r.STRUCTURED.data_room
    extended = r.EXTENDED_DATA.pack(r.EXTENDED_DATA_FIRST, COOKIE, AT, 100 + r.OFFSET_BYTES, AT)
    assert extended == r.EXTENDED.data_head(COOKIE, AT, AT, 100, True)
    assert len(extended) == r.EXTENDED.data_room
    assert r.EXTENDED_NONE.pack(r.EXTENDED_NONE_FIRST, COOKIE, AT, 0) == r.EXTENDED.none(COOKIE, AT)


@st.composite
def sparse_contents(draw: st.DrawFn) -> tuple[bytes, list[Extent]]:
    """Content, and its extents from AT on. Holes are as long as the shortest that is sent."""
    extents: list[Extent] = []
    content, is_data = b"", draw(st.booleans())
    for number in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 3000)) + (0 if is_data else r.HOLE_BYTES_MIN)
        extents.append((AT + len(content), length, is_data))
        content += bytes([number + 1 if is_data else 0]) * length
        is_data = not is_data
    return content, extents


@BOTH
@settings(max_examples=60, deadline=None)
@given(sparse_contents())
def test_a_sparse_reply_is_the_content_with_its_holes_left_out(
    chunks: r.Chunks, given: tuple[bytes, list[Extent]]
) -> None:
    content, extents = given
    buffer = bytearray(chunks.data_room) + content
    answer = b"".join(chunks.sparse(COOKIE, AT, buffer, extents))
    found = ChunkReader().feed(answer)
    assert read_from(found, AT, len(content)) == content
    assert [chunk.kind for chunk in found] == [DATA if is_data else HOLE for *_, is_data in extents]
    assert {chunk.at for chunk in found} == {at_of(chunks)}


@BOTH
def test_statuses_of_a_context(chunks: r.Chunks) -> None:
    extents = [(4096, c.STATE_HOLE | c.STATE_ZERO), (1 << 30, 0)]
    (chunk,) = ChunkReader().feed(chunks.status(COOKIE, AT, 7, extents, True))
    assert chunk.kind == (STATUS_EXT if chunks is r.EXTENDED else STATUS)
    assert chunk.statuses == (7, extents)


def test_a_length_of_64_bits_in_an_extended_status() -> None:
    (chunk,) = ChunkReader().feed(r.EXTENDED.status(COOKIE, 0, 1, [(1 << 50, 0)], True))
    assert chunk.statuses == (1, [(1 << 50, 0)])


# Extents


def test_short_holes_are_data() -> None:
    extents = [(0, 10, True), (10, 4, False), (14, 6, True), (20, 8, False), (28, 2, True)]
    assert without_short_holes(extents, 8) == [(0, 20, True), (20, 8, False), (28, 2, True)]


def test_a_range_that_is_one_hole_stays_one_however_short() -> None:
    assert without_short_holes([(0, 4, False)], 8) == [(0, 4, False)]
    assert without_short_holes([(0, 4, False), (4, 3, False)], 8) == [(0, 7, False)]


def test_one_extent_is_a_hole_only_if_all_of_it_is() -> None:
    assert as_one([(8, 4, False), (12, 4, True)]) == [(8, 8, True)]
    assert as_one([(8, 4, False), (12, 4, False)]) == [(8, 8, False)]


HOLE_STATE = c.STATE_HOLE | c.STATE_ZERO
EXTENTS: list[Extent] = [(0, 10, True), (10, 4, False), (14, 6, False), (20, 8, True)]


@pytest.mark.parametrize(
    ("length", "one", "expected"),
    [
        (100, False, [(10, 0), (10, HOLE_STATE), (8, 0)]),
        (22, False, [(10, 0), (10, HOLE_STATE), (2, 0)]),
        (20, False, [(10, 0), (10, HOLE_STATE)]),
        (5, False, [(5, 0)]),
        (100, True, [(10, 0)]),
        (5, True, [(5, 0)]),
    ],
)
def test_statuses_end_with_the_request(
    length: int, one: bool, expected: list[tuple[int, int]]
) -> None:
    assert statuses(EXTENTS, length, one) == expected


def test_one_status_joins_neighbours_of_its_state() -> None:
    assert statuses(EXTENTS[1:], 100, True) == [(10, HOLE_STATE)]

"""Replies as the client takes them: chunks that the server's half makes, and chunks that lie."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client_replies import Replies, Reply
from duplexd.nbd.messages import ProtocolError
from duplexd.nbd.replies import STRUCTURED

COOKIE, AT, LENGTH = 7, 1000, 100
CONTENT = bytes(range(100))


def asked(command: int = c.CMD_READ, length: int = LENGTH) -> Replies:
    replies = Replies()
    replies.structured = True
    replies.contexts = {1: c.CONTEXT_ALLOCATION, 2: "qemu:dirty-bitmap:x"}
    replies.expect(COOKIE, command, AT, length)
    return replies


def taken(replies: Replies, *messages: bytes) -> Reply:
    """The reply, which the last message completes; it comes byte by byte."""
    found: list[Reply] = []
    data = bytearray()
    for byte in b"".join(messages):
        assert not found, "complete before its end"
        data.append(byte)
        used, reply = replies.take(data)
        del data[:used]
        if reply is not None:
            found.append(reply)
    assert (len(data), len(replies)) == (0, 0)
    (reply,) = found
    return reply


def data_chunk(start: int, end: int, done: bool = False) -> bytes:
    head = STRUCTURED.data_head(COOKIE, AT, AT + start, end - start, done)
    return head + CONTENT[start:end]


def status(context: int, *extents: tuple[int, int], done: bool = True) -> bytes:
    return STRUCTURED.status(COOKIE, AT, context, extents, done)


def test_a_read_in_one_chunk() -> None:
    assert taken(asked(), data_chunk(0, 100, done=True)).data == CONTENT


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 99), unique=True, max_size=6), st.lists(st.booleans(), min_size=7),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_chunks_and_holes_come_in_any_order(
    cuts: list[int], holes: list[bool], random: st.DrawFn
) -> None:
    ends = sorted({0, 100, *cuts})
    expected, chunks = b"", []
    for start, end, hole in zip(ends, ends[1:], holes, strict=False):
        expected += bytes(end - start) if hole else CONTENT[start:end]
        about = (COOKIE, AT, AT + start, end - start, False)
        chunks.append(STRUCTURED.hole(*about) if hole else data_chunk(start, end))
    random.shuffle(chunks)  # type: ignore[attr-defined]
    assert taken(asked(), *chunks, STRUCTURED.none(COOKIE, AT)).data == expected


def test_what_the_servers_half_makes_of_a_sparse_read_is_understood() -> None:
    extents = [(AT, 20, True), (AT + 20, 70, False), (AT + 90, 10, True)]
    content = bytearray(STRUCTURED.data_room) + CONTENT
    pieces = STRUCTURED.sparse(COOKIE, AT, content, extents)
    assert taken(asked(), *map(bytes, pieces)).data == CONTENT[:20] + bytes(70) + CONTENT[90:]


def test_an_error_chunk_gives_number_and_text_and_no_content() -> None:
    reply = taken(asked(), data_chunk(0, 50), STRUCTURED.error(COOKIE, AT, c.EIO))
    assert (reply.error, reply.data) == (c.EIO, b"")
    assert "storage failed" in reply.text


def test_the_first_error_counts_and_content_may_follow_it() -> None:
    where = pack(">IHQ", c.ENOSPC, 0, AT)
    first = STRUCTURED.head(COOKIE, AT, c.REPLY_ERROR_OFFSET, len(where), False) + where
    reply = taken(asked(), first, data_chunk(0, 50), STRUCTURED.error(COOKIE, AT, c.EIO))
    assert reply.error == c.ENOSPC


def test_a_read_of_nothing_and_a_change_may_have_an_empty_chunk() -> None:
    assert taken(asked(length=0), STRUCTURED.none(COOKIE, AT)).data == b""
    assert taken(asked(c.CMD_WRITE), STRUCTURED.none(COOKIE, AT)).error == 0
    assert taken(asked(c.CMD_WRITE), m.simple_reply(c.EIO, COOKIE)).error == c.EIO


def test_block_status_has_the_extents_of_each_context() -> None:
    first = status(1, (60, 0), (1000, 3), done=False)  # the last extent may go further
    reply = taken(asked(c.CMD_BLOCK_STATUS), first, status(2, (10, 1)))
    assert reply.statuses == {
        c.CONTEXT_ALLOCATION: [(60, 0), (1000, 3)],
        "qemu:dirty-bitmap:x": [(10, 1)],
    }


NONE = STRUCTURED.none(COOKIE, AT)
READS = {
    "a byte is missing at the end": [data_chunk(0, 99), NONE],
    "a byte is missing in the middle": [data_chunk(0, 50), data_chunk(51, 100, True)],
    "overlapping, of the right length": [data_chunk(0, 60), data_chunk(50, 90, True)],
    "twice": [data_chunk(0, 100), data_chunk(0, 100, True)],
    "twice, without an end": [data_chunk(0, 100), data_chunk(0, 100)],
    "nothing at all": [NONE],
    "before the range": [STRUCTURED.data_head(COOKIE, AT, AT - 1, 100, True) + CONTENT],
    "past the range": [STRUCTURED.data_head(COOKIE, AT, AT + 1, 100, True) + CONTENT],
    "a hole past the range": [STRUCTURED.hole(COOKIE, AT, AT, 101, True)],
    "an empty hole": [STRUCTURED.hole(COOKIE, AT, AT, 0, False)],
    "longer than what was asked for": [STRUCTURED.data_head(COOKIE, AT, AT, 1 << 30, True)],
    "a chunk without content": [STRUCTURED.data_head(COOKIE, AT, AT, 0, True)],
    "a simple reply": [m.simple_reply(0, COOKIE) + CONTENT],
    "an unknown cookie": [STRUCTURED.none(COOKIE + 1, AT)],
    "an empty chunk that is not the last": [STRUCTURED.head(COOKIE, AT, c.REPLY_NONE, 0, False)],
    "an unknown type": [STRUCTURED.head(COOKIE, AT, 77, 0, True)],
    "an error that is none": [STRUCTURED.error(COOKIE, AT, 0)],
    "an error without a number": [STRUCTURED.head(COOKIE, AT, c.REPLY_ERROR, 2, True) + b"xx"],
    "an error with a text that is not there": [
        STRUCTURED.head(COOKIE, AT, c.REPLY_ERROR, 6, True) + pack(">IH", c.EIO, 9)
    ],
    "a block status": [status(1, (100, 0))],
    "no reply": [bytes(20)],
}  # fmt: skip
OTHER = status(2, (100, 0), done=False)
STATUSES = {
    "without one of the contexts": [status(1, (100, 0))],
    "the same context twice": [OTHER, status(1, (100, 0), done=False), status(1, (100, 0))],
    "an unknown context": [OTHER, status(3, (100, 0))],
    "an empty extent": [OTHER, status(1, (0, 0))],
    "an extent that begins past the range": [OTHER, status(1, (100, 0), (1, 0))],
    "no extent": [OTHER, status(1)],
    "half an extent": [
        OTHER,
        STRUCTURED.head(COOKIE, AT, c.REPLY_BLOCK_STATUS, 8, True) + bytes(8),
    ],
    "content": [data_chunk(0, 100, True)],
    "a simple reply": [m.simple_reply(0, COOKIE)],
}


@pytest.mark.parametrize("lie", READS)
def test_a_reply_to_a_read_is_compared_with_the_request(lie: str) -> None:
    with pytest.raises(ProtocolError):
        taken(asked(), *READS[lie])


@pytest.mark.parametrize("lie", STATUSES)
def test_a_block_status_is_compared_with_the_request(lie: str) -> None:
    with pytest.raises(ProtocolError):
        taken(asked(c.CMD_BLOCK_STATUS), *STATUSES[lie])


def test_an_error_without_a_number_is_no_success() -> None:
    with pytest.raises(ProtocolError, match="bad error chunk"):
        taken(asked(c.CMD_WRITE), STRUCTURED.error(COOKIE, AT, 0))


def test_chunks_that_were_not_negotiated_are_refused() -> None:
    replies = Replies()
    replies.expect(COOKIE, c.CMD_READ, AT, LENGTH)
    with pytest.raises(ProtocolError):
        replies.take(bytearray(data_chunk(0, 100, True)))


def test_content_in_pieces_that_take_more_than_they_hold_is_refused() -> None:
    """Each byte in a chunk of its own would take forty times what was asked for."""
    replies, length = asked(length=1 << 20), 1 << 20

    def chunk_by_chunk() -> None:
        for at in range(length):
            head = STRUCTURED.data_head(COOKIE, AT, AT + at, 1, False)
            replies.take(bytearray(head + b"x"))

    with pytest.raises(ProtocolError, match="too many pieces"):
        chunk_by_chunk()


def test_content_in_pieces_of_a_sector_is_taken() -> None:
    replies, pieces, reply = asked(length=1 << 20), range(0, 1 << 20, 512), None
    for at in pieces:
        head = STRUCTURED.data_head(COOKIE, AT, AT + at, 512, at == pieces[-1])
        _, reply = replies.take(bytearray(head + bytes(512)))
    assert reply is not None
    assert len(reply.data) == 1 << 20

"""Structured and extended replies: chunks, each with a header that says what follows.

A reply is one or more chunks with the cookie of its request, and the last of them is marked DONE.
Both kinds carry the same payloads. The header of an extended one is longer: it repeats the offset
of the request (`at` here), and its length has 64 bits. So one class makes them, with the header as
the only difference, and a connection has the one instance that its client negotiated.

| message | bytes | fields |
|---|---|---|
| structured chunk | 20 + length | STRUCTURED_REPLY_MAGIC u32, flags u16, type u16, cookie u64, |
| | | length u32, payload |
| extended chunk | 32 + length | EXTENDED_REPLY_MAGIC u32, flags u16, type u16, cookie u64, |
| | | offset of the request u64, length u64, payload |
| OFFSET_DATA | 8 + n | offset u64, n bytes |
| OFFSET_HOLE | 12 | offset u64, length u32 |
| BLOCK_STATUS | 4 + 8 n | context u32, n times: length u32, status u32 |
| BLOCK_STATUS_EXT | 8 + 16 n | context u32, n u32, n times: length u64, status u64 |
| ERROR | 6 + n | error u32, n u16, text of n bytes |

The header of a small READ is packed in place, by `STRUCTURED_DATA` and `EXTENDED_DATA`. Magic,
flags and type are one number there, which takes a third of the time of packing three.
"""

from __future__ import annotations

from itertools import chain
from struct import Struct, pack
from typing import TYPE_CHECKING

from . import constants as c

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .extents import Extent, Status

    Piece = bytes | memoryview

_STRUCTURED = Struct(">IHHQI")
_EXTENDED = Struct(">IHHQQQ")
_OFFSET = Struct(">Q")
_HOLE = Struct(">QI")
_ERROR = Struct(">IH")

_DATA_AND_DONE = c.REPLY_FLAG_DONE << 16 | c.REPLY_OFFSET_DATA
# An OFFSET_DATA chunk that is the whole reply: FIRST, cookie, length + 8, offset
STRUCTURED_DATA = Struct(">QQIQ")
STRUCTURED_DATA_FIRST = c.STRUCTURED_REPLY_MAGIC << 32 | _DATA_AND_DONE
# and FIRST, cookie, offset, length + 8, offset
EXTENDED_DATA = Struct(">QQQQQ")
EXTENDED_DATA_FIRST = c.EXTENDED_REPLY_MAGIC << 32 | _DATA_AND_DONE
# A NONE chunk, the whole reply to what has no content: FIRST, cookie, offset, 0
EXTENDED_NONE = Struct(">QQQQ")
EXTENDED_NONE_FIRST = c.EXTENDED_REPLY_MAGIC << 32 | c.REPLY_FLAG_DONE << 16 | c.REPLY_NONE
OFFSET_BYTES = _OFFSET.size

# A shorter hole is sent as the zeroes that it is: a chunk costs more than it saves.
HOLE_BYTES_MIN = 32 << 10

_TEXTS = {
    c.EPERM: "the export is read-only, or the storage denied it",
    c.EIO: "the storage failed; the log of the server says how",
    c.EINVAL: "the request, one of its flags, or its range is not valid for this export",
    c.ENOSPC: "past the end of the export, or the storage is full",
    c.EOVERFLOW: "too long for a single chunk; ask for less, or without DF",
    c.ENOTSUP: "zeroes are not faster than a write there",
    c.ESHUTDOWN: "the server is stopping",
}


class Chunks:
    """Makes structured replies. `at` is the offset of the request, `done` marks the last chunk."""

    data_room = _STRUCTURED.size + _OFFSET.size  # before the bytes of an OFFSET_DATA chunk
    hole_room = _STRUCTURED.size + _HOLE.size

    def head(self, cookie: int, at: int, kind: int, length: int, done: bool) -> bytes:  # noqa: ARG002
        """The header of a chunk, `length` bytes follow it."""
        return _STRUCTURED.pack(c.STRUCTURED_REPLY_MAGIC, done, kind, cookie, length)

    def none(self, cookie: int, at: int) -> bytes:
        """The whole reply to a request that succeeded and has no content."""
        return self.head(cookie, at, c.REPLY_NONE, 0, True)

    def error(self, cookie: int, at: int, number: int) -> bytes:
        """The whole reply to a request that failed, with a text for people."""
        text = _TEXTS.get(number, "").encode()
        length = _ERROR.size + len(text)
        head = self.head(cookie, at, c.REPLY_ERROR, length, True)
        return head + _ERROR.pack(number, len(text)) + text

    def data_head(self, cookie: int, at: int, offset: int, length: int, done: bool) -> bytes:
        """What comes before `length` bytes of content from `offset` on."""
        length += _OFFSET.size
        return self.head(cookie, at, c.REPLY_OFFSET_DATA, length, done) + _OFFSET.pack(offset)

    def hole(self, cookie: int, at: int, offset: int, length: int, done: bool) -> bytes:
        """Content that is all zeroes and is not sent."""
        head = self.head(cookie, at, c.REPLY_OFFSET_HOLE, _HOLE.size, done)
        return head + _HOLE.pack(offset, length)

    def status(
        self, cookie: int, at: int, context: int, statuses: Sequence[Status], done: bool
    ) -> bytes:
        """The extents of one metadata context, from `at` on."""
        fields = chain.from_iterable(statuses)
        payload = pack(f">I{2 * len(statuses)}I", context, *fields)
        return self.head(cookie, at, c.REPLY_BLOCK_STATUS, len(payload), done) + payload

    def sparse(
        self, cookie: int, at: int, content: bytearray, extents: Sequence[Extent]
    ) -> list[Piece]:
        """The reply to a READ of data and holes, as pieces to send one after the other.

        `content` has `data_room` bytes before the content, and `extents` cover it exactly. Nothing
        is copied: a hole that is not sent leaves room before the data behind it, and what comes
        before that data is written there.
        """
        room, view = self.data_room, memoryview(content)
        pieces: list[Piece] = []
        held = b""  # holes that go out with what follows
        last = len(extents) - 1
        for place, (offset, length, is_data) in enumerate(extents):
            done = place == last
            if not is_data:
                held += self.hole(cookie, at, offset, length, done)
                continue
            before = held + self.data_head(cookie, at, offset, length, done)
            held = b""
            start = room + offset - at
            view[start - len(before) : start] = before
            pieces.append(view[start - len(before) : start + length])
        if held:
            pieces.append(held)
        return pieces


class ExtendedChunks(Chunks):
    """Makes extended replies."""

    data_room = _EXTENDED.size + _OFFSET.size
    hole_room = _EXTENDED.size + _HOLE.size

    def head(self, cookie: int, at: int, kind: int, length: int, done: bool) -> bytes:
        return _EXTENDED.pack(c.EXTENDED_REPLY_MAGIC, done, kind, cookie, at, length)

    def status(
        self, cookie: int, at: int, context: int, statuses: Sequence[Status], done: bool
    ) -> bytes:
        count, fields = len(statuses), chain.from_iterable(statuses)
        payload = pack(f">II{2 * count}Q", context, count, *fields)
        return self.head(cookie, at, c.REPLY_BLOCK_STATUS_EXT, len(payload), done) + payload


STRUCTURED, EXTENDED = Chunks(), ExtendedChunks()

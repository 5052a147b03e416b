"""The client's half of replies: what is in flight, and how chunks become one reply.

A server may answer in any order, and a structured READ in any number of chunks. Nothing that it
says is believed before it is compared with the request: content has to be within the range, each
byte once, none missing; an extent list has to cover the range from its beginning. So a length that
a server announces never makes the client keep more than it asked for.
Source: NetworkBlockDevice/nbd, doc/proto.md, "Structured reply chunk message".
"""

from __future__ import annotations

from operator import itemgetter
from struct import Struct, iter_unpack
from typing import TYPE_CHECKING, NamedTuple

from . import constants as c
from . import messages as m
from .messages import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .extents import Status

_CHUNK = Struct(">IHHQI")
_HOLE = Struct(">QI")
_ERROR = Struct(">IH")
_ERROR_BYTES_MAX = _ERROR.size + c.STRING_BYTES_MAX + m.U64.size  # ERROR_OFFSET has an offset, too
_EXTENTS_MAX = 1 << 20  # of a chunk, by the specification
# Pieces of the content of a READ are as long as this on average: each takes memory of its own
_PART_BYTES_MIN, _PARTS_MIN = 512, 64
_ANY_ERROR = 1 << 15  # of the type of a chunk


class Reply:
    """The reply to the request with that cookie.

    `error` is an errno (0: success) and `text` what the server says of it, `data` what a READ
    returned, `statuses` the extents of each metadata context by name, from the offset of a
    BLOCK_STATUS on: at least one, and perhaps fewer than the range has.
    """

    __slots__ = ("cookie", "data", "error", "statuses", "text")

    def __init__(self, cookie: int, error: int, data: bytes) -> None:
        self.cookie = cookie
        self.error = error
        self.data = data
        self.text = ""
        self.statuses: dict[str, list[Status]] = {}


class _Part(NamedTuple):
    """Some of the content of a READ; `data` is None for zeroes that were not sent."""

    offset: int
    length: int
    data: bytes | None


class _Asked:
    """A request in flight, and what has come of its reply."""

    __slots__ = ("command", "length", "offset", "parts", "received", "reply")

    def __init__(self, cookie: int, command: int, offset: int, length: int) -> None:
        self.command = command
        self.offset = offset
        self.length = length
        self.parts: list[_Part] = []
        self.received = 0  # bytes of all parts
        self.reply = Reply(cookie, 0, b"")

    def take(self, part: _Part) -> None:
        """One more part of the content."""
        self.received += part.length
        end = part.offset + part.length
        inside = self.offset <= part.offset and end <= self.offset + self.length
        if self.command != c.CMD_READ or not part.length or not inside:
            raise ProtocolError("content that was not asked for")
        if self.received > self.length:
            raise ProtocolError("content that overlaps")
        if len(self.parts) >= _PARTS_MIN + self.length // _PART_BYTES_MIN:
            raise ProtocolError("content in too many pieces")
        self.parts.append(part)

    def finish(self, contexts: Mapping[int, str]) -> Reply:
        """The reply, now that its last chunk is here."""
        reply = self.reply
        if reply.error:
            reply.statuses.clear()
        elif self.command == c.CMD_READ:
            reply.data = self._content()
        elif self.command == c.CMD_BLOCK_STATUS and len(reply.statuses) != len(contexts):
            raise ProtocolError("a block status without one of the metadata contexts")
        return reply

    def _content(self) -> bytes:
        if len(self.parts) == 1 and self.received == self.length and self.parts[0].data is not None:
            return self.parts[0].data
        at = self.offset
        self.parts.sort(key=itemgetter(0))
        for part in self.parts:
            if part.offset != at:
                raise ProtocolError("content that overlaps, or with a gap")
            at += part.length
        if at != self.offset + self.length:
            raise ProtocolError("content is missing")
        return b"".join(
            bytes(part.length) if part.data is None else part.data for part in self.parts
        )


class Replies:
    """Requests in flight and their replies. `structured` and `contexts` (name by id) are what was
    negotiated.
    """

    def __init__(self) -> None:
        self.structured = False
        self.contexts: dict[int, str] = {}
        self._asked: dict[int, _Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def expect(self, cookie: int, command: int, offset: int, length: int) -> None:
        """A request was sent."""
        self._asked[cookie] = _Asked(cookie, command, offset, length)

    def take(self, data: bytearray) -> tuple[int, Reply | None]:
        """Take one message from the beginning of `data`: how long it is (0: not complete), and the
        reply if that was the end of one.
        """
        if len(data) < m.SIMPLE_REPLY.size:
            return 0, None
        magic: int = m.U32.unpack_from(data)[0]
        if magic == c.SIMPLE_REPLY_MAGIC:
            return self._simple(data)
        if magic == c.STRUCTURED_REPLY_MAGIC and self.structured:
            return self._chunk(data)
        raise ProtocolError("a bad reply")

    def _find(self, cookie: int) -> _Asked:
        asked = self._asked.get(cookie)
        if asked is None:
            raise ProtocolError("a bad reply: nothing was asked with its cookie")
        return asked

    def _simple(self, data: bytearray) -> tuple[int, Reply | None]:
        _, error, cookie = m.SIMPLE_REPLY.unpack_from(data)
        asked = self._find(cookie)
        reads = asked.command == c.CMD_READ
        if self.structured and (reads or asked.command == c.CMD_BLOCK_STATUS):
            raise ProtocolError("a simple reply where a structured one was negotiated")
        end = m.SIMPLE_REPLY.size + (asked.length if reads and not error else 0)
        if len(data) < end:
            return 0, None
        del self._asked[cookie]
        return end, Reply(cookie, error, bytes(data[m.SIMPLE_REPLY.size : end]))

    def _chunk(self, data: bytearray) -> tuple[int, Reply | None]:
        if len(data) < _CHUNK.size:
            return 0, None
        _, flags, kind, cookie, length = _CHUNK.unpack_from(data)
        asked = self._find(cookie)
        if length > _longest(kind, asked):
            raise ProtocolError(f"a chunk of type {kind} with {length} bytes")
        end = _CHUNK.size + length
        if len(data) < end:
            return 0, None
        with memoryview(data) as view:
            self._take(asked, kind, bytes(view[_CHUNK.size : end]))
        if not flags & c.REPLY_FLAG_DONE:
            if kind == c.REPLY_NONE:
                raise ProtocolError("an empty chunk that is not the last one")
            return end, None
        del self._asked[cookie]
        return end, asked.finish(self.contexts)

    def _take(self, asked: _Asked, kind: int, payload: bytes) -> None:
        if kind & _ANY_ERROR:
            _take_error(asked.reply, payload)
        elif kind == c.REPLY_OFFSET_DATA and len(payload) > m.U64.size:
            content = payload[m.U64.size :]
            asked.take(_Part(m.U64.unpack_from(payload)[0], len(content), content))
        elif kind == c.REPLY_OFFSET_HOLE and len(payload) == _HOLE.size:
            offset, length = _HOLE.unpack(payload)
            asked.take(_Part(offset, length, None))
        elif kind == c.REPLY_BLOCK_STATUS:
            self._take_statuses(asked, payload)
        elif kind != c.REPLY_NONE:
            raise ProtocolError(f"a bad chunk of type {kind}")

    def _take_statuses(self, asked: _Asked, payload: bytes) -> None:
        context, *_ = m.U32.unpack_from(payload) if len(payload) > m.U32.size else (0,)
        name = self.contexts.get(context)
        if (len(payload) - m.U32.size) % 8 or name is None or name in asked.reply.statuses:
            raise ProtocolError("a bad block status")
        found: list[Status] = list(iter_unpack(">II", payload[m.U32.size :]))
        before_last = sum(length for length, _ in found[:-1])
        if not all(length for length, _ in found) or before_last >= asked.length:
            raise ProtocolError("a block status with bad lengths")
        asked.reply.statuses[name] = found


def _longest(kind: int, asked: _Asked) -> int:
    """Bytes of the longest payload that a chunk of this type may have."""
    if kind & _ANY_ERROR:
        return _ERROR_BYTES_MAX
    if kind == c.REPLY_OFFSET_DATA and asked.command == c.CMD_READ:
        return m.U64.size + asked.length
    if kind == c.REPLY_OFFSET_HOLE and asked.command == c.CMD_READ:
        return _HOLE.size
    if kind == c.REPLY_BLOCK_STATUS and asked.command == c.CMD_BLOCK_STATUS:
        return m.U32.size + 8 * _EXTENTS_MAX
    return 0


def _take_error(reply: Reply, payload: bytes) -> None:
    """The first error of a reply counts. An unknown type of error begins like the known ones."""
    if len(payload) < _ERROR.size:
        raise ProtocolError("an error chunk that is too short")
    number, length = _ERROR.unpack_from(payload)
    if not number or _ERROR.size + length > len(payload):
        raise ProtocolError("a bad error chunk")
    if not reply.error:
        reply.error = number
        reply.text = payload[_ERROR.size : _ERROR.size + length].decode("utf-8", "replace")

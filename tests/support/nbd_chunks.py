"""The replies of an NBD server that negotiated structured replies or extended headers, taken apart
by the specification's tables alone: nothing of the server's own code is used.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

DATA, HOLE, STATUS, STATUS_EXT, ERROR, NONE = 1, 2, 5, 6, 32769, 0
_SIMPLE, _STRUCTURED, _EXTENDED = 0x67446698, 0x668E33EF, 0x6E8A278C
_HEADS = {_SIMPLE: ">IIQ", _STRUCTURED: ">IHHQI", _EXTENDED: ">IHHQQQ"}


class Chunk(NamedTuple):
    """`at` is the offset in the header of an extended one, else None. A simple reply is a chunk of
    kind -1 whose payload is its error.
    """

    done: bool
    kind: int
    cookie: int
    at: int | None
    payload: bytes

    @property
    def error(self) -> int:
        """0 unless it says that the request failed."""
        if self.kind == -1:
            return int.from_bytes(self.payload, "big")
        return int.from_bytes(self.payload[:4], "big") if self.kind & 0x8000 else 0

    @property
    def content(self) -> tuple[int, bytes]:
        """Of a content chunk: offset, and the bytes from there on."""
        offset = int.from_bytes(self.payload[:8], "big")
        if self.kind == HOLE:
            return offset, bytes(int.from_bytes(self.payload[8:], "big"))
        assert self.kind == DATA, self
        return offset, self.payload[8:]

    @property
    def statuses(self) -> tuple[int, list[tuple[int, int]]]:
        """Of a status chunk: the context, and (length, flags) of each extent."""
        if self.kind == STATUS_EXT:
            context, count = struct.unpack_from(">II", self.payload)
            found = list(struct.iter_unpack(">QQ", self.payload[8:]))
            assert len(found) == count
        else:
            assert self.kind == STATUS, self
            (context,) = struct.unpack_from(">I", self.payload)
            found = list(struct.iter_unpack(">II", self.payload[4:]))
        return context, found


class ChunkReader:
    """Bytes in, in pieces of any size; chunks out."""

    def __init__(self) -> None:
        self._input = b""

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that are complete now."""
        self._input += data
        found = []
        while (taken := self._next()) is not None:
            chunk, end = taken
            self._input = self._input[end:]
            found.append(chunk)
        return found

    def _next(self) -> tuple[Chunk, int] | None:
        if len(self._input) < 4:
            return None
        (magic,) = struct.unpack_from(">I", self._input)
        head = struct.Struct(_HEADS[magic])
        if len(self._input) < head.size:
            return None
        _, *fields = head.unpack_from(self._input)
        if magic == _SIMPLE:
            error, cookie = fields
            return Chunk(True, -1, cookie, None, error.to_bytes(4, "big")), head.size
        flags, kind, cookie, *at, length = fields
        end = head.size + length
        if len(self._input) < end:
            return None
        payload = self._input[head.size : end]
        return Chunk(flags == 1, kind, cookie, at[0] if at else None, payload), end


def read_from(chunks: list[Chunk], offset: int, length: int) -> bytes:
    """What a READ returned: content chunks cover the range exactly once, and only the last is
    DONE.
    """
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    covered = 0
    content = bytearray(length)
    for chunk in chunks:
        if chunk.kind == NONE:
            assert not chunk.payload
            continue
        start, part = chunk.content
        assert part, "a chunk of no bytes"
        assert offset <= start <= start + len(part) <= offset + length, "outside of the request"
        content[start - offset : start - offset + len(part)] = part
        covered += len(part)
    assert covered == length, "not all of the range, or some of it twice"
    return bytes(content)

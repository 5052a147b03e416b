"""Requests with extended headers: lengths of 64 bits, and a flag that says that a payload follows.

Only the header differs, so this is the parser of `transmission.py` with another loop. That loop is
written twice on purpose: a WRITE takes 61 bytecode instructions in the compact one and 91 in this
one (a READ 54 and 65), and one loop for both would cost every compact request the difference. So
who changes one looks at the other; `tests/fuzz` runs the same checks over both.

PAYLOAD_LEN belongs to the framing. A WRITE must have it, so it is inverted there: whatever comes
out with the flag set has the wrong framing for its command, and is refused like any flag that a
command does not have. BLOCK_STATUS may have a payload: the length that it is about, and the
contexts that it asks for, which become the length and the payload of the request. Other payloads
are skipped.

A payload over the maximum closes the connection, as the specification asks for: with 64 bits of
length, skipping it may last for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import constants as c
from .messages import EXTENDED_REQUEST, U32, U64
from .transmission import REQUESTS_MAX, Receiver

if TYPE_CHECKING:
    from .transmission import Request

_HEADER = EXTENDED_REQUEST.size
_unpack = EXTENDED_REQUEST.unpack_from

STATUS_PAYLOAD_BYTES_MAX = 4096  # of BLOCK_STATUS: 8 bytes, and 4 for each context


class ExtendedReceiver(Receiver):
    """See `Receiver`."""

    __slots__ = ()

    header, magic = EXTENDED_REQUEST, c.EXTENDED_REQUEST_MAGIC

    @property
    def may_be_left(self) -> bool:
        """Not in the middle of a WRITE that is returned in pieces: its reply repeats its offset,
        which is not that of the rest.
        """
        return self.large in {0, self._header[3]}

    def packed(self, request: Request) -> bytes | None:
        """See `Receiver`."""
        return None if request[0] & c.CMD_FLAG_PAYLOAD_LEN else super().packed(request)

    def _packed(self, flags: int, cookie: int, offset: int, length: int) -> bytes:
        """See `Receiver`; `_parse` has inverted the flag."""
        return super()._packed(flags ^ c.CMD_FLAG_PAYLOAD_LEN, cookie, offset, length)

    def _parse(self, requests: list[Request]) -> None:
        buffer, position, end = self._buffer, self._start, self._end
        append = requests.append
        self.more = False
        for _ in range(REQUESTS_MAX):
            if end - position < _HEADER:
                break
            magic, flags, command, cookie, offset, length = _unpack(buffer, position)
            if magic != c.EXTENDED_REQUEST_MAGIC:
                self.broken = "bad request magic"
            elif flags & c.CMD_FLAG_PAYLOAD_LEN and length > c.PAYLOAD_BYTES_MAX:
                self.broken = f"a payload of {length} bytes"
            if self.broken:
                position = end
                break
            if command == c.CMD_DISC:
                append((flags, command, cookie, offset, length, None))
                self.ended = True
                position = end
                break
            if command == c.CMD_WRITE:
                flags ^= c.CMD_FLAG_PAYLOAD_LEN
                if flags & c.CMD_FLAG_PAYLOAD_LEN:
                    append((flags, command, cookie, offset, length, None))
                    position += _HEADER
                    continue
                position_after = position + _HEADER + length
                if position_after > end:
                    position = self._incomplete(position, (flags, cookie, offset, length))
                    break
                payload = buffer[position + _HEADER : position_after]
                append((flags, command, cookie, offset, length, payload))
                position = position_after
                continue
            if flags & c.CMD_FLAG_PAYLOAD_LEN:
                after = self._other_payload(
                    requests, position, (flags, command, cookie, offset, length, None)
                )
                if after == position:
                    break
                position = after
            else:
                append((flags, command, cookie, offset, length, None))
                position += _HEADER
        else:
            self.more = end - position >= _HEADER
        self._start = position

    def _other_payload(self, requests: list[Request], position: int, request: Request) -> int:
        """A payload of another command than WRITE: taken, or skipped. Returns the new position; the
        same if there is more to come.
        """
        *_, length, _nothing = request
        start = position + _HEADER
        if request[1] == c.CMD_BLOCK_STATUS and length <= STATUS_PAYLOAD_BYTES_MAX:
            if start + length > self._end:
                return position
            requests.append(_of_contexts(request, bytes(self._buffer[start : start + length])))
            return start + length
        here = min(length, self._end - start)
        if here == length:
            requests.append(request)
        else:
            self._skip, self._refused = length - here, request
        return start + here


def _of_contexts(request: Request, payload: bytes) -> Request:
    """The request that a BLOCK_STATUS with this payload stands for; itself if it has the wrong
    length, because it is refused then.
    """
    flags, command, cookie, offset, length, _nothing = request
    if length < U64.size or (length - U64.size) % U32.size:
        return request
    about: int = U64.unpack_from(payload)[0]
    return flags ^ c.CMD_FLAG_PAYLOAD_LEN, command, cookie, offset, about, payload[U64.size :]


def context_ids(payload: bytes | bytearray | memoryview) -> list[int]:
    """The contexts in the payload of a BLOCK_STATUS."""
    return [number for (number,) in U32.iter_unpack(payload)]

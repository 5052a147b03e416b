"""The server's half of transmission, without I/O: parses requests in place, and checks them.

This is the hot path: one wake-up may bring a hundred requests, so nothing is copied, awaited or
constructed but a tuple for each. `Receiver` owns the buffer. The socket fills `buffer()`, then
`received(count)` returns every request that is complete. Payloads are views of the buffer, valid
until `buffer` is called again. While they are in use, the socket fills `behind()` instead; when
there is no room for that, `exchange` the buffer for another one.

A large payload that is not complete gets memory of its own, which the socket then fills directly.
How much is not for the client to say: it announces 64 MiB in 28 bytes. `allocate` gives as much as
there is room for, when more than the header has come. If that is not the whole payload, the request
is returned in pieces: `CMD_LONG_WRITE`, which is the request without payload, then each
`CMD_PIECE`, a part of its payload with an offset of its own. Nothing comes between them.

`refusal` is a pure function of a request and its export. A refused request has been parsed with its
payload, so that the stream stays in step, and it is returned when all of that has passed: a client
that sends its payload without looking for replies would meet one in the middle.

Requests with extended headers are parsed by `extended.py`, chosen once for a connection.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from . import constants as c
from .messages import REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = REQUEST.size
_unpack = REQUEST.unpack_from

Request = tuple[int, int, int, int, int, "memoryview | bytearray | bytes | None"]
"""Command flags, command, cookie, offset, length, payload.

The payload is None unless it is a WRITE, and for a WRITE whose payload is too long and skipped.
With extended headers BLOCK_STATUS may have one, too (`bytes`). The flag PAYLOAD_LEN is set there if
a payload came that the command does not have, or did not come that it must have: see `extended.py`.
"""

# Not on the wire, where commands are not negative
CMD_LONG_WRITE, CMD_PIECE = -1, -2
# An incomplete payload over this, or over half of a small buffer, gets memory of its own
LARGE_PAYLOAD_BYTES = 64 << 10
RECEIVE_BYTES_MIN = 16 << 10
REQUESTS_MAX = 256  # returned at once: 28 bytes of the stream become ten times as many in memory
_NO_ROOM = memoryview(b"")


def _whole_payload(length: int, _here: int) -> bytearray:
    return bytearray(length)


def _no_larger_buffer() -> memoryview | None:
    return None


class Receiver:
    """Receive buffer and parser of one connection.

    `broken` says why the stream cannot be followed any more, `ended` is set by DISC: requests
    before it are returned, what follows is ignored. `large` is what has not been returned yet of a
    payload that is being received into memory of its own, else 0; `wants_memory`: the next `buffer`
    or `behind` will `allocate` that. With `more` there are requests in the buffer still: call
    `received(0)` before the buffer is filled further.
    """

    __slots__ = (
        "_allocate",
        "_buffer",
        "_end",
        "_grow",
        "_header",
        "_large_min",
        "_payload",
        "_refused",
        "_rest",
        "_skip",
        "_start",
        "broken",
        "ended",
        "large",
        "more",
        "wants_memory",
    )

    header, magic = REQUEST, c.REQUEST_MAGIC

    def __init__(
        self,
        size: int,
        allocate: Callable[[int, int], bytearray] = _whole_payload,
        grow: Callable[[], memoryview | None] = _no_larger_buffer,
    ) -> None:
        """`allocate` makes memory for a payload, with any content: of the length that is asked for,
        or of less, but more than the bytes that are here already. `grow` makes a larger receive
        buffer if there may be one; it is asked when the present one was full.
        """
        self.broken = ""
        self.ended = False
        self.large = 0
        self.more = False
        self.wants_memory = False
        self._use(memoryview(bytearray(max(size, RECEIVE_BYTES_MIN))))
        self._start = 0
        self._end = 0
        self._skip = 0  # bytes of a payload that is too long, and of which request
        self._refused: Request | None = None
        self._header = (0, 0, 0, 0)
        self._payload = bytearray()
        self._rest = _NO_ROOM  # what is not filled of it
        self._allocate = allocate
        self._grow = grow

    def _use(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._large_min = min(LARGE_PAYLOAD_BYTES, len(buffer) // 2)

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty.

        Views returned before are invalid from now on.
        """
        if self.large:
            return self._rest or self._piece()
        start, end = self._start, self._end
        if end == len(self._buffer) and (larger := self._grow()) is not None:
            self.exchange(larger)
            return self._buffer[self._end :]
        if start == end:
            self._start = self._end = 0
            return self._buffer
        if start and len(self._buffer) - end < self._large_min:
            self._buffer[: end - start] = self._buffer[start:end]
            self._start, self._end = 0, end - start
        return self._buffer[self._end :]

    def behind(self) -> memoryview:
        """Where the next bytes belong, so that all views stay valid; empty if there is not enough
        room for that.
        """
        if self.large:
            return self._rest or self._piece()
        if len(self._buffer) - self._end < self._large_min:
            return _NO_ROOM
        return self._buffer[self._end :]

    def exchange(self, other: memoryview) -> None:
        """Go on in `other`, in which there is room for what is here."""
        rest = self._end - self._start
        if rest:
            other[:rest] = self._buffer[self._start : self._end]
        self._use(other)
        self._start, self._end = 0, rest

    def untaken(self, count: int) -> bytes:
        """The first `count` bytes that were put into `buffer()`, before `received`."""
        here = self._rest if self.large else self._buffer[self._end :]
        return bytes(here[:count])

    def says_goodbye(self, unread: bytes) -> bool:
        """Whether the last that the client sent is DISC; `unread` was not received yet.

        Only its place is looked at: a client whose payload ends in the bytes of a DISC, and that
        goes with it, has said so.
        """
        size = self.header.size
        rest = b"" if self.large or self._skip else bytes(self._buffer[self._start : self._end])
        last = (rest + unread)[-size:]
        return len(last) == size and self.header.unpack(last)[::2][:2] == (self.magic, c.CMD_DISC)

    @property
    def unfinished(self) -> bool:
        """Whether the client has begun a request, and not sent all of it."""
        return self.large > 0 or self._skip > 0 or self._start != self._end

    @property
    def may_be_left(self) -> bool:
        """Whether `left` is all that somebody else has to know."""
        return True

    def left(self) -> bytes:
        """What was received and has not been returned, as it came. Of a WRITE that is returned in
        pieces, a WRITE of what is not returned yet. Of a request whose payload is skipped, a WRITE
        of what is not skipped yet, with a flag that it is refused for.
        """
        rest = bytes(self._buffer[self._start : self._end])
        if self._skip and self._refused is not None:
            _flags, _command, cookie, offset, _length, _nothing = self._refused
            return self._packed(c.CMD_FLAG_DF, cookie, offset, self._skip)
        if not self.large:
            return rest
        flags, cookie, offset, length = self._header
        header = self._packed(flags, cookie, offset + length - self.large, self.large)
        return header + bytes(self._payload[: len(self._payload) - len(self._rest)]) + rest

    def packed(self, request: Request) -> bytes | None:
        """A request that was returned, as it came; None if that is not known any more: a part of a
        long one, or one whose payload was skipped.
        """
        flags, command, cookie, offset, length, payload = request
        if command < 0 or (command == c.CMD_WRITE) != (payload is not None):
            return None
        if payload is not None:
            return self._packed(flags, cookie, offset, length) + bytes(payload)
        return self.header.pack(self.magic, flags, command, cookie, offset, length)

    def _packed(self, flags: int, cookie: int, offset: int, length: int) -> bytes:
        """The header of a WRITE."""
        return self.header.pack(self.magic, flags, c.CMD_WRITE, cookie, offset, length)

    @property
    def whole(self) -> memoryview:
        """The buffer that payloads are views of."""
        return self._buffer

    def received(self, count: int) -> list[Request]:
        """Take `count` bytes put into `buffer()`. Returns the requests that are complete."""
        requests: list[Request] = []
        if self.large:
            self._rest = self._rest[count:]
            if not self._rest:
                self._finish_piece(requests)
            return requests
        self._end += count
        if self._skip:
            skipped = min(self._skip, self._end - self._start)
            self._skip -= skipped
            self._start += skipped
            if not self._skip and self._refused is not None:
                requests.append(self._refused)
                self._refused = None
        if self.broken or self.ended:
            self._start = self._end
        else:
            self._parse(requests)
        return requests

    def _parse(self, requests: list[Request]) -> None:
        buffer, position, end = self._buffer, self._start, self._end
        append = requests.append
        self.more = False
        for _ in range(REQUESTS_MAX):
            if end - position < _HEADER:
                break
            magic, flags, command, cookie, offset, length = _unpack(buffer, position)
            if magic != c.REQUEST_MAGIC:
                self.broken = "bad request magic"
                position = end
                break
            payload_start = position + _HEADER
            if command == c.CMD_WRITE:
                position_after = payload_start + length
                if position_after > end:
                    position = self._incomplete(position, (flags, cookie, offset, length))
                    break
                append(
                    (flags, command, cookie, offset, length, buffer[payload_start:position_after])
                )
                position = position_after
                continue
            append((flags, command, cookie, offset, length, None))
            position = payload_start
            if command == c.CMD_DISC:
                self.ended = True
                position = end
                break
        else:
            self.more = end - position >= _HEADER
        self._start = position

    def _incomplete(self, position: int, header: tuple[int, int, int, int]) -> int:
        """A WRITE whose payload is still coming: wait, give it its own memory, or skip it.

        Returns the new position.
        """
        flags, cookie, offset, length = header
        if length <= self._large_min:
            return position
        position += self.header.size
        if length > c.PAYLOAD_BYTES_MAX:
            self._skip = length - (self._end - position)
            self._refused = flags, c.CMD_WRITE, cookie, offset, length, None
            return self._end
        self.large = length
        self.wants_memory = True
        self._header = header
        return position

    def _piece(self) -> memoryview:
        """Memory for the payload, which is made when it is needed: what came with the header is in
        the receive buffer still. Returns the unfilled part of it.
        """
        here = self._end - self._start
        self._payload = self._allocate(self.large, here)
        self._payload[:here] = self._buffer[self._start : self._end]
        self._start = self._end
        self.wants_memory = False
        self._rest = memoryview(self._payload)[here:]
        return self._rest

    def _finish_piece(self, requests: list[Request]) -> None:
        flags, cookie, offset, length = self._header
        payload, self._payload = self._payload, bytearray()
        self._rest = _NO_ROOM  # a view, however short, would keep the payload
        count = len(payload)
        if count == length:
            requests.append((flags, c.CMD_WRITE, cookie, offset, length, payload))
        else:
            if self.large == length:
                requests.append((flags, CMD_LONG_WRITE, cookie, offset, length, None))
            at = offset + length - self.large
            requests.append((flags, CMD_PIECE, cookie, at, count, payload))
        self.large -= count
        self.wants_memory = self.large > 0


_UNKNOWN = -1
_FLAGS_ALLOWED = {
    c.CMD_READ: c.CMD_FLAG_FUA | c.CMD_FLAG_DF,
    c.CMD_WRITE: c.CMD_FLAG_FUA,
    c.CMD_FLUSH: c.CMD_FLAG_FUA,
    c.CMD_TRIM: c.CMD_FLAG_FUA,
    c.CMD_CACHE: c.CMD_FLAG_FUA,
    c.CMD_WRITE_ZEROES: c.CMD_FLAG_FUA | c.CMD_FLAG_NO_HOLE | c.CMD_FLAG_FAST_ZERO,
    c.CMD_BLOCK_STATUS: c.CMD_FLAG_FUA | c.CMD_FLAG_REQ_ONE,
}
# Flags of requests that are there only with a transmission flag
_FLAGS_OFFERED = (
    (c.CMD_FLAG_DF, c.FLAG_SEND_DF),
    (c.CMD_FLAG_FAST_ZERO, c.FLAG_SEND_FAST_ZERO),
)
_CHANGES = frozenset({c.CMD_WRITE, c.CMD_TRIM, c.CMD_WRITE_ZEROES})
_PAST_THE_END = {c.CMD_WRITE: c.ENOSPC, c.CMD_WRITE_ZEROES: c.ENOSPC}  # others: EINVAL


def refusal(
    flags: int, command: int, offset: int, length: int, size: int, export_flags: int
) -> int:
    """The NBD error for a request on an export of `size` bytes; 0 if it can be served.

    Not for DISC, which has no reply. BLOCK_STATUS needs a metadata context, too.
    """
    allowed = _FLAGS_ALLOWED.get(command, _UNKNOWN)
    if allowed == _UNKNOWN or flags & ~allowed:
        return c.EINVAL
    for flag, offered in _FLAGS_OFFERED:
        if flags & flag and not export_flags & offered:
            return c.EINVAL
    if command == c.CMD_FLUSH:
        return 0
    if export_flags & c.FLAG_READ_ONLY and command in _CHANGES:
        return c.EPERM
    if offset + length > size:  # ints do not wrap around
        return _PAST_THE_END.get(command, c.EINVAL)
    if length > c.PAYLOAD_BYTES_MAX and command in {c.CMD_READ, c.CMD_WRITE}:
        return c.EOVERFLOW if flags & c.CMD_FLAG_DF else c.EINVAL
    return 0


_WIRE_ERRORS = {
    0: 0,
    errno.EPERM: c.EPERM,
    errno.EACCES: c.EPERM,
    errno.EROFS: c.EPERM,
    errno.ENOMEM: c.ENOMEM,
    errno.EINVAL: c.EINVAL,
    errno.ENOSPC: c.ENOSPC,
    errno.EDQUOT: c.ENOSPC,
    errno.EFBIG: c.ENOSPC,
    errno.ESHUTDOWN: c.ESHUTDOWN,
}


def wire_error(number: int) -> int:
    """The NBD error for an errno of Linux; EIO if there is none."""
    return _WIRE_ERRORS.get(number, c.EIO)

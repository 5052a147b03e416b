"""The server's half of transmission, without I/O: parses requests in place, and checks them.

This is the hot path: one wake-up may bring a hundred requests, so nothing is copied, awaited or
constructed but a tuple for each. `Receiver` owns the buffer. The socket fills `buffer()`, then
`received(count)` returns every request that is complete. Payloads are views of the buffer, valid
until `buffer` is called again. While they are in use, the socket fills `behind()` instead; when
there is no room for that, `exchange` the buffer for another one. A large payload that is not
complete gets memory of its own, which the socket then fills directly.

`refusal` is a pure function of a request and its export. A refused request has been parsed with its
payload, so that the stream stays in step, and it is returned when all of that has passed: a client
that sends its payload without looking for replies would meet one in the middle.

Requests with extended headers are parsed by `extended.py`, chosen once for a connection.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.nbd import constants as c
from duplexd.nbd.messages import REQUEST

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

LARGE_PAYLOAD_BYTES = 64 << 10  # an incomplete payload over this gets memory of its own
RECEIVE_BYTES_MIN = 2 * LARGE_PAYLOAD_BYTES
_NO_ROOM = memoryview(b"")


class Receiver:
    """Receive buffer and parser of one connection.

    `broken` says why the stream cannot be followed any more, `ended` is set by DISC: requests
    before it are returned, what follows is ignored. `large` is the length of the payload that is
    being received into memory of its own, else 0.
    """

    __slots__ = (
        "_allocate",
        "_buffer",
        "_end",
        "_filled",
        "_header",
        "_payload",
        "_refused",
        "_skip",
        "_start",
        "broken",
        "ended",
        "large",
    )

    header, magic = REQUEST, c.REQUEST_MAGIC

    def __init__(self, size: int, allocate: Callable[[int], bytearray] = bytearray) -> None:
        """`allocate` makes the memory of a large payload, with any content."""
        self.broken = ""
        self.ended = False
        self.large = 0
        self._buffer = memoryview(bytearray(max(size, RECEIVE_BYTES_MIN)))
        self._start = 0
        self._end = 0
        self._skip = 0  # bytes of a payload that is too long, and of which request
        self._refused: Request | None = None
        self._header = (0, 0, 0, 0)
        self._payload = bytearray()
        self._allocate = allocate
        self._filled = 0

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty.

        Views returned before are invalid from now on.
        """
        if self.large:
            return memoryview(self._payload)[self._filled :]
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
            return self._buffer
        if start and len(self._buffer) - end < LARGE_PAYLOAD_BYTES:
            self._buffer[: end - start] = self._buffer[start:end]
            self._start, self._end = 0, end - start
        return self._buffer[self._end :]

    def behind(self) -> memoryview:
        """Where the next bytes belong, so that all views stay valid; empty if there is not enough
        room for that.
        """
        if self.large:
            return memoryview(self._payload)[self._filled :]
        if len(self._buffer) - self._end < LARGE_PAYLOAD_BYTES:
            return _NO_ROOM
        return self._buffer[self._end :]

    def exchange(self, other: memoryview) -> None:
        """Go on in `other`, which has the size of this buffer."""
        rest = self._end - self._start
        if rest:
            other[:rest] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = other, 0, rest

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
    def whole(self) -> memoryview:
        """The buffer that payloads are views of."""
        return self._buffer

    def received(self, count: int) -> list[Request]:
        """Take `count` bytes put into `buffer()`. Returns the requests that are complete."""
        requests: list[Request] = []
        if self.large:
            self._filled += count
            if self._filled == self.large:
                self._finish_large(requests)
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
        while end - position >= _HEADER:
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
        self._start = position

    def _incomplete(self, position: int, header: tuple[int, int, int, int]) -> int:
        """A WRITE whose payload is still coming: wait, give it its own memory, or skip it.

        Returns the new position.
        """
        flags, cookie, offset, length = header
        if length <= LARGE_PAYLOAD_BYTES:
            return position
        here = self._buffer[position + self.header.size : self._end]
        if length > c.PAYLOAD_BYTES_MAX:
            self._skip = length - len(here)
            self._refused = flags, c.CMD_WRITE, cookie, offset, length, None
        else:
            self.large = length
            self._header = header
            self._payload = self._allocate(length)
            self._payload[: len(here)] = here
            self._filled = len(here)
        return self._end

    def _finish_large(self, requests: list[Request]) -> None:
        flags, cookie, offset, length = self._header
        requests.append((flags, c.CMD_WRITE, cookie, offset, length, self._payload))
        self.large = 0
        self._payload = bytearray()


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

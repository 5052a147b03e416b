"""A request with names for its fields, for those who do not count nanoseconds.

`Receiver` returns plain tuples, because a server takes a hundred of them in a wake-up. This one is
a tuple of the same fields in the same order: `TypedRequest(*request)`.
"""

from __future__ import annotations

from typing import NamedTuple

from . import constants as c


class TypedRequest(NamedTuple):
    """See `transmission.Request`."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int
    payload: memoryview | bytearray | bytes | None

    @property
    def fua(self) -> bool:
        """The change is to be durable before its reply."""
        return bool(self.flags & c.CMD_FLAG_FUA)

    @property
    def no_hole(self) -> bool:
        """Zeroes are to stay allocated."""
        return bool(self.flags & c.CMD_FLAG_NO_HOLE)

    @property
    def one_extent(self) -> bool:
        """Of BLOCK_STATUS, only the first extent is wanted."""
        return bool(self.flags & c.CMD_FLAG_REQ_ONE)

    @property
    def content_bytes(self) -> int:
        """Bytes of content that the request or its reply carries."""
        return self.length if self.command in {c.CMD_READ, c.CMD_WRITE} else 0

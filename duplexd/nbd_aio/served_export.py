"""What a server is given to serve: a class with the methods that an export can do.

What is not defined is not offered to clients: without `write` the export is read-only, without
`flush` clients take it that nothing is cached, without `trim` they discard nothing. So an export
cannot promise what it does not do. WRITE_ZEROES is offered for whatever can be written, because
the server can write zeroes itself.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from ..nbd import constants as c
from ..nbd.exports import BLOCK_SIZES
from ..nbd.exports import Export as Announced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..nbd.extents import Extent

_ZEROES = bytes(1 << 20)


class Export:
    """One export; derive from it, set `size` (bytes) and define `read`, and what else there is.

    Requests of all connections run at the same time, and none is within another's range unless
    clients ask for that. A method raises OSError to refuse its request, and is cancelled if the
    client's connection is lost. What returns has been done: a client may rely on it.

    A change with FUA is done by `write` (`write_zeroes`, `trim`) and then `flush`. `flush` returns
    when whatever returned before, on any connection, survives a power cut.
    """

    size: int
    description = ""
    read_only = False  # although it could be written
    # Minimum, preferred, and maximum payload; requests that do not fit the minimum are refused
    block_sizes = BLOCK_SIZES

    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """`length` bytes."""
        raise NotImplementedError

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write; `data` may be kept."""
        raise OSError(errno.EROFS, "the export cannot be written to")

    async def flush(self) -> None:
        """Make durable what was written."""

    async def trim(self, offset: int, length: int) -> None:
        """Discard a range, whose content may become anything."""
        raise OSError(errno.EOPNOTSUPP, "the export cannot discard")

    async def write_zeroes(self, offset: int, length: int, *, no_hole: bool) -> None:
        """Write zeroes; with `no_hole` they are to stay allocated. Up to 4 GiB: this writes pieces,
        and lets others have their turn in between.
        """
        for at in range(offset, offset + length, len(_ZEROES)):
            await self.write(at, _ZEROES[: min(len(_ZEROES), offset + length - at)])
            await asyncio.sleep(0)

    async def extents(self, offset: int, length: int) -> Sequence[Extent]:
        """What of a range is data, and what reads as zeroes because it is a hole: offset, length,
        whether it is data, in order and without gaps, from `offset` on. May end early.
        """
        return [(offset, length, True)]

    @property
    def flags(self) -> int:
        """The transmission flags: what clients are offered."""
        own = type(self)
        flags = c.FLAG_HAS_FLAGS | c.FLAG_CAN_MULTI_CONN
        if own.flush is not Export.flush:
            flags |= c.FLAG_SEND_FLUSH | c.FLAG_SEND_FUA
        if self.read_only or own.write is Export.write:
            return flags | c.FLAG_READ_ONLY
        if own.trim is not Export.trim:
            flags |= c.FLAG_SEND_TRIM
        return flags | c.FLAG_SEND_WRITE_ZEROES


class AnnouncedExports:
    """The exports as the handshake wants them."""

    def __init__(self, exports: Mapping[str, Export]) -> None:
        self._exports = exports

    def served(self, name: str) -> Export | None:
        """What does the requests."""
        return self._exports.get(name)

    def find(self, name: str) -> Announced | None:
        """See `nbd.exports.Exports`."""
        export = self._exports.get(name)
        if export is None:
            return None
        return Announced(
            name, export.size, export.flags, export.description, block_sizes=export.block_sizes
        )

    def names(self) -> Iterable[str]:
        """See `nbd.exports.Exports`."""
        return list(self._exports)

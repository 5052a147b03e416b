"""One request on an export: what is refused, what the export is asked, and what the reply is.

An export that raises OSError refuses its request; any other exception, or content of the wrong
length, is a mistake of the export, which is logged and answered with EIO. The client's connection
goes on in either case.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..nbd import constants as c
from ..nbd import messages as m
from ..nbd.extents import statuses
from ..nbd.replies import STRUCTURED
from ..nbd.transmission import refusal, wire_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..nbd.exports import Export as Announced
    from ..nbd.negotiated import Negotiated
    from ..nbd.typed_request import TypedRequest
    from .served_export import Export

    Pieces = list[bytes | bytearray | memoryview]

log = logging.getLogger(__name__)
_OFFERED_BY = {
    c.CMD_FLUSH: c.FLAG_SEND_FLUSH,
    c.CMD_TRIM: c.FLAG_SEND_TRIM,
    c.CMD_WRITE_ZEROES: c.FLAG_SEND_WRITE_ZEROES,
    c.CMD_CACHE: c.FLAG_SEND_CACHE,
}


class Executing:
    """The requests of one connection. `announced`: the export as the handshake announced it."""

    def __init__(
        self, export: Export, announced: Announced, negotiated: Negotiated, extents_max: int
    ) -> None:
        self._export = export
        self._announced = announced
        self._structured = negotiated.structured
        self._contexts = negotiated.contexts
        self._extents_max = extents_max

    async def reply(self, request: TypedRequest) -> Pieces:
        """Serve a request; the reply, in pieces to send one after the other."""
        if number := self._refusal(request):
            return self._error(request, number)
        try:
            return await self._serve(request)
        except OSError as error:
            log.info("request on %r failed: %s", self._announced.name, error)
            return self._error(request, wire_error(error.errno or c.EIO))
        except Exception:
            log.exception("export %r failed: %s", self._announced.name, request[:5])
            return self._error(request, c.EIO)

    def _refusal(self, request: TypedRequest) -> int:
        flags, command, _cookie, offset, length, _payload = request
        announced = self._announced
        number = refusal(flags, command, offset, length, announced.size, announced.flags)
        if not number and not announced.flags & _OFFERED_BY.get(command, c.FLAG_HAS_FLAGS):
            return c.EINVAL
        if not number and (offset | length) & (announced.block_sizes[0] - 1):
            return c.EINVAL
        if command == c.CMD_BLOCK_STATUS and not (length and self._contexts):
            return c.EINVAL
        return number

    async def _serve(self, request: TypedRequest) -> Pieces:
        export = self._export
        _flags, command, _cookie, offset, length, payload = request
        if command == c.CMD_READ:
            content = await export.read(offset, length) if length else b""
            return self._content(request, content)
        if command == c.CMD_BLOCK_STATUS:
            return self._statuses(request, await export.extents(offset, length))
        if command == c.CMD_FLUSH:
            await export.flush()
        elif length:
            if payload is not None:
                await export.write(offset, payload)
            elif command == c.CMD_TRIM:
                await export.trim(offset, length)
            else:
                await export.write_zeroes(offset, length, no_hole=request.no_hole)
            if request.fua:
                await export.flush()
        return [m.simple_reply(0, request.cookie)]

    def _content(self, request: TypedRequest, content: bytes | bytearray | memoryview) -> Pieces:
        if len(content) != request.length:
            raise ValueError(f"read returned {len(content)} of {request.length} bytes")
        if not self._structured:
            return [m.simple_reply(0, request.cookie), content]
        cookie, at = request.cookie, request.offset
        if not content:
            return [STRUCTURED.none(cookie, at)]
        return [STRUCTURED.data_head(cookie, at, at, request.length, True), content]

    def _statuses(self, request: TypedRequest, extents: Sequence[tuple[int, int, bool]]) -> Pieces:
        at = request.offset
        for offset, length, _ in extents:
            if offset != at or length <= 0:
                raise ValueError(f"extents with a gap or an empty one at {offset}")
            at += length
        found = statuses(extents, request.length, request.one_extent)[: self._extents_max]
        if not found:
            raise ValueError("extents returned none")
        # There is one context, base:allocation: bitmaps are not announced
        return [
            STRUCTURED.status(request.cookie, request.offset, number, found, True)
            for number, _ in self._contexts
        ]

    def _error(self, request: TypedRequest, number: int) -> Pieces:
        if self._structured:
            return [STRUCTURED.error(request.cookie, request.offset, number)]
        return [m.simple_reply(number, request.cookie)]

"""The requests of a connection whose client negotiated structured replies, or extended headers.

What `Dispatch` does, with other replies. READ is the one request on the hot path whose reply
differs, so the loop that takes requests is here once more, with another header in front of what was
read: a call for each request would cost more than all the rest of the reply. Other requests succeed
with a simple reply, which is the shortest there is, and fail with a chunk, which carries a text.
With extended headers every reply is an extended one.

What is read in a worker, and is long, is answered in chunks: holes are not sent.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from duplexd.backend import FLUSH, WRITE, Change
from duplexd.nbd import constants as c
from duplexd.nbd import replies as r
from duplexd.nbd.extended import ExtendedReceiver, context_ids
from duplexd.nbd.extents import as_one, without_short_holes
from duplexd.nbd.transmission import Receiver
from duplexd.nbd_server.block_status import StatusQuery
from duplexd.nbd_server.dispatch import Dispatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from duplexd.backend import Extent, Volume
    from duplexd.nbd.negotiated import Negotiated
    from duplexd.nbd.transmission import Request
    from duplexd.nbd_server.long_read import LongRead
    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Carrier, Part

_READ, _WRITE, _FUA = c.CMD_READ, c.CMD_WRITE, c.CMD_FLAG_FUA
_new, _init = object.__new__, Change.__init__  # see `dispatch.py`
_OFFSET = r.OFFSET_BYTES
_pack_structured, _STRUCTURED = r.STRUCTURED_DATA.pack_into, r.STRUCTURED_DATA_FIRST
_pack_extended, _EXTENDED = r.EXTENDED_DATA.pack_into, r.EXTENDED_DATA_FIRST
_pack_none, _NONE = r.EXTENDED_NONE.pack, r.EXTENDED_NONE_FIRST


class StructuredDispatch(Dispatch):
    """See `Dispatch`; `contexts` are those of the metadata that the client chose."""

    __slots__ = ("_chunks", "_contexts")

    chunks: r.Chunks = r.STRUCTURED

    def __init__(
        self,
        server: Server,
        volume: Volume,
        wire: Carrier,
        progressed: Callable[[], None],
        export_flags: int,
        contexts: Sequence[tuple[int, str]],
    ) -> None:
        super().__init__(server, volume, wire, progressed, export_flags)
        self._chunks = self.chunks
        self._contexts = dict(contexts)

    def _take(self, requests: Iterator[Request], changes: list[Change]) -> int:
        """See `Dispatch`."""
        volume, traffic = self._volume, self._traffic
        read_cached, readable, writable = volume.read_cached, self._readable, self._writable
        request_counts, byte_counts = traffic.requests, traffic.byte_counts
        writes = written = taken = 0
        cached: list[Request] = []
        full = self.payload_bytes >= self._limits.connection_in_flight_bytes_max or (
            self._server.waiting.full and self.payload_bytes >= self._share_bytes
        )
        inline_max = self._inline_max
        inline_max = min(inline_max, self._share_bytes) if self._server.reading.full else inline_max
        reply_buffer, position = self._server.reply_buffer, 0
        size, room = len(reply_buffer), self._chunks.data_room
        structured = self._chunks is r.STRUCTURED
        for request in requests:
            flags, command, cookie, offset, length, payload = request
            if command == _WRITE and payload and flags <= _FUA and offset + length <= writable:
                if type(payload) is memoryview:
                    if full:
                        self._wait(request, requests, self._server.waiting)
                        break
                    taken += length
                writes += 1
                written += length
                change = _new(Change)
                _init(change, self, cookie, volume, WRITE, offset, length, payload, flags != 0)
                changes.append(change)
                continue
            if (
                command == _READ
                and flags <= _FUA
                and 0 < length <= inline_max
                and offset + length <= readable
            ):
                end = position + room + length
                if end > size:
                    self.backlog = [request, *requests]
                    self.progressed()  # in the next turn, behind what others have sent
                    break
                try:
                    if read_cached(offset, reply_buffer[position + room : end]):
                        chunk = length + _OFFSET
                        if structured:
                            _pack_structured(
                                reply_buffer, position, _STRUCTURED, cookie, chunk, offset
                            )
                        else:
                            _pack_extended(
                                reply_buffer, position, _EXTENDED, cookie, offset, chunk, offset
                            )
                        position = end
                        cached.append(request)
                        continue
                except OSError:  # the worker may find it elsewhere
                    pass
            elif not self._rare(request, requests, changes):
                continue
            if command == _READ:
                if not self._start_read(request):
                    self._wait_to_read([request, *requests])
                    break
            else:
                changes.append(self._without_payload(request))
            request_counts[command] += 1
            byte_counts[command] += length
        request_counts[_WRITE] += writes
        byte_counts[_WRITE] += written
        self.payload_bytes += taken
        return self._read(cached, position, room) if cached else position

    def _reply(self, command: int, cookie: int, offset: int, error: int) -> bytes:
        """See `Dispatch`."""
        if error:
            return self._chunks.error(cookie, offset, error)
        if command == _READ:  # of no bytes
            return self._chunks.none(cookie, offset)
        return super()._reply(command, cookie, offset, error)

    # What waits for a worker

    def _content_head(self, cookie: int, offset: int, length: int) -> bytes:
        """See `Dispatch`."""
        return self._chunks.data_head(cookie, offset, offset, length, True)

    def _start_read(self, request: Request) -> bool:
        """See `Dispatch`."""
        flags, _command, cookie, offset, length, _payload = request
        if not self._begin_reading(length):
            return False
        self._traffic.timed_reads += 1
        backend, room = self._server.backend, self._chunks.data_room
        if length > self._inline_max:
            done = partial(self._long_chunks_read, flags, cookie)
            self._ask_long(offset, length, room, True, done)
            return True
        done = partial(self._chunks_read, flags, cookie, offset, length, self.since)
        if length < self._limits.sparse_read_bytes_min:
            backend.read(self._volume, offset, length, room, done)
        else:
            backend.read_sparse(self._volume, offset, length, room, done)
        return True

    def _chunks_read(
        self,
        flags: int,
        cookie: int,
        offset: int,
        length: int,
        since: float,
        number: int,
        content: bytearray,
        extents: Sequence[Extent] = (),
    ) -> None:
        self._end_reading(length)
        self._traffic.read_took(monotonic() - since)
        error = self._read_outcome(number)
        if error:
            self._answer(self._chunks.error(cookie, offset, error))
            return
        extents = without_short_holes(extents or [(offset, length, True)], r.HOLE_BYTES_MIN)
        if flags & c.CMD_FLAG_DF:
            extents = as_one(extents)
        self._answer(*self._chunks.sparse(cookie, offset, content, extents))

    def _long_chunks_read(self, flags: int, cookie: int, number: int, read: LongRead) -> None:
        first, *others = read.pieces
        if isinstance(first, bytearray) and not others and not self.dropped:
            about = flags, cookie, read.offset, read.length, read.since
            self._chunks_read(*about, number, first, read.extents)
            return
        self._end_reading(read.length)
        if self.dropped:
            return
        self._traffic.read_took(monotonic() - read.since)
        if error := self._read_outcome(number):
            self._answer(self._chunks.error(cookie, read.offset, error))
            return
        if not (isinstance(first, bytearray) or others):
            about = cookie, read.offset, read.offset, read.length, True
            self._pass_on(self._chunks.data_head(*about), first)
            return
        extents = without_short_holes(read.extents, r.HOLE_BYTES_MIN)
        if flags & c.CMD_FLAG_DF:
            extents = as_one(extents)
        given, parts, last = (
            (cookie, read.offset),
            list["Part"](),
            extents[-1],
        )
        for extent in extents:
            offset, length, is_data = extent
            if is_data:
                parts.append(self._chunks.data_head(*given, offset, length, extent is last))
                parts += read.views(offset, length)
            else:
                parts.append(self._chunks.hole(*given, offset, length, extent is last))
        self._answer_long(parts)

    # BLOCK_STATUS

    def _status_refusal(self, request: Request) -> int:
        """Of a BLOCK_STATUS in range: it is about at least one byte and one context."""
        *_, length, payload = request
        if not length or not self._contexts:
            return c.EINVAL
        if payload is None:
            return 0
        if not self._export_flags & c.FLAG_BLOCK_STATUS_PAYLOAD:
            return c.EINVAL
        chosen = context_ids(payload)
        known = set(chosen) <= self._contexts.keys() and len(set(chosen)) == len(chosen)
        return 0 if chosen and known else c.EINVAL

    def _query(self, request: Request) -> bool:
        """See `Dispatch`; and BLOCK_STATUS."""
        _flags, command, cookie, offset, length, payload = request
        if command != c.CMD_BLOCK_STATUS:
            return super()._query(request)
        nbytes = self._at_least(self._limits.status_bytes)
        if not self._begin_reading(nbytes):
            return False
        self._traffic.requests[command] += 1
        self._traffic.byte_counts[command] += length
        chosen = self._contexts if payload is None else context_ids(payload)
        StatusQuery(
            self._server.backend, self._volume, request,
            [(number, self._contexts[number]) for number in chosen],
            self._limits.bitmap_extents_max, partial(self._found, cookie, offset, nbytes),
        ).begin()  # fmt: skip
        return True

    def _found(self, cookie: int, offset: int, nbytes: int, query: StatusQuery) -> None:
        self._end_reading(nbytes)
        last = query.found[-1]
        self._answer(
            *[self._chunks.status(cookie, offset, *found, found is last) for found in query.found]
        )


class ExtendedDispatch(StructuredDispatch):
    """Every reply is an extended one."""

    __slots__ = ()

    chunks = r.EXTENDED

    def finished(self, changes: Sequence[Change]) -> None:
        """See `Dispatch`."""
        replies, failing = self._replies, self._server.failing
        freed = self._request_bytes * len(changes)
        writes = 0
        for change in changes:
            error = change.error
            if error or failing:
                error = self._outcome("flush" if change.kind == FLUSH else "change", error)
            if change.kind == WRITE:
                freed += change.length
                change.data = b""
                writes += 1
            if error:
                replies.append(self._chunks.error(change.cookie, change.offset, error))
            else:
                replies.append(_pack_none(_NONE, change.cookie, change.offset, 0))
        since = changes[0].since
        if writes == len(changes) and changes[-1].since == since:
            took, seconds = monotonic() - since, self._traffic.seconds[_WRITE]
            seconds.counts[bisect_left(seconds.bounds, took)] += writes
            seconds.total += took * writes
        else:
            self._traffic.took(changes)
        self.payload_bytes -= freed
        self.in_flight -= len(changes)
        if self.serving:
            return
        if self.dropped:
            replies.clear()
            self.payload_bytes = 0
            return
        self._wire.write(b"".join(replies))
        replies.clear()
        if self._counted:
            self._count()
        if self.stalled:
            self.progressed()

    def _reply(self, _command: int, cookie: int, offset: int, error: int) -> bytes:
        """See `Dispatch`."""
        if error:
            return self._chunks.error(cookie, offset, error)
        return self._chunks.none(cookie, offset)


def begin(
    negotiated: Negotiated,
    server: Server,
    volume: Volume,
    wire: Carrier,
    progressed: Callable[[], None],
    export_flags: int,
) -> tuple[type[Receiver], Dispatch]:
    """What parses and what serves the requests of a client that negotiated this."""
    given = server, volume, wire, progressed, export_flags
    if negotiated.extended:
        return ExtendedReceiver, ExtendedDispatch(*given, negotiated.contexts)
    if negotiated.structured:
        return Receiver, StructuredDispatch(*given, negotiated.contexts)
    return Receiver, Dispatch(*given)

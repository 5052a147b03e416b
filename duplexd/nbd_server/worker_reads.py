"""The reads of one connection that wait for a worker: long READs, those that are not in memory, and
CACHE.

Between `Requests`, which has the state, and `Dispatch`, which has the hot path. All of them are in
a budget while they are read, so that what clients ask for has a bound, and until the client has
taken the reply. A connection that has nothing in there always gets its share of it.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from duplexd.nbd import constants as c
from duplexd.nbd.messages import SIMPLE_REPLY
from duplexd.nbd_server.cold_path import Requests
from duplexd.nbd_server.long_read import LongRead
from duplexd.nbd_server.narrow_read import NarrowRead
from duplexd.nbd_server.read_ahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.nbd.transmission import Request
    from duplexd.nbd_server.long_read import Done
    from duplexd.nbd_server.sockets import Part
    from duplexd.runtime.pipes import Pipe

_MAGIC = c.SIMPLE_REPLY_MAGIC
_HEADER = SIMPLE_REPLY.size
_pack = SIMPLE_REPLY.pack
_pack_into = SIMPLE_REPLY.pack_into


class WorkerReads(Requests):
    """See `Requests`."""

    __slots__ = ()

    def _begin_reading(self, nbytes: int) -> bool:
        """False if too much is being read already, or the client takes no replies."""
        held = self.read_bytes + self._wire.unsent_bytes
        if self.write_paused or (held and held + nbytes > self._limits.connection_read_bytes_max):
            return False
        if held + nbytes > self._share_bytes and not self._server.reading.fits(nbytes):
            return False
        self.in_flight += 1
        self.read_bytes += nbytes
        self._server.reading.add(nbytes + self._request_bytes)
        return True

    def _at_least(self, nbytes: int) -> int:
        """What to count for a request that can do with less: there is no room for `nbytes`, and its
        connection has nothing else.
        """
        if self.read_bytes or self._wire.unsent_bytes or self._server.reading.fits(nbytes):
            return nbytes
        return min(nbytes, self._limits.piece_bytes_min)

    def _end_reading(self, nbytes: int) -> None:
        self.in_flight -= 1
        self.read_bytes -= nbytes
        self._server.reading.add(-nbytes - self._request_bytes)

    def _answer(self, *pieces: bytes | bytearray | memoryview) -> None:
        """Reply to what was read in a worker, unless the client has gone."""
        if self.dropped:
            return
        for piece in pieces:
            self._wire.write(piece)
        if self.stalled:
            self.progressed()

    def _pass_on(self, head: bytes, pipe: Pipe) -> None:
        """Reply to a read whose content is in a pipe."""
        self._wire.pass_on(head, pipe)
        if self.stalled:
            self.progressed()

    def _answer_long(self, parts: Sequence[Part]) -> None:
        """Reply to a long read, in turns with others."""
        self._wire.queue(parts)
        if self.stalled:
            self.progressed()

    def _read_elsewhere(self, cached: list[Request]) -> None:
        """What was read from memory does not count, because the disk has lost writes: a worker
        finds a leg that has them.
        """
        for at, request in enumerate(cached):
            if not self._start_read(request):
                self._wait_to_read([*cached[at:], *self.backlog])
                return
            self._traffic.requests[c.CMD_READ] += 1
            self._traffic.byte_counts[c.CMD_READ] += request[4]

    def _wait_to_read(self, requests: list[Request]) -> None:
        """The first of them is a READ, for which there is no room now."""
        self.backlog = requests
        self._server.reading.wait(self)
        if not (self.in_flight or self._wire.unsent_bytes):
            self.progressed()  # to `_begin_narrow`, unless changes are taken with it

    def _begin_narrow(self) -> bool:
        """Make a READ in pieces, if it is the first of the backlog, and only room is wanting."""
        request = self.backlog[0]
        _flags, command, cookie, offset, length, _payload = request
        waits = self.in_flight or self._wire.unsent_bytes or self.write_paused
        if command != c.CMD_READ or waits or self._refusal(request):
            return False
        if length <= self._share_bytes or self._server.reading.fits(length):
            return False
        del self.backlog[0]
        self._traffic.requests[command] += 1
        self._traffic.byte_counts[command] += length
        self._traffic.timed_reads += 1
        self.in_flight += self._limits.connection_in_flight_requests_max  # nothing else is taken
        NarrowRead(
            self, self._wire, self._volume, offset, length,
            self._content_head(cookie, offset, length), self._server.reads,
            self._server.reading, self._limits, partial(self._narrow_done, cookie, offset),
        ).resume()  # fmt: skip
        return True

    def _narrow_done(self, cookie: int, offset: int, number: int, read: NarrowRead) -> None:
        self.in_flight -= self._limits.connection_in_flight_requests_max
        self._traffic.read_took(monotonic() - read.since)
        error = self._read_outcome(number)
        if error and read.begun and not self._wire.is_closing():
            self._server.log.warning(
                "NBD client is disconnected",
                volume=self._volume.name,
                reason="a READ failed after a part of its reply was sent",
            )
            self._wire.abort()
        elif error:
            self._answer(self._reply(c.CMD_READ, cookie, offset, error))
        elif self.stalled:
            self.progressed()

    def _content_head(self, cookie: int, _offset: int, _length: int) -> bytes:
        """What comes before the content of a READ, if all of that follows."""
        return _pack(_MAGIC, 0, cookie)

    def _start_read(self, request: Request) -> bool:
        """Read in a worker; False if that has to wait."""
        _flags, _command, cookie, offset, length, _payload = request
        if not self._begin_reading(length):
            return False
        self._traffic.timed_reads += 1
        if length > self._inline_max:
            self._ask_long(offset, length, _HEADER, False, partial(self._long_read_done, cookie))
            return True
        done = partial(self._read_done, cookie, length, self.since)
        self._server.backend.read(self._volume, offset, length, _HEADER, done)
        return True

    def _read_done(
        self, cookie: int, length: int, since: float, number: int, reply: bytearray
    ) -> None:
        self._end_reading(length)
        self._traffic.read_took(monotonic() - since)
        error = self._read_outcome(number)
        if error:
            self._answer(_pack(_MAGIC, error, cookie))
        else:
            _pack_into(reply, 0, _MAGIC, 0, cookie)
            self._answer(reply)

    def _ask_long(self, offset: int, length: int, room: int, sparse: bool, done: Done) -> None:
        piece_bytes = self._limits.piece_bytes_max
        self._server.reads.ask(
            LongRead(self, self._volume, offset, length, room, piece_bytes, sparse, done)
        )

    def _long_read_done(self, cookie: int, number: int, read: LongRead) -> None:
        self._end_reading(read.length)
        if self.dropped:
            return
        self._traffic.read_took(monotonic() - read.since)
        if error := self._read_outcome(number):
            self._answer(_pack(_MAGIC, error, cookie))
            return
        first, *others = read.pieces
        if others:
            self._answer_long([_pack(_MAGIC, 0, cookie), *read.views(read.offset, read.length)])
        elif isinstance(first, bytearray):
            _pack_into(first, 0, _MAGIC, 0, cookie)
            self._answer(first)
        else:
            self._pass_on(_pack(_MAGIC, 0, cookie), first)

    def _read_outcome(self, number: int) -> int:
        """The error for the wire of a read that ended with this errno."""
        return self._outcome("read", number) if number or self._server.failing else 0

    def _query(self, request: Request) -> bool:
        """CACHE: read it, and throw it away. False if it has to wait."""
        _flags, command, cookie, offset, length, _payload = request
        nbytes = self._at_least(min(length, self._limits.cache_piece_bytes))
        if not self._begin_reading(nbytes):
            return False
        self._traffic.requests[command] += 1
        self._traffic.byte_counts[command] += length
        length = min(length, self._limits.cache_bytes_max)
        done = partial(self._cached, cookie, offset, nbytes)
        ReadAhead(self._server.backend, self._volume, offset + length, nbytes, done).go_on(offset)
        return True

    def _cached(self, cookie: int, offset: int, nbytes: int, number: int) -> None:
        self._end_reading(nbytes)
        error = self._read_outcome(number)
        self._answer(self._reply(c.CMD_CACHE, cookie, offset, error))

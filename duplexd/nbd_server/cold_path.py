"""What one connection has in hand, and the requests that are rare: refused ones, those of length 0,
and WRITEs in pieces.

The base of `Dispatch`, which has the hot path; between the two is `WorkerReads`. All of the state
is here. Nothing here is called for a request that is plainly right and served from memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.nbd import constants as c
from duplexd.nbd.messages import SIMPLE_REPLY
from duplexd.nbd.transmission import refusal, wire_error
from duplexd.nbd_server.long_write import LongWrite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.backend import Change, Volume
    from duplexd.nbd.transmission import Request
    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Carrier

_MAGIC = c.SIMPLE_REPLY_MAGIC
_pack = SIMPLE_REPLY.pack
_CHANGES = frozenset({c.CMD_WRITE, c.CMD_TRIM, c.CMD_WRITE_ZEROES})


class Requests:
    """Of one connection. `progressed` is called when something may move on, but not if the
    connection is not `stalled`.
    """

    __slots__ = (
        "_changes",
        "_counted",
        "_export_flags",
        "_inline_max",
        "_limits",
        "_long",
        "_longs",
        "_readable",
        "_replies",
        "_request_bytes",
        "_server",
        "_share_bytes",
        "_size",
        "_stopping",
        "_traffic",
        "_volume",
        "_wire",
        "_writable",
        "backlog",
        "dropped",
        "ended",
        "in_flight",
        "leaving",
        "lent",
        "payload_bytes",
        "progressed",
        "read_bytes",
        "serving",
        "since",
        "stalled",
        "takes_pipes",
        "vanished",
        "write_paused",
    )

    def __init__(
        self,
        server: Server,
        volume: Volume,
        wire: Carrier,
        progressed: Callable[[], None],
        export_flags: int,
    ) -> None:
        self.backlog: list[Request] = []
        self.dropped = False  # the client has gone
        self.ended = False  # DISC came
        self.in_flight = 0  # changes, flushes and reads without a reply
        self.leaving = False  # the next program serves the client
        # that may use the receive buffer: taken since it was exchanged, or since none was in flight
        self.lent: list[Change] = []
        self.payload_bytes = (
            0  # of changes in flight, and of a large payload that is being received
        )
        self.read_bytes = 0  # being read in worker threads
        self.serving = False  # within `serve`, which sends the replies of what is done at once
        self.since = 0.0  # when the last `serve` began (monotonic)
        self.stalled = False  # the connection does not read, or is about to close
        self.vanished = False  # the client has gone without DISC: no change of it is taken
        self.write_paused = False
        self.progressed = progressed
        self._changes = server.backend.changes_of(volume)
        self._export_flags = export_flags
        # Bytes of the volume, or -1 where no request is plainly right
        self._readable = self._size = volume.size
        self._writable = -1 if export_flags & c.FLAG_READ_ONLY else volume.size
        self._stopping = False
        self._counted = 0  # part of payload_bytes that the server's budget knows
        self._limits = server.limits
        self._replies: list[bytes] = []
        self._server = server
        self._traffic = server.traffic_of(volume)
        self._share_bytes = server.limits.connection_share_bytes
        self._request_bytes = server.limits.request_bytes
        self._long: LongWrite | None = None  # that is being received
        self._longs: dict[LongWrite, None] = {}  # of which pieces may be in flight
        self._wire = wire
        self._volume = volume
        self.takes_pipes = wire.takes_pipes
        # Reads up to there are copied by the loop, at once; the others are in pieces
        self._inline_max = server.limits.inline_read_bytes_max
        if self.takes_pipes:
            self._inline_max = min(self._inline_max, server.limits.spliced_read_bytes_min)

    def allocate(self, length: int, here: int) -> bytearray:
        """Memory for a payload of which `here` bytes have come; it counts from now on. Without room
        for more, a piece that any connection may have.
        """
        limits = self._limits
        size = min(length, max(limits.piece_bytes_max, here + 1))
        if not self._server.waiting.fits(size):
            size = min(length, max(limits.piece_bytes_min, here + 1))
        self.payload_bytes += size
        self._count()
        return self._server.payloads.take(size)

    def has_room(self) -> bool:
        """Whether memory may be given to another payload."""
        limits = self._limits
        share = max(self._share_bytes, limits.piece_bytes_min)
        return self.payload_bytes < (
            min(limits.connection_in_flight_bytes_max, share)
            if self._server.waiting.full
            else limits.connection_in_flight_bytes_max
        )

    @property
    def is_unfinished(self) -> bool:
        """Whether anything that came is still to be done."""
        return not self.dropped and bool(self.backlog or self.in_flight)

    @property
    def rests(self) -> bool:
        """Whether nothing is being done, and what came of a WRITE in pieces is done."""
        receiving = self._long is not None and self._long.waits
        return self.in_flight == int(receiving)

    def grew(self) -> None:
        """The volume is larger than when this connection was made, or looked last. Another size was
        announced to its client, which asks for no more unless it has learnt of it elsewhere: a
        kernel device does, and keeps its connections.
        """
        self._size = size = self._volume.size
        if self._readable >= 0:
            self._readable = size
        if self._writable >= 0:
            self._writable = size

    def stop(self) -> None:
        """Refuse what comes from now on."""
        self._stopping = True
        self._readable = -1
        self.backlog = []
        self._take_no_change()

    def vanish(self) -> None:
        """Refuse changes from now on."""
        self.vanished = True
        self._take_no_change()

    def _take_no_change(self) -> None:
        self._writable = -1
        long, self._long = self._long, None
        if long is not None:
            long.abandoned = True  # its pieces are not, until they are done or the client goes
            self._unanswered()

    # A WRITE in pieces

    def finished(self, changes: Sequence[Change]) -> None:
        """See `Client`."""
        raise NotImplementedError

    def _begin_long(self, request: Request) -> None:
        flags, _command, cookie, offset, length, _nothing = request
        error = self._refusal((flags, c.CMD_WRITE, cookie, offset, length, None))
        self._long = long = LongWrite(self, self._volume, request, error)
        self._longs[long] = None
        self.in_flight += 1
        self.payload_bytes += self._request_bytes
        if error:
            self._traffic.refused += 1
        else:
            self._traffic.requests[c.CMD_WRITE] += 1
            self._traffic.byte_counts[c.CMD_WRITE] += length

    def _take_piece(self, request: Request) -> Change | None:
        """The change that it is, if there is one."""
        long, length = self._long, request[4]
        change = long.piece(request) if long is not None else None
        if change is None:
            self.payload_bytes -= length
        if long is not None and not long.coming:
            self._long = None
            if long.refused:
                del self._longs[long]
                self._unanswered()
                self._replies.append(self._reply(c.CMD_WRITE, *long.answer()))
        return change

    def pieces_done(self, long: LongWrite, pieces: int, nbytes: int) -> None:
        """Of `long`; its reply comes on its own."""
        if self.dropped:
            return
        self.in_flight -= pieces
        self.payload_bytes -= nbytes + pieces * self._request_bytes
        if self._counted:
            self._count()
        if self.stalled:
            self.progressed()
        if long.is_done:
            self._longs.pop(long, None)

    def _unanswered(self) -> None:
        self.in_flight -= 1
        self.payload_bytes -= self._request_bytes

    def replies_are_taken(self) -> None:
        """The client takes its replies again, or will never take them."""
        self.write_paused = False
        self._server.reads.resume(self._volume)

    # Waiter of the budgets

    def resume(self) -> None:
        """There may be room again."""
        self.progressed()

    # Refusals, and requests without a range

    def _refusal(self, request: Request) -> int:
        """The NBD error for a request that is not plainly right; 0 if it can be served."""
        flags, command, _cookie, offset, length, _payload = request
        if self._stopping or (self.vanished and command in _CHANGES):
            return c.ESHUTDOWN
        error = refusal(flags, command, offset, length, self._size, self._export_flags)
        if not error and command == c.CMD_WRITE_ZEROES and self._is_slow(flags):
            if flags & c.CMD_FLAG_FAST_ZERO:
                return c.ENOTSUP
            if length > c.SLOW_ZEROES_BYTES_MAX:
                return c.EOVERFLOW
        if command == c.CMD_BLOCK_STATUS and not error:
            return self._status_refusal(request)
        return error

    def _is_slow(self, flags: int) -> bool:
        """Whether zeroes may have to be written. Those that keep their space: whether an image has
        another way is found out by trying.
        """
        return flags & c.CMD_FLAG_NO_HOLE != 0 or not self._volume.can_zero_fast

    def _status_refusal(self, _request: Request) -> int:
        """Of a BLOCK_STATUS in range: with simple replies there is none."""
        return c.EINVAL

    def _without_range(self, request: Request, error: int) -> None:
        """A refused request, one of length 0, or DISC."""
        _flags, command, cookie, offset, length, payload = request
        if command == c.CMD_DISC:
            self.ended = True
            return
        if type(payload) is bytearray:
            self.payload_bytes -= length
        if error:
            self._traffic.refused += 1
        else:
            self._traffic.requests[command] += 1
        self._replies.append(self._reply(command, cookie, offset, error))

    def _reply(self, _command: int, cookie: int, _offset: int, error: int) -> bytes:
        """The reply to a request without content: any that failed, and those that have none."""
        return _pack(_MAGIC, error, cookie)

    def _count(self) -> None:
        """Tell the budget of all connections. It does not hear of what is little, because most of
        that has gone by the next wake-up.
        """
        if self.payload_bytes != self._counted:
            delta, self._counted = self.payload_bytes - self._counted, self.payload_bytes
            self._server.waiting.add(delta)

    def _outcome(self, what: str, number: int) -> int:
        """Note an errno of the storage, or that there was none; the error for the wire."""
        if number:
            self._server.storage_failed(self._volume, what, number)
        else:
            self._server.storage_recovered(self._volume, what)
        return wire_error(number)

"""The requests of one connection: checked, turned into changes and reads, answered.

Batches are the design: one wake-up brings many requests, all its changes go to the write path in
one `Backend.submit`, all its replies into one write. Requests of one wake-up have no order among
them in NBD; they are taken as they come, except that reads served from memory overtake changes.

What cannot be taken now (a limit is met, or the client does not take its replies) stays in the
backlog, and the socket is not read. Reads wait only behind such a change: a hold stops nothing that
fits the limits.

This file is on the hot path of every request, so it is plain: ints and slots, nothing validated
twice, logged or labelled for each request, and `_take` is one loop because a call per request is
what it would be measured by.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from duplexd.backend import FLUSH, TRIM, WRITE, ZERO, Change
from duplexd.nbd import constants as c
from duplexd.nbd.messages import SIMPLE_REPLY
from duplexd.nbd.transmission import refusal, wire_error
from duplexd.nbd_server.shared import EXPORT_FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from duplexd.backend import Volume
    from duplexd.nbd.transmission import Request
    from duplexd.nbd_server.budget import Budget
    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Carrier

_MAGIC = c.SIMPLE_REPLY_MAGIC
_HEADER = SIMPLE_REPLY.size
_pack = SIMPLE_REPLY.pack
_pack_into = SIMPLE_REPLY.pack_into
# Two calls do what `Change(...)` does, in half the time: CPython enters `__init__` directly.
_new, _init = object.__new__, Change.__init__
# READ and WRITE, the two lowest, take no flag but FUA, the lowest.
_READ, _WRITE, _FUA, _LENGTH_MAX = c.CMD_READ, c.CMD_WRITE, c.CMD_FLAG_FUA, c.PAYLOAD_BYTES_MAX


class Dispatch:
    """The `Client` of the write path. `progressed` is called when something may move on, but not if
    the connection is not `stalled`.
    """

    __slots__ = (
        "_counted",
        "_export_flags",
        "_limits",
        "_plain_write",
        "_replies",
        "_server",
        "_traffic",
        "_uncounted_max",
        "_volume",
        "_wire",
        "backlog",
        "dropped",
        "ended",
        "in_flight",
        "lent",
        "payload_bytes",
        "progressed",
        "read_bytes",
        "serving",
        "stalled",
        "write_paused",
    )

    def __init__(
        self,
        server: Server,
        volume: Volume,
        wire: Carrier,
        progressed: Callable[[], None],
        export_flags: int = EXPORT_FLAGS,
    ) -> None:
        self.backlog: list[Request] = []
        self.dropped = False  # the client has gone
        self.ended = False  # DISC came
        self.in_flight = 0  # changes, flushes and reads without a reply
        # that may use the receive buffer: taken since it was exchanged, or since none was in flight
        self.lent: list[Change] = []
        self.payload_bytes = (
            0  # of changes in flight, and of a large payload that is being received
        )
        self.read_bytes = 0  # being read in worker threads
        self.serving = False  # within `serve`, which sends the replies of what is done at once
        self.stalled = False  # the connection does not read, or is about to close
        self.write_paused = False
        self.progressed = progressed
        self._counted = 0  # part of payload_bytes that the server's budget knows
        self._export_flags = export_flags
        self._limits = server.limits
        # what needs no further look; of a read-only export no WRITE
        self._plain_write = -1 if export_flags & c.FLAG_READ_ONLY else _WRITE
        self._replies: list[bytes] = []
        self._server = server
        self._traffic = server.traffic_of(volume)
        self._uncounted_max = server.limits.connection_uncounted_bytes_max
        self._wire = wire
        self._volume = volume

    def serve(self, requests: list[Request]) -> None:
        """Take the requests of one wake-up, or the backlog again."""
        self.backlog = []
        if self.write_paused or self.in_flight >= self._limits.connection_in_flight_requests_max:
            self.backlog = requests
            return
        changes: list[Change] = []
        self.serving = True
        try:
            position = self._take(iter(requests), changes)
            if changes:
                self._submit(changes)
        finally:
            self.serving = False
        if position or self._replies:
            self._send(position)
        if not 0 <= self.payload_bytes - self._counted <= self._uncounted_max:
            self._count()

    def reserve(self, length: int) -> bool:
        """Room for a large payload that is about to be received; it counts from now on."""
        if (
            self.payload_bytes
            and self.payload_bytes + length > self._limits.connection_in_flight_bytes_max
        ):
            return False
        if not self._server.waiting.fits(length):
            return False
        self.payload_bytes += length
        self._count()
        return True

    def drop(self) -> None:
        """The client has gone: whatever has not started is dropped, no reply will be sent."""
        if self.dropped:
            return
        self.dropped = True
        self._server.waiting.forget(self)
        self._server.reading.forget(self)
        self.backlog = []
        self._server.backend.disconnected(self)
        self._replies.clear()
        self.payload_bytes = 0
        self._count()

    # Client

    def finished(self, changes: Sequence[Change]) -> None:
        """Reply to changes."""
        replies, failing = self._replies, self._server.failing
        freed = 0
        for change in changes:
            error = change.error
            if error or failing:
                # The journal takes a flush although no write succeeds: it cures nothing of these.
                error = self._outcome("flush" if change.kind == FLUSH else "change", error)
            if change.kind == WRITE:
                freed += change.length
                change.data = b""  # its receive buffer is free
            replies.append(_pack(_MAGIC, error, change.cookie))
        self.payload_bytes -= freed
        self.in_flight -= len(changes)
        if self.serving:
            return
        if self.dropped:
            replies.clear()
            self.payload_bytes = 0
            return
        self._wire.write(replies[0] if len(replies) == 1 else b"".join(replies))
        replies.clear()
        if self._counted:
            self._count()
        if self.stalled:
            self.progressed()

    # Waiter of the budgets

    def resume(self) -> None:
        """There may be room again."""
        self.progressed()

    # Inside of a wake-up

    def _take(self, requests: Iterator[Request], changes: list[Change]) -> int:
        """Take requests until there are none or one has to wait. Returns how much of the reply
        buffer is filled.
        """
        volume, traffic = self._volume, self._traffic
        size, read_cached = volume.size, volume.read_cached
        request_counts, byte_counts = traffic.requests, traffic.byte_counts
        writes = written = taken = 0  # WRITEs, their bytes, and those of these that count from now
        full = (
            self.payload_bytes >= self._limits.connection_in_flight_bytes_max
            or self._server.waiting.full
        )
        plain_write = self._plain_write
        inline_max = self._limits.inline_read_bytes_max
        reply_buffer, position = self._server.reply_buffer, 0
        for request in requests:
            flags, command, cookie, offset, length, payload = request
            # What is plainly right is not looked at further: nearly everything. A WRITE that was
            # received with its payload is not too long.
            if command == plain_write and payload and flags <= _FUA and offset + length <= size:
                if type(payload) is memoryview:
                    if full:
                        self._wait(request, requests, self._server.waiting)
                        break
                    taken += length  # memory of its own was counted when reserved
                writes += 1
                written += length
                change = _new(Change)
                _init(change, self, cookie, volume, WRITE, offset, length, payload, flags != 0)
                changes.append(change)
                continue
            if not (
                command == _READ
                and flags <= _FUA
                and 0 < length <= _LENGTH_MAX
                and offset + length <= size
            ):
                error = refusal(flags, command, offset, length, size, self._export_flags)
                if error or not length or command == c.CMD_FLUSH:  # where it means nothing
                    self._without_range(request, error, changes)
                    continue
            if command == _READ:
                end = position + _HEADER + length
                if length <= inline_max and end > len(reply_buffer):
                    self._send(position)
                    reply_buffer, position, end = self._server.reply_buffer, 0, _HEADER + length
                    if self.write_paused:
                        self.backlog = [request, *requests]
                        break
                try:
                    cached = length <= inline_max and read_cached(
                        offset, reply_buffer[position + _HEADER : end]
                    )
                except OSError:  # the worker may find it elsewhere
                    cached = False
                if cached:
                    _pack_into(reply_buffer, position, _MAGIC, 0, cookie)
                    position = end
                elif not self._start_read(cookie, offset, length):
                    self._wait(request, requests, self._server.reading)
                    break
            else:
                changes.append(self._without_payload(request))
            request_counts[command] += 1
            byte_counts[command] += length
        request_counts[_WRITE] += writes
        byte_counts[_WRITE] += written
        self.payload_bytes += taken
        return position

    def _wait(self, request: Request, rest: Iterator[Request], budget: Budget) -> None:
        self.backlog = [request, *rest]
        budget.wait(self)

    def _without_range(self, request: Request, error: int, changes: list[Change]) -> None:
        """A refused request, one of length 0, FLUSH or DISC."""
        _flags, command, cookie, _offset, length, payload = request
        if command == c.CMD_DISC:
            self.ended = True
            return
        if type(payload) is bytearray:
            self.payload_bytes -= length
        if error:
            self._traffic.refused += 1
        else:
            self._traffic.requests[command] += 1
            if command == c.CMD_FLUSH:
                self._flush(cookie, changes)
                return
        self._replies.append(_pack(_MAGIC, error, cookie))

    def _without_payload(self, request: Request) -> Change:
        flags, command, cookie, offset, length, _payload = request
        kind = TRIM if command == c.CMD_TRIM else ZERO
        fua, allocate = flags & c.CMD_FLAG_FUA != 0, flags & c.CMD_FLAG_NO_HOLE != 0
        return Change(self, cookie, self._volume, kind, offset, length, b"", fua, allocate)

    def _flush(self, cookie: int, changes: list[Change]) -> None:
        """What came before goes first: one sync is then good for it, too."""
        if changes:
            self._submit(changes.copy())
            changes.clear()
        self.in_flight += 1
        self._server.backend.flush(Change(self, cookie, self._volume, FLUSH, 0, 0))

    def _submit(self, changes: list[Change]) -> None:
        # a new list: the write path may keep the one it gets
        self.lent = [*self.lent, *changes] if self.in_flight else changes
        self.in_flight += len(changes)
        self._server.backend.submit(changes)

    def _send(self, position: int) -> None:
        """Send the filled part of the reply buffer, and the queued replies."""
        wire = self._wire
        if self._replies:
            replies = b"".join(self._replies)
            self._replies.clear()
            end = position + len(replies)
            if not position or end > len(self._server.reply_buffer):
                wire.write(replies)
            else:
                self._server.reply_buffer[position:end] = replies
                position = end
        if not position:
            return
        filled = self._server.reply_buffer[:position]
        if wire.unsent_bytes:
            wire.write(bytes(filled))
        elif not wire.write(filled):
            self._server.fresh_reply_buffer()

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

    # Reads in worker threads

    def _start_read(self, cookie: int, offset: int, length: int) -> bool:
        """False if too much is being read already, or the client takes no replies."""
        if self.write_paused or (
            self.read_bytes and self.read_bytes + length > self._limits.connection_read_bytes_max
        ):
            return False
        if not self._server.reading.fits(length):
            return False
        self.in_flight += 1
        self.read_bytes += length
        self._server.reading.add(length)
        done = partial(self._read_done, cookie, length)
        self._server.backend.read(self._volume, offset, length, _HEADER, done)
        return True

    def _read_done(self, cookie: int, length: int, number: int, reply: bytearray) -> None:
        self.in_flight -= 1
        self.read_bytes -= length
        self._server.reading.add(-length)
        if self.dropped:
            return
        error = self._outcome("read", number) if number or self._server.failing else 0
        if error:
            self._wire.write(_pack(_MAGIC, error, cookie))
        else:
            _pack_into(reply, 0, _MAGIC, 0, cookie)
            self._wire.write(reply)
        if self.stalled:
            self.progressed()

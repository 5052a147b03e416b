"""The requests of one connection: checked, turned into changes and reads, answered.

Batches are the design: one wake-up brings many requests, all its changes go to the write path in
one `Changes.submit`, all its replies into one write. Requests of one wake-up have no order among
them in NBD; they are taken as they come, except that reads served from memory overtake changes.

What cannot be taken now (a limit is met, or the client does not take its replies) stays in the
backlog, and the socket is not read. Reads wait only behind such a change: a hold stops nothing that
fits the limits.

This file is on the hot path of every request, so it is plain: ints and slots, nothing validated
twice, logged or labelled for each request, and `_take` is one loop because a call per request is
what it would be measured by.
"""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING

from duplexd.backend import FLUSH, TRIM, WRITE, ZERO, Change
from duplexd.nbd import constants as c
from duplexd.nbd.messages import SIMPLE_REPLY
from duplexd.nbd.transmission import CMD_LONG_WRITE
from duplexd.nbd_server.worker_reads import WorkerReads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.nbd.transmission import Request
    from duplexd.nbd_server.budget import Budget

_MAGIC = c.SIMPLE_REPLY_MAGIC
_HEADER = SIMPLE_REPLY.size
_pack = SIMPLE_REPLY.pack
_pack_into = SIMPLE_REPLY.pack_into
_QUERIES = frozenset({c.CMD_CACHE, c.CMD_BLOCK_STATUS})
# Two calls do what `Change(...)` does, in half the time: CPython enters `__init__` directly.
_new, _init = object.__new__, Change.__init__
# READ and WRITE need no second look if they have no flag but FUA, the lowest.
_READ, _WRITE, _FUA = c.CMD_READ, c.CMD_WRITE, c.CMD_FLAG_FUA


class Dispatch(WorkerReads):
    """The `Client` of the write path.

    This class answers with simple replies; those of `structured.py` are for clients that negotiated
    others. The class is chosen once for a connection.
    """

    __slots__ = ()

    def serve(self, requests: list[Request]) -> None:
        """Take the requests of one wake-up, or the backlog again."""
        self.backlog = []
        if self.write_paused or self.in_flight >= self._limits.connection_in_flight_requests_max:
            self.backlog = requests
            return
        later: list[Request] = []
        if len(requests) > self._limits.turn_requests_max:
            later = requests[self._limits.turn_requests_max :]
            requests = requests[: self._limits.turn_requests_max]
        if self._volume.size != self._size:
            self.grew()
        changes: list[Change] = []
        self.serving, self.since = True, monotonic()
        try:
            position = self._take(iter(requests), changes)
            if changes:
                self._submit(changes)
        finally:
            self.serving = False
        if position or self._replies:
            self._send(position)
        if position:  # READs were answered: one addition for all of them
            took, traffic = monotonic() - self.since, self._traffic
            seconds, reads = traffic.seconds[_READ], traffic.requests[_READ] - traffic.timed_reads
            seconds.counts[bisect_left(seconds.bounds, took)] += reads
            seconds.total += took * reads
            traffic.timed_reads += reads
        if later:
            self._take_later(later)
        if not 0 <= self.payload_bytes - self._counted <= self._share_bytes:
            self._count()

    def go_on(self) -> None:
        """Take the backlog, which is not empty, again."""
        if not self._begin_narrow():
            self.serve(self.backlog)

    def drop(self) -> None:
        """The client has gone: whatever has not started is dropped, no reply will be sent."""
        if self.dropped:
            return
        self.dropped = True
        self._server.waiting.forget(self)
        self._server.reading.forget(self)
        self._server.reads.resume(self._volume)
        self.backlog = []
        self._changes.disconnected(self)
        for long in self._longs:
            self._changes.disconnected(long)
        self._longs.clear()
        self._long = None  # a stop may come before the socket is closed
        self._replies.clear()
        self.payload_bytes = 0
        self._count()

    # Client

    def finished(self, changes: Sequence[Change]) -> None:
        """Reply to changes."""
        replies, failing = self._replies, self._server.failing
        freed = self._request_bytes * len(changes)
        writes = 0
        for change in changes:
            error = change.error
            if error or failing:
                # The journal takes a flush although no write succeeds: it cures nothing of these.
                error = self._outcome("flush" if change.kind == FLUSH else "change", error)
            if change.kind == WRITE:
                freed += change.length
                change.data = b""  # its receive buffer is free
                writes += 1
            replies.append(_pack(_MAGIC, error, change.cookie))
        since = changes[0].since
        if writes == len(changes) and changes[-1].since == since:  # the common case
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
        self._wire.write(replies[0] if len(replies) == 1 else b"".join(replies))
        replies.clear()
        if self._counted:
            self._count()
        if self.stalled:
            self.progressed()

    # Inside of a wake-up

    def _take(self, requests: Iterator[Request], changes: list[Change]) -> int:
        """Take requests until there are none or one has to wait. Returns how much of the reply
        buffer is filled.
        """
        volume, traffic = self._volume, self._traffic
        read_cached, readable, writable = volume.read_cached, self._readable, self._writable
        request_counts, byte_counts = traffic.requests, traffic.byte_counts
        writes = written = taken = 0  # WRITEs, their bytes, and those of these that count from now
        cached: list[Request] = []  # READs that are in the reply buffer
        full = self.payload_bytes >= self._limits.connection_in_flight_bytes_max or (
            self._server.waiting.full and self.payload_bytes >= self._share_bytes
        )
        inline_max = self._inline_max
        inline_max = min(inline_max, self._share_bytes) if self._server.reading.full else inline_max
        reply_buffer, position = self._server.reply_buffer, 0
        size = len(reply_buffer)
        for request in requests:
            flags, command, cookie, offset, length, payload = request
            # What is plainly right is not looked at further: nearly everything. A WRITE that was
            # received with its payload is not too long.
            if command == _WRITE and payload and flags <= _FUA and offset + length <= writable:
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
            if (
                command == _READ
                and flags <= _FUA
                and 0 < length <= inline_max
                and offset + length <= readable
            ):
                end = position + _HEADER + length
                if end > size:
                    self.backlog = [request, *requests]
                    self.progressed()  # in the next turn, behind what others have sent
                    break
                try:
                    if read_cached(offset, reply_buffer[position + _HEADER : end]):
                        _pack_into(reply_buffer, position, _MAGIC, 0, cookie)
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
        return self._read(cached, position, _HEADER) if cached else position

    def _read(self, cached: list[Request], position: int, room: int) -> int:
        """What was read from memory fills the reply buffer up to `position`, with `room` for each
        header. Returns how much of it counts: none if the disk has lost writes.
        """
        if self._volume.has_lost_writes():
            self._read_elsewhere(cached)
            return 0
        self._traffic.requests[_READ] += len(cached)
        self._traffic.byte_counts[_READ] += position - room * len(cached)
        return position

    def _take_later(self, requests: list[Request]) -> None:
        """In the next turn of the loop, unless one before them waits for something else."""
        if not self.backlog:
            self.progressed()
        self.backlog += requests

    def _wait(self, request: Request, rest: Iterator[Request], budget: Budget) -> None:
        """Go on with this one, and the `rest`, when there is room. Nothing is left of `rest`."""
        self.backlog = [request, *rest]
        budget.wait(self)

    def _rare(self, request: Request, rest: Iterator[Request], changes: list[Change]) -> bool:
        """Refuse or serve a request that is not plainly right, or let it wait with the `rest`.

        True if it is in order, and a change or a READ.
        """
        command = request[1]
        if command < 0:
            self._part_of_long(request, changes)
            return False
        error = self._refusal(request)
        if command == c.CMD_FLUSH and not error:  # its length means nothing
            self._flush(request, changes)
        elif error or not request[4]:
            self._without_range(request, error)
        elif command not in _QUERIES:
            return True
        elif not self._query(request):
            self._wait(request, rest, self._server.reading)
        return False

    def _part_of_long(self, request: Request, changes: list[Change]) -> None:
        if request[1] == CMD_LONG_WRITE:
            self._begin_long(request)
        elif (change := self._take_piece(request)) is not None:
            changes.append(change)

    def _flush(self, request: Request, changes: list[Change]) -> None:
        """What came before goes first: one sync is then good for it, too."""
        _flags, command, cookie, offset, _length, _payload = request
        if changes:
            self._submit(changes.copy())
            changes.clear()
        self._traffic.requests[command] += 1
        self.in_flight += 1
        self.payload_bytes += self._request_bytes
        change = Change(self, cookie, self._volume, FLUSH, offset, 0)
        change.since = self.since
        self._changes.flush(change)

    def _without_payload(self, request: Request) -> Change:
        flags, command, cookie, offset, length, _payload = request
        kind = TRIM if command == c.CMD_TRIM else ZERO
        fua, allocate = flags & c.CMD_FLAG_FUA != 0, flags & c.CMD_FLAG_NO_HOLE != 0
        return Change(self, cookie, self._volume, kind, offset, length, b"", fua, allocate)

    def _submit(self, changes: list[Change]) -> None:
        since = self.since
        for change in changes:
            change.since = since
        # a new list: the write path may keep the one it gets
        self.lent = [*self.lent, *changes] if self.in_flight else changes
        self.in_flight += len(changes)
        self.payload_bytes += self._request_bytes * len(changes)
        self._changes.submit(changes)

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

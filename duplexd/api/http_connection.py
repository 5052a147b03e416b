"""One connection of the HTTP API: its peer, its requests one after the other, its answers.

A connection of our own on httptools, and no HTTP server from a library: those that were measured
want to own what matters here. The peer's credentials and certificate, a limit per kind of peer, a
hold that ends the moment its owner's socket does, the head and first line of an answer in one write
while gates are closed: with uvicorn that took nine overridden methods on its internals; aiohttp can
do some of it, and costs duplexctl 0.2 s of imports when its client is used too.

    idle -> a request begins -> it is complete -> a task waits for its turn, answers it -> idle
             too late: 408                        the peer goes: an answer that lasts is cancelled
                                                  the peer sends more while it lasts: cut off

While an answer lasts (a hold, events) the connection is always read. A socket that is not read does
not say that its peer has died. So what arrives meanwhile cannot wait there: the connection ends.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol, cast

import structlog

from duplexd.api import problems, wire
from duplexd.api.access import Access, Peer
from duplexd.api.lanes import BusyError
from duplexd.api.responses import LINES_TYPE, Lines, Slow, encode
from duplexd.net.allow import origin_of
from duplexd.net.certificate_names import valid_until
from duplexd.net.expiry import Expiry
from duplexd.runtime.log import Seldom

if TYPE_CHECKING:
    from duplexd.api.lanes import Lanes, Turn
    from duplexd.api.routing import Application
    from duplexd.limits import ApiLimits

log = Seldom(structlog.get_logger("duplexd.api"))
_UCRED = struct.Struct("3i")


def peer_of(transport: asyncio.BaseTransport, access: Access) -> Peer:
    """By the certificate that TLS verified, or the credentials that the kernel noted at connect."""
    if certificate := transport.get_extra_info("peercert"):
        return access.remote(certificate)
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        address = transport.get_extra_info("peername")
        return Peer(address=origin_of(address[0]) if address else "")
    pid, uid, gid = credentials(sock)
    return access.local(uid, gid, pid)


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Process, user and group at the other end of a Unix socket, when it connected."""
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return pid, uid, gid


class Shared(Protocol):
    """What a connection asks of all of them together; see `connections.py`."""

    application: Application
    access: Access
    limits: ApiLimits
    lanes: Lanes
    tasks: set[asyncio.Task[None]]

    def add(self, connection: Connection) -> str:
        """Note an open connection; why it is one too many, or ""."""

    def remove(self, connection: Connection) -> None:
        """Forget one that is closed."""


class Connection(asyncio.Protocol):
    """See the module's docstring. `shared` is what all connections of the server share."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._loop = asyncio.get_running_loop()
        self._reader = wire.RequestReader(shared.limits)
        self._task: asyncio.Task[None] | None = None
        self._turn: Turn | None = None  # of the loop, until the loop's work for a request is done
        self._waits = False  # for such a turn
        self._lasting = False  # the answer ends when its reader goes, who may send nothing more
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: Expiry | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._unsent_bytes = 0
        self._last = False  # no request is taken after the one that is being answered
        self._transport: asyncio.Transport
        self.peer = Peer()

    # ---------------------------------------------------------------------- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio. By the roles of now: a reload may have come during a TLS handshake."""
        self._transport = cast("asyncio.Transport", transport)
        self.peer = peer_of(transport, self._shared.access)
        until = valid_until(transport.get_extra_info("peercert") or {})
        if until is not None:
            self._expiry = Expiry(self._loop, until, self._expired)
        if detail := self._shared.add(self):
            self._refuse(wire.HttpError(503, detail))
        else:
            self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._lasting:
            self._transport.abort()
        elif not self._transport.is_closing():
            began = self._reader.partial
            self._reader.feed(data)
            if self._reader.partial and not began and self._task is None:
                self._wait_for_request()  # its time runs from its first byte
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        """See asyncio. A command goes on to its end: only its answer has nobody to go to."""
        self._last = True
        self._writable.set()
        self._stop_timer()
        if self._expiry is not None:
            self._expiry.cancel()
        if (self._lasting or self._waits) and self._task is not None:
            self._task.cancel()
        self._shared.remove(self)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._writable.set()
        self._go_on()

    # -------------------------------------------------------------------------- what others ask

    def abort(self) -> None:
        """Drop the connection and what is still queued for it."""
        self._transport.abort()

    def _expired(self) -> None:
        """The peer is nobody from now on; its hold ends, as if it had gone."""
        reason = "its certificate has expired"
        log.info("control connection closed", certificate=self.peer.name, reason=reason)
        self.abort()

    def stop(self) -> None:
        """Take no further request; close once the one that is being answered is."""
        self._last = True
        if self._task is None:
            self._transport.close()

    def admit_again(self, access: Access) -> None:
        """Drop the connection if its peer would be somebody else by now."""
        if peer_of(self._transport, access) != self.peer:
            self.abort()

    # ------------------------------------------------------------------------------- requests

    def _go_on(self) -> None:
        """Begin with the next request, if there is one and nothing is in its way.

        A client that has gone is asked for by the transport: `connection_lost` comes a turn later,
        and what began in between would not be cancelled by it.
        """
        busy = self._task is not None or not self._writable.is_set()
        if busy or self._last or self._transport.is_closing():
            return
        reader = self._reader
        if reader.requests:
            self._stop_timer()
            self._task = self._loop.create_task(self._serve(reader.requests.popleft()))
            self._shared.tasks.add(self._task)
            self._task.add_done_callback(self._shared.tasks.discard)
        elif reader.error is not None:
            self._refuse(reader.error)
        elif reader.take_expectation():
            self._write(wire.CONTINUE)

    async def _serve(self, request: wire.Request) -> None:
        finished = False
        try:
            await self._respond(request)
            finished = True
        finally:
            self._task, self._lasting = None, False
            self._end_turn()
            if not finished:
                self._transport.abort()
            elif self._last:
                self._transport.close()
            else:
                self._wait_for_request()
                self._go_on()

    def _wait_for_request(self) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(self._limits.request_seconds_max, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        """Nothing came, or not all of it. A peer that is still reading its answer has time."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if self._reader.partial:
            limit = self._limits.request_seconds_max
            detail = f"the request was not complete after {limit:g} s (request_seconds_max)"
            self._refuse(wire.HttpError(408, detail))
        elif unsent_bytes and unsent_bytes != self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._wait_for_request()
        else:
            self._transport.abort()

    # --------------------------------------------------------------------------------- answers

    def _write(self, data: bytes) -> None:
        """To a client that may have gone meanwhile."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def _refuse(self, error: wire.HttpError) -> None:
        """Answer what is not a request, and close."""
        self._last = True
        answer = problems.respond(error.status, error.detail)
        self._write(answer.encoded(wire.Request(), keep_alive=False))
        self._transport.close()

    async def _respond(self, request: wire.Request) -> None:
        if request.error is not None:
            self._refuse(request.error)
            return
        if not await self._take_turn(request):
            return
        answer = await self._shared.application(self, request)
        if isinstance(answer, wire.Answer):
            self._send(request, answer)
        elif request.method == "HEAD":
            await answer.discard()
            self._send(request, wire.Answer(200, answer.media_type, b""))
        else:
            await self._last_long(request, answer)

    async def _take_turn(self, request: wire.Request) -> bool:
        """Wait for a turn of the loop (`lanes.py`); False if that took too long: it is answered."""
        request.asked_at = self._loop.time()
        self._waits = True
        try:
            self._turn = await self._shared.lanes.enter(self.peer, request.method, request.path)
        except BusyError as error:
            retry = (("retry-after", error.retry_after),)
            self._send(request, problems.respond(error.status, error.detail, retry))
            return False
        finally:
            self._waits = False
        return True

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.leave()
            self._turn = None

    def _send(self, request: wire.Request, answer: wire.Answer) -> None:
        self._last |= not request.keep_alive
        self._write(answer.encoded(request, not self._last))

    async def _last_long(self, request: wire.Request, answer: Lines | Slow) -> None:
        if self._transport.is_closing():
            await answer.discard()
            return
        self._lasting = True
        if isinstance(answer, Slow):
            done = await answer.answer()
            self._lasting = False  # before the last byte: the next request may follow it at once
            self._send(request, done)
        else:
            await self._send_lines(request, answer)

    async def _read_by_peer(self) -> None:
        """Wait until the peer has taken what was sent; it is cut off if that takes too long."""
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(self._limits.unread_seconds_max):
                    await self._writable.wait()
            except TimeoutError:
                self._transport.abort()

    async def _send_lines(self, request: wire.Request, answer: Lines) -> None:
        """Newline-delimited JSON. The head goes out together with the first line, in one write.

        An error before the first line is an answer of its own; after it, the last line of this one.
        """
        self._last |= not (request.keep_alive and request.chunked)
        chunked = (("transfer-encoding", "chunked"),) if request.chunked else ()
        pending = wire.head(200, LINES_TYPE, chunked, not self._last)
        frame = wire.chunk if request.chunked else bytes
        try:
            async with aclosing(answer.lines) as lines:
                async for line in lines:
                    self._write(pending + frame(encode(line) + b"\n"))
                    pending = b""
                    self._end_turn()
                    await self._read_by_peer()
        except Exception as error:  # noqa: BLE001 - a bug costs its own answer, and is logged
            problem = problems.problem_of(error)
            if pending:
                self._lasting = False
                self._send(request, problems.answer(problem))
                return
            pending = frame(encode({"event": "failed", "problem": problem}) + b"\n")
        self._lasting = False
        self._write(pending + (wire.LAST_CHUNK if request.chunked else b""))

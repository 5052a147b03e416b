"""One connection of the control socket: HTTP by uvicorn and h11, with the peer's credentials, limits, and clean answers to rubbish."""

from __future__ import annotations

import json
import socket
import struct
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from duplexd.api.access import Access, Peer
from duplexd.api.problems import problem
from duplexd.limits import (
    CONTROL_CONNECTIONS_MAX,
    CONTROL_HEADER_BYTES_MAX,
    CONTROL_LOCAL_CONNECTIONS_MIN,
    CONTROL_REQUEST_SECONDS_MAX,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    import uvicorn
    from uvicorn.server import ServerState

_UCRED = struct.Struct("3i")


class Link:
    """What a request may know of its connection."""

    __slots__ = ("peer", "streaming", "transport")

    def __init__(self, peer: Peer, transport: asyncio.Transport | None = None) -> None:
        self.peer = peer
        self.transport = transport
        self.streaming = (
            False  # a stream of lines is being sent: the client has nothing more to say
        )

    def abort(self) -> None:
        """Drop the connection and what is still queued for it."""
        if self.transport is not None:
            self.transport.abort()


def peer_of(transport: asyncio.BaseTransport, access: Access) -> Peer:
    """By the certificate that TLS verified, or the credentials that the kernel noted when the peer connected."""
    if certificate := transport.get_extra_info("peercert"):
        return access.remote(certificate)
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return Peer()
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return access.local(uid, gid, pid)


class AnswersInOnePiece(h11.Connection):
    """The head of an answer goes out together with what follows it: one write, and the client is woken once. Gates are closed meanwhile."""

    _head = b""

    def send(self, event: Any) -> Any:
        output = self._head + (super().send(event) or b"")
        self._head = output if type(event) is h11.Response else b""
        return b"" if self._head else output


class ControlProtocol(H11Protocol):
    """uvicorn's h11 protocol plus: a limit on connections, a time limit on requests, and no bytes after a stream has begun.

    The last one matters: h11 stops reading at pipelined bytes, and a connection that is not read does not tell that its peer has died.
    """

    _timer: asyncio.TimerHandle | None = None
    _seen: object = None

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        loop: asyncio.AbstractEventLoop,
        access: Callable[[], Access],
    ) -> None:
        super().__init__(config, state, {}, loop)
        self.conn = AnswersInOnePiece(h11.SERVER, CONTROL_HEADER_BYTES_MAX)
        self._access = access

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.link = Link(
            peer_of(transport, self._access()), transport
        )  # by the table of now: a reload may have come during the handshake
        self.app_state = {**self.app_state, "link": self.link}
        limit = CONTROL_CONNECTIONS_MAX - (
            CONTROL_LOCAL_CONNECTIONS_MIN if self.link.peer.name else 0
        )  # over TLS everybody has a name
        if len(self.connections) > limit:
            self._answer(
                503,
                f"{limit} connections are open (CONTROL_CONNECTIONS_MAX); close some and try again",
            )
        else:
            self._timer = self.loop.call_later(CONTROL_REQUEST_SECONDS_MAX, self._check_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.link.streaming:
            self.transport.abort()
            return
        if self.transport.is_closing():
            return
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # rubbish behind a request that is being answered
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._answer(400, msg)
        else:
            self.transport.abort()

    def admit_again(self, access: Access) -> None:
        """Drop the connection if its peer would be somebody else by now."""
        if peer_of(self.transport, access) != self.link.peer:
            self.transport.abort()

    def _check_idle(self) -> None:
        """Drop a connection that has not managed to send a request for a whole period."""
        cycle: RequestResponseCycle | None = self.cycle
        idle = cycle is None or cycle.response_complete
        if idle and self._seen is cycle:
            self.transport.abort()
            return
        self._seen = cycle
        self._timer = self.loop.call_later(CONTROL_REQUEST_SECONDS_MAX, self._check_idle)

    def _answer(self, status: int, detail: str) -> None:
        """Answer without a request, and close."""
        body = json.dumps(problem(status, detail)).encode()
        head: list[tuple[bytes, Any]] = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        output = self.conn.send(h11.Response(status_code=status, headers=head, reason=b""))
        self.transport.write(
            output + self.conn.send(h11.Data(data=body)) + self.conn.send(h11.EndOfMessage())
        )
        self.transport.close()

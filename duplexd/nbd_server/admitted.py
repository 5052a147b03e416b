"""Who the client of a connection is, and what the rules let it do, from accept to close.

The base of `Connection`, which has its requests. TLS shows in the middle of a handshake who the
client is, a certificate expires, and a reload changes the rules: each of them ends a connection
that may do less by what holds now than when its volume was chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.known import known
from duplexd.nbd_server.reach import Access
from duplexd.nbd_server.secured import identified
from duplexd.nbd_server.tls_wire import TlsWire
from duplexd.nbd_server.visible_exports import VisibleExports
from duplexd.net.allow import Caller, caller_of
from duplexd.net.certificate_names import valid_until
from duplexd.net.expiry import Expiry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.backend import Volume
    from duplexd.nbd.exports import Export
    from duplexd.nbd_server.peer_places import Peer
    from duplexd.nbd_server.reach import Listener
    from duplexd.nbd_server.secured import Trust
    from duplexd.nbd_server.shared import Server
    from duplexd.nbd_server.sockets import Carrier, Receiving, Wire
    from duplexd.net.address import Address


class Admitted:
    """A client that came through a listener. `volume`: what it has chosen, with `_access`."""

    __slots__ = (
        "_access",
        "_expiry",
        "_peer",
        "_server",
        "_socket",
        "_wire",
        "exports",
        "lost",
        "volume",
    )

    _wire: Carrier  # the socket, or TLS on it
    _socket: Wire

    def __init__(self, server: Server, listener: Listener) -> None:
        self.lost = False  # its socket is closed, and what came before DISC is not done yet
        self.exports = VisibleExports(server, listener, Caller())
        self.volume: Volume | None = None
        self._access = Access.NO
        self._expiry: Expiry | None = None
        self._peer: Peer | None = None  # whose place it has
        self._server = server

    def stop(self) -> None:
        """See `Served`."""
        raise NotImplementedError

    def abort(self) -> None:
        """See `Served`."""
        raise NotImplementedError

    @property
    def is_ending(self) -> bool:
        """See `Served`."""
        raise NotImplementedError

    def _takes_place(self) -> bool:
        """Whether the client may come in, and there is a place for it, which is taken."""
        self.exports.caller = caller = caller_of(self._socket.sock)
        if self.exports.is_kept_out():
            self._server.log.debug("NBD client is not allowed", caller=str(caller))
            return False
        self._peer = self._server.place_for(caller)
        return self._peer is not None

    def _give_place_back(self) -> None:
        """The connection is closed."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._server.tls_turns.withdraw(self, self._peer)
        if self._peer is not None:
            self._server.places.leave(self._peer)
            self._peer = None

    @property
    def secured(self) -> bool:
        """Whether it has TLS."""
        return isinstance(self._wire, TlsWire)

    def admit_again(self, listeners: Mapping[Address, Listener], trust: Trust) -> None:
        """The rules have changed: end if they allow less than when the volume was chosen."""
        exports, wire = self.exports, self._wire
        exports.listener = listeners.get(exports.listener.address, exports.listener)
        if isinstance(wire, TlsWire):
            if why := trust.objection(wire):
                self.end_reading(why)
                return
        elif exports.tls == "required":
            self.end_reading("TLS is required now")
            return
        if self.volume is not None and exports.access(self.volume.of) < self._access:
            self.end_reading("the rules allow it no longer")

    def end_reading(self, why: str) -> None:
        """See `Reader`; also for other reasons."""
        self._server.log.info(
            "NBD client is disconnected", caller=str(self.exports.caller), reason=why
        )
        self.stop()
        if self.is_ending and not self.lost:
            self.abort()  # nothing else ends it before its client has taken all replies

    def _secured_by(self, owner: Receiving, up: Callable[[], None]) -> Carrier:
        """The client asked for TLS: put it onto the socket, in its turn."""
        server = self._server
        context = known(server.policy.context, "a listener with TLS has certificates")

        def secured() -> None:
            self._identify(secure)
            up()

        self._socket.pause_reading()
        secure = TlsWire(server.loop, self._socket, context, owner, secured)
        self._wire = secure
        server.tls_turns.ask(self, self._peer, self._socket.resume_reading)
        return secure

    def _identify(self, secure: TlsWire) -> None:
        certificate = secure.certificate
        self.exports.caller = identified(self.exports.caller, certificate)
        if (until := valid_until(certificate)) is not None:
            self._expiry = Expiry(
                self._server.loop, until, lambda: self.end_reading("its certificate has expired")
            )

    def _still(self, export: Export) -> bool:
        """Whether it is as it was described, and served: much may come before the reply. It may
        have grown: the client goes on with the size announced to it.
        """
        now = self.exports.find(export.name)
        if now is None or now.refused or now.size < export.size:
            return False
        return not now.flags & ~export.flags

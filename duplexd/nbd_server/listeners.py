"""The sockets on which NBD clients arrive, and the end of their connections when the daemon stops.

A reload binds what is new before it closes what is gone, so that a mistake in the file changes
nothing. A stop answers what is in flight for a while: a client that reconnects to the next daemon
then knows what was done.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from duplexd.known import known
from duplexd.nbd_server.handing_over import adopt, leaving
from duplexd.nbd_server.nbd_connection import Connection
from duplexd.nbd_server.reach import NO_POLICY, Listener, Policy
from duplexd.nbd_server.shared import Server
from duplexd.nbd_server.sockets import Acceptor
from duplexd.net.address import UnixAddress
from duplexd.net.listen import BoundSocket, bind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.backend import Backend
    from duplexd.limits import NbdLimits
    from duplexd.nbd_server.handed import Handed
    from duplexd.net.address import Address

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")

STOP_SECONDS_DEFAULT = 5.0
_ASK_SECONDS = 0.01


@dataclass
class Endpoint:
    """One listening socket, and what accepts on it. `listener` may be replaced."""

    listener: Listener
    bound: BoundSocket
    acceptor: Acceptor | None = None


class Listeners:
    """Unix and TCP listeners of one backend. `start` before anything else; all methods belong to
    the loop.

    `update` changes the addresses while connections go on.
    """

    def __init__(
        self,
        backend: Backend,
        listen: Iterable[Address | Listener],
        limits: NbdLimits,
        policy: Policy = NO_POLICY,
        passed: Iterable[BoundSocket] = (),
        inherited: Iterable[tuple[Address, BoundSocket]] = (),
    ) -> None:
        """`passed`: sockets of a service manager. `inherited`: those that the program before this
        one listened on, by the address that it had been configured with.
        """
        self._backend = backend
        self._listen = list(listen)
        self._limits = limits
        self._policy = policy
        # listening already, and ours to serve, not to bind
        self._passed = {each.address: each for each in passed}
        self._inherited: dict[Address, list[BoundSocket]] = {}
        for address, each in inherited:
            self._inherited.setdefault(address, []).append(each)
        self._endpoints: dict[Address, list[Endpoint]] = {}  # by the configured address
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """Counters, budgets and connections."""
        return known(self._server, "start comes first")

    @property
    def addresses(self) -> list[Address]:
        """What was bound, with the real port where port 0 was asked for."""
        return [each.address for each in self.sockets]

    @property
    def sockets(self) -> list[BoundSocket]:
        """What is listened on."""
        return [each.bound for group in self._endpoints.values() for each in group]

    async def start(self) -> None:
        """Bind and serve. Raises as `net.listen.bind`, and then listens nowhere."""
        loop = asyncio.get_running_loop()
        self._server = Server(self._backend, loop, self._limits, self._policy)
        try:
            await self.update(self._listen)
        except BaseException:
            self._server.close()
            raise
        for group in self._inherited.values():  # not configured any more
            for each in group:
                each.close()
        self._inherited.clear()

    async def update(
        self, listen: Iterable[Address | Listener], policy: Policy | None = None
    ) -> list[Address]:
        """Listen on these addresses and no others, by these rules (None: as before). Connections
        stay, except those that the rules keep out. A socket whose file somebody removed is made
        again; returns the addresses of these.

        Raises as `start`, and then nothing has changed.
        """
        wanted = {each.address: each for each in map(_listener, listen)}
        bound: dict[Address, list[BoundSocket]] = {}
        with contextlib.ExitStack() as undo:
            for address, listener in wanted.items():
                if (served := self._endpoints.get(address)) and not _is_lost(served):
                    continue
                if (passed := self._passed.get(address)) is not None:
                    bound[address] = [passed]
                    continue
                inherited = self._inherited.get(address)
                if inherited is not None and not any(each.is_lost for each in inherited):
                    bound[address] = inherited
                    continue
                bound[address] = await _bind(listener)
                for each in bound[address]:
                    undo.callback(each.close)
            undo.pop_all()
        for address in self._inherited.keys() & bound.keys():
            if bound[address] is self._inherited[address]:
                for each in self._inherited.pop(address):
                    each.protect(wanted[address].group, wanted[address].mode)
        again = [address for address in bound if address in self._endpoints]
        for address in again:
            self._close(self._endpoints.pop(address))  # the file is that of the new socket by now
        for address, group in bound.items():
            self._endpoints[address] = [self._serve(wanted[address], each) for each in group]
        for address in self._endpoints.keys() - wanted.keys():
            self._close(self._endpoints.pop(address))
        for address, endpoints in self._endpoints.items():
            for endpoint in endpoints:
                _change(endpoint, wanted[address])
        self.server.admit(policy or self.server.policy, wanted)
        return again

    async def end_secured(self, seconds: float) -> int:
        """Close the connections that cannot be handed over, once what is in flight is answered, or
        after `seconds`; the others are served meanwhile. Returns how many there were.
        """
        server, until = self.server, self.server.loop.time() + seconds
        found = [connection for connection in server.connections if connection.secured]
        for connection in found:
            connection.stop()
        while True:
            left = server.connections.intersection(found)
            if not left or server.loop.time() >= until:
                break
            await asyncio.sleep(_ASK_SECONDS)
        for connection in left:
            connection.abort()
        return len(found)

    async def hand_over(
        self, seconds: float
    ) -> tuple[list[tuple[Address, BoundSocket]], list[Handed], int]:
        """Accept no client, and give away what another program is to go on with: the listening
        sockets, by their configured addresses, and the clients whose requests are answered within
        `seconds`. The others are cut off; returns how many, too.
        """
        sockets = []
        for address, endpoints in self._endpoints.items():
            for endpoint in endpoints:
                known(endpoint.acceptor, "it is served").cease()
                sockets.append((address, endpoint.bound))
        self._endpoints.clear()
        clients, left = await leaving(self.server, seconds), list(self.server.connections)
        for connection in left:
            connection.abort()
        return sockets, clients, len(left)

    def adopt(self, clients: Iterable[Handed]) -> int:
        """Go on with clients of the program before this one. Those whose listener is gone, or whose
        rules or volumes are not as before, are disconnected: returns how many.
        """
        lost = 0
        for handed in clients:
            group = self._endpoints.get(handed.listener)
            if group:
                lost += not adopt(self.server, group[0].listener, handed)
            else:
                handed.sock.close()
                lost += 1
        return lost

    async def stop(self, seconds: float = STOP_SECONDS_DEFAULT) -> None:
        """Accept no client, answer what is in flight for up to `seconds`, close all connections.

        Changes without a reply by then are dropped. Cancelling it closes them at once.
        """
        for endpoints in self._endpoints.values():
            self._close(endpoints)
        self._endpoints.clear()
        server = self.server
        try:
            for connection in list(server.connections):
                connection.stop()
            with contextlib.suppress(TimeoutError):
                await self._all_gone(seconds)
        finally:
            left = list(server.connections)
            for connection in left:
                connection.abort()
        if left:
            log.warning("NBD clients were cut off", connections=len(left))
            await self._all_gone(None)  # an abort takes a turn of the loop, however long that is
        server.close()

    async def _all_gone(self, seconds: float | None) -> None:
        server = self.server
        async with asyncio.timeout(seconds):
            while server.connections:
                server.idle.clear()
                await server.idle.wait()

    def _serve(self, listener: Listener, bound: BoundSocket) -> Endpoint:
        server, endpoint = self.server, Endpoint(listener, bound)

        def connect() -> Connection:
            return Connection(server, endpoint.listener)

        endpoint.acceptor = Acceptor(server.loop, bound.sock, connect, server.reading, server.sends)
        log.info("listening for NBD clients", address=str(bound.address), tls=listener.tls)
        return endpoint

    def _close(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint.acceptor is not None:
                endpoint.acceptor.close()
            endpoint.bound.remove_file()
            log.info("no longer listening", address=str(endpoint.bound.address))


def _listener(each: Address | Listener) -> Listener:
    return each if isinstance(each, Listener) else Listener(each)


def _is_lost(endpoints: Iterable[Endpoint]) -> bool:
    return any(endpoint.bound.is_lost for endpoint in endpoints)


def _change(endpoint: Endpoint, listener: Listener) -> None:
    """Other rules for a socket that stays."""
    old = endpoint.listener
    endpoint.listener = listener
    if (old.group, old.mode) != (listener.group, listener.mode):
        endpoint.bound.protect(listener.group, listener.mode)


async def _bind(listener: Listener) -> list[BoundSocket]:
    """`net.listen.bind`; of a name in a thread, because a name server may take its time."""
    address = listener.address
    if isinstance(address, UnixAddress):
        return bind(address, group=listener.group, make_parents=True, mode=listener.mode)
    return await asyncio.to_thread(bind, address)

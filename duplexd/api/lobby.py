"""Clients over TLS that have shown nothing yet: accepted, and asked for nothing.

Anybody can connect, and a socket that sends nothing costs a descriptor and no more: no handshake is
begun for it, so it takes no place of one. Who has sent its first bytes is ready. Of those the hosts
take turns, and of one host the newest is first: where more come than can be served, the oldest have
been given up by their clients anyway, and an operator who comes now is served now. A host is an
IPv4 address, or an IPv6 network of 64 bits: one client has all addresses of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from duplexd.net.allow import origin_of

if TYPE_CHECKING:
    from duplexd.limits import ApiLimits


class Guest:
    """One of them. `host` is where it comes from: see above."""

    __slots__ = ("address", "host", "is_ready", "sock", "timer")

    def __init__(self, sock: socket.socket, address: tuple[str, int]) -> None:
        self.sock = sock
        self.address = address
        self.host = origin_of(address[0])
        self.is_ready = False
        self.timer: asyncio.TimerHandle | None = None


class Lobby:
    """Belongs to one event loop. A client that `next` takes out of it is the caller's."""

    def __init__(self, limits: ApiLimits) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._by_host: dict[str, dict[int, Guest]] = {}  # by descriptor, oldest first
        self._some_ready = asyncio.Event()
        self._count = 0
        self.ready = 0  # of them, those that have sent something

    def __len__(self) -> int:
        return self._count

    def add(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Take a client that was accepted. If there are too many, the host with the most loses its
        oldest.

        Raises what the loop does if it cannot watch that socket, which is the caller's still then.
        """
        guest = Guest(sock, address)
        self._loop.add_reader(sock, self._came, guest)
        self._by_host.setdefault(guest.host, {})[sock.fileno()] = guest
        self._count += 1
        guest.timer = self._loop.call_later(self._limits.handshake_seconds_max, self._drop, guest)
        if self._count > self._limits.silent_max:
            crowd = max(self._by_host.values(), key=len)
            self._drop(next(iter(crowd.values())))

    async def next(self) -> Guest:
        """The next one that is ready, once there is one."""
        while True:
            if (guest := self._choose()) is not None:
                self._leave(guest)
                return guest
            self._some_ready.clear()
            await self._some_ready.wait()

    def close(self) -> None:
        """Drop all."""
        for guests in list(self._by_host.values()):
            for guest in list(guests.values()):
                self._drop(guest)

    def _choose(self) -> Guest | None:
        for host, guests in self._by_host.items():
            for guest in reversed(guests.values()):
                if guest.is_ready:
                    self._by_host[host] = self._by_host.pop(host)  # behind the other hosts
                    return guest
        return None

    def _came(self, guest: Guest) -> None:
        """Its first bytes are here, or it has gone."""
        self._loop.remove_reader(guest.sock)
        try:
            gone = not guest.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            gone = True
        if gone:
            self._drop(guest)
            return
        guest.is_ready = True
        self.ready += 1
        self._some_ready.set()

    def _drop(self, guest: Guest) -> None:
        self._leave(guest)
        with contextlib.suppress(OSError):
            guest.sock.close()

    def _leave(self, guest: Guest) -> None:
        self._loop.remove_reader(guest.sock)
        if guest.timer is not None:
            guest.timer.cancel()
        guests = self._by_host[guest.host]
        del guests[guest.sock.fileno()]
        self._count -= 1
        self.ready -= guest.is_ready
        if not guests:
            del self._by_host[guest.host]

"""What all connections of the NBD server share: the backend, the budgets, the counters.

One reply buffer serves every connection, because it is used within one call only: a buffer for each
of 4,096 connections would be 2 GiB that are idle nearly always.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Protocol

import structlog

from duplexd.nbd_aio.hangup import HangupWatch
from duplexd.nbd_server.budget import Budget
from duplexd.nbd_server.long_read import ReadTurns
from duplexd.nbd_server.peer_places import Places, peer_of
from duplexd.nbd_server.round_robin import RoundRobin
from duplexd.nbd_server.secured import Trust, Turns
from duplexd.nbd_server.traffic import Traffic
from duplexd.runtime.buffers import Buffers
from duplexd.runtime.log import Seldom

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.backend import Backend, Reader, Volume
    from duplexd.limits import NbdLimits
    from duplexd.nbd_server.handed import Handed
    from duplexd.nbd_server.peer_places import Peer
    from duplexd.nbd_server.reach import Listener, Policy
    from duplexd.net.address import Address
    from duplexd.net.allow import Caller

PAYLOADS_KEPT_BYTES_MAX = 16 << 20  # for WRITEs of 1 MiB at depth 16

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")


class Served(Protocol):
    """A connection, as far as a stop and a reload concern it."""

    def stop(self) -> None:
        """Take no further request; close when what is in flight is answered."""

    def abort(self) -> None:
        """Close now."""

    @property
    def secured(self) -> bool:
        """Whether it has TLS, of which no other program can have the state."""

    @property
    def is_ending(self) -> bool:
        """Whether its client has said DISC, and what came before that is not done yet, or it is
        about to be closed.
        """

    @property
    def may_leave(self) -> bool:
        """Whether `leave` returns its client some time, if the client stays."""

    def leave(self) -> Handed | None:
        """Take nothing more; the client for the next program, or None: ask again."""

    def look(self, now: float) -> None:
        """End the connection if its client does not go on (monotonic seconds)."""

    def admit_again(self, listeners: Mapping[Address, Listener], trust: Trust) -> None:
        """The rules have changed; the listeners, and whose certificates count, as they are now."""


class Server:
    """The backend, the connections, their budgets and counters. Belongs to one event loop."""

    def __init__(
        self,
        backend: Backend,
        loop: asyncio.AbstractEventLoop,
        limits: NbdLimits,
        policy: Policy,
    ) -> None:
        self.backend = backend
        self.policy = policy
        self.limits = limits
        self.loop = loop
        self.connections: set[Served] = set()
        self.places = Places(limits.connections_max, policy.shares)
        self.log = Seldom(log, limits.log_lines_burst, limits.log_lines_per_second, loop.time)
        self.idle = asyncio.Event()  # set whenever the last connection has gone
        # changes that wait, and receive buffers
        self.waiting = Budget(limits.queued_bytes_max, loop.call_soon)
        self.reading = Budget(limits.read_bytes_max, loop.call_soon)  # and replies
        self.hangups = HangupWatch(loop)
        self.tls_turns = Turns(loop, limits.tls_handshakes_per_second_max)
        self.negotiations = RoundRobin(loop.call_soon)
        self.backlogs = RoundRobin(loop.call_soon, limits.turn_seconds)  # connections that go on
        self.sends = RoundRobin(loop.call_soon, limits.turn_seconds)  # of replies that are long
        reading = RoundRobin(loop.call_soon, limits.turn_seconds)
        self.reads = ReadTurns(backend, limits, reading)  # that are long
        self.traffic: dict[str, Traffic] = {}  # by name of the volume
        self.failing: dict[
            tuple[str, str], int
        ] = {}  # (volume, "read" or "change") -> errno of the last answer
        self.payloads = Buffers(PAYLOADS_KEPT_BYTES_MAX)
        self._looking = loop.call_later(limits.look_seconds, self._look)
        # used by one connection at a time, within one call
        self.reply_buffer = memoryview(bytearray(limits.reply_buffer_bytes))

    # Who may reach what

    def default_name(self) -> str:
        """The volume that the export "" is: the one that is configured, or the only one there is;
        "" for none. Never one of several, which a reload could make another.
        """
        if self.policy.default:
            return self.policy.default
        names = self.backend.volume_names()
        return names[0] if len(names) == 1 else ""

    def admit(self, policy: Policy, listeners: Mapping[Address, Listener]) -> None:
        """Take these rules from now on; connections that may do less by them end. Those that have a
        place keep it, also where there are fewer now.
        """
        trust = Trust.after(self.policy.context, policy.context)
        self.policy = policy
        self.places.shares = policy.shares
        for connection in list(self.connections):
            connection.admit_again(listeners, trust)

    # Connections, counters and states

    @property
    def connections_refused(self) -> int:
        """For want of a place."""
        return self.places.refused

    def place_for(self, caller: Caller) -> Peer | None:
        """Take a place for a connection of this client, and say whose it is; None if there is
        none.
        """
        peer = peer_of(caller)
        if why := self.places.take(peer):
            self.log.warning(
                "too many NBD connections, further ones are closed",
                caller=str(caller),
                reason=why,
                connections=len(self.connections),
            )
            return None
        return peer

    def _look(self) -> None:
        self._looking = self.loop.call_later(self.limits.look_seconds, self._look)
        now = self.loop.time()
        for connection in list(self.connections):
            connection.look(now)

    def disconnected(self, connection: Served) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self.payloads.clear()
            self.reads.clear()
            self.idle.set()

    def traffic_of(self, volume: Volume) -> Traffic:
        """The counters of a volume, or of its points; they outlive its connections."""
        return self.traffic.setdefault(volume.counted_as, Traffic())

    def storage_failed(self, volume: Volume, what: str, number: int) -> None:
        """A request got a storage error. Logged when it is not the one that the request before it
        got.
        """
        self.traffic_of(volume).failed += 1
        if self.failing.get((volume.counted_as, what)) != number:
            self.failing[volume.counted_as, what] = volume.failing[what] = number
            name = errno.errorcode.get(number, str(number))
            log.error("requests of the volume fail", volume=volume.name, what=what, errno=name)

    def storage_recovered(self, volume: Volume, what: str) -> None:
        """A request succeeded; call it only while `failing` is not empty."""
        if self.failing.pop((volume.counted_as, what), 0):
            volume.failing.pop(what, None)
            log.info("requests of the volume succeed again", volume=volume.name, what=what)

    def joined(self, connection: Reader, volume: Volume, caller: Caller) -> None:
        """A connection has chosen this volume."""
        volume.joined(connection, str(caller))
        self.log.info("NBD client connected", volume=volume.name, connections=volume.connections)

    def left(self, connection: Reader, volume: Volume) -> None:
        """A connection that had chosen this volume is closed. What failed of a point is forgotten
        with its last one: nobody will ask for it again.
        """
        volume.left(connection)
        self.log.info("NBD client disconnected", volume=volume.name, connections=volume.connections)
        if volume.of != volume.name and not volume.connections:
            for what in ("read", "change", "flush"):
                self.failing.pop((volume.counted_as, what), 0)

    def fresh_reply_buffer(self) -> None:
        """The socket did not take all of the present one."""
        self.reply_buffer = memoryview(bytearray(self.limits.reply_buffer_bytes))

    def close(self) -> None:
        """No connection is left."""
        self._looking.cancel()
        self.hangups.close()

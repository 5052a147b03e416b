"""What all connections of the NBD server share: the backend, the budgets, the counters.

One reply buffer serves every connection, because it is used within one call only: a buffer for each
of 4,096 connections would be 2 GiB that are idle nearly always.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Protocol

import structlog

from duplexd.nbd import constants as c
from duplexd.nbd.handshake import Export
from duplexd.nbd_server.budget import Budget
from duplexd.nbd_server.hangup import HangupWatch
from duplexd.nbd_server.traffic import Traffic
from duplexd.runtime.buffers import Buffers

if TYPE_CHECKING:
    from duplexd.backend import Backend, Volume
    from duplexd.limits import NbdLimits

PAYLOADS_KEPT_BYTES_MAX = 16 << 20  # for WRITEs of 1 MiB at depth 16

EXPORT_FLAGS = (
    c.FLAG_HAS_FLAGS
    | c.FLAG_SEND_FLUSH
    | c.FLAG_SEND_FUA
    | c.FLAG_SEND_TRIM
    | c.FLAG_SEND_WRITE_ZEROES
    | c.FLAG_CAN_MULTI_CONN
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.nbd")


class Served(Protocol):
    """A connection, as far as a stop concerns it."""

    def stop(self) -> None:
        """Take no further request; close when what is in flight is answered."""

    def abort(self) -> None:
        """Close now."""


class Server:
    """The backend, the connections, their budgets and counters. Belongs to one event loop."""

    def __init__(
        self, backend: Backend, loop: asyncio.AbstractEventLoop, limits: NbdLimits
    ) -> None:
        self.backend = backend
        self.limits = limits
        self.loop = loop
        self.connections: set[Served] = set()
        self.connections_refused = 0
        self.idle = asyncio.Event()  # set whenever the last connection has gone
        # payloads of changes that wait
        self.waiting = Budget(limits.queued_bytes_max, loop.call_soon)
        self.reading = Budget(limits.read_bytes_max, loop.call_soon)  # reads in worker threads
        self.hangups = HangupWatch(loop)
        self.traffic: dict[str, Traffic] = {}  # by name of the volume
        self.failing: dict[
            tuple[str, str], int
        ] = {}  # (volume, "read" or "change") -> errno of the last answer
        self.payloads = Buffers(PAYLOADS_KEPT_BYTES_MAX)
        # used by one connection at a time, within one call
        self.reply_buffer = memoryview(bytearray(limits.reply_buffer_bytes))

    # Exports, for the handshake

    def find(self, name: str) -> Export | None:
        """What the handshake announces of a volume."""
        volume = self.backend.volume(name)
        if volume is None:
            return None
        description = f"duplexd volume {volume.name}"
        refused = f"volume {volume.name} is not served: {volume.failed}" if volume.failed else ""
        return Export(volume.name, volume.size, EXPORT_FLAGS, description, refused)

    def names(self) -> list[str]:
        """What LIST shows."""
        return self.backend.volume_names()

    # Connections, counters and states

    def disconnected(self, connection: Served) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self.payloads.clear()
            self.idle.set()

    def traffic_of(self, volume: Volume) -> Traffic:
        """The counters of a volume; they outlive its connections."""
        return self.traffic.setdefault(volume.name, Traffic())

    def storage_failed(self, volume: Volume, what: str, number: int) -> None:
        """A request got a storage error. Logged when it is not the one that the request before it
        got.
        """
        self.traffic_of(volume).failed += 1
        if self.failing.get((volume.name, what)) != number:
            self.failing[volume.name, what] = volume.failing[what] = number
            name = errno.errorcode.get(number, str(number))
            log.error("requests of the volume fail", volume=volume.name, what=what, errno=name)

    def storage_recovered(self, volume: Volume, what: str) -> None:
        """A request succeeded; call it only while `failing` is not empty."""
        if self.failing.pop((volume.name, what), 0):
            volume.failing.pop(what, None)
            log.info("requests of the volume succeed again", volume=volume.name, what=what)

    def fresh_reply_buffer(self) -> None:
        """The socket did not take all of the present one."""
        self.reply_buffer = memoryview(bytearray(self.limits.reply_buffer_bytes))

    def close(self) -> None:
        """No connection is left."""
        self.hangups.close()

"""Whether a client goes on with what it began: a payload that it sends, replies that it takes.

One that stops in the middle keeps memory that others could use, so after a while its connection is
closed. It does not count while the server itself does not read: changes that wait for a hold, a
batch or room are not the client's doing, and neither is silence between requests, which may last
for days.

Nothing is noted for each request: counters are compared at some looks in that time.

The kernel asks for more replies only when a large part of its own buffer is empty: the client has
then taken 1.5 MiB. So what that buffer holds is looked at, too.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from duplexd.limits import NbdLimits
    from duplexd.nbd.transmission import Receiver
    from duplexd.nbd_server.sockets import Carrier, Wire


def kept_bytes(sock: socket.socket) -> int:
    """What its kernel has of what was sent, and the peer has not taken (SIOCOUTQ): over TCP what is
    not acknowledged, over a Unix socket the buffers of what is not received.
    """
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class Stretch:
    """Something that should go on; `at` is when it last did, or None while there is nothing."""

    __slots__ = ("_at", "_bytes")

    def __init__(self) -> None:
        self._at: float | None = None
        self._bytes = 0

    def seconds(self, now: float, waits: bool, nbytes: int, bytes_min: int) -> float:
        """How long it has not gone on. `waits`: there is something; `nbytes`: how far it came."""
        if not waits:
            self._at = None
            return 0.0
        if self._at is None or nbytes - self._bytes >= bytes_min:
            self._at, self._bytes = now, nbytes
        self._bytes = min(self._bytes, nbytes)  # the kernel counts more for what it keeps
        return now - self._at


class Progress:
    """Of one connection. `silent`: nothing had come since the look before the last one."""

    __slots__ = ("_limits", "_payload", "_received_bytes", "_replies", "silent")

    def __init__(self, limits: NbdLimits) -> None:
        self._limits = limits
        self._payload = Stretch()
        self._replies = Stretch()
        self.silent = False
        self._received_bytes = 0  # at the last look

    def look(
        self, now: float, receiver: Receiver, wire: Carrier, socket: Wire, *, reads: bool
    ) -> str:
        """What does not go on, or "". `reads`: the server waits for what the client sends."""
        waits = reads and receiver.unfinished and not receiver.more
        unsent = wire.unsent_bytes or socket.unsent_bytes
        self.silent = self._received_bytes == socket.received_bytes
        self._received_bytes = socket.received_bytes
        taken = socket.sent_bytes - kept_bytes(socket.sock) if unsent else None
        return self.stalled(now, socket.received_bytes if waits else None, taken)

    def stalled(self, now: float, received: int | None, sent: int | None) -> str:
        """What does not go on, or "". `received` and `sent`: how far the client came with a request
        that it has not sent all of, and with replies that it has not taken; None for none.
        """
        bytes_min, longest = self._limits.stall_bytes_min, self._limits.stall_seconds_max
        if self._payload.seconds(now, received is not None, received or 0, bytes_min) >= longest:
            return "it does not send the rest of a request"
        if self._replies.seconds(now, sent is not None, sent or 0, bytes_min) >= longest:
            return "it does not take its replies"
        return ""

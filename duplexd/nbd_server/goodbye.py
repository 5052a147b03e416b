"""What a client has sent and nobody has received.

A connection over its limits is not read, so a DISC may wait in the kernel when the client closes.
Whether it does decides what becomes of its changes, and that has to be known at once: the client
may be sending them again already. So the kernel's buffer is looked at, which is bounded. What is
kept of it is taken off: a socket that is closed with something in it resets the connection.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

_COUNT = struct.Struct("i")
_DROPPED_BYTES = 1 << 20  # at once


def unread_of(sock: socket.socket) -> bytes:
    """Everything; b"" if there is nothing, or the connection is broken."""
    try:
        count = _COUNT.unpack(fcntl.ioctl(sock, termios.FIONREAD, bytes(_COUNT.size)))[0]
        return sock.recv(count, socket.MSG_PEEK) if count else b""
    except OSError:
        return b""


def drop_unread(sock: socket.socket, count: int) -> None:
    """Receive as much of it, for nobody."""
    try:
        while count > 0 and (dropped := len(sock.recv(min(count, _DROPPED_BYTES)))):
            count -= dropped
    except OSError:
        return

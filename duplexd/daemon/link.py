"""Between a daemon and the program that is to go on: what one says and the other hears, and the
sockets that go from one to the other.

    the one that serves                          the one that is to serve

                                                 `take`: says READY and its version, and waits
    stops, and then `give`s its estate
                                                 recovers; says SERVES just before it
                                                 reads from the first client
    `hears` SERVES, and is not needed any more

Until SERVES the estate is with both, and nobody has read from a client: if the one that is to serve
fails, the other one goes on. After it there is no way back.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from typing import TYPE_CHECKING

from duplexd import __version__
from duplexd.daemon.succession import packed, unpacked
from duplexd.runtime.notify import notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.daemon.succession import Estate

READY, SERVES = "ready", "serves"
_WORD_BYTES_MAX = 100
_DESCRIPTORS_MAX = 250  # in a message; the kernel's SCM_MAX_FD is 253
_TICK_SECONDS = 1.0


def _nothing() -> None:
    """Nobody waits for a sign that it lasts."""


class Link:
    """One end. Calls block. A program that has ended is heard as ""."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def at(cls, descriptor: int) -> Link:
        """The end that this process was started with."""
        os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """The other side hears it."""
        self._sock.close()

    def say(self, word: str) -> None:
        """Nothing happens if nobody hears it."""
        with contextlib.suppress(OSError):
            self._sock.send(word.encode(), socket.MSG_NOSIGNAL)

    def hear(self, seconds: float = float("inf"), meanwhile: Callable[[], None] = _nothing) -> str:
        """The next word; "" if there is none within `seconds`, or the other side has ended.
        `meanwhile` is called every second.
        """
        if not self._readable(seconds, meanwhile):
            return ""
        try:
            return self._sock.recv(_WORD_BYTES_MAX).decode()
        except ConnectionResetError:
            return ""

    def _readable(self, seconds: float, meanwhile: Callable[[], None]) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while not poll.poll(1000 * min(seconds, _TICK_SECONDS)):
            seconds -= _TICK_SECONDS
            if seconds <= 0:
                return False
            meanwhile()
        return True

    def give(self, estate: Estate) -> None:
        """Send it. It stays here, too. If not all of it can be sent, both sides hear an end: one
        would wait for the rest, and the other for a word.
        """
        with packed(estate) as (file, descriptors):
            head = json.dumps({"descriptors": len(descriptors)}).encode()
            try:
                socket.send_fds(self._sock, [head], [file.fileno()])
                for at in range(0, len(descriptors), _DESCRIPTORS_MAX):
                    part = descriptors[at : at + _DESCRIPTORS_MAX]
                    socket.send_fds(self._sock, [b"d"], part)
            except OSError:
                with contextlib.suppress(OSError):  # the other side has ended
                    self._sock.shutdown(socket.SHUT_RDWR)

    def take(self, meanwhile: Callable[[], None] = _nothing) -> Estate | None:
        """Say that this program is ready, and wait for what it goes on with. None if the other
        side has ended: then there is nothing of it here. `meanwhile`: see `hear`.
        """
        self.say(f"{READY} {__version__}")
        self._readable(float("inf"), meanwhile)
        head, found = self._received(1)
        count, taken = json.loads(head)["descriptors"] if head else 0, list[int]()
        while head and len(taken) < count:
            head, part = self._received(_DESCRIPTORS_MAX)
            taken += part
        if not head:
            for descriptor in (*found, *taken):
                os.close(descriptor)
            self.close()
            return None
        with os.fdopen(found[0], "rb") as file:
            return unpacked(file, taken)

    def _received(self, descriptors_max: int) -> tuple[bytes, list[int]]:
        try:
            data, found, flags, _address = socket.recv_fds(
                self._sock, _WORD_BYTES_MAX, descriptors_max, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return b"", []
        if flags & socket.MSG_CTRUNC:  # this process may not have so many: as if it had ended
            return b"", found
        return data, found


def go_on_waiting() -> None:
    """Tell the service manager so, while there is no event loop that does."""
    notify("WATCHDOG=1\nEXTEND_TIMEOUT_USEC=10000000")


def linked() -> tuple[Link, socket.socket]:
    """Two ends: of this process, and for another program."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Link(ours), theirs

"""Keeps a device connected: what has ended is replaced, until somebody ends it.

The driver owns the connections. What is known of them here are descriptors of the same sockets,
which say when one has ended: by the server, by the network, or by the driver, which ends one that
does not answer in time. The driver says so, too (`link dead`). That is what counts for the
connections that an earlier process has made: of these, nothing else is known.

So one rule does for all: whenever fewer connections are known than the device has, make one and
offer it. The driver takes it in the place of one that has ended, or has no place for it. Then all
are well, and the next offer waits for a notice.

A volume may grow meanwhile. Nobody says so to a client, so the watcher looks now and then, and
tells the driver: connections that it has serve what is new, too.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time
from typing import TYPE_CHECKING, Protocol

from duplexd.errors import DuplexdError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.attach.export import Connection, Promised
    from duplexd.attach.netlink import Device
    from duplexd.limits import AttachLimits

_POLLED = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Notices(Protocol):
    """Of the driver, see `Driver`."""

    notices: socket.socket

    def noticed(self, number: int) -> bool:
        """Whether a connection of this device may have ended."""

    def replace(self, device: Device, sock: socket.socket) -> bool:
        """Whether the driver took it."""

    def resize(self, device: Device, size: int) -> None:
        """The device has so many bytes from now on."""


class Shown(Protocol):
    """What Linux says of the device, see `NbdDevice`."""

    @property
    def number(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def is_attached(self) -> bool: ...
    @property
    def backend(self) -> str: ...
    @property
    def size(self) -> int: ...


class Watcher:
    """`known`: connections that the driver has, to be closed here only. `open_connection`: makes
    one; raises DuplexdError. `look`: says what it would make. `say`: what happened, for the log;
    `status`: how it is, in a line.
    """

    def __init__(
        self,
        driver: Notices,
        device: Shown,
        settings: Device,
        promised: Promised,
        known: Sequence[socket.socket],
        open_connection: Callable[[], Connection],
        look: Callable[[], Connection],
        say: Callable[..., None],
        status: Callable[[str], None],
        limits: AttachLimits,
    ) -> None:
        self._driver = driver
        self._device = device
        self._settings = settings
        self._promised = promised
        self._known = list(known)
        self._open = open_connection
        self._look = look
        self._say = say
        self._status = status
        self._limits = limits
        self._look_at = 0.0  # the volume, whether it has grown; monotonic seconds
        self._next = 0.0  # when a connection is offered to the driver; monotonic seconds
        self._pause_s = limits.retry_seconds_min
        self._trouble = ""  # that was said

    def run(self, stop: socket.socket) -> bool:
        """Until something can be read from `stop`: True. False if the device was detached."""
        self._tell()
        while True:
            self._drop_ended()
            if not self._is_ours():
                return False
            try:
                while self._is_due():
                    self._offer()
                if time.monotonic() >= self._look_at:
                    self._look_at_size()
            except WrongStateError:
                return False
            if self._wait(stop):
                return True

    def close(self) -> None:
        """Give up what is known here of connections: they stay with the driver."""
        for sock in self._known:
            sock.close()
        self._known.clear()

    def _is_ours(self) -> bool:
        return self._device.is_attached and self._device.backend == str(self._promised)

    def _is_due(self) -> bool:
        missing = len(self._known) < self._promised.connections
        return missing and time.monotonic() >= self._next

    def _look_at_size(self) -> None:
        """Tell the driver of a volume that has grown. What is wrong with one that cannot be looked
        at, or is another one, is found when a connection ends.
        """
        self._look_at = time.monotonic() + self._limits.size_seconds
        try:
            seen = self._look()
        except DuplexdError:
            return
        if seen.size > self._device.size and not self._promised.broken_by(seen, self._device.size):
            self._resize(seen.size)

    def _resize(self, size: int) -> None:
        try:
            self._driver.resize(self._settings, size)
        except WrongStateError:
            raise  # it was detached
        except DuplexdError as error:
            self._look_at = time.monotonic() + self._limits.look_seconds
            self._say("not-resized", size=size, error=str(error))
        else:
            self._say("resized", size=size)

    def _offer(self) -> None:
        try:
            connection = self._open()
        except DuplexdError as error:
            self._put_off(str(error), "waiting")
            return
        if why := self._promised.broken_by(connection, self._device.size):
            connection.end()
            self._put_off(why, "not-handed-over")
            return
        if not self._is_ours():  # by now; the driver would take it for anybody's device
            connection.end()
            raise WrongStateError(f"{self._device.path} was detached")
        if not self._driver.replace(self._settings, connection.sock):
            connection.end()  # all that are not known here are well
            self._next = time.monotonic() + self._limits.look_seconds
            return
        self._known.append(connection.sock)
        self._pause_s, self._trouble = self._limits.retry_seconds_min, ""
        self._look_at = 0.0  # it may have grown while there was no connection
        self._say("reconnected", connections=len(self._known))
        self._tell()

    def _put_off(self, why: str, event: str) -> None:
        """Try again later. The log has each reason once."""
        self._next = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._limits.retry_seconds_max)
        if why != self._trouble:
            self._trouble = why
            self._say(event, error=why)
            self._tell()

    def _drop_ended(self) -> None:
        poller = select.poll()
        by_fd = {sock.fileno(): sock for sock in self._known}
        for fd in by_fd:
            poller.register(fd, _POLLED)
        for fd, _ in poller.poll(0):
            self._known.remove(by_fd[fd])
            _shut_down(by_fd[fd])
            self._say("connection-lost", connections=len(self._known))
            self._tell()
            self._soon()

    def _soon(self) -> None:
        self._next, self._pause_s = 0.0, self._limits.retry_seconds_min

    def _wait(self, stop: socket.socket) -> bool:
        """Until there is something to do. Whether it is to end."""
        poller = select.poll()
        poller.register(stop, select.POLLIN)
        poller.register(self._driver.notices, select.POLLIN)
        for sock in self._known:
            poller.register(sock, _POLLED)
        looks = max(self._look_at - time.monotonic(), 0.0)
        until = min(self._limits.look_seconds, looks, self._until_due())
        ready = {fd for fd, _ in poller.poll(math.ceil(until * 1000))}
        if self._driver.noticed(self._device.number):
            self._soon()
        return stop.fileno() in ready

    def _until_due(self) -> float:
        if len(self._known) >= self._promised.connections:
            return math.inf
        return max(self._next - time.monotonic(), 0.0)

    def _tell(self) -> None:
        if self._trouble:
            known, wanted = len(self._known), self._promised.connections
            self._status(f"{known} of {wanted} connections; trying again: {self._trouble}")
        else:
            self._status(f"{self._device.path} is attached")


def _shut_down(sock: socket.socket) -> None:
    """The driver has to see the end, too: it takes no other connection before."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()

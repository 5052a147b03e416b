"""The kernel's NBD driver: requests by generic netlink, and its notices of lost connections."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from itertools import count
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from duplexd.attach import netlink
from duplexd.errors import DuplexdError, ForbiddenError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from duplexd.attach.netlink import Message

P = ParamSpec("P")
_GENERIC = 16  # NETLINK_GENERIC
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_DATAGRAM_BYTES = 1 << 16
_TIMEVAL_BYTES = 16
# Requests run in the kernel while they are sent, so an answer that is not there never comes
_ANSWER_SECONDS_MAX = 60.0


class Driver:
    """Raises WrongStateError where there is none, and ForbiddenError where this process may not
    ask it for anything.
    """

    def __init__(self) -> None:
        self._sequence = count(1)
        with contextlib.ExitStack() as opened:
            self._requests = opened.enter_context(_netlink())
            self.notices = opened.enter_context(_netlink())  # to be polled
            self._family = self._find()
            self.notices.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, self._family.group)
            self.notices.setblocking(False)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._opened.close()

    def connect(
        self,
        device: netlink.Device,
        size: int,
        block_bytes: int,
        flags: int,
        sockets: Sequence[socket.socket],
    ) -> None:
        """Make the device. The driver goes on with these sockets, whatever becomes of ours. Raises
        WrongStateError if the device has a client.
        """
        fds = [each.fileno() for each in sockets]
        try:
            self._ask(netlink.connect, device, size, block_bytes, flags, fds)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise WrongStateError(
                    f"/dev/nbd{device.number} is in use; take another one, or detach it first"
                ) from None
            raise _failed(f"attach /dev/nbd{device.number}", error) from error

    def replace(self, device: netlink.Device, sock: socket.socket) -> bool:
        """Give the driver a connection in the place of one that has ended. False if it knows of
        none that has: it says nothing then, and has not taken this one.

        Raises WrongStateError if the device has no client any more.
        """
        try:
            self._ask(netlink.reconfigure, device, [sock.fileno()])
        except OSError as error:
            raise self._failed_of(device, "reconnect", error) from error
        # The driver gives each socket that it takes the time-out of the device
        return any(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL_BYTES))

    def resize(self, device: netlink.Device, size: int) -> None:
        """The volume has grown to `size` bytes. Raises WrongStateError as `replace` does."""
        try:
            self._ask(netlink.resize, device, size)
        except OSError as error:
            raise self._failed_of(device, "resize", error) from error

    def disconnect(self, number: int) -> None:
        """End a device; one that has no client stays as it is."""
        try:
            self._ask(netlink.disconnect, number)
        except OSError as error:
            if error.errno != errno.EINVAL:  # there is no such device
                raise _failed(f"detach /dev/nbd{number}", error) from error

    def noticed(self, number: int) -> bool:
        """Whether a connection of this device may have ended since the last call. Takes all
        notices; those that the kernel had no room for count.
        """
        found = False
        while True:
            try:
                data = self.notices.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True
                continue
            found = found or number in map(netlink.dead_link, netlink.parse(data))

    @staticmethod
    def _failed_of(device: netlink.Device, what: str, error: OSError) -> DuplexdError:
        if error.errno == errno.EINVAL:
            return WrongStateError(
                f"/dev/nbd{device.number} is not attached any more, or to another volume"
            )
        return _failed(f"{what} /dev/nbd{device.number}", error)

    def _find(self) -> netlink.Family:
        try:
            answers = self._send(netlink.get_family)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise WrongStateError(
                    "this kernel has no NBD driver, or it is not loaded; run `modprobe nbd`."
                    " Without one, use nbdfuse and a loop device (attach.md)"
                ) from None
            raise _failed("find the NBD driver", error) from error
        return netlink.family(answers[0])

    def _ask(
        self,
        request: Callable[Concatenate[int, int, P], bytes],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> None:
        """Raises OSError with the errno of the driver; ForbiddenError."""
        try:
            self._send(lambda number: request(self._family.id, number, *arguments, **options))
        except PermissionError:
            raise ForbiddenError(
                "the kernel refuses: attaching and detaching devices is for root (CAP_SYS_ADMIN)"
            ) from None

    def _send(self, request: Callable[[int], bytes]) -> list[Message]:
        """What the driver says, up to its acknowledgement. Raises OSError with its errno."""
        number = next(self._sequence)
        self._requests.sendall(request(number))
        said: list[Message] = []
        while True:
            for message in netlink.parse(self._requests.recv(_DATAGRAM_BYTES)):
                if message.sequence != number:
                    continue
                if message.error:
                    raise OSError(message.error, os.strerror(message.error))
                if message.error == 0:
                    return said
                said.append(message)


def _netlink() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC)
    except OSError as error:
        raise _failed("open a netlink socket", error) from error
    opened.bind((0, 0))  # the kernel gives it a port; without one, notices do not come
    opened.settimeout(_ANSWER_SECONDS_MAX)
    return opened


def _failed(what: str, error: OSError) -> DuplexdError:
    return DuplexdError(f"cannot {what}: {error.strerror or error}; see dmesg")

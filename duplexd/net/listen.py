"""Listening sockets: never taken from a running program, and never open to more users than meant.

A Unix socket outlives the process that bound it, so at a start its path is usually taken. It may be
removed only if it is a socket on which no process listens: any other file may be data, and a socket
that answers is a running service. Anything but a refused connection counts as
an answer, a full backlog too, because a wrong guess in that direction costs a restart and a wrong
guess in the other takes a running daemon's clients away.

Mode and group are set before `listen`, and the mode already before `bind` (Linux gives the mode of
the socket to the file that it makes), so there is no instant at which another user could connect.
At the end the file is removed only if it is still ours: a second daemon may have replaced it.

Every error has the address in it. An address that this machine does not have yet, a name that does
not resolve, a port that another program has: these pass without anybody's help, at a boot above
all. They are a WrongStateError, which is worth another attempt and which a service manager
restarts. What only an edit remedies is a ConfigurationError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError, WrongStateError
from duplexd.net.address import Address, TcpAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Iterable

UNIX_SOCKET_MODE = 0o660
LISTEN_BACKLOG = 1024  # a whole fleet of clients may reconnect at once after a restart
# Of `bind`, `listen`, `socket`: another moment, another outcome
_PASSING = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ENOSPC,
    }
)
PROBE_SECONDS_MAX = 1.0  # for the owner of an existing socket to accept


class BoundSocket:
    """A listening socket and the file that it made, if it is a Unix socket. `ours`: whether this
    process made it; one that a service manager passed to us keeps its file.
    """

    __slots__ = ("_identity", "address", "ours", "sock")

    def __init__(self, sock: socket.socket, ours: bool = True) -> None:
        self.sock = sock
        self.ours = ours
        name = sock.getsockname()
        self.address: Address
        self._identity = (0, 0)
        if sock.family == socket.AF_UNIX:
            self.address = UnixAddress(name)
            if ours:
                with contextlib.suppress(FileNotFoundError):  # see `is_lost`
                    self._identity = _identity(name)
        else:
            self.address = TcpAddress(name[0], name[1])  # with the port that 0 became

    @property
    def is_lost(self) -> bool:
        """Whether somebody removed the file of a Unix socket, so that no client finds it."""
        path = self.address.path if isinstance(self.address, UnixAddress) else ""
        return self.ours and bool(path) and not os.path.lexists(path)

    def remove_file(self) -> None:
        """Let no further client find a Unix socket. A file that another process put there stays."""
        if self.ours and isinstance(self.address, UnixAddress):
            with contextlib.suppress(OSError):
                if _identity(self.address.path) == self._identity:
                    os.unlink(self.address.path)

    def protect(self, group: int, mode: int) -> None:
        """Give the file of a Unix socket another group (-1: the daemon's own) and mode."""
        if self.ours and isinstance(self.address, UnixAddress):
            path, owner = self.address.path, os.getegid() if group < 0 else group
            with contextlib.suppress(OSError):
                if _identity(path) == self._identity and not _is_protected(path, owner, mode):
                    os.chmod(path, 0)  # nobody gets in half-way
                    os.chown(path, -1, owner)
                    os.chmod(path, mode)

    def close(self) -> None:
        """For a socket that nothing serves; one that is served is closed by its server."""
        self.sock.close()
        self.remove_file()


def bind(
    address: Address,
    named: str = "",
    group: int | None = None,
    make_parents: bool = False,
    mode: int = UNIX_SOCKET_MODE,
) -> list[BoundSocket]:
    """One listening socket for a path; for a host name one for each of its addresses, with port 0
    for the first alone.

    `named` is the key of the configuration that an error names: ConfigurationError, or
    WrongStateError where another attempt may succeed. Nothing stays bound after an error.
    """
    try:
        if isinstance(address, TcpAddress):
            return _bind_tcp(address)
        if make_parents:
            os.makedirs(os.path.dirname(address.path) or ".", exist_ok=True)
        return [_bind_unix(address.path, -1 if group is None else group, mode)]
    except OSError as error:
        where = f"{named}: " if named else ""
        reason = error.strerror or str(error)
        kind = WrongStateError if passes(error) else ConfigurationError
        raise kind(f"{where}cannot listen on {address}: {reason}") from error


def passes(error: OSError) -> bool:
    """Whether an address may be had at another time. A name that does not resolve is such a case:
    whether the name is wrong or the name server is not up yet cannot be told apart.
    """
    return isinstance(error, socket.gaierror) or error.errno in _PASSING


def bind_all(addresses: Iterable[Address], named: str) -> list[BoundSocket]:
    """All of a list at the key `named`, or none of them."""
    with contextlib.ExitStack() as undo:
        found: list[BoundSocket] = []
        for index, address in enumerate(addresses):
            for bound in bind(address, f"{named}[{index}]"):
                undo.callback(bound.close)
                found.append(bound)
        undo.pop_all()
    return found


def _bind_unix(path: str, group: int, mode: int) -> BoundSocket:
    _make_free(path)
    with contextlib.ExitStack() as undo:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        undo.callback(sock.close)
        os.fchmod(sock.fileno(), mode & stat.S_IRWXU)  # others once the group is right
        sock.bind(path)
        bound = BoundSocket(sock)
        undo.callback(bound.close)
        os.chown(path, -1, group)
        os.chmod(path, mode)  # whatever the umask took away
        sock.listen(LISTEN_BACKLOG)
        undo.pop_all()
    return bound


def _make_free(path: str) -> None:
    """Remove a socket on which no process listens. Raises OSError for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(
            errno.EEXIST, "the file exists and is not a socket; remove it or configure another path"
        )
    if _answers(path):
        raise OSError(
            errno.EADDRINUSE,
            "another process is listening there; stop it or configure another path",
        )
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS_MAX)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _bind_tcp(address: TcpAddress) -> list[BoundSocket]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    targets = list(dict.fromkeys((family, target) for family, _, _, _, target in found))
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for family, target in targets[:1] if address.port == 0 else targets:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            undo.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # do not wait for TIME_WAIT
            if family == socket.AF_INET6:  # IPv4 has a socket of its own
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(target)
            sock.listen(LISTEN_BACKLOG)
            sockets.append(sock)
        undo.pop_all()
    return [BoundSocket(sock) for sock in sockets]


def _is_protected(path: str, group: int, mode: int) -> bool:
    status = os.lstat(path)
    return status.st_gid == group and stat.S_IMODE(status.st_mode) == mode


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino

"""Listening sockets, bound and not yet served. Errors are ConfigurationError with the address in the text."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from duplexd.errors import ConfigurationError
from duplexd.net.addresses import TcpAddress, UnixAddress

UNIX_SOCKET_MODE = 0o660
LISTEN_BACKLOG = 1024
STALE_PROBE_SECONDS = 1.0


def bind(address: UnixAddress | TcpAddress) -> list[socket.socket]:
    """One listening socket for a path, one for each address that the host name has."""
    try:
        return [bind_unix(address.path)] if isinstance(address, UnixAddress) else bind_tcp(address)
    except OSError as error:
        raise ConfigurationError(f'cannot listen on "{address}": {reason(error)}') from error


def reason(error: OSError) -> str:
    """The system's words, without the number."""
    return error.strerror or str(error)


def bind_unix(path: str) -> socket.socket:
    """Take over a socket that nobody serves; anything else that is there stays."""
    remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(
            sock.fileno(), UNIX_SOCKET_MODE
        )  # Linux gives the mode to the file that bind makes
        sock.bind(path)
        os.chmod(path, UNIX_SOCKET_MODE)
        sock.listen(LISTEN_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def remove_stale(path: str) -> None:
    """Remove a socket left behind by a process that has gone. Raises OSError if somebody answers or it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(STALE_PROBE_SECONDS)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
    raise OSError(errno.EADDRINUSE, "another process serves this socket")


def bind_tcp(address: TcpAddress) -> list[socket.socket]:
    """With port 0, one socket only."""
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    targets = list(dict.fromkeys((family, target) for family, _, _, _, target in found))
    sockets: list[socket.socket] = []
    try:
        for family, target in targets[:1] if address.port == 0 else targets:
            sockets.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            _listen_tcp(sockets[-1], target)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen_tcp(sock: socket.socket, target: object) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(target)  # type: ignore[arg-type]
    sock.listen(LISTEN_BACKLOG)


def address_of(sock: socket.socket) -> UnixAddress | TcpAddress:
    """What was bound."""
    name = sock.getsockname()
    return UnixAddress(name) if sock.family == socket.AF_UNIX else TcpAddress(name[0], name[1])


def inode_of(sock: socket.socket) -> tuple[int, int]:
    """Identity of a Unix socket's file; (0, 0) for other sockets."""
    if sock.family != socket.AF_UNIX:
        return (0, 0)
    status = os.lstat(sock.getsockname())
    return (status.st_dev, status.st_ino)


def remove_own(address: UnixAddress | TcpAddress, inode: tuple[int, int]) -> None:
    """Remove the file of a Unix socket, unless another process has put its own there."""
    if isinstance(address, UnixAddress):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(address.path)
            if (status.st_dev, status.st_ino) == inode:
                os.unlink(address.path)

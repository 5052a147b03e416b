"""A connection to a volume, up to the end of the handshake, and what the server says of it.

The kernel takes the socket over from there. What it sends later it sends on the word of the first
handshake: flags and block sizes cannot change under a file system, and the size can only grow. So
each later connection is compared with the first one, and a volume that is another one, is smaller,
or went back, is not handed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
from typing import NamedTuple

from duplexd.errors import (
    DuplexdError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
    UsageError,
    WrongStateError,
)
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NbdClient, RefusedError
from duplexd.nbd.messages import ProtocolError
from duplexd.nbd.uri import NbdUri, parse_uri
from duplexd.printable import printable

LINEAGE = ", lineage "  # in the description that duplexd gives of a volume
SECTOR_BYTES = 512  # the smallest block that Linux knows
_BLOCK_BYTES_MAX = 4096  # a page: the largest that every kernel takes
_IDENTITY_CHARACTERS_MAX = 1000  # older kernels show it in a page of memory, and do not look
# What the kernel relies on as long as there is the device
_KEPT_FLAGS = (
    c.FLAG_READ_ONLY
    | c.FLAG_SEND_FLUSH
    | c.FLAG_SEND_FUA
    | c.FLAG_SEND_TRIM
    | c.FLAG_CAN_MULTI_CONN
)
_REFUSALS: dict[int, type[DuplexdError]] = {
    c.REP_ERR_UNKNOWN: NotFoundError,
    c.REP_ERR_POLICY: ForbiddenError,
}
_PROMISED = re.compile(
    r"(?P<identity>.+); (?P<size>[0-9]+) bytes, flags (?P<flags>[0-9]+), "
    r"connections (?P<connections>[0-9]+)"
)


class Promised(NamedTuple):
    """What the kernel knew of a volume at first. `identity`: which one it is, by its server."""

    identity: str
    size: int
    flags: int
    connections: int

    def __str__(self) -> str:
        """For `backend` of sysfs: who takes the device over finds it there."""
        return (
            f"{self.identity}; {self.size} bytes, flags {self.flags}, "
            f"connections {self.connections}"
        )

    @classmethod
    def parse(cls, backend: str) -> Promised | None:
        """None for what another program wrote there."""
        if (found := _PROMISED.fullmatch(backend)) is None:
            return None
        numbers = (int(found[name]) for name in ("size", "flags", "connections"))
        return cls(found["identity"], *numbers)

    def broken_by(self, connection: Connection, size: int) -> str:
        """Why a device of `size` bytes must not get this connection; "" if it may."""
        if connection.size < size:
            return f"the volume has {connection.size} bytes, the device {size}"
        if connection.identity != self.identity:
            return (
                f"it is not the volume as it was: {connection.identity!r}, it was"
                f" {self.identity!r}; what is mounted would damage it"
            )
        if connection.flags & _KEPT_FLAGS != self.flags:
            return (
                f"the server offers something else than before: flags"
                f" {connection.flags & _KEPT_FLAGS}, they were {self.flags}"
            )
        return ""


class Connection(NamedTuple):
    """`sock` is past the handshake; nothing was sent since."""

    sock: socket.socket
    size: int
    flags: int
    block_bytes: int
    identity: str

    @property
    def can_multi_conn(self) -> bool:
        """Whether a FLUSH on one connection covers what others have written."""
        return bool(self.flags & c.FLAG_CAN_MULTI_CONN)

    def promised(self, connections: int) -> Promised:
        """What the kernel gets to know from this one."""
        return Promised(self.identity, self.size, self.flags & _KEPT_FLAGS, connections)

    def end(self) -> None:
        """Say goodbye to the server. Only for one that the kernel has not got."""
        with contextlib.suppress(OSError):
            self.sock.sendall(m.request(0, c.CMD_DISC, 0, 0, 0))
        self.sock.close()


def address_of(volume: str, socket_path: str) -> NbdUri:
    """Where a volume is: an NBD URI, or a name at the Unix socket. Raises UsageError."""
    if "://" not in volume:
        if not socket_path:
            raise UsageError(
                f"{volume!r} is a name: add --socket PATH, the daemon's NBD socket; or write"
                f" nbd+unix:///{volume}?socket=PATH"
            )
        return NbdUri(volume, socket_path)
    try:
        uri = parse_uri(volume)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if uri.tls:
        raise UsageError(
            f"{uri}: the kernel's driver does not speak TLS; use a Unix socket, or a tunnel such as"
            " stunnel or ssh -L to a Unix socket of the daemon"
        )
    if socket_path:
        raise UsageError(f"{volume}: --socket is for a VOLUME that is a name")
    return uri


def open_export(uri: NbdUri, seconds_max: float) -> Connection:
    """Connect and negotiate; each step takes `seconds_max` at most.

    Raises UnreachableError, NotFoundError, ForbiddenError, WrongStateError.
    """
    sock = _connected(uri, seconds_max)
    try:
        client = _negotiated(sock, uri, NbdClient(uri.export))
        sock.settimeout(None)
        return _described(sock, client, uri)
    except BaseException:
        sock.close()
        raise


def look_at_export(uri: NbdUri, seconds_max: float) -> Connection:
    """What a connection would be made to now. It is closed already: the server did not count it.

    Raises as `open_export`.
    """
    with _connected(uri, seconds_max) as sock:
        client = _negotiated(sock, uri, NbdClient(uri.export, only_look=True))
        return _described(sock, client, uri)


def _connected(uri: NbdUri, seconds_max: float) -> socket.socket:
    try:
        if not uri.socket:
            sock = socket.create_connection((uri.host, uri.port), seconds_max)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(seconds_max)
            sock.connect(uri.socket)
        except BaseException:
            sock.close()
            raise
    except PermissionError as error:
        raise ForbiddenError(f"{uri}: {error.strerror}") from None
    except OSError as error:
        raise UnreachableError(f"{uri}: {error.strerror or error}") from None
    return sock


def _negotiated(sock: socket.socket, uri: NbdUri, client: NbdClient) -> NbdClient:
    try:
        while not (client.ready or client.closed):
            data = sock.recv(1 << 16)
            if not data:
                raise UnreachableError(f"{uri}: the server closed the connection")
            client.receive(data)
            sock.sendall(client.data_to_send())
    except RefusedError as error:
        with contextlib.suppress(OSError):
            sock.sendall(client.data_to_send())
        raise _REFUSALS.get(error.code, WrongStateError)(f"{uri}: {error}") from None
    except ProtocolError as error:
        raise UnreachableError(f"{uri}: {error}") from None
    except OSError as error:
        raise UnreachableError(f"{uri}: {error.strerror or error}") from None
    return client


def _described(sock: socket.socket, client: NbdClient, uri: NbdUri) -> Connection:
    block = max(client.block_sizes[0], SECTOR_BYTES)
    if not client.size or client.size % block or block > _BLOCK_BYTES_MAX:
        raise WrongStateError(
            f"{uri}: {client.size} bytes in blocks of {block}: Linux needs whole blocks of at most"
            f" {_BLOCK_BYTES_MAX} bytes"
        )
    return Connection(sock, client.size, client.flags, block, _identity(client.description, uri))


def _identity(description: str, uri: NbdUri) -> str:
    """Duplexd says which volume it is, wherever it is found; of others only the place is known."""
    text = description if LINEAGE in description else f"{description or 'export'} at {uri}"
    text = printable(text).strip()
    if len(text) <= _IDENTITY_CHARACTERS_MAX:
        return text
    return f"export {hashlib.sha256(text.encode()).hexdigest()}"

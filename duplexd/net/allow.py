"""Who is at the other end of a connection, and lists of who may be.

    allow = ["certificate:backup.example", "address:10.0.0.0/8", "user:postgres", "group:backup"]

An entry says how it knows somebody: by a verified certificate, by network address, or by what the
kernel says of the process behind a Unix socket. The kind is written out, because "backup" alone
could be a user, a group or a certificate. Text is parsed without asking the system; `resolve` turns
names of users and groups into numbers, when a configuration comes into force.
"""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import pwd
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from duplexd.errors import ConfigurationError
from duplexd.units import toml

if TYPE_CHECKING:
    from collections.abc import Iterable

    IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
    IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
    Origin = ipaddress.IPv4Address | ipaddress.IPv6Network

CERTIFICATE, ADDRESS, USER, GROUP = "certificate", "address", "user", "group"
KINDS = (CERTIFICATE, ADDRESS, USER, GROUP)
IPV6_PREFIX_BITS = 64
_UCRED = struct.Struct("3i")
_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_PEER_GROUPS_BYTES_MAX = 1024  # that Python asks for


class Caller(NamedTuple):
    """Somebody at the other end. `uid` and `groups` of a process on a Unix socket, `address` of a
    TCP client, `names` of its verified certificate.
    """

    uid: int = -1
    groups: frozenset[int] = frozenset()
    address: IpAddress | None = None
    names: frozenset[str] = frozenset()

    def __str__(self) -> str:
        if self.names:
            return f"certificate {min(self.names)}"
        return f"address {self.address}" if self.address else f"user {self.uid}"


class Entry(NamedTuple):
    """One entry of a list, as it was written."""

    kind: str
    value: str


class Allow(NamedTuple):
    """A list, resolved. Who matches any entry of it is on it."""

    names: frozenset[str] = frozenset()
    networks: tuple[IpNetwork, ...] = ()
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def admits(self, caller: Caller) -> bool:
        """Whether somebody is on the list."""
        return (
            not self.names.isdisjoint(caller.names)
            or caller.uid in self.uids
            or not self.gids.isdisjoint(caller.groups)
            or (
                caller.address is not None
                and any(caller.address in network for network in self.networks)
            )
        )

    def may_admit_later(self, caller: Caller) -> bool:
        """Whether TLS could still show that somebody is on the list."""
        return self.admits(caller) or bool(self.names)


def parse_allow(text: object) -> Entry:
    """`KIND:VALUE`. Raises ValueError that says what was expected."""
    kind, _, value = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind not in KINDS or not value:
        expected = ", ".join(f'"{each}:..."' for each in KINDS)
        raise ValueError(f"{toml(text)} does not say who is allowed; expected one of {expected}")
    if kind == ADDRESS:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise ValueError(
                f'{toml(text)}: {error}; expected for example "address:10.0.0.0/8"'
            ) from None
    return Entry(kind, value)


def resolve(named: str, entries: Iterable[Entry]) -> Allow:
    """The list at the key `named`, with numbers for users and groups. Raises ConfigurationError."""
    of: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, value in entries:
        of[kind].append(value)
    return Allow(
        frozenset(of[CERTIFICATE]),
        tuple(ipaddress.ip_network(value) for value in of[ADDRESS]),
        frozenset(user_id(named, value) for value in of[USER]),
        frozenset(group_id(named, value) for value in of[GROUP]),
    )


def user_id(named: str, user: str) -> int:
    """The number of a user of this machine. Raises ConfigurationError that names the key."""
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigurationError(
            f"{named}: there is no user {user!r} on this machine; create it, or give its number"
        ) from None


def group_id(named: str, group: str) -> int:
    """The number of a group of this machine. Raises ConfigurationError that names the key."""
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"{named}: there is no group {group!r} on this machine;"
            f" create it with: groupadd --system {group}"
        ) from None


def caller_of(sock: socket.socket) -> Caller:
    """What the kernel says of the other end of a connected socket; nobody if it has gone."""
    with contextlib.suppress(OSError):
        if sock.family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            _pid, uid, gid = _UCRED.unpack(credentials)
            return Caller(uid, frozenset({gid, *_groups_of(sock)}))
        return Caller(address=_address(sock.getpeername()[0]))
    return Caller()


def _address(host: str) -> IpAddress:
    """What a socket says; an IPv4 client of a socket for both is one of IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def origin(address: IpAddress) -> Origin:
    """Where a client comes from, for limits of each: its address; of IPv6 the first 64 bits,
    because the rest is for a host to choose, as often as it likes.
    """
    if isinstance(address, ipaddress.IPv6Address):
        return ipaddress.IPv6Network((address, IPV6_PREFIX_BITS), strict=False)
    return address


def origin_of(host: str) -> str:
    """The same of what a socket says."""
    return str(origin(_address(host)))


def _groups_of(sock: socket.socket) -> tuple[int, ...]:
    """Supplementary groups, where the kernel says them and they are not hundreds."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PEER_GROUPS_BYTES_MAX)
    except OSError:
        return ()
    return struct.unpack(f"{len(found) // 4}I", found)

"""Which caller may do what over the HTTP API: two roles, one rule. Pure.

A role belongs to a connection, not to a request: the kernel's word for the Unix socket, a verified
certificate for TLS. There are no passwords or tokens, so there is nothing to leak or to renew. What
a route needs follows from its method and media type (`needed`), so that a new route cannot be
forgotten in a list.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from duplexd.errors import ForbiddenError
from duplexd.net.certificate_names import names_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    class TlsNames(Protocol):
        """The lists of `[control.tls]`."""

        @property
        def operate(self) -> list[str]: ...
        @property
        def observe(self) -> list[str]: ...


BYTES_TYPE = "application/octet-stream"  # the media type of a volume's contents
NAMELESS = "without a name"


class Role(IntEnum):
    """Each role may do what the ones before it may."""

    NONE = 0  # only ask whether the daemon answers
    OBSERVE = 1  # look: status, events, metrics; change nothing, see no volume's contents
    OPERATE = 2  # every command


class Peer(NamedTuple):
    """The other end: ids from the kernel (-1 if unknown), or the name in a certificate; without
    any of these the address, of IPv6 the /64 network.
    """

    uid: int = -1
    gid: int = -1
    pid: int = -1
    name: str = ""
    role: Role = Role.NONE
    owns: bool = False  # root, or the daemon's own user
    address: str = ""

    @property
    def who(self) -> object:
        """Whose connections these are: a user of this machine, the name of a certificate, or an
        address.
        """
        return self.name or self.address or self.uid

    @property
    def owner(self) -> str:
        """Who, in a few words: what a lease is marked with."""
        return f"certificate {self.name}" if self.name else f"uid {self.uid} pid {self.pid}"


class Access:
    """Which role a caller gets. Root and the daemon's own user always operate."""

    def __init__(
        self, daemon_uid: int, group_role: str = "operate", tls: TlsNames | None = None
    ) -> None:
        self._owners = {0, daemon_uid}
        self._group_role = Role[group_role.upper()]
        self._names: dict[str, Role] = {}
        if tls is not None:
            self._names = dict.fromkeys(tls.observe, Role.OBSERVE) | dict.fromkeys(
                tls.operate, Role.OPERATE
            )

    def owns(self, uid: int) -> bool:
        """Whether this is root, or the daemon's own user."""
        return uid in self._owners

    def local(self, uid: int, gid: int, pid: int) -> Peer:
        """A process that the mode of the Unix socket let through."""
        owns = uid in self._owners
        return Peer(uid, gid, pid, role=Role.OPERATE if owns else self._group_role, owns=owns)

    def remote(self, certificate: Mapping[str, Any]) -> Peer:
        """The holder of a verified certificate, as `ssl` shows it: the best role of its names."""
        names = tuple(names_of(certificate))
        if not names:
            return Peer(name=NAMELESS)
        name = max(names, key=self._role_of)
        return Peer(name=name, role=self._role_of(name))

    def _role_of(self, name: str) -> Role:
        return self._names.get(name, Role.NONE)


def needed(method: str, path: str, media_type: str) -> Role:
    """The role that a route needs: OPERATE to change anything or to read what volumes hold."""
    if path == "/healthz":
        return Role.NONE
    return Role.OBSERVE if method == "GET" and media_type != BYTES_TYPE else Role.OPERATE


def check(peer: Peer, role: Role) -> None:
    """Raise ForbiddenError unless `peer` may do what takes `role`."""
    if peer.role >= role:
        return
    wanted = role.name.lower()
    if peer.name:
        who, remedy = (
            f"client certificate {peer.name!r}",
            f"add the name to control.tls.{wanted} in the daemon's configuration",
        )
    else:
        who, remedy = (
            f"user {peer.uid}",
            'ask as root or as the daemon\'s user, or set control.group_role = "operate"',
        )
    has = f"the role {peer.role.name.lower()}" if peer.role else "no role here"
    raise ForbiddenError(f"{who} has {has}, this needs the role {wanted}: {remedy}, and reload it")


def check_owner(peer: Peer, what: str) -> None:
    """Raise ForbiddenError unless `peer` has the rights of the daemon anyway: `what` uses them for
    a place of the caller's choice.
    """
    if not peer.owns:
        raise ForbiddenError(
            f"{what} makes a file with the rights of the daemon: only root and the daemon's own "
            "user may ask for it, on the Unix socket"
        )

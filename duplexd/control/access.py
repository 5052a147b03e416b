"""Who may do what on the control socket and its TLS listener: two roles, one rule. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from duplexd.errors import ForbiddenError

BYTES_TYPE = "application/octet-stream"  # the media type of a volume's contents


class Role(IntEnum):
    """Each role may do what the ones before it may."""

    NONE = 0  # only ask whether the daemon answers
    OBSERVE = 1  # look: status, events, metrics; change nothing, see no volume's contents
    OPERATE = 2  # every command


class Peer(NamedTuple):
    """Who is at the other end, by the kernel's word (-1 where it does not say) or by a client certificate's (`name`)."""

    uid: int = -1
    gid: int = -1
    pid: int = -1
    name: str = ""
    role: Role = Role.NONE

    @property
    def owner(self) -> str:
        """Who, in a few words: what a lease is marked with."""
        return f"certificate {self.name}" if self.name else f"uid {self.uid} pid {self.pid}"


def needed(method: str, path: str, media_type: str) -> Role:
    """The role that a route asks for: to change anything, or to read what volumes hold, takes OPERATE."""
    if path == "/healthz":
        return Role.NONE
    return Role.OBSERVE if method == "GET" and media_type != BYTES_TYPE else Role.OPERATE


def check(peer: Peer, role: Role) -> None:
    """Raise ForbiddenError unless `peer` may do what takes `role`."""
    if peer.role >= role:
        return
    wanted = role.name.lower()
    if peer.name:
        who, remedy = f"client certificate {peer.name!r}", f"add the name to control.tls.{wanted} in the daemon's configuration"
    else:
        who, remedy = f"user {peer.uid}", 'ask as root or as the daemon\'s user, or set control.group_role = "operate"'
    raise ForbiddenError(f"{who} has {_told(peer.role)}, this needs the role {wanted}: {remedy}, and restart it")


def _told(role: Role) -> str:
    return f"the role {role.name.lower()}" if role else "no role here"

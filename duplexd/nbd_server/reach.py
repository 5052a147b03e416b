"""Which client may reach which volume, and how: one rule. Pure.

Two doors are in front of a volume, that of the listening address and its own. Each has a list of
who may pass, or none, and may be read-only.

| listener | volume | one of them is read-only | answer |
|---|---|---|---|
| keeps out | any | - | NO |
| any | keeps out | - | NO |
| lets pass | lets pass | yes | READ_ONLY |
| lets pass | lets pass | no | FULL |

A door without a list lets all pass who reach it; the mode of the Unix socket, the firewall and
TLS are in front of that. With NO a volume is hidden: every answer is that for a name which does not
exist, so names cannot be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from duplexd.nbd_server.peer_places import Shares
from duplexd.net.allow import Allow
from duplexd.net.listen import UNIX_SOCKET_MODE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from duplexd.nbd.offers import Tls
    from duplexd.net.address import Address
    from duplexd.net.allow import Caller


class Access(IntEnum):
    """Each may do what the ones before it may."""

    NO = 0
    READ_ONLY = 1
    FULL = 2


class Door(NamedTuple):
    """`allow`: who may pass; None for everybody who gets there."""

    allow: Allow | None = None
    read_only: bool = False

    def lets_pass(self, caller: Caller) -> bool:
        """Whether somebody is let through."""
        return self.allow is None or self.allow.admits(caller)


OPEN = Door()
NOBODY = Door(Allow())


def may(caller: Caller, listener: Door, volume: Door) -> Access:
    """See the table above."""
    if not (listener.lets_pass(caller) and volume.lets_pass(caller)):
        return Access.NO
    return Access.READ_ONLY if listener.read_only or volume.read_only else Access.FULL


@dataclass(frozen=True)
class Listener:
    """An address to listen on. `group` and `mode` are those of a Unix socket; group -1: the
    daemon's own.
    """

    address: Address
    door: Door = OPEN
    tls: Tls = "off"
    group: int = -1
    mode: int = UNIX_SOCKET_MODE


@dataclass(frozen=True)
class Policy:
    """What holds for all listeners: the doors of volumes, by name, where they are not open; the
    volume that the export "" is, "" for none; what TLS begins with; how many places each may have.
    """

    volumes: Mapping[str, Door] = field(default_factory=dict)
    default: str = ""
    context: ssl.SSLContext | None = None
    shares: Shares = field(default_factory=Shares)

    def of(self, caller: Caller, listener: Listener, volume: str) -> Access:
        """What somebody who came through this listener may do with a volume."""
        return may(caller, listener.door, self.volumes.get(volume, OPEN))


NO_POLICY = Policy()

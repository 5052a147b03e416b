"""How many connections a peer and a volume may have, so that nobody takes all places.

A peer is who the kernel says it is: the user of a process on a Unix socket, the address of a TCP
client, or its network (`net.allow.origin`). By default it may have three quarters of all places,
and so may a volume: what is left is for others. A connection that gets no place is closed at once,
and costs nobody a descriptor.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

from duplexd.net.allow import origin

if TYPE_CHECKING:
    from duplexd.net.allow import Caller, Origin

    Peer = int | Origin  # a user, or where it comes from


def peer_of(caller: Caller) -> Peer:
    """Who it is, for the count of places. It is not changed by a certificate that is shown later:
    the place was taken before.
    """
    return caller.uid if caller.address is None else origin(caller.address)


class Shares(NamedTuple):
    """How many connections one peer and one volume may have. None: three quarters of all."""

    peer: int | None = None
    volume: int | None = None


class Places:
    """Those of all connections. A reload replaces `shares`."""

    def __init__(self, connections_max: int, shares: Shares) -> None:
        self._connections_max = connections_max
        self.shares = shares
        self._of: dict[Peer, int] = {}
        self.taken = 0
        self.refused = 0

    def take(self, peer: Peer) -> str:
        """Take a place; or why there is none."""
        of = self._of.get(peer, 0)
        why = ""
        if self.taken >= self._connections_max:
            why = "all places are taken"
        elif of >= self._part(self.shares.peer):
            why = f"this {_kind(peer)} has {of} connections"
        if why:
            self.refused += 1
            return why
        self.taken += 1
        self._of[peer] = of + 1
        return ""

    def leave(self, peer: Peer) -> None:
        """Give a place back."""
        self.taken -= 1
        self._of[peer] -= 1
        if not self._of[peer]:
            del self._of[peer]

    def volume_has_one(self, connections: int) -> bool:
        """Whether a volume with so many connections may have another one."""
        return connections < self._part(self.shares.volume)

    def _part(self, wanted: int | None) -> int:
        most = max(1, self._connections_max * 3 // 4)
        return most if wanted is None else min(wanted, self._connections_max)


def _kind(peer: Peer) -> str:
    if isinstance(peer, int):
        return "user"
    return "address" if isinstance(peer, IPv4Address) else f"network {peer}"

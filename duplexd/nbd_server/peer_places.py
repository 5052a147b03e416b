"""How many connections a peer and a volume may have, so that nobody takes all places.

A peer is who the kernel says it is: the user of a process on a Unix socket, the address of a TCP
client. By default it may have three quarters of all places, and so may a volume: what is left is
for others. A connection that gets no place is closed at once, and costs nobody a descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.limits import NbdLimits
    from duplexd.net.allow import Caller, IpAddress

    Peer = int | IpAddress  # a user, or an address


def peer_of(caller: Caller) -> Peer:
    """Who it is, for the count of places. It is not changed by a certificate that is shown later:
    the place was taken before.
    """
    return caller.uid if caller.address is None else caller.address


class Places:
    """Those of all connections."""

    def __init__(self, limits: NbdLimits) -> None:
        self._limits = limits
        self._of: dict[Peer, int] = {}
        self.taken = 0
        self.refused = 0

    def take(self, peer: Peer) -> str:
        """Take a place; or why there is none."""
        limits, of = self._limits, self._of.get(peer, 0)
        why = ""
        if self.taken >= limits.connections_max:
            why = "all places are taken"
        elif of >= limits.peer_connections_max:
            what = "user" if isinstance(peer, int) else "address"
            why = f"this {what} has {of} connections"
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
        return connections < self._limits.volume_connections_max

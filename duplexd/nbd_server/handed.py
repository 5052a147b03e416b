"""A client between two programs: what the one that ends knows of it, and the next one must.

Nothing is in flight then. What the client has sent of a request that is not complete is kept as it
came, and goes through the parser of the next program; so the two need to agree on NBD only. A
client with TLS cannot be handed on: the state of its session is in the library that has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket

    from duplexd.nbd.negotiated import Negotiated
    from duplexd.net.address import Address


class Handed(NamedTuple):
    """`listener`: the address that it came through. `volume`: the name of the export, which is not
    that of the volume for who restores it. `size` in bytes and `flags`: those of the export, as
    they were announced. `unread`: what it has sent and nobody took; `unsent`: of
    replies, what it has not taken.
    """

    sock: socket.socket
    listener: Address
    volume: str
    size: int
    flags: int
    negotiated: Negotiated
    unread: bytes = b""
    unsent: bytes = b""

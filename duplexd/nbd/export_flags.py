"""Which transmission flags an export has for one client.

Two halves, because they are known at different times: what the volume is and can do, and what the
client negotiated. A flag promises that the server takes the request that it stands for, so the same
value is announced by the handshake and used by transmission to refuse what was not promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import constants as c

if TYPE_CHECKING:
    from .negotiated import Negotiated

# FLUSH and FUA are harmless where nothing can be written, and some clients send them there, too.
_ALWAYS = (
    c.FLAG_HAS_FLAGS
    | c.FLAG_SEND_FLUSH
    | c.FLAG_SEND_FUA
    | c.FLAG_CAN_MULTI_CONN
    | c.FLAG_SEND_CACHE
)
_WRITABLE = c.FLAG_SEND_TRIM | c.FLAG_SEND_WRITE_ZEROES


def volume_flags(*, read_only: bool, fast_zero: bool = True) -> int:
    """What every client of the volume gets. `fast_zero`: FAST_ZERO is understood, which includes
    refusing it at once.
    """
    if read_only:
        return _ALWAYS | c.FLAG_READ_ONLY
    return _ALWAYS | _WRITABLE | (c.FLAG_SEND_FAST_ZERO if fast_zero else 0)


def negotiated_flags(negotiated: Negotiated) -> int:
    """What is added for a client that negotiated this."""
    flags = 0
    if negotiated.structured or negotiated.extended:
        flags |= c.FLAG_SEND_DF
    if negotiated.extended and negotiated.contexts:
        flags |= c.FLAG_BLOCK_STATUS_PAYLOAD
    return flags


def export_flags(*, read_only: bool, negotiated: Negotiated, fast_zero: bool = True) -> int:
    """The transmission flags of an export for one client."""
    return volume_flags(read_only=read_only, fast_zero=fast_zero) | negotiated_flags(negotiated)

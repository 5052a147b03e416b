"""What the handshake agreed on, as transmission gets it: one value, fixed for the connection.

Frozen, because both halves depend on it not changing: a client that negotiated anything again (or
started TLS) gets a new value, and transmission begins with the last one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Negotiated:
    """`structured`: replies are structured. `extended`: 64-bit headers, which implies `structured`.
    `contexts`: (id, name) of each metadata context, for the export that was chosen.
    """

    structured: bool = False
    extended: bool = False
    contexts: tuple[tuple[int, str], ...] = ()

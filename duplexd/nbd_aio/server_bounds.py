"""What clients of a server may make it keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerBounds:
    """Each connection has its own, so none takes what another needs; all together keep at most
    `connections_max` times as much. A connection that has as much as it may is not read from until
    it has less.
    """

    connections_max: int = 64  # a further one is closed at once
    requests_max: int = 64  # being served, of a connection
    # Of their content; a single longer request (64 MiB at most) is served alone
    bytes_max: int = 16 << 20
    options_max: int = 1000  # in a handshake
    handshake_seconds_max: float = 10.0
    extents_max: int = 4096  # in a reply; a client asks on from there
    close_seconds_max: float = 10.0  # for what is in flight when the server is closed

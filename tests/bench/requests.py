"""Requests as bytes: a whole batch of them goes into the server's socket in one call.

What a server does for a request depends on how many it finds at a time. A client that sends them
one by one leaves that to the scheduler; here it is given.
"""

from __future__ import annotations

import struct

from duplexd.units import KIB

BLOCK_BYTES = 4 * KIB
HELLO_BYTES = 18  # what the server sends first
BEGIN_BYTES = 10  # its answer to `begin`: size and flags
_REPLY_BYTES = 16
_REQUEST = struct.Struct(">IHHQQI")
_MAGIC = 0x25609513
_READ, _WRITE, _FLUSH = 0, 1, 3
_FIXED_NEWSTYLE, _NO_ZEROES, _EXPORT_NAME = 1, 2, 1

KINDS = ("write", "read", "write+flush")
DEPTHS = (1, 8, 32)


def begin(export: str) -> bytes:
    """The client's half of the shortest handshake: by name, without any option."""
    name = export.encode()
    option = struct.pack(">8sII", b"IHAVEOPT", _EXPORT_NAME, len(name))
    return struct.pack(">I", _FIXED_NEWSTYLE | _NO_ZEROES) + option + name


def batch(kind: str, depth: int) -> bytes:
    """`depth` reads or writes of one block each, in order; a flush behind each write."""
    payload = b"x" * BLOCK_BYTES
    requests = bytearray()
    for cookie in range(depth):
        offset = cookie * BLOCK_BYTES
        command = _READ if kind == "read" else _WRITE
        requests += _REQUEST.pack(_MAGIC, 0, command, cookie, offset, BLOCK_BYTES)
        if command == _WRITE:
            requests += payload
        if kind == "write+flush":
            requests += _REQUEST.pack(_MAGIC, 0, _FLUSH, depth + cookie, 0, 0)
    return bytes(requests)


def reply_bytes(kind: str, depth: int) -> int:
    """How much comes back, if nothing fails."""
    one = {
        "write": _REPLY_BYTES,
        "read": _REPLY_BYTES + BLOCK_BYTES,
        "write+flush": 2 * _REPLY_BYTES,
    }
    return one[kind] * depth

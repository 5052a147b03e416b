"""Every fixed message of the NBD protocol, packed and unpacked. Big-endian throughout.

One file for client and server, so that a wrong field breaks both halves and their tests.

| message | bytes | fields |
|---|---|---|
| greeting | 18 | INIT_MAGIC u64, OPTION_MAGIC u64, handshake flags u16 |
| client flags | 4 | flags u32 |
| option | 16 + length | OPTION_MAGIC u64, option u32, length u32, data |
| option reply | 20 + length | OPTION_REPLY_MAGIC u64, option u32, reply u32, length u32, data |
| export, after EXPORT_NAME | 10 (+ 124 zeroes) | size u64, transmission flags u16 |
| request | 28 (+ length for WRITE) | REQUEST_MAGIC u32, flags u16, command u16, then: |
| | | cookie u64, offset u64, length u32 |
| extended request | 32 (+ length with PAYLOAD_LEN) | EXTENDED_REQUEST_MAGIC u32, flags u16, |
| | | command u16, cookie u64, offset u64, length u64 |
| simple reply | 16 (+ length for READ) | SIMPLE_REPLY_MAGIC u32, error u32, cookie u64 |

Structured and extended replies are in `replies.py`.
"""

from __future__ import annotations

from struct import Struct

from .constants import (
    EXTENDED_REQUEST_MAGIC,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    INIT_MAGIC,
    OPT_LIST,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    REP_META_CONTEXT,
    REP_SERVER,
    REPLY_TEXT_BYTES_MAX,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
)

GREETING = Struct(">QQH")
CLIENT_FLAGS = Struct(">I")
OPTION = Struct(">QII")
OPTION_REPLY = Struct(">QIII")
EXPORT = Struct(">QH")
REQUEST = Struct(">IHHQQI")
EXTENDED_REQUEST = Struct(">IHHQQQ")
SIMPLE_REPLY = Struct(">IIQ")
INFO_EXPORT_DATA = Struct(">HQH")
INFO_BLOCK_SIZE_DATA = Struct(">HIII")
U16 = Struct(">H")
U32 = Struct(">I")
U64 = Struct(">Q")

EXPORT_ZEROES = bytes(124)


class ProtocolError(Exception):
    """The peer broke the protocol: the connection can only be closed."""


def greeting(flags: int) -> bytes:
    """The first message of a server."""
    return GREETING.pack(INIT_MAGIC, OPTION_MAGIC, flags)


def option(number: int, data: bytes = b"") -> bytes:
    """One option of a client."""
    return OPTION.pack(OPTION_MAGIC, number, len(data)) + data


def option_reply(number: int, reply: int, data: bytes = b"") -> bytes:
    """One reply of a server to option `number`."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, number, reply, len(data)) + data


def option_error(number: int, reply: int, text: str) -> bytes:
    """A refusal with a message for people, cut so that every client can read it."""
    return option_reply(number, reply, short_text(text))


def list_entry(name: str, description: str = "") -> bytes:
    """One export in the answer to LIST."""
    encoded = name.encode()
    data = U32.pack(len(encoded)) + encoded + short_text(description)
    return option_reply(OPT_LIST, REP_SERVER, data)


def info_export(size: int, flags: int) -> bytes:
    """Data of INFO_EXPORT."""
    return INFO_EXPORT_DATA.pack(INFO_EXPORT, size, flags)


def info_block_size(minimum: int, preferred: int, maximum: int) -> bytes:
    """Data of INFO_BLOCK_SIZE."""
    return INFO_BLOCK_SIZE_DATA.pack(INFO_BLOCK_SIZE, minimum, preferred, maximum)


def info_text(kind: int, text: bytes) -> bytes:
    """Data of INFO_NAME or INFO_DESCRIPTION, in UTF-8."""
    return U16.pack(kind) + text


def go_data(name: str, kinds: list[int]) -> bytes:
    """Data of GO or INFO: an export name and the information asked for."""
    encoded = name.encode()
    return (
        U32.pack(len(encoded))
        + encoded
        + U16.pack(len(kinds))
        + b"".join(U16.pack(kind) for kind in kinds)
    )


def context_data(export: str, queries: list[str]) -> bytes:
    """Data of LIST_META_CONTEXT or SET_META_CONTEXT: an export name and queries."""
    strings = [export.encode(), *(query.encode() for query in queries)]
    packed = [U32.pack(len(string)) + string for string in strings]
    return packed[0] + U32.pack(len(queries)) + b"".join(packed[1:])


def context_reply(number: int, context: int, name: str) -> bytes:
    """One metadata context in the answer to either of them."""
    return option_reply(number, REP_META_CONTEXT, U32.pack(context) + name.encode())


def request(flags: int, command: int, cookie: int, offset: int, length: int) -> bytes:
    """The 28 bytes of a request."""
    return REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)


def extended_request(flags: int, command: int, cookie: int, offset: int, length: int) -> bytes:
    """The 32 bytes of a request with extended headers."""
    return EXTENDED_REQUEST.pack(EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length)


def simple_reply(error: int, cookie: int) -> bytes:
    """The 16 bytes of a simple reply."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)


def short_text(text: str) -> bytes:
    """UTF-8 of at most REPLY_TEXT_BYTES_MAX bytes, not cut within a character."""
    return text.encode("utf-8", "replace")[:REPLY_TEXT_BYTES_MAX].decode("utf-8", "ignore").encode()

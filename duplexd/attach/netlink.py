"""Generic netlink for the kernel's NBD driver: requests to it, and what it answers, as bytes. Pure.

Why not a library: pyroute2 has all of netlink. Here are five requests of a protocol that has been
frozen since Linux 5.14. Numbers are in the byte order of the machine. Source: Linux,
include/uapi/linux/ netlink.h, genetlink.h and nbd-netlink.h.

| part | bytes | fields |
|---|---|---|
| message header | 16 | length u32, type u16, flags u16, sequence u32, port u32 |
| generic header | 4 | command u8, version u8, reserved u16 |
| attribute | 4 + data, then padded to 4 | length u16 without the padding, type u16, data |
| error, instead of the generic header | 4 | errno i32, negative; 0: done |
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HEADER = Struct("=IHHII")
GENERIC = Struct("=BBH")
ATTRIBUTE = Struct("=HH")
ERROR = Struct("=i")
_U16, _U32, _U64 = Struct("=H"), Struct("=I"), Struct("=Q")

ERROR_TYPE = 2
_REQUEST, _ACK = 0x01, 0x04  # flags: wants an answer even if there is nothing to say
_NESTED = 1 << 15
_TYPE_MASK = (1 << 14) - 1  # of an attribute, without its two flags
_VERSION = 1

# The controller of generic netlink, which knows the numbers of the others
CONTROLLER = 16
_GET_FAMILY = 3
_FAMILY_ID, _FAMILY_NAME, _GROUPS = 1, 2, 7
_GROUP_NAME, _GROUP_ID = 1, 2

# The driver
FAMILY, GROUP = "nbd", "nbd_mc_group"
CONNECT, DISCONNECT, RECONFIGURE, LINK_DEAD = 1, 2, 3, 4
INDEX, SIZE, BLOCK_SIZE, TIMEOUT, SERVER_FLAGS, SOCKETS, DEAD_TIMEOUT, BACKEND = (
    1, 2, 3, 4, 5, 7, 8, 10,
)  # fmt: skip
_SOCKET_ITEM, _SOCKET_FD = 1, 1


class Family(NamedTuple):
    """The driver's number as a message type, and that of the group that gets its notices."""

    id: int
    group: int


class Message(NamedTuple):
    """`error`: an errno, 0 for done; None where the driver has something to say: `command`, and
    its `attributes` by type.
    """

    sequence: int
    error: int | None
    command: int
    attributes: dict[int, bytes]


class Device(NamedTuple):
    """What the driver gets to know of a device, at each request. `timeout_s`: for an answer to one
    request. `dead_timeout_s`: without any connection. `backend`: whose it is; the driver refuses
    connections to a device that has another one.
    """

    number: int
    timeout_s: int
    dead_timeout_s: int
    backend: str


def get_family(sequence: int) -> bytes:
    """Ask which numbers the driver has."""
    name = _attribute(_FAMILY_NAME, _text(FAMILY))
    return _message(CONTROLLER, _GET_FAMILY, sequence, name)


def connect(
    family: int,
    sequence: int,
    device: Device,
    size: int,
    block_bytes: int,
    flags: int,
    sockets: Iterable[int],
) -> bytes:
    """Make a device of a free /dev/nbdN. `flags`: transmission flags of the export; `sockets`:
    descriptors of this process, past the handshake.
    """
    body = (
        _settings(device)
        + _attribute(SIZE, _U64.pack(size))
        + _attribute(BLOCK_SIZE, _U64.pack(block_bytes))
        + _attribute(SERVER_FLAGS, _U64.pack(flags))
        + _sockets(sockets)
    )
    return _message(family, CONNECT, sequence, body)


def reconfigure(family: int, sequence: int, device: Device, sockets: Iterable[int]) -> bytes:
    """Replace connections that have ended. Sockets beyond these are ignored without a word."""
    return _message(family, RECONFIGURE, sequence, _settings(device) + _sockets(sockets))


def resize(family: int, sequence: int, device: Device, size: int) -> bytes:
    """Tell the driver that the device has so many bytes from now on."""
    return _message(
        family, RECONFIGURE, sequence, _settings(device) + _attribute(SIZE, _U64.pack(size))
    )


def disconnect(family: int, sequence: int, number: int) -> bytes:
    """End a device: what waits, and what is asked of it from now on, fails."""
    return _message(family, DISCONNECT, sequence, _attribute(INDEX, _U32.pack(number)))


def parse(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises ValueError if it is none."""
    while data:
        length, kind, _flags, sequence, _port = _unpack(HEADER, data)
        if not HEADER.size <= length <= len(data):
            raise ValueError(f"a message of {length} bytes in {len(data)}")
        body, data = data[HEADER.size : length], data[_padded(length) :]
        if kind == ERROR_TYPE:
            yield Message(sequence, -_unpack(ERROR, body)[0], 0, {})
        elif kind >= CONTROLLER:
            command = _unpack(GENERIC, body)[0]
            yield Message(sequence, None, command, dict(_attributes(body[GENERIC.size :])))


def family(message: Message) -> Family:
    """What the answer to `get_family` says. Raises ValueError."""
    try:
        number = _unpack(_U16, message.attributes[_FAMILY_ID])[0]
        for _, packed in _attributes(message.attributes[_GROUPS]):
            group = dict(_attributes(packed))
            if group[_GROUP_NAME] == _text(GROUP):
                return Family(number, _unpack(_U32, group[_GROUP_ID])[0])
    except KeyError as error:
        raise ValueError(f"no attribute {error} in the answer of the kernel") from None
    raise ValueError(f"no group {GROUP} in the answer of the kernel")


def dead_link(message: Message) -> int | None:
    """Of which device a connection has ended; None for another message."""
    if message.error is not None or message.command != LINK_DEAD:
        return None
    index = message.attributes.get(INDEX)
    return None if index is None else int(_unpack(_U32, index)[0])


def _settings(device: Device) -> bytes:
    return (
        _attribute(INDEX, _U32.pack(device.number))
        + _attribute(TIMEOUT, _U64.pack(device.timeout_s))
        + _attribute(DEAD_TIMEOUT, _U64.pack(device.dead_timeout_s))
        + _attribute(BACKEND, _text(device.backend))
    )


def _sockets(descriptors: Iterable[int]) -> bytes:
    items = (_attribute(_SOCKET_FD, _U32.pack(each)) for each in descriptors)
    packed = b"".join(_attribute(_SOCKET_ITEM | _NESTED, item) for item in items)
    return _attribute(SOCKETS | _NESTED, packed)


def _message(kind: int, command: int, sequence: int, body: bytes) -> bytes:
    length = HEADER.size + GENERIC.size + len(body)
    head = HEADER.pack(length, kind, _REQUEST | _ACK, sequence, 0)
    return head + GENERIC.pack(command, _VERSION, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    length = ATTRIBUTE.size + len(data)
    return ATTRIBUTE.pack(length, kind) + data + bytes(_padded(length) - length)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = _unpack(ATTRIBUTE, data)
        if not ATTRIBUTE.size <= length <= len(data):
            raise ValueError(f"an attribute of {length} bytes in {len(data)}")
        yield kind & _TYPE_MASK, data[ATTRIBUTE.size : length]
        data = data[_padded(length) :]


def _unpack(layout: Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise ValueError(f"{len(data)} bytes where {layout.size} are needed")
    return layout.unpack_from(data)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _padded(length: int) -> int:
    return (length + 3) & ~3

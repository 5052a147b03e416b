"""A fake wire: the client's half against the server's, in memory, in fragments of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.exports import Export
from duplexd.nbd.handshake import TRANSMISSION, Handshake
from duplexd.nbd.offers import NO_OFFERS, Offers
from duplexd.nbd.transmission import RECEIVE_BYTES_MIN, Receiver, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from duplexd.nbd.client import NbdClient
    from duplexd.nbd.client_replies import Reply
    from duplexd.nbd.offers import Tls
    from duplexd.nbd.transmission import Request

FLAGS = (
    c.FLAG_HAS_FLAGS
    | c.FLAG_SEND_FLUSH
    | c.FLAG_SEND_FUA
    | c.FLAG_SEND_TRIM
    | c.FLAG_SEND_WRITE_ZEROES
    | c.FLAG_CAN_MULTI_CONN
)
OPTIONS_MAX = 100
ALL_OFFERS = Offers(structured=True, extended=True, contexts=True)


class FakeExports:
    """Exports by name. `default`: what "" means, the first if it is not changed."""

    def __init__(self, *exports: Export) -> None:
        self.exports = {
            export.name: export
            for export in exports
            or (Export("data", 1 << 20, FLAGS, "the data"), Export("wal", 4096, FLAGS))
        }
        self.default = next(iter(self.exports))

    def find(self, name: str) -> Export | None:
        return self.exports.get(name or self.default)

    def names(self) -> list[str]:
        return list(self.exports)


def pieces(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """`data` cut into pieces of these sizes, the last takes the rest."""
    for size in sizes:
        if not data:
            return
        yield data[:size]
        data = data[size:]
    if data:
        yield data


def haggle(
    data: bytes,
    sizes: Iterable[int] = (),
    options_max: int = OPTIONS_MAX,
    *,
    offers: Offers = NO_OFFERS,
    tls: Tls = "off",
    exports: FakeExports | None = None,
) -> tuple[Handshake, bytes]:
    """A server's handshake fed with `data`; its replies joined."""
    handshake = Handshake(exports or FakeExports(), options_max, offers=offers, tls=tls)
    answer = b"".join(answered(handshake, piece) for piece in pieces(data, sizes))
    return handshake, answer


def answered(handshake: Handshake, data: bytes) -> bytes:
    """What a handshake that goes on answers to `data`."""
    handshake.receive(data)
    answer = b""
    while (messages := handshake.advance()) is not None:
        answer += b"".join(messages)
    return answer


def replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """(option, reply, data) of each option reply."""
    found = []
    while data:
        magic, option, reply, length = m.OPTION_REPLY.unpack_from(data)
        assert magic == c.OPTION_REPLY_MAGIC
        found.append((option, reply, data[m.OPTION_REPLY.size : m.OPTION_REPLY.size + length]))
        data = data[m.OPTION_REPLY.size + length :]
    return found


def outcomes(data: bytes) -> list[tuple[int, int]]:
    """(option, reply) of each option reply."""
    return [(option, reply) for option, reply, _ in replies(data)]


def put(receiver: Receiver, data: bytes) -> list[Request]:
    """Fill the receive buffer as a socket would; payloads are copied, since their views do not
    last.
    """
    requests: list[Request] = []
    rest = memoryview(data)
    while rest:
        buffer = receiver.buffer()
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        rest = rest[count:]
        for *fields, payload in receiver.received(count):
            kept = None if payload is None else bytearray(payload)
            requests.append((*fields, kept))  # type: ignore[arg-type]
    return requests


class MemoryServer:
    """A whole server on the pure halves: one volume in memory."""

    def __init__(self) -> None:
        self.handshake = Handshake(FakeExports(), OPTIONS_MAX)
        self.receiver = Receiver(RECEIVE_BYTES_MIN)
        self.image = bytearray(1 << 20)
        self.seen: list[Request] = []

    def greeting(self) -> bytes:
        return self.handshake.greeting()

    def receive(self, data: bytes) -> bytes:
        if self.handshake.state == TRANSMISSION:
            return self._serve(data)
        answer = answered(self.handshake, data)
        if self.handshake.state == TRANSMISSION:
            answer += self._serve(self.handshake.rest())
        return answer

    def _serve(self, data: bytes) -> bytes:
        requests = put(self.receiver, data)
        self.seen += requests
        return b"".join(self._reply(request) for request in requests if request[1] != c.CMD_DISC)

    def _reply(self, request: Request) -> bytes:
        flags, command, cookie, offset, length, payload = request
        assert self.handshake.export is not None
        error = refusal(
            flags, command, offset, length, self.handshake.export.size, self.handshake.export.flags
        )
        if error:
            return m.simple_reply(error, cookie)
        if command == c.CMD_READ:
            return m.simple_reply(0, cookie) + self.image[offset : offset + length]
        if command in {c.CMD_WRITE, c.CMD_WRITE_ZEROES, c.CMD_TRIM}:
            self.image[offset : offset + length] = payload or bytes(length)
        return m.simple_reply(0, cookie)


def talk(
    client: NbdClient, server: MemoryServer, to_client: int = 1 << 30, to_server: int = 1 << 30
) -> list[Reply]:
    """Carry bytes both ways, in pieces of these sizes, until both are quiet."""
    replies: list[Reply] = []
    waiting = server.greeting() if not client.ready else b""
    while True:
        for start in range(0, len(waiting), to_client):
            replies += client.receive(waiting[start : start + to_client])
        request = client.data_to_send()
        waiting = b"".join(
            server.receive(request[start : start + to_server])
            for start in range(0, len(request), to_server)
        )
        if not waiting:
            return replies

"""A socket and the tables of the specification: what no other client here can do, too."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.matrix import features as f
from tests.support.matrix.rig import FIXED, GIB, MIB, NAMED, SMALL, UNKNOWN
from tests.support.nbd_chunks import ChunkReader, read_from
from tests.support.prober.talk import contexts, extended_request, named, option, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.matrix.rig import Rig
    from tests.support.nbd_chunks import Chunk

READ, WRITE, DISC, FLUSH, TRIM, _CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, _REQ_ONE, FAST_ZERO, PAYLOAD = (1 << bit for bit in range(6))
EXPORT_NAME, LIST, STARTTLS, GO, STRUCTURED, SET_META, EXTENDED = 1, 3, 5, 7, 8, 10, 11
_REPLY = struct.Struct(">QIII")
ACK, ERR_UNKNOWN = 1, (1 << 31) + 6
SECONDS_MAX = 60.0


def _version() -> str:
    return f"Python {sys.version_info.major}.{sys.version_info.minor}"


CLIENT = f.Client("raw", "raw socket", _version)


class RefusedError(Exception):
    """An option; its reply."""


class Raw:
    """One connection. Requests go one at a time; every reply is checked for its form."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.extended = self.structured = False
        self._chunks = ChunkReader()
        assert self.exactly(18)[:8] == b"NBDMAGIC"
        sock.sendall(struct.pack(">I", 3))

    def exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self.sock.recv(min(length - len(data), 1 << 20))
            if not piece:
                raise ConnectionError("the server hung up")
            data += piece
        return bytes(data)

    def ask(self, number: int, data: bytes = b"") -> list[bytes]:
        """The data of the replies to an option."""
        self.sock.sendall(option(number, data))
        found: list[bytes] = []
        while True:
            _magic, answered, reply, length = _REPLY.unpack(self.exactly(_REPLY.size))
            assert answered == number
            payload = self.exactly(length)
            if reply == ACK:
                return found
            if reply >> 31:
                raise RefusedError(reply)
            found.append(payload)

    def secure(self, context: ssl.SSLContext) -> str | None:
        """STARTTLS; the version of TLS."""
        self.ask(STARTTLS)
        secured = context.wrap_socket(self.sock, server_hostname="localhost")
        self.sock = secured
        return secured.version()

    def go(self, name: str, *, structured: bool = False, extended: bool = False) -> int:
        """The size."""
        self.structured, self.extended = structured, extended
        if structured:
            self.ask(STRUCTURED)
        if extended:
            self.ask(EXTENDED)
        if structured or extended:
            self.ask(SET_META, contexts(name.encode(), b"base:allocation"))
        (information,) = self.ask(GO, named(name.encode()))
        return int(struct.unpack(">HQH", information)[1])

    def do(
        self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, data: bytes = b""
    ) -> list[Chunk]:
        """The chunks of the reply; a simple one is a chunk of kind -1."""
        if self.extended:
            flags |= PAYLOAD if command == WRITE else 0
            made = extended_request(command, offset, length, flags=flags, cookie=1)
        else:
            made = request(command, offset, length, flags=flags, cookie=1)
        self.sock.sendall(made + data)
        chunks: list[Chunk] = []
        while not chunks or not chunks[-1].done:
            piece = self.sock.recv(4 << 20)
            if not piece:
                raise ConnectionError("the server hung up")
            chunks += self._chunks.feed(piece)
        assert chunks[-1].cookie == 1
        return chunks

    def change(self, command: int, offset: int, length: int, flags: int = 0) -> int:
        """The error of a request without data."""
        return self.do(command, offset, length, flags=flags)[-1].error

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        error = self.do(WRITE, offset, len(data), flags=flags, data=data)[-1].error
        if error:
            raise OSError(error, "refused")

    def read(self, offset: int, length: int) -> bytes:
        """By a simple reply, or by chunks that cover the range once."""
        if not self.structured and not self.extended:
            self.sock.sendall(request(READ, offset, length, cookie=1))
            _magic, error, _cookie = struct.unpack(">IIQ", self.exactly(16))
            assert not error, error
            return self.exactly(length)
        return read_from(self.do(READ, offset, length), offset, length)

    def close(self) -> None:
        self.sock.sendall(request(DISC) if not self.extended else extended_request(DISC))
        self.sock.close()


@contextmanager
def connected(where: str | tuple[str, int]) -> Iterator[Raw]:
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(SECONDS_MAX)
        sock.connect(where)
        yield Raw(sock)


@contextmanager
def opened(
    rig: Rig, name: str = CLIENT.key, *, structured: bool = False, extended: bool = False
) -> Iterator[Raw]:
    with connected(rig.socket) as raw:
        raw.go(name, structured=structured, extended=extended)
        yield raw
        raw.close()


def _writes(raw: Raw) -> None:
    data = bytes(range(256)) * 256
    raw.write(4096, data)
    assert raw.read(4096, len(data)) == data


@CLIENT.can(f.UNIX)
def _unix(rig: Rig) -> None:
    with opened(rig) as raw:
        _writes(raw)


@CLIENT.can(f.TCP)
def _tcp(rig: Rig) -> None:
    with connected(("127.0.0.1", rig.port)) as raw:
        raw.go(CLIENT.key)
        _writes(raw)


def _secure(rig: Rig, version: ssl.TLSVersion, expected: str) -> None:
    context = rig.certificates.context(rig.certificates.client("raw"))
    context.minimum_version = context.maximum_version = version
    with connected(("127.0.0.1", rig.secure_port)) as raw:
        assert raw.secure(context) == expected
        raw.go(CLIENT.key)
        _writes(raw)
        raw.sock.close()


@CLIENT.can(f.TLS12)
def _tls12(rig: Rig) -> None:
    _secure(rig, ssl.TLSVersion.TLSv1_2, "TLSv1.2")


@CLIENT.can(f.TLS13)
def _tls13(rig: Rig) -> None:
    _secure(rig, ssl.TLSVersion.TLSv1_3, "TLSv1.3")


@CLIENT.can(f.NAMES)
def _names(rig: Rig) -> None:
    with connected(rig.socket) as raw:
        for name in UNKNOWN:
            with pytest.raises(RefusedError) as refused:
                raw.go(name)
            assert refused.value.args == (ERR_UNKNOWN,)
    for name in NAMED:
        with connected(rig.socket) as raw:
            assert raw.go(name) == SMALL


@CLIENT.can(f.LIST)
def _list(rig: Rig) -> None:
    with connected(rig.socket) as raw:
        entries = raw.ask(LIST)
    names = {entry[4 : 4 + int.from_bytes(entry[:4], "big")].decode() for entry in entries}
    assert names == {*rig.files.volumes, FIXED}


@CLIENT.can(f.EXPORT_NAME)
def _export_name(rig: Rig) -> None:
    with connected(rig.socket) as raw:
        raw.sock.sendall(option(EXPORT_NAME, CLIENT.key.encode()))
        size, _flags = struct.unpack(">QH", raw.exactly(10))
        assert size == rig.files.volumes[CLIENT.key]
        _writes(raw)


@CLIENT.can(f.READ_ONLY)
def _read_only(rig: Rig) -> None:
    with opened(rig, FIXED) as raw:
        assert raw.read(0, 512) == bytes(512)
        assert raw.do(WRITE, 0, 1, data=b"x")[0].error == errno.EPERM
        assert [raw.change(command, 0, 512) for command in (TRIM, ZEROES)] == [errno.EPERM] * 2
        assert raw.change(FLUSH, 0, 0) == 0


@CLIENT.can(f.FLUSH)
def _flush(rig: Rig) -> None:
    with opened(rig) as raw:
        raw.write(0, b"f" * 512, FUA)
        assert raw.change(ZEROES, 512, 512, FUA) == raw.change(FLUSH, 0, 0) == 0
        assert raw.read(0, 1024) == b"f" * 512 + bytes(512)


@CLIENT.can(f.TRIM)
def _trim(rig: Rig) -> None:
    with opened(rig) as raw:
        raw.write(0, b"t" * 65536)
        assert raw.change(TRIM, 0, 32768) == 0
        assert raw.read(32768, 32768) == b"t" * 32768


@CLIENT.can(f.TRIM_4G)
def _trim_4g(rig: Rig) -> None:
    with opened(rig) as raw:
        raw.write((1 << 32) - 512, b"t" * 1024)
        assert raw.change(TRIM, 0, (1 << 32) - 512) == raw.change(FLUSH, 0, 0) == 0
        assert raw.read((1 << 32) - 512, 1024) == b"t" * 1024


@CLIENT.can(f.ZEROES)
def _zeroes(rig: Rig) -> None:
    with opened(rig) as raw:
        raw.write(0, b"z" * 65536)
        for at, flags in ((4096, 0), (16384, NO_HOLE), (32768, FAST_ZERO)):
            assert raw.change(ZEROES, at, 4096, flags) == 0
            assert raw.read(at - 1, 4098) == b"z" + bytes(4096) + b"z"
        assert raw.change(ZEROES, 0, 1, NO_HOLE | FAST_ZERO) == errno.ENOTSUP


def _sparse(raw: Raw) -> None:
    assert raw.change(TRIM, 0, 8 * MIB) == 0
    raw.write(MIB, b"d" * 65536)


@CLIENT.can(f.STRUCTURED)
def _structured(rig: Rig) -> None:
    with opened(rig, structured=True) as raw:
        _sparse(raw)
        assert raw.read(0, 4 * MIB) == bytes(MIB) + b"d" * 65536 + bytes(3 * MIB - 65536)
        (chunk,) = raw.do(READ, 0, 4 * MIB, flags=DF)
        assert chunk.content[0] == 0
        assert len(chunk.content[1]) == 4 * MIB


@CLIENT.can(f.STATUS)
def _status(rig: Rig) -> None:
    with opened(rig, structured=True) as raw:
        _sparse(raw)
        (chunk,) = raw.do(STATUS, 0, 4 * MIB)
        assert chunk.statuses[1] == [(MIB, 3), (65536, 0), (3 * MIB - 65536, 3)]


@CLIENT.can(f.EXTENDED)
def _extended(rig: Rig) -> None:
    with opened(rig, extended=True) as raw:
        size = 5 * GIB
        assert raw.change(ZEROES, 0, size) == raw.change(TRIM, 0, size) == 0
        raw.write(size - 65536, b"e" * 65536)
        assert raw.read(size - 65537, 65537) == b"\0" + b"e" * 65536
        (chunk,) = raw.do(STATUS, 0, size)
        assert chunk.statuses[1] == [(size - 65536, 3), (65536, 0)]


@CLIENT.can(f.UNALIGNED)
def _unaligned(rig: Rig) -> None:
    with opened(rig) as raw:
        raw.write(0, bytes(64))
        raw.write(5, b"abc")
        assert raw.change(ZEROES, 6, 1) == raw.change(TRIM, 40, 1) == 0
        assert raw.read(4, 5) == b"\0a\0c\0"


def _large(rig: Rig, mib: int) -> None:
    data = bytes(range(256)) * (mib << 12)
    with opened(rig) as raw:
        raw.write(777, data)
        assert raw.read(777, len(data)) == data


@CLIENT.can(f.MIB_32)
def _mib_32(rig: Rig) -> None:
    _large(rig, 32)


@CLIENT.can(f.MIB_64)
def _mib_64(rig: Rig) -> None:
    _large(rig, 64)


@CLIENT.can(f.FOUR)
def _four(rig: Rig) -> None:
    with opened(rig) as one, opened(rig) as two, opened(rig) as three, opened(rig) as four:
        for number, raw in enumerate((one, two, three, four)):
            raw.write(number * MIB, bytes([number + 1]) * 4096)
        assert four.change(FLUSH, 0, 0) == 0
        for number in range(4):
            assert one.read(number * MIB, 1) == bytes([number + 1])

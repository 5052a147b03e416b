"""One conversation with a server, and its answers in words.

An odd input comes behind a plain beginning, and is followed by something harmless whose answer is
known: who answers that has kept in step with the stream. Options are answered in order. Requests
are not, so after the harmless one the answers to the odd ones are waited for, then comes DISC, and
our side closes; so time plays a part only where a server does not answer at all.

| beginning | what is sent before the odd input |
|---|---|
| CONNECT | nothing; the server's greeting is read |
| HAGGLE | client flags |
| HAGGLE_STRUCTURED | client flags, STRUCTURED_REPLY |
| SIMPLE | as HAGGLE, GO |
| STRUCTURED | as HAGGLE_STRUCTURED, `base:allocation`, GO |
| EXTENDED | client flags, EXTENDED_HEADERS, `base:allocation`, GO |
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from itertools import groupby
from struct import Struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

EXPORT = "data"
EXPORT_BYTES = 256 << 20
SECONDS_MAX = 20.0
QUIET_SECONDS = 8.0  # a request that has no answer by then gets none

CONNECT, HAGGLE, HAGGLE_STRUCTURED = "connect", "haggle", "haggle, structured"
SIMPLE, STRUCTURED, EXTENDED = "simple", "structured", "extended"

GREETING_BYTES = 18
OPTION_MAGIC, OPTION_REPLY_MAGIC = 0x49484156454F5054, 0x0003E889045565A9
REQUEST_MAGIC, EXTENDED_REQUEST_MAGIC = 0x25609513, 0x21E41C71
SIMPLE_MAGIC, CHUNK_MAGIC, EXTENDED_MAGIC = 0x67446698, 0x668E33EF, 0x6E8A278C
FLAGS = Struct(">I").pack(3)
NO_SUCH_OPTION = 0x1DEA
HARMLESS_COOKIE, FIRST_COOKIE, SECOND_COOKIE = 0xF011, 0xC001, 0xC002

_OPTION, _OPTION_REPLY = Struct(">QII"), Struct(">QIII")
_REQUEST, _EXTENDED_REQUEST = Struct(">IHHQQI"), Struct(">IHHQQQ")
_SIMPLE, _CHUNK, _EXTENDED = Struct(">IIQ"), Struct(">IHHQI"), Struct(">IHHQQQ")
_U16, _U32 = Struct(">H"), Struct(">I")
OPTION_REPLY_BYTES = _OPTION_REPLY.size

_REPLIES = {1: "ACK", 2: "SERVER", 3: "INFO", 4: "META_CONTEXT"}
_ERRORS = ("UNSUP", "POLICY", "INVALID", "PLATFORM", "TLS_REQD", "UNKNOWN", "SHUTDOWN",
           "BLOCK_SIZE_REQD", "TOO_BIG", "EXT_HEADER_REQD")  # fmt: skip
_CHUNKS = {0: "NONE", 1: "DATA", 2: "HOLE", 5: "STATUS", 6: "STATUS_EXT"}
_CHUNK_ERRORS = frozenset({(1 << 15) + 1, (1 << 15) + 2})
CMD_READ, CMD_DISC = 0, 2
TLS_ALERT = 21  # the type of a record

CLOSES, GOES_ON, HANGS = "closes", "goes on", "hangs"


@dataclass(frozen=True)
class Odd:
    """One odd input. `reads`: cookie and length of the READs in it, whose simple replies have data.
    `answers`: to requests. `last`: the conversation ends with it: nothing harmless follows.
    `racing`: what a server answers may depend on how fast it is.
    """

    name: str
    beginning: str
    data: bytes
    reads: tuple[tuple[int, int], ...] = ()
    answers: int = 1
    last: bool = False
    racing: bool = False


def option(number: int, data: bytes = b"", length: int | None = None) -> bytes:
    """An option, of a `length` that may be a lie."""
    return _OPTION.pack(OPTION_MAGIC, number, len(data) if length is None else length) + data


HARMLESS = option(NO_SUCH_OPTION)


def request(
    command: int,
    offset: int = 0,
    length: int = 0,
    *,
    flags: int = 0,
    cookie: int = FIRST_COOKIE,
    data: bytes = b"",
    magic: int = REQUEST_MAGIC,
) -> bytes:
    """A compact request."""
    return _REQUEST.pack(magic, flags, command, cookie, offset, length) + data


def extended_request(
    command: int, offset: int = 0, length: int = 0, *, flags: int = 0, cookie: int = FIRST_COOKIE,
    data: bytes = b"",
) -> bytes:  # fmt: skip
    """A request with extended headers."""
    return (
        _EXTENDED_REQUEST.pack(EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length)
        + data
    )


def named(name: bytes, *kinds: int, length: int | None = None, count: int | None = None) -> bytes:
    """Data of GO and INFO."""
    return (
        _U32.pack(len(name) if length is None else length)
        + name
        + _U16.pack(len(kinds) if count is None else count)
        + b"".join(_U16.pack(kind) for kind in kinds)
    )


def contexts(name: bytes, *queries: bytes, count: int | None = None) -> bytes:
    """Data of SET_META_CONTEXT and LIST_META_CONTEXT."""
    return (
        _U32.pack(len(name))
        + name
        + _U32.pack(len(queries) if count is None else count)
        + b"".join(_U32.pack(len(query)) + query for query in queries)
    )


class NotOfferedError(Exception):
    """The server has not got what the conversation needs."""


def converse(path: str, odd: Odd) -> str:
    """What the server at the Unix socket answers to the odd input, and whether it goes on."""
    haggling = odd.beginning in {CONNECT, HAGGLE, HAGGLE_STRUCTURED}
    answers: Answers = Options() if haggling else Replies(odd)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS_MAX)
        sock.connect(path)
        try:
            _begin(sock, odd.beginning)
        except NotOfferedError as error:
            return str(error)
        try:
            sock.sendall(odd.data)
            if not odd.last:
                sock.sendall(_harmless(odd.beginning))
            if not odd.last and not haggling:
                receive(sock, answers, QUIET_SECONDS)
                sock.sendall(_request_of(odd.beginning)(CMD_DISC))
            sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it closed before it had read everything; what it has sent can be read
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                return HANGS
        if not receive(sock, answers, SECONDS_MAX):
            return HANGS
    return answers.in_words(odd.last)


def receive(sock: socket.socket, answers: Answers, seconds: float) -> bool:
    """Read until the answers are complete, or the server has closed or is quiet; whether it has
    closed.
    """
    sock.settimeout(seconds)
    while True:
        try:
            piece = sock.recv(1 << 20)
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        if not piece:
            return True
        answers.take(piece)
        if answers.complete and seconds != SECONDS_MAX:
            return False


def _begin(sock: socket.socket, beginning: str) -> None:
    exactly(sock, GREETING_BYTES)
    if beginning == CONNECT:
        return
    sock.sendall(FLAGS)
    if beginning in {HAGGLE_STRUCTURED, STRUCTURED}:
        negotiate(sock, 8, b"", "no structured replies")
    elif beginning == EXTENDED:
        negotiate(sock, 11, b"", "no extended headers")
    if beginning in {STRUCTURED, EXTENDED}:
        negotiate(sock, 10, contexts(EXPORT.encode(), b"base:allocation"), "no contexts")
    if beginning in {SIMPLE, STRUCTURED, EXTENDED}:
        negotiate(sock, 7, named(EXPORT.encode()), "no GO")


def negotiate(
    sock: socket.socket, number: int, data: bytes, otherwise: str, before: bytes = b""
) -> None:
    """Send an option, behind others; return when it is acknowledged."""
    sock.sendall(before + option(number, data))
    while True:
        _magic, answered, reply, length = _OPTION_REPLY.unpack(exactly(sock, _OPTION_REPLY.size))
        exactly(sock, length)
        if answered != number:
            continue
        if reply == 1:
            return
        if reply >> 31:
            raise NotOfferedError(otherwise)


def _harmless(beginning: str) -> bytes:
    if beginning in {CONNECT, HAGGLE, HAGGLE_STRUCTURED}:
        return HARMLESS
    return _request_of(beginning)(CMD_READ, 0, 512, cookie=HARMLESS_COOKIE)


def _request_of(beginning: str) -> Callable[..., bytes]:
    return extended_request if beginning == EXTENDED else request


def exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise NotOfferedError("closes before")
        data += piece
    return data


class Answers(Protocol):
    """What a server has sent behind the beginning. `complete`: nothing more is expected."""

    complete: bool

    def take(self, data: bytes) -> None: ...

    def in_words(self, last: bool) -> str: ...


class Options:
    """The replies to options, until the harmless one is answered."""

    def __init__(self) -> None:
        self.complete = False
        self._data = b""
        self._words: list[str] = []

    def take(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= _OPTION_REPLY.size and not self.complete:
            magic, number, reply, length = _OPTION_REPLY.unpack_from(self._data)
            if magic != OPTION_REPLY_MAGIC or len(self._data) < _OPTION_REPLY.size + length:
                return
            self._data = self._data[_OPTION_REPLY.size + length :]
            if number == NO_SUCH_OPTION:
                self.complete = True
            else:
                self._words.append(_option_reply(reply))

    def in_words(self, last: bool) -> str:
        # the reply to EXPORT_NAME has no header
        rest = [f"{len(self._data)} bytes"] if self._data and not self.complete else []
        if rest and self._data[0] == TLS_ALERT:
            rest = ["TLS alert"]
        return _summary(_joined([*self._words, *rest]), self.complete, last)


class Replies:
    """The replies to requests: by cookie, in the order of the cookies."""

    def __init__(self, odd: Odd) -> None:
        self.complete = False
        self._reads = {**dict(odd.reads), HARMLESS_COOKIE: 512}
        self._expected = odd.answers + 1
        self._answered = 0
        self._words: dict[int, list[str]] = {}
        self._data = bytearray()

    def take(self, data: bytes) -> None:
        self._data += data
        while (size := self._one()) is not None:
            del self._data[:size]
        self.complete = self._answered >= self._expected and HARMLESS_COOKIE in self._words

    def in_words(self, last: bool) -> str:
        harmless = self._words.pop(HARMLESS_COOKIE, [])
        goes_on = bool(harmless) and harmless[0] in {"OK", "DATA", "HOLE"}
        each = groupby(_joined(self._words[cookie]) for cookie in sorted(self._words))
        counted = ((word, len(list(alike))) for word, alike in each)
        words = " / ".join(f"{count} x {word}" if count > 1 else word for word, count in counted)
        return _summary(words, goes_on, last)

    def _one(self) -> int | None:
        """Take one reply; its size, None if it is not complete."""
        data = self._data
        magic = _U32.unpack_from(data)[0] if len(data) >= _SIMPLE.size else 0
        done = 1
        if magic == SIMPLE_MAGIC:
            _, error, cookie = _SIMPLE.unpack_from(data)
            size, word = _SIMPLE.size, _error(error)
            length = 0 if error else self._reads.get(cookie, 0)
        elif magic == CHUNK_MAGIC and len(data) >= _CHUNK.size:
            _, done, kind, cookie, length = _CHUNK.unpack_from(data)
            size = _CHUNK.size
            word = _chunk(kind, data, size) if len(data) >= size + length else ""
        elif magic == EXTENDED_MAGIC and len(data) >= _EXTENDED.size:
            _, done, kind, cookie, _offset, length = _EXTENDED.unpack_from(data)
            size = _EXTENDED.size
            word = _chunk(kind, data, size) if len(data) >= size + length else ""
        else:
            return None
        if len(data) < size + length:
            return None
        self._answered += done & 1
        self._words.setdefault(cookie, []).append(word)
        return int(size + length)


def _summary(words: str, goes_on: bool, last: bool) -> str:
    if last:
        return words or CLOSES
    if goes_on:
        return words or GOES_ON
    return f"{words}, {CLOSES}" if words else CLOSES


def _option_reply(reply: int) -> str:
    if not reply >> 31:
        return _REPLIES.get(reply, str(reply))
    code = (reply & 0x7FFFFFFF) - 1
    return f"ERR_{_ERRORS[code]}" if code < len(_ERRORS) else f"ERR_{code + 1}"


def _chunk(kind: int, data: bytearray, start: int) -> str:
    if kind in _CHUNK_ERRORS:
        return _error(_U32.unpack_from(data, start)[0])
    return _CHUNKS.get(kind, f"chunk {kind}")


def _error(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else "OK"


def _joined(words: list[str]) -> str:
    """Repeated words once: how an answer is divided is not compared."""
    return " ".join(word for word, _ in groupby(words))

"""Odd inputs around STARTTLS, for a listener that requires TLS and for one that offers it, and the
conversation that they are sent in.

| beginning | what is sent before the odd input |
|---|---|
| REQUIRED, OPTIONAL | client flags; all is in plain text |
| REQUIRED_UP, OPTIONAL_UP | client flags, `before`, STARTTLS; then TLS is up |

Over TLS an ABORT follows the harmless option, because half of a TLS connection cannot be closed.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.prober.haggling import (
    ABORT,
    EXPORT_NAME,
    EXTENDED_HEADERS,
    GO,
    INFO,
    LIST,
    LIST_META,
    NAME,
    SET_META,
    STARTTLS,
    STRUCTURED_REPLY,
)
from tests.support.prober.talk import (
    CMD_DISC,
    CMD_READ,
    FLAGS,
    GREETING_BYTES,
    HANGS,
    HARMLESS,
    OPTION_REPLY_BYTES,
    SECONDS_MAX,
    Odd,
    Options,
    contexts,
    exactly,
    named,
    negotiate,
    option,
    receive,
    request,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUIRED, OPTIONAL = "TLS required", "TLS optional"
REQUIRED_UP, OPTIONAL_UP = "over TLS", "over TLS, optional"
# The listener that each needs
LISTENERS = {
    REQUIRED: "required", REQUIRED_UP: "required", OPTIONAL: "optional", OPTIONAL_UP: "optional",
}  # fmt: skip
_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506)
_DISC = request(CMD_DISC)


@dataclass(frozen=True)
class OddTls(Odd):
    """`then` is sent when the first answer to `data` has come, which has no data of its own.
    `in_plain`: `data` is sent beside TLS, which is up.
    """

    before: bytes = b""
    then: bytes = b""
    in_plain: bool = False


def converse_tls(path: str, odd: OddTls, client: ssl.SSLContext) -> str:
    """See `converse`."""
    answers, closed = Options(), True
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS_MAX)
        sock.connect(path)
        exactly(sock, GREETING_BYTES)
        sock.sendall(FLAGS)
        if odd.beginning in {REQUIRED, OPTIONAL}:
            with _may_close():
                _send_in_plain_text(sock, odd, answers)
            closed = receive(sock, answers, SECONDS_MAX)
        else:
            negotiate(sock, STARTTLS, b"", "no TLS", before=odd.before)
            with client.wrap_socket(sock) as secure, _may_close():
                _send_over_tls(secure, odd)
                closed = receive(secure, answers, SECONDS_MAX)
    return answers.in_words(odd.last) if closed else HANGS


@contextmanager
def _may_close() -> Iterator[None]:
    """The server may close before it has read everything; over TLS it need not say so."""
    try:
        yield
    except (ConnectionError, ssl.SSLError):
        pass
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise


def _send_in_plain_text(sock: socket.socket, odd: OddTls, answers: Options) -> None:
    sock.sendall(odd.data)
    if odd.then:
        answers.take(exactly(sock, OPTION_REPLY_BYTES))
        sock.sendall(odd.then)
    if not odd.last:
        sock.sendall(HARMLESS)
    sock.shutdown(socket.SHUT_WR)


def _send_over_tls(sock: ssl.SSLSocket, odd: OddTls) -> None:
    if odd.in_plain:
        os.write(sock.fileno(), odd.data)
    else:
        sock.sendall(odd.data if odd.last else odd.data + HARMLESS + option(ABORT))


def _asked(beginning: str) -> Iterator[OddTls]:
    """Options in plain text, each in step with what follows."""
    allocation = contexts(NAME, b"base:allocation")
    for name, number, data in (
        ("LIST", LIST, b""),
        ("LIST with data", LIST, b"x"),
        ("INFO", INFO, named(NAME)),
        ("INFO of an unknown export", INFO, named(b"nosuch")),
        ("STRUCTURED_REPLY", STRUCTURED_REPLY, b""),
        ("EXTENDED_HEADERS", EXTENDED_HEADERS, b""),
        ("LIST_META_CONTEXT", LIST_META, allocation),
        ("SET_META_CONTEXT", SET_META, allocation),
        ("unknown option 99", 99, b""),
        ("unknown option with 70 KiB", 99, bytes(70 << 10)),
        ("STARTTLS with data", STARTTLS, b"x"),
        ("ABORT", ABORT, b""),
    ):
        yield OddTls(name, beginning, option(number, data))
    yield OddTls("GO", beginning, option(GO, named(NAME)) + _DISC, last=True)
    yield OddTls("GO of an unknown export", beginning, option(GO, named(b"nosuch")))
    yield OddTls("EXPORT_NAME", beginning, option(EXPORT_NAME, NAME) + _DISC, last=True)
    unknown = option(EXPORT_NAME, b"nosuch")
    yield OddTls("EXPORT_NAME of an unknown export", beginning, unknown, last=True)
    yield OddTls("a request", beginning, request(CMD_READ, 0, 512))


def _in_between(beginning: str) -> Iterator[OddTls]:
    """STARTTLS, and something else than TLS."""
    start, go = option(STARTTLS), option(GO, named(NAME))
    yield OddTls("STARTTLS, then the end", beginning, start, last=True)
    yield OddTls("STARTTLS twice at once", beginning, start * 2, last=True)
    yield OddTls("STARTTLS and GO at once", beginning, start + go, last=True)
    yield OddTls("STARTTLS and ABORT at once", beginning, start + option(ABORT), last=True)
    yield OddTls("STARTTLS and a TLS hello at once", beginning, start + _HELLO, last=True)
    for name, then in (
        ("GO in plain text", go),
        ("STARTTLS in plain text", start),
        ("half of a TLS hello", _HELLO[:100]),
        ("1 MiB of zeroes", bytes(1 << 20)),
    ):
        long = len(then) > len(_HELLO)  # the server may close before all of it is there
        yield OddTls(f"STARTTLS, then {name}", beginning, start, last=True, then=then, racing=long)


def _secure(beginning: str) -> Iterator[OddTls]:
    """TLS is up."""
    allocation = option(SET_META, contexts(NAME, b"base:allocation"))
    yield OddTls("LIST", beginning, option(LIST))
    yield OddTls("STARTTLS", beginning, option(STARTTLS))
    yield OddTls("STARTTLS with data", beginning, option(STARTTLS, b"x"))
    yield OddTls("unknown option 99", beginning, option(99))
    yield OddTls("ABORT", beginning, option(ABORT), last=True)
    yield OddTls("GO", beginning, option(GO, named(NAME)) + _DISC, last=True)
    yield OddTls("EXPORT_NAME", beginning, option(EXPORT_NAME, NAME) + _DISC, last=True)
    yield OddTls("SET_META_CONTEXT without structured replies", beginning, allocation)
    yield OddTls("a wrong option magic", beginning, bytes(16), last=True)
    yield OddTls("LIST in plain text", beginning, option(LIST), last=True, in_plain=True)
    broken = b"\x17\x03\x03\x00\x20" + bytes(32)
    yield OddTls("a record that is not encrypted", beginning, broken, last=True, in_plain=True)
    yield OddTls("a second TLS hello", beginning, _HELLO, last=True, in_plain=True)


def _forgotten() -> Iterator[OddTls]:
    """What was negotiated before TLS."""
    allocation = option(SET_META, contexts(NAME, b"base:allocation"))
    structured = option(STRUCTURED_REPLY)
    yield OddTls(
        "SET_META_CONTEXT, STRUCTURED_REPLY in plain text", OPTIONAL_UP, allocation,
        before=structured,
    )  # fmt: skip
    yield OddTls("STRUCTURED_REPLY, again", OPTIONAL_UP, structured, before=structured)


def all_of_tls() -> list[OddTls]:
    return [
        *_asked(REQUIRED), *_in_between(REQUIRED), *_secure(REQUIRED_UP),
        *_asked(OPTIONAL), *_in_between(OPTIONAL), *_secure(OPTIONAL_UP), *_forgotten(),
    ]  # fmt: skip

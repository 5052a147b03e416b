"""A search that sees which lines an input reaches, and keeps those that reach more: `make fuzz`.

It never ends by itself; `make fuzz ARGS="-runs=10000000"` says when to. An input that breaks
`invariants.py`, takes five seconds or makes the process grow over 512 MiB ends it, and is kept in
./crash-*, ./slow-unit-* or ./oom-*. What it found worth keeping is in `.fuzz/`, where the next run
begins. Options are those of libFuzzer.

The first bytes of an input say what it is for, and how it is cut; the rest is what a client sends,
which begins with a good header: the search would have to find the magic numbers, which are not what
is in doubt.
"""

from __future__ import annotations

import sys
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

with atheris.instrument_imports(include=["duplexd.nbd"]):
    from duplexd.nbd import constants as c
    from duplexd.nbd import messages as m
    from duplexd.nbd.extended import ExtendedReceiver
    from duplexd.nbd.transmission import Receiver

from tests.fuzz.invariants import (
    TLS_MODES,
    any_pieces_answer_a_client_the_same,
    any_pieces_negotiate_the_same,
    any_pieces_request_the_same,
    greeted,
)
from tests.unit.nbd.wire import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = Path(".fuzz")
LIMITS = ("-rss_limit_mb=512", "-timeout=5", "-max_len=600", "-print_final_stats=1")
GREETING = m.greeting(3)


def framed(data: bytes) -> bytes:
    """Options: a byte for the number, one for the length of the data, and the data."""
    options = []
    while len(data) > 1:
        number, length = data[0], data[1]
        body, data = data[2 : 2 + length], data[2 + length :]
        options.append(m.option(number, body))
    return b"".join(options)


def requests(data: bytes, *, extended: bool) -> bytes:
    """Requests: 13 bytes for the fields, and as many bytes of payload as the last one says."""
    made = []
    while len(data) > 12:
        flags, command, size = data[0], data[1], data[12]
        offset, length = m.U64.unpack_from(data, 2)[0], m.U16.unpack_from(data, 10)[0]
        head = m.extended_request if extended else m.request
        payload, data = data[13 : 13 + size], data[13 + size :]
        made.append(head(flags, command, size, offset, length if size == 255 else size) + payload)
    return b"".join(made)


def _sizes(byte: int, data: bytes) -> list[int]:
    """Pieces of one size, or of sizes that the data itself gives."""
    if byte:
        return [byte] * (len(data) // byte)
    return list(islice((1 + each for each in cycle(data or b"x")), 40))


def _negotiate(data: bytes, sizes: list[int], kind: int) -> None:
    middle = len(data) // 2
    plain, secret = data[:middle], data[middle:]
    if kind & 1:
        plain, secret = framed(plain), framed(secret)
    any_pieces_negotiate_the_same(greeted(plain), sizes, TLS_MODES[kind % 3], secret)


def _request(data: bytes, sizes: list[int], kind: int) -> None:
    extended = bool(kind & 2)
    if kind & 1:
        data = requests(data, extended=extended)
    flags = FLAGS | (c.FLAG_READ_ONLY if kind & 4 else 0) | (c.FLAG_SEND_DF if kind & 8 else 0)
    any_pieces_request_the_same(data, sizes, ExtendedReceiver if extended else Receiver, flags)


def _answer(data: bytes, sizes: list[int], kind: int) -> None:
    if kind & 1:
        magic, option = c.OPTION_REPLY_MAGIC, c.OPT_GO
        replies = (m.OPTION_REPLY.pack(magic, option, byte & 7, 0) for byte in data[:20])
        data = b"".join(replies) + data[20:]
    any_pieces_answer_a_client_the_same(GREETING + data, sizes)


KINDS = (_negotiate, _negotiate, _request, _request, _answer)


def one_input(data: bytes) -> None:
    """What an input is for: see above."""
    if len(data) < 3:
        return
    subject, kind, size = data[:3]
    rest = data[3:]
    KINDS[subject % len(KINDS)](rest, _sizes(size, rest), kind)


def beginnings() -> Iterator[bytes]:
    """Inputs that the search begins with: one of each kind that goes a good way."""
    go = m.go_data("data", [c.INFO_BLOCK_SIZE])
    contexts = m.context_data("data", ["base:allocation"])
    options = [
        (c.OPT_STRUCTURED_REPLY, b""), (c.OPT_SET_META_CONTEXT, contexts), (c.OPT_LIST, b""),
        (c.OPT_EXTENDED_HEADERS, b""), (c.OPT_STARTTLS, b""), (c.OPT_GO, go),
    ]  # fmt: skip
    packed = b"".join(bytes([number, len(data)]) + data for number, data in options)
    for kind in (1, 3, 5):
        yield bytes([0, kind, 7]) + packed
    for command in range(8):
        fields = bytes([0, command]) + m.U64.pack(4096) + m.U16.pack(512)
        for kind in (1, 3, 5, 7):
            yield bytes([2, kind, 9]) + (fields + bytes([40]) + bytes(40)) * 3
            yield bytes([2, kind, 0]) + fields + b"\0" + fields + b"\xff"
    information = m.info_export(1 << 20, 1)
    replies = m.option_reply(c.OPT_GO, c.REP_INFO, information) + m.option_reply(
        c.OPT_GO, c.REP_ACK
    )
    yield bytes([4, 0, 11]) + replies + m.simple_reply(0, 1)


def main() -> None:
    KEPT.mkdir(exist_ok=True)
    for number, data in enumerate(beginnings()):
        (KEPT / f"beginning-{number:02}").write_bytes(data)
    atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[1:], str(KEPT)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

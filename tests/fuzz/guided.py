"""A search that sees which lines an input reaches, and keeps those that reach more: `make fuzz`.

It never ends by itself; `make fuzz ARGS="-inputs=10000000"` says when to. What breaks
`invariants.py`, takes five seconds or makes the process grow over 512 MiB ends it, and is kept in
./crash-*, ./slow-unit-* or ./oom-*. What it found worth keeping is in `.fuzz/`, where the next run
begins. Other options are those of libFuzzer.

The search itself takes as long as a short input does, so it is given many at once: a *batch* of
inputs, each behind a byte for its length. Each is a peer of its own, and what is counted.

The first bytes of an input say what it is for, and how it is cut; the rest is what the peer sends,
which begins with a good header: the search would have to find the magic numbers, which are not what
is in doubt. It is cut into few pieces, since each costs time, but into pieces of any size.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

# Whatever imports a module first decides whether the search sees into it
with atheris.instrument_imports(include=["duplexd.nbd"]):
    from duplexd.nbd import constants as c
    from duplexd.nbd import messages as m
    from duplexd.nbd.extended import ExtendedReceiver
    from duplexd.nbd.transmission import Receiver
    from duplexd.nbd.uri import parse_uri
    from tests.fuzz.invariants import (
        TLS_MODES,
        any_pieces_answer_a_client_the_same,
        any_pieces_negotiate_the_same,
        any_pieces_request_the_same,
        any_text_is_an_address_or_refused,
        greeted,
    )
    from tests.unit.nbd.wire import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = Path(".fuzz")
LIMITS = ("-rss_limit_mb=512", "-timeout=5", "-max_len=1500", "-len_control=0")
INPUTS, REPORT_INPUTS = "-inputs=", 250_000
PIECES_MAX = 8
INPUT_BYTES_MIN = 8  # else most would be nearly empty, and count
OPTION_NUMBERS = 16  # there are eleven
PADDED, PADDING_BYTES = (
    0x80,
    256,
)  # a flag of a command's byte, and what its payload is a multiple of
GREETING = m.greeting(3)
BEGINNINGS = ("nbd://", "nbd+unix:///", "nbds://", "nbds+unix://", "nbd:", "")


def framed(data: bytes) -> bytes:
    """Options: a byte for the number, one for the length of the data, and the data."""
    options = []
    while len(data) > 1:
        number, length = data[0] % OPTION_NUMBERS, data[1]
        body, data = data[2 : 2 + length], data[2 + length :]
        options.append(m.option(number, body))
    return b"".join(options)


def requests(data: bytes, *, extended: bool) -> bytes:
    """Requests: 13 bytes for the fields, and as many bytes of payload as the last one says; of
    PADDED commands many times as many, which is what long payloads are.
    """
    made = []
    head = m.extended_request if extended else m.request
    while len(data) > 12:
        flags, command, size = data[0], data[1] & ~PADDED, data[12]
        offset, length = m.U64.unpack_from(data, 2)[0], m.U16.unpack_from(data, 10)[0]
        if data[1] & PADDED:
            size, payload, data = size * PADDING_BYTES, bytes(size * PADDING_BYTES), data[13:]
        else:
            payload, data = data[13 : 13 + size], data[13 + size :]
        made.append(head(flags, command, size, offset, length if size == 255 else size) + payload)
    return b"".join(made)


def _sizes(byte: int, data: bytes) -> list[int]:
    """Pieces of one size, or of sizes that the data itself gives; the last one takes the rest."""
    if byte:
        return [byte] * PIECES_MAX
    return list(islice((1 + each for each in cycle(data or b"x")), PIECES_MAX))


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


def _address(data: bytes, _sizes: list[int], kind: int) -> None:
    text = data.decode("utf-8", "surrogateescape")
    any_text_is_an_address_or_refused(BEGINNINGS[kind % len(BEGINNINGS)] + text, parse_uri)


KINDS = (_negotiate, _negotiate, _request, _request, _answer, _address)


def one_input(data: bytes) -> None:
    """What an input is for: see above."""
    subject, kind, size = data[:3]
    rest = data[3:]
    KINDS[subject % len(KINDS)](rest, _sizes(size, rest), kind)


class Batches:
    """Inputs, counted. After `most` of them the process ends: libFuzzer counts batches."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._tried = 0
        self._next_report = REPORT_INPUTS
        self._began = time.monotonic()

    def one(self, batch: bytes) -> None:
        while len(batch) > INPUT_BYTES_MIN:
            end = 1 + INPUT_BYTES_MIN + batch[0]
            one_input(batch[1:end])
            batch = batch[end:]
            self._tried += 1
        if self._tried >= min(self._next_report, self._most):
            self._next_report += REPORT_INPUTS
            self._report()

    def _report(self) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(
            f"{self._tried:,} inputs in {time.monotonic() - self._began:.0f} s"
            f" ({used.ru_utime + used.ru_stime:.0f} s of CPU), no failure,"
            f" {used.ru_maxrss >> 10} MiB of memory at most",
            flush=True,
        )
        if self._tried >= self._most:
            os._exit(0)  # what else ends it is reported as a crash


def beginnings() -> Iterator[bytes]:
    """Inputs that go a good way: some of each kind."""
    go = m.go_data("data", [c.INFO_BLOCK_SIZE])
    contexts = m.context_data("data", ["base:allocation"])
    options = [
        (c.OPT_STRUCTURED_REPLY, b""), (c.OPT_SET_META_CONTEXT, contexts), (c.OPT_LIST, b""),
        (c.OPT_EXTENDED_HEADERS, b""), (c.OPT_STARTTLS, b""), (c.OPT_GO, go),
    ]  # fmt: skip
    bitmaps = m.context_data("data@cut", ["base:", "qemu:dirty-bitmap:c7"])
    go = m.go_data("data@cut", [])
    point = [
        (c.OPT_STRUCTURED_REPLY, b""), (c.OPT_LIST_META_CONTEXT, bitmaps),
        (c.OPT_SET_META_CONTEXT, bitmaps), (c.OPT_GO, go),
    ]  # fmt: skip
    for conversation in (options, point):
        packed = b"".join(bytes([number, len(data)]) + data for number, data in conversation)
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
    for size in (64, 128, 255):
        fields = bytes([0, PADDED | c.CMD_WRITE]) + m.U64.pack(4096) + m.U16.pack(512)
        yield bytes([2, 1, 0]) + (fields + bytes([size])) * 2
    for number in range(len(BEGINNINGS)):
        yield bytes([5, number, 0]) + b"host:10809/da%20ta?socket=/run/x#y"


def main() -> None:
    KEPT.mkdir(exist_ok=True)
    padded = [data.ljust(INPUT_BYTES_MIN, b"\0") for data in beginnings()]
    packed = [bytes([len(data) - INPUT_BYTES_MIN]) + data for data in padded]
    for number in range(len(packed)):
        (KEPT / f"beginning-{number:02}").write_bytes(b"".join(packed[number::7]))
    most = [arg for arg in sys.argv[1:] if arg.startswith(INPUTS)]
    others = [arg for arg in sys.argv[1:] if arg not in most]
    batches = Batches(int(most[-1].removeprefix(INPUTS)) if most else float("inf"))
    atheris.Setup([sys.argv[0], *LIMITS, *others, str(KEPT)], batches.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

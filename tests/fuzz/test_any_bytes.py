"""Options and requests, good and damaged, cut anywhere: `invariants.py` holds. The search is
hypothesis'; `make fuzz` has one that sees which lines it reaches.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

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
from tests.unit.nbd.wire import FLAGS, MemoryServer

NAMES = st.sampled_from(
    ["", "data", "data@cut", "secret", "gone", "ä", "nosuch", "n" * 4097, "da\0ta"]
)
KINDS = st.lists(st.integers(0, 5), max_size=5)
BITMAPS = st.sampled_from(["", "c7", "größe", "c99"]).map("qemu:dirty-bitmap:{}".format)
QUERIES = st.lists(
    st.sampled_from(["base:allocation", "base:", "base", "qemu:", "x:y", "", "q" * 5000]) | BITMAPS,
    max_size=4,
)
GOOD_OPTIONS = st.one_of(
    st.builds(m.option, st.sampled_from([c.OPT_STARTTLS, c.OPT_LIST, c.OPT_ABORT])),
    st.builds(m.option, st.sampled_from([c.OPT_STRUCTURED_REPLY, c.OPT_EXTENDED_HEADERS])),
    st.builds(
        lambda number, *asked: m.option(number, m.go_data(*asked)),
        st.sampled_from([c.OPT_INFO, c.OPT_GO]), NAMES, KINDS,
    ),
    st.builds(
        lambda number, *asked: m.option(number, m.context_data(*asked)),
        st.sampled_from([c.OPT_LIST_META_CONTEXT, c.OPT_SET_META_CONTEXT]), NAMES, QUERIES,
    ),
    st.builds(lambda name: m.option(c.OPT_EXPORT_NAME, name.encode()), NAMES),
)  # fmt: skip
ODD_OPTIONS = st.one_of(
    st.builds(m.option, st.integers(0, 12), st.binary(max_size=60)),
    st.builds(
        m.OPTION.pack,
        st.just(c.OPTION_MAGIC), st.integers(0, 12), st.integers(0, (1 << 32) - 1),
    ),
    st.builds(lambda size: m.option(99, bytes(size)), st.sampled_from([65_536, 65_537, 200_000])),
    st.binary(max_size=40),
)  # fmt: skip
OPTIONS = st.builds(greeted, st.builds(b"".join, st.lists(GOOD_OPTIONS | ODD_OPTIONS, max_size=10)))
SIZES = st.lists(st.integers(1, 90) | st.sampled_from([4096, 65_536, 70_000]), max_size=30)
U64 = st.integers(0, (1 << 64) - 1)
NUMBERS = st.integers(0, 2000) | U64
LENGTHS = st.sampled_from([0, 1, 8, 12, 512, 4096, 65_508, 65_536, 65_537, 150_000])


def _requests(header: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Headers, with what may be their payload, and bytes that are neither."""
    return st.builds(b"".join, st.lists(header | st.binary(max_size=80), max_size=12))


COMPACT = _requests(
    st.builds(
        lambda flags, command, offset, length, body: (
            m.request(flags, command, 7, offset, length) + bytes(length if body else 0)
        ),
        st.integers(0, 63), st.integers(0, 9), NUMBERS, LENGTHS, st.booleans(),
    )
)  # fmt: skip
EXTENDED = _requests(
    st.builds(
        lambda flags, command, offset, length, body: (
            m.extended_request(flags, command, 7, offset, length)
            + bytes(length if body and length < 1 << 20 else 0)
        ),
        st.integers(0, 63), st.integers(0, 9), NUMBERS, LENGTHS | U64, st.booleans(),
    )
)  # fmt: skip
EXPORT_FLAGS = st.sampled_from(
    [FLAGS, FLAGS | c.FLAG_READ_ONLY, FLAGS | c.FLAG_SEND_DF | c.FLAG_SEND_FAST_ZERO]
)
CHANGES = st.dictionaries(st.integers(0, 150), st.integers(0, 255), max_size=4)
STARTTLS = greeted(m.option(c.OPT_STARTTLS))


@settings(max_examples=400, deadline=None)
@given(OPTIONS | st.binary(max_size=300), SIZES, st.sampled_from(TLS_MODES), OPTIONS)
@example(STARTTLS, [1] * 9, "required", m.option(c.OPT_GO, m.go_data("secret", [])))
@example(STARTTLS + b"x", [len(STARTTLS)], "optional", b"")
def test_negotiation(data: bytes, sizes: list[int], tls: str, secret: bytes) -> None:
    any_pieces_negotiate_the_same(data, sizes, next(t for t in TLS_MODES if t == tls), secret)


@settings(max_examples=400, deadline=None)
@given(COMPACT | st.binary(max_size=300), SIZES, EXPORT_FLAGS)
def test_compact_requests(data: bytes, sizes: list[int], flags: int) -> None:
    any_pieces_request_the_same(data, sizes, Receiver, flags)


@settings(max_examples=400, deadline=None)
@given(EXTENDED | st.binary(max_size=300), SIZES, EXPORT_FLAGS)
def test_extended_requests(data: bytes, sizes: list[int], flags: int) -> None:
    any_pieces_request_the_same(data, sizes, ExtendedReceiver, flags)


@st.composite
def _of_servers(draw: st.DrawFn) -> bytes:
    """What a server sends, with some bytes changed."""
    server = MemoryServer()
    go = greeted(m.option(c.OPT_GO, m.go_data("data", [c.INFO_BLOCK_SIZE])))
    data = bytearray(server.greeting() + server.receive(go) + m.simple_reply(0, 1) + bytes(100))
    for where, value in draw(CHANGES).items():
        data[where % len(data)] = value
    return bytes(data)


@settings(max_examples=200, deadline=None)
@given(_of_servers() | st.binary(max_size=300), SIZES)
def test_our_client_with_any_server(data: bytes, sizes: list[int]) -> None:
    any_pieces_answer_a_client_the_same(data, sizes)

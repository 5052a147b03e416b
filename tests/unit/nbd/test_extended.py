"""Requests with extended headers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.extended import STATUS_PAYLOAD_BYTES_MAX, ExtendedReceiver, context_ids
from duplexd.nbd.transmission import LARGE_PAYLOAD_BYTES, RECEIVE_BYTES_MIN, refusal
from tests.unit.nbd.wire import pieces, put

PAYLOAD = c.CMD_FLAG_PAYLOAD_LEN
LONG = 1 << 50


def write(cookie: int, payload: bytes, flags: int = PAYLOAD) -> bytes:
    return m.extended_request(flags, c.CMD_WRITE, cookie, 7, len(payload)) + payload


def status(cookie: int, payload: bytes) -> bytes:
    header = m.extended_request(PAYLOAD, c.CMD_BLOCK_STATUS, cookie, 7, len(payload))
    return header + payload


def test_lengths_have_64_bits() -> None:
    data = m.extended_request(c.CMD_FLAG_FUA, c.CMD_TRIM, 1, 512, LONG)
    assert put(ExtendedReceiver(0), data) == [(c.CMD_FLAG_FUA, c.CMD_TRIM, 1, 512, LONG, None)]


@pytest.mark.parametrize("size", [0, 3, LARGE_PAYLOAD_BYTES + 1, 500_000])
def test_a_write_comes_with_its_payload(size: int) -> None:
    payload = b"w" * size
    flush = m.extended_request(0, c.CMD_FLUSH, 2, 0, 0)
    assert put(ExtendedReceiver(0), write(1, payload) + flush) == [
        (0, c.CMD_WRITE, 1, 7, size, bytearray(payload)),
        (0, c.CMD_FLUSH, 2, 0, 0, None),
    ]


def test_a_write_without_the_flag_has_no_payload_and_is_refused() -> None:
    header = m.extended_request(0, c.CMD_WRITE, 1, 0, 512)
    flush = m.extended_request(0, c.CMD_FLUSH, 2, 0, 0)
    (flags, command, *_, payload), after = put(ExtendedReceiver(0), header + flush)
    assert payload is None
    assert refusal(flags, command, 0, 512, LONG, 0) == c.EINVAL
    assert after == (0, c.CMD_FLUSH, 2, 0, 0, None)


@pytest.mark.parametrize("command", [c.CMD_READ, c.CMD_TRIM, c.CMD_FLUSH, 99])
@pytest.mark.parametrize("size", [1, 500_000])
def test_a_payload_that_a_command_does_not_have_is_skipped_and_refused(
    command: int, size: int
) -> None:
    data = m.extended_request(PAYLOAD, command, 1, 0, size) + b"x" * size
    flush = m.extended_request(0, c.CMD_FLUSH, 2, 0, 0)
    (flags, *_), after = put(ExtendedReceiver(0), data + flush)
    assert refusal(flags, command, 0, size, LONG, 0) == c.EINVAL
    assert after == (0, c.CMD_FLUSH, 2, 0, 0, None)


def test_the_payload_of_block_status_is_its_range_and_its_contexts() -> None:
    data = status(1, m.U64.pack(LONG) + m.U32.pack(3) + m.U32.pack(9))
    ((*fields, payload),) = put(ExtendedReceiver(0), data)
    assert fields == [0, c.CMD_BLOCK_STATUS, 1, 7, LONG]
    assert payload is not None
    assert context_ids(payload) == [3, 9]


@pytest.mark.parametrize("size", [1, 7, 9, 13, STATUS_PAYLOAD_BYTES_MAX + 8])
def test_a_payload_of_block_status_of_a_wrong_length_is_refused(size: int) -> None:
    ((flags, command, *_),) = put(ExtendedReceiver(0), status(1, bytes(size)))
    assert refusal(flags, command, 0, 1, LONG, 0) == c.EINVAL


def test_a_payload_over_the_maximum_breaks_the_stream() -> None:
    receiver = ExtendedReceiver(0)
    request = m.extended_request(PAYLOAD, c.CMD_WRITE, 1, 0, c.PAYLOAD_BYTES_MAX + 1)
    assert put(receiver, request) == []
    assert str(c.PAYLOAD_BYTES_MAX + 1) in receiver.broken


def test_a_compact_header_breaks_the_stream() -> None:
    receiver = ExtendedReceiver(0)
    assert put(receiver, m.request(0, c.CMD_READ, 1, 0, 1) + bytes(4)) == []
    assert receiver.broken


@pytest.mark.parametrize("flags", [0, PAYLOAD])
def test_what_follows_disc_is_ignored(flags: int) -> None:
    receiver = ExtendedReceiver(0)
    disc = m.extended_request(flags, c.CMD_DISC, 9, 1, 100)
    assert [request[1] for request in put(receiver, disc + bytes(200))] == [c.CMD_DISC]
    assert receiver.ended


def test_a_goodbye_is_seen() -> None:
    assert ExtendedReceiver(0).says_goodbye(write(1, b"x") + m.extended_request(0, 2, 0, 0, 0))


COMMANDS = st.one_of(
    st.builds(
        m.extended_request,
        st.integers(0, 31),
        st.sampled_from([0, 3, 4, 5, 6, 7, 99]),
        st.integers(0, 9),
        st.integers(0, 99),
        st.integers(0, (1 << 64) - 1),
    ),
    st.builds(lambda size: write(5, b"w" * size), st.integers(0, 200)),
    st.builds(lambda size: m.extended_request(0, c.CMD_WRITE, 6, 0, size), st.integers(0, 200)),
    st.builds(
        lambda size: write(6, b"y" * size),
        st.sampled_from([LARGE_PAYLOAD_BYTES - 32, LARGE_PAYLOAD_BYTES + 1, 150_000]),
    ),
    st.builds(lambda size: status(7, b"s" * size), st.sampled_from([8, 12, 13, 4096, 5000])),
    st.builds(
        lambda size: m.extended_request(PAYLOAD, c.CMD_TRIM, 8, 0, size) + b"t" * size,
        st.integers(1, 100_000),
    ),
    st.just(bytes(32)),
    st.just(m.extended_request(0, c.CMD_DISC, 0, 0, 0)),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(COMMANDS, max_size=12),
    st.lists(st.sampled_from([1, 7, 31, 32, 33, 1000, 65536, 70_000]), max_size=40),
)
def test_fragments_change_nothing(commands: list[bytes], sizes: list[int]) -> None:
    data = b"".join(commands)
    whole = ExtendedReceiver(1 << 20)
    expected = put(whole, data)
    cut = ExtendedReceiver(RECEIVE_BYTES_MIN)
    assert [request for piece in pieces(data, sizes) for request in put(cut, piece)] == expected
    assert (cut.broken, cut.ended) == (whole.broken, whole.ended)

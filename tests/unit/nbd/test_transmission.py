"""Parsing requests in place, and judging them."""

from __future__ import annotations

import errno

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.transmission import (
    CMD_LONG_WRITE,
    CMD_PIECE,
    LARGE_PAYLOAD_BYTES,
    RECEIVE_BYTES_MIN,
    REQUESTS_MAX,
    Receiver,
    refusal,
    wire_error,
)
from duplexd.runtime.buffers import Buffers
from tests.unit.nbd.wire import pieces, put

SIZE = 1 << 20
BIG = 1 << 40


def write(cookie: int, payload: bytes, offset: int = 0) -> bytes:
    return m.request(0, c.CMD_WRITE, cookie, offset, len(payload)) + payload


def test_many_requests_of_one_buffer() -> None:
    data = (
        m.request(0, c.CMD_READ, 1, 512, 100)
        + write(2, b"abc", 7)
        + m.request(1, c.CMD_FLUSH, 3, 0, 0)
    )
    assert put(Receiver(0), data) == [
        (0, 0, 1, 512, 100, None),
        (0, 1, 2, 7, 3, bytearray(b"abc")),
        (1, 3, 3, 0, 0, None),
    ]


def test_small_payload_is_a_view_of_the_receive_buffer() -> None:
    receiver = Receiver(0)
    data = write(1, b"abc")
    receiver.buffer()[: len(data)] = data
    ((*_, payload),) = receiver.received(len(data))
    assert type(payload) is memoryview
    assert bytes(payload) == b"abc"


def test_large_payload_is_received_into_its_own_memory() -> None:
    receiver = Receiver(0)
    payload = bytes(range(256)) * (4 * LARGE_PAYLOAD_BYTES // 256)
    header = m.request(0, c.CMD_WRITE, 1, 0, len(payload))
    assert put(receiver, header + payload[:5]) == []
    assert receiver.large == len(payload)
    assert len(receiver.buffer()) == len(payload) - 5
    receiver.buffer()[:] = payload[5:]
    ((*_, own),) = receiver.received(len(payload) - 5)
    assert type(own) is bytearray
    assert own == payload
    assert receiver.large == 0


def test_memory_is_wanted_until_a_large_payload_has_it() -> None:
    receiver, payload = Receiver(0), bytes(4 * LARGE_PAYLOAD_BYTES)
    wanted = []
    for part in (m.request(0, c.CMD_WRITE, 1, 0, len(payload)), payload[:5], payload[5:]):
        put(receiver, part)
        wanted.append(receiver.wants_memory)
    assert wanted == [True, False, False]


def test_memory_is_wanted_for_each_piece_of_a_payload() -> None:
    receiver = Receiver(0, lambda length, _here: bytearray(min(length, LARGE_PAYLOAD_BYTES)))
    put(receiver, m.request(0, c.CMD_WRITE, 1, 0, 2 * LARGE_PAYLOAD_BYTES))
    wanted = []
    for _ in range(2):
        put(receiver, bytes(LARGE_PAYLOAD_BYTES))
        wanted.append(receiver.wants_memory)
    assert wanted == [True, False]


def test_a_large_payload_that_was_returned_is_kept_by_its_receiver_no_longer() -> None:
    buffers = Buffers(1 << 20)
    receiver = Receiver(0, lambda length, _here: buffers.take(length))
    length, places = 2 * LARGE_PAYLOAD_BYTES, []
    for _ in range(2):
        put(receiver, m.request(0, c.CMD_WRITE, 1, 0, length))
        ((*_, payload),) = put(receiver, bytes(length))
        places.append(id(payload))
        del payload
    assert places[0] == places[1]


def test_a_payload_that_is_too_long_is_skipped_before_its_request_is_returned() -> None:
    receiver = Receiver(0)
    length = c.PAYLOAD_BYTES_MAX + 1
    assert put(receiver, m.request(0, c.CMD_WRITE, 1, 0, length) + b"x" * 10) == []
    left, piece = length - 10, bytes(1 << 20)
    while left > 1:
        count = min(left - 1, len(piece))
        assert put(receiver, piece[:count]) == []
        left -= count
    assert put(receiver, b"x" + m.request(0, c.CMD_FLUSH, 2, 0, 0)) == [
        (0, 1, 1, 0, length, None),
        (0, 3, 2, 0, 0, None),
    ]
    assert not receiver.broken


DISC = m.request(0, c.CMD_DISC, 0, 0, 0)


@pytest.mark.parametrize("taken", [0, 1, 27])
def test_a_goodbye_that_was_not_received_whole_is_seen(taken: int) -> None:
    receiver = Receiver(0)
    put(receiver, write(1, b"abc") + DISC[:taken])
    assert receiver.says_goodbye(DISC[taken:])


@pytest.mark.parametrize("unread", [b"", DISC[:27], DISC + b"x", m.request(0, c.CMD_READ, 0, 0, 0)])
def test_what_does_not_end_with_disc_is_no_goodbye(unread: bytes) -> None:
    assert not Receiver(0).says_goodbye(unread)


def test_a_goodbye_behind_a_large_payload_is_seen() -> None:
    receiver = Receiver(0)
    payload = bytes(4 * LARGE_PAYLOAD_BYTES)
    put(receiver, m.request(0, c.CMD_WRITE, 1, 0, len(payload)) + payload[:70_000])
    assert receiver.large
    assert receiver.says_goodbye(payload[70_000:] + DISC)


def test_bad_magic_breaks_but_what_came_before_counts() -> None:
    receiver = Receiver(0)
    assert put(
        receiver,
        m.request(0, c.CMD_FLUSH, 1, 0, 0) + bytes(28) + m.request(0, c.CMD_FLUSH, 2, 0, 0),
    ) == [(0, 3, 1, 0, 0, None)]
    assert receiver.broken
    assert put(receiver, m.request(0, c.CMD_FLUSH, 3, 0, 0)) == []


def test_requests_after_disc_are_ignored_whatever_its_fields() -> None:
    receiver = Receiver(0)
    disc = m.request(0, c.CMD_DISC, 9, (1 << 64) - 1, (1 << 32) - 1)
    assert put(receiver, disc + bytes(100)) == [(0, 2, 9, (1 << 64) - 1, (1 << 32) - 1, None)]
    assert receiver.ended
    assert not receiver.broken
    assert put(receiver, bytes(RECEIVE_BYTES_MIN * 2)) == []


COMMANDS = st.one_of(
    st.builds(
        m.request,
        st.integers(0, 31),
        st.sampled_from([0, 3, 4, 5, 6, 7, 99]),
        st.integers(0, 9),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    st.builds(lambda size: write(5, b"w" * size), st.integers(0, 200)),
    st.builds(
        lambda size: write(6, b"y" * size),
        st.sampled_from(
            [LARGE_PAYLOAD_BYTES - 28, LARGE_PAYLOAD_BYTES, LARGE_PAYLOAD_BYTES + 1, 150_000]
        ),
    ),
    st.just(bytes(28)),
    st.just(m.request(0, c.CMD_DISC, 0, 0, 0)),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(COMMANDS, max_size=12),
    st.lists(st.sampled_from([1, 7, 27, 28, 29, 1000, 65536, 70_000]), max_size=40),
)
@example([write(1, b"a" * 65_536)] * 5, [65_536] * 4)
def test_fragments_change_nothing(commands: list[bytes], sizes: list[int]) -> None:
    data = b"".join(commands)
    whole = Receiver(1 << 20)
    expected = put(whole, data)
    cut = Receiver(0)
    assert [request for piece in pieces(data, sizes) for request in put(cut, piece)] == expected
    assert (cut.broken, cut.ended) == (whole.broken, whole.ended)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(COMMANDS, max_size=12),
    st.lists(st.sampled_from([1, 27, 28, 29, 1000, 65536, 70_000]), max_size=40),
    st.sampled_from([1, 5000, 65_536, 100_000]),
)
def test_pieces_are_the_payload_that_was_sent(
    commands: list[bytes], sizes: list[int], most: int
) -> None:
    data = b"".join(commands)
    expected = put(Receiver(1 << 20), data)
    cut = Receiver(0, lambda length, here: bytearray(min(length, max(most, here + 1))))
    found = [request for piece in pieces(data, sizes) for request in put(cut, piece)]
    joined, whole = list[object](), bytearray()
    start = left = 0
    wanted: tuple[object, ...] = ()
    for request in found:
        flags, command, cookie, offset, length, payload = request
        if command == CMD_LONG_WRITE:
            whole, left, start = bytearray(), length, offset
            wanted = flags, c.CMD_WRITE, cookie, offset, length
        elif command == CMD_PIECE:
            assert payload is not None
            assert (offset, length) == (start + len(whole), len(payload))
            whole += payload
            left -= length
            if not left:
                joined.append((*wanted, whole))
        else:
            joined.append(request)
    assert joined == expected


def test_no_more_than_some_requests_are_returned_at_once() -> None:
    receiver = Receiver(1 << 20)
    data = m.request(0, c.CMD_FLUSH, 1, 0, 0) * (REQUESTS_MAX + 5)
    assert len(put(receiver, data)) == REQUESTS_MAX
    assert receiver.more
    assert len(receiver.received(0)) == 5
    assert not receiver.more


def test_a_buffer_that_was_full_is_exchanged_for_a_larger_one() -> None:
    receiver = Receiver(0, grow=lambda: memoryview(bytearray(1 << 20)))
    size = len(receiver.buffer())
    put(receiver, m.request(0, c.CMD_FLUSH, 1, 0, 0) * (size // 28) + bytes(size % 28))
    while receiver.more:
        receiver.received(0)
    assert len(receiver.buffer()) == (1 << 20) - size % 28


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (c.CMD_READ, c.EINVAL),
        (c.CMD_WRITE, c.ENOSPC),
        (c.CMD_TRIM, c.EINVAL),
        (c.CMD_CACHE, c.EINVAL),
        (c.CMD_WRITE_ZEROES, c.ENOSPC),
        (c.CMD_BLOCK_STATUS, c.EINVAL),
    ],
)
@pytest.mark.parametrize(
    ("offset", "length"),
    [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), ((1 << 64) - 1, 1), ((1 << 64) - 4096, 4096)],
)
def test_requests_past_the_end_are_refused_without_wrap_around(
    command: int, error: int, offset: int, length: int
) -> None:
    assert refusal(0, command, offset, length, SIZE, 0) == error


@pytest.mark.parametrize("command", [c.CMD_READ, c.CMD_WRITE, c.CMD_TRIM, c.CMD_WRITE_ZEROES])
def test_a_request_up_to_the_end_is_accepted(command: int) -> None:
    assert refusal(0, command, SIZE - 1, 1, SIZE, 0) == 0
    assert refusal(0, command, SIZE, 0, SIZE, 0) == 0


@pytest.mark.parametrize(
    "command", [c.CMD_READ, c.CMD_WRITE, c.CMD_FLUSH, c.CMD_TRIM, c.CMD_WRITE_ZEROES]
)
def test_fua_is_accepted_on_every_command(command: int) -> None:
    assert refusal(c.CMD_FLAG_FUA, command, 0, 1, SIZE, 0) == 0


@pytest.mark.parametrize(
    "command", [c.CMD_READ, c.CMD_WRITE, c.CMD_FLUSH, c.CMD_TRIM, c.CMD_WRITE_ZEROES]
)
@pytest.mark.parametrize("flag", [1 << bit for bit in range(1, 16)])
def test_unknown_flags_are_refused(command: int, flag: int) -> None:
    expected = 0 if (command, flag) == (c.CMD_WRITE_ZEROES, c.CMD_FLAG_NO_HOLE) else c.EINVAL
    assert refusal(flag, command, 0, 1, SIZE, 0) == expected


@pytest.mark.parametrize("command", [c.CMD_DISC, 8, 65535])
def test_unknown_commands_are_refused(command: int) -> None:
    assert refusal(0, command, 0, 1, SIZE, 0) == c.EINVAL


def test_a_request_that_is_too_long_is_refused() -> None:
    length = c.PAYLOAD_BYTES_MAX + 1
    assert refusal(0, c.CMD_READ, 0, length, BIG, 0) == c.EINVAL
    assert refusal(0, c.CMD_WRITE, 0, length, BIG, 0) == c.EINVAL
    assert refusal(0, c.CMD_TRIM, 0, (1 << 32) - 512, BIG, 0) == 0
    assert refusal(0, c.CMD_WRITE_ZEROES, 0, (1 << 32) - 512, BIG, 0) == 0
    assert refusal(0, c.CMD_READ, 0, c.PAYLOAD_BYTES_MAX, BIG, 0) == 0


def test_a_read_too_long_for_a_single_chunk_says_so() -> None:
    length = c.PAYLOAD_BYTES_MAX + 1
    assert refusal(c.CMD_FLAG_DF, c.CMD_READ, 0, length, BIG, c.FLAG_SEND_DF) == c.EOVERFLOW


@pytest.mark.parametrize("command", [c.CMD_TRIM, c.CMD_WRITE_ZEROES, c.CMD_CACHE])
def test_a_request_without_payload_may_have_64_bits(command: int) -> None:
    assert refusal(0, command, 0, BIG, BIG, 0) == 0


@pytest.mark.parametrize(
    ("flag", "command", "offered"),
    [
        (c.CMD_FLAG_DF, c.CMD_READ, c.FLAG_SEND_DF),
        (c.CMD_FLAG_FAST_ZERO, c.CMD_WRITE_ZEROES, c.FLAG_SEND_FAST_ZERO),
    ],
)
def test_a_flag_that_was_not_offered_is_refused(flag: int, command: int, offered: int) -> None:
    assert refusal(flag, command, 0, 1, SIZE, 0) == c.EINVAL
    assert refusal(flag, command, 0, 1, SIZE, offered) == 0


def test_changes_of_a_read_only_export_are_refused() -> None:
    errors = {
        command: refusal(0, command, 0, 1, SIZE, c.FLAG_READ_ONLY)
        for command in (0, 1, 3, 4, 5, 6, 7)
    }
    assert errors == {
        c.CMD_READ: 0,
        c.CMD_WRITE: c.EPERM,
        c.CMD_FLUSH: 0,
        c.CMD_TRIM: c.EPERM,
        c.CMD_CACHE: 0,
        c.CMD_WRITE_ZEROES: c.EPERM,
        c.CMD_BLOCK_STATUS: 0,
    }


def test_flush_ignores_offset_and_length() -> None:
    assert refusal(0, c.CMD_FLUSH, BIG, 1, SIZE, 0) == 0


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (0, 0),
        (errno.EROFS, c.EPERM),
        (errno.EDQUOT, c.ENOSPC),
        (errno.ENOSPC, c.ENOSPC),
        (errno.EIO, c.EIO),
        (errno.ENODEV, c.EIO),
        (99999, c.EIO),
    ],
)
def test_wire_errors_are_only_those_of_the_protocol(number: int, error: int) -> None:
    assert wire_error(number) == error

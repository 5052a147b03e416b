"""A parser that takes over from another one in the middle of the stream: nothing is lost, and
nothing is done twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from duplexd.nbd import constants as c
from duplexd.nbd.extended import ExtendedReceiver
from duplexd.nbd.transmission import CMD_LONG_WRITE, CMD_PIECE, Receiver

if TYPE_CHECKING:
    from duplexd.nbd.transmission import Request

SIZE = 1 << 20
PIECE_BYTES = 96 << 10
KINDS = {"compact": Receiver, "extended": ExtendedReceiver}
LENGTHS = (1, 4096, 70 << 10, 300 << 10)  # in the buffer; in memory of its own; in pieces


def stream(kind: type[Receiver], requests: list[tuple[int, int, int]]) -> bytes:
    """READs, WRITEs and FLUSHes, numbered; each WRITE of another byte."""
    data = b""
    for cookie, (command, offset, length) in enumerate(requests):
        is_write = command == c.CMD_WRITE
        flags = c.CMD_FLAG_PAYLOAD_LEN if is_write and kind is ExtendedReceiver else 0
        data += kind.header.pack(kind.magic, flags, command, cookie, offset, length)
        data += bytes([cookie + 1]) * length if is_write else b""
    return data


def received(receiver: Receiver, data: bytes) -> list[Request]:
    """What comes of it. Payloads are copied: the buffer is used again."""
    found: list[Request] = []
    view = memoryview(data)
    while view:
        buffer = receiver.buffer()
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        view = view[count:]
        taken = receiver.received(count)
        while taken:
            found += [(*each[:5], each[5] and bytes(each[5])) for each in taken]
            taken = receiver.received(0) if receiver.more else []
    return found


def done(requests: list[Request]) -> tuple[bytes, list[tuple[int, int, int]]]:
    """What the WRITEs leave, and what else was asked for."""
    image, others = bytearray(SIZE), []
    for _flags, command, cookie, offset, length, payload in requests:
        if payload is not None:
            assert len(payload) == length
            image[offset : offset + length] = payload
        elif command != CMD_LONG_WRITE:
            others.append((cookie, offset, length))
    return bytes(image), others


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from([c.CMD_READ, c.CMD_WRITE, c.CMD_FLUSH, c.CMD_WRITE]),
            st.integers(0, SIZE - max(LENGTHS)),
            st.sampled_from(LENGTHS),
        ),
        min_size=1,
        max_size=8,
    ),
    cut=st.floats(0, 1),
    waiting=st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_what_one_parser_has_left_goes_through_the_next(
    kind: type[Receiver], requests: list[tuple[int, int, int]], cut: float, waiting: int
) -> None:
    data = stream(kind, requests)
    at = int(len(data) * cut)

    def pieces(length: int, here: int) -> bytearray:
        return bytearray(min(length, max(PIECE_BYTES, here + 1)))

    before, after = kind(0, pieces), kind(0, pieces)
    taken = received(before, data[:at])
    whole = [each for each in taken if each[1] not in {CMD_LONG_WRITE, CMD_PIECE}]
    backlog = taken[len(taken) - waiting :] if waiting else []
    assume(all(each in whole for each in backlog))
    again = [before.packed(each) for each in backlog]
    assert None not in again
    handed = b"".join(filter(None, again)) + before.left()
    taken = taken[: len(taken) - len(backlog)] + received(after, handed + data[at:])
    assert done(taken) == done(received(kind(0), data))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_parts_of_a_long_write_cannot_be_made_whole_again(kind: type[Receiver]) -> None:
    receiver = kind(0)
    assert receiver.packed((0, CMD_LONG_WRITE, 1, 0, 4096, None)) is None
    assert receiver.packed((0, CMD_PIECE, 1, 0, 4096, b"x" * 4096)) is None
    assert receiver.packed((0, c.CMD_WRITE, 1, 0, 4096, None)) is None  # its payload was skipped

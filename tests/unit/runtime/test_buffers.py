"""Large buffers are used again once nothing refers to them, and not before."""

from __future__ import annotations

from duplexd.runtime.buffers import KEPT_BYTES_MIN, Buffers

SIZE = KEPT_BYTES_MIN


def test_a_buffer_that_nothing_refers_to_is_used_again() -> None:
    buffers = Buffers(4 * SIZE)
    first = buffers.take(SIZE)
    first[:5] = b"first"
    del first
    assert buffers.take(SIZE)[:5] == b"first"


def test_a_buffer_in_use_is_not_given_to_another() -> None:
    buffers = Buffers(4 * SIZE)
    assert buffers.take(SIZE) is not (first := buffers.take(SIZE))
    assert buffers.take(SIZE) is not first


def test_a_view_keeps_its_buffer() -> None:
    """What is sent is a view, after its read is over."""
    buffers = Buffers(4 * SIZE)
    view = memoryview(buffers.take(SIZE))[100:]
    view[:4] = b"sent"
    other = buffers.take(SIZE)
    other[100:104] = b"lost"
    assert bytes(view[:4]) == b"sent"


def test_no_more_than_the_limit_is_kept() -> None:
    buffers = Buffers(2 * SIZE)
    taken = [buffers.take(SIZE) for _ in range(3)]
    for number in range(3):
        taken[number][0] = number + 1
    taken.clear()
    kept = [buffers.take(SIZE) for _ in range(3)]
    assert sorted(each[0] for each in kept) == [0, 1, 2]


def test_a_buffer_beyond_the_limit_is_not_kept() -> None:
    buffers = Buffers(SIZE)
    large = buffers.take(2 * SIZE)
    large[0] = 1
    del large
    assert buffers.take(2 * SIZE)[0] == 0


def test_another_size_takes_the_place_of_the_one_before() -> None:
    buffers = Buffers(4 * SIZE)
    buffers.take(SIZE)[0] = 1
    assert len(buffers.take(2 * SIZE)) == 2 * SIZE
    assert buffers.take(SIZE)[0] == 0


def test_nothing_is_kept_after_a_clear() -> None:
    buffers = Buffers(4 * SIZE)
    buffers.take(SIZE)[0] = 1
    buffers.clear()
    assert buffers.take(SIZE)[0] == 0

"""What a primary refused in the replay counts unless something later takes its place."""

from __future__ import annotations

import errno

from duplexd.engine.recovery.refusals import BLOCK_BYTES, RANGES_MAX, Refusals, different

FULL = OSError(errno.ENOSPC, "full")
BROKEN = OSError(errno.EIO, "broken")


def test_what_nothing_takes_the_place_of_counts_with_the_first_error() -> None:
    refusals = Refusals()
    assert refusals.error is None
    refusals.refused([(0, 8192)], FULL)
    refusals.refused([(16384, 20480)], BROKEN)
    assert refusals.error is FULL


def test_what_is_written_later_takes_its_place() -> None:
    refusals = Refusals()
    refusals.refused([(4096, 12288)], FULL)
    refusals.written(0, 8192)
    assert refusals.error is FULL, "only the first half is covered"
    refusals.written(8192, 4096)
    assert refusals.error is None


def test_the_ends_of_a_range_are_left_when_its_middle_is_written() -> None:
    refusals = Refusals()
    refusals.refused([(0, 12288)], FULL)
    refusals.written(4096, 4096)
    refusals.written(0, 4096)
    assert refusals.error is FULL
    refusals.written(8192, 4096)
    assert refusals.error is None


def test_after_all_is_made_up_for_another_error_is_the_first() -> None:
    refusals = Refusals()
    refusals.refused([(0, 4096)], FULL)
    refusals.written(0, 4096)
    refusals.refused([(0, 4096)], BROKEN)
    assert refusals.error is BROKEN


def test_too_many_ranges_count_whatever_follows() -> None:
    refusals = Refusals()
    ranges = [(at * 8192, at * 8192 + 4096) for at in range(RANGES_MAX + 1)]
    refusals.refused(ranges, BROKEN)
    refusals.written(0, ranges[-1][1])
    assert refusals.too_many
    assert refusals.error is BROKEN


def test_an_image_that_holds_the_content_already_lacks_nothing() -> None:
    assert different(bytes(3 * BLOCK_BYTES), bytes(3 * BLOCK_BYTES), 0) == []


def test_neighbouring_blocks_that_differ_are_one_range() -> None:
    found = bytes(BLOCK_BYTES) + b"\x01" * (2 * BLOCK_BYTES) + bytes(BLOCK_BYTES) + b"\x01"
    wanted = bytes(len(found))
    at = 1 << 20
    assert different(wanted, found, at) == [
        (at + BLOCK_BYTES, at + 3 * BLOCK_BYTES),
        (at + 4 * BLOCK_BYTES, at + 4 * BLOCK_BYTES + 1),
    ]

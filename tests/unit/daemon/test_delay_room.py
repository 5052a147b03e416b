"""How much of a delay a journal holds, by what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.daemon.delay_room import Pace, measured
from duplexd.journal.format import (
    SEGMENT_HEADER_BYTES,
    WRITE,
    SegmentHeader,
    pack_record,
    pack_segment_header,
)

if TYPE_CHECKING:
    from pathlib import Path

CONTROLLER = bytes(16)
SIZE = 1 << 20


def segment(directory: Path, slot: int, number: int, first: int, seconds: float) -> None:
    """A segment file whose first record has that number and time."""
    head, _ = pack_record(0, 0, first, 0, 0, 4096, int(seconds * 1e6), 1, 0, WRITE, 0, 0)
    header = pack_segment_header(SegmentHeader(CONTROLLER, number, SIZE))
    data = header.ljust(SEGMENT_HEADER_BYTES, b"\0") + (head if first else b"")
    (directory / f"{slot:08}.seg").write_bytes(data)


def test_all_segments_but_the_newest_count(tmp_path: Path) -> None:
    """Slots say nothing of the order: segments are used again."""
    for slot, number, first, seconds in ((1, 7, 700, 130.0), (2, 5, 500, 30.0), (3, 6, 600, 90.0)):
        segment(tmp_path, slot, number, first, seconds)
    assert measured(tmp_path) == Pace(2 * SIZE, 100.0)


def test_one_that_was_begun_and_has_an_older_record_does_not_count(tmp_path: Path) -> None:
    segment(tmp_path, 1, 5, 500, 30.0)
    segment(tmp_path, 2, 6, 600, 90.0)
    segment(tmp_path, 3, 7, 100, 1.0)
    segment(tmp_path, 4, 8, 0, 0.0)
    assert measured(tmp_path) == Pace(SIZE, 60.0)


@pytest.mark.parametrize("second", [30.0, 20.0])
def test_too_little_says_nothing(tmp_path: Path, second: float) -> None:
    assert measured(tmp_path) is None
    segment(tmp_path, 1, 5, 500, 30.0)
    assert measured(tmp_path) is None
    segment(tmp_path, 2, 6, 600, second)
    assert measured(tmp_path) is None
    assert measured(tmp_path / "journal") is None

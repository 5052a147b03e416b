"""What a checkpoint takes from a segment of the journal: the blocks that were written last."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from duplexd.engine.sampled_blocks import Bounds, recent
from duplexd.images.probe import SAMPLE_BYTES
from duplexd.journal.format import crc32c
from duplexd.units import KIB, MIB
from tests.sim.disk import SimDisk
from tests.unit.journal.journals import append, new_writer

if TYPE_CHECKING:
    from duplexd.journal.writer import Writer

ALL = 1 << 20  # blocks
KEPT_WHOLE = {1: Bounds(0)}  # changes after number 0 of volume 1


def blocks(count: int) -> list[bytes]:
    return [place.to_bytes(4, "big") * (SAMPLE_BYTES // 4) for place in range(count)]


def written(payloads: list[bytes]) -> Writer:
    writer = new_writer(SimDisk(), segment_size=8 * MIB)
    append(writer, payloads)
    return writer


@pytest.mark.parametrize("count", [1, 254, 255, 256, 700])
def test_each_block_is_found_wherever_the_pieces_end_that_are_read(count: int) -> None:
    payloads = blocks(count)
    writer = written(payloads)
    found = recent(writer.segment, writer.segment.end, ALL, KEPT_WHOLE)[1]
    assert found.sequence == count
    assert found.blocks == {
        place * SAMPLE_BYTES: crc32c(content) for place, content in enumerate(payloads)
    }


def test_a_record_that_is_longer_than_a_piece_is_read_whole() -> None:
    first, last = blocks(2)
    writer = written([b"x" * SAMPLE_BYTES, first + bytes(MIB) + last, b"y" * SAMPLE_BYTES])
    found = recent(writer.segment, writer.segment.end, ALL, KEPT_WHOLE)[1]
    # the third one overwrote a block in the middle of the second
    assert found.blocks[SAMPLE_BYTES] == crc32c(first)
    assert found.blocks[SAMPLE_BYTES + SAMPLE_BYTES + MIB] == crc32c(last)
    assert found.sequence == 3


def test_what_was_written_after_the_checkpoint_is_not_taken() -> None:
    writer = written(blocks(300))
    end = writer.segment.end
    append(writer, [b"z" * SAMPLE_BYTES])
    assert recent(writer.segment, end, ALL, KEPT_WHOLE)[1].sequence == 300


def test_blocks_that_a_trailing_secondary_has_are_those_up_to_its_number() -> None:
    writer = written(blocks(3))
    found = recent(writer.segment, writer.segment.end, ALL, {1: Bounds(0, applied=2)})[1]
    assert list(found.behind) == [0, SAMPLE_BYTES]


def test_what_was_written_since_the_last_checkpoint_is_touched() -> None:
    writer = written(blocks(4))
    sampled = [0, 2 * SAMPLE_BYTES, 3 * SAMPLE_BYTES - 1, 9 * SAMPLE_BYTES]
    bounds = {1: Bounds(0, last=2, offsets=sampled)}
    found = recent(writer.segment, writer.segment.end, ALL, bounds)[1]
    assert found.touched == {2 * SAMPLE_BYTES, 3 * SAMPLE_BYTES - 1}


def test_a_large_segment_takes_little_memory() -> None:
    writer = written([bytes(MIB - 64 * KIB)] * 7)
    tracemalloc.start()
    recent(writer.segment, writer.segment.end, ALL, KEPT_WHOLE)
    _now, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 * MIB

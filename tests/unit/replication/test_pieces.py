"""One piece of a copy: what is read, what is written, and which image an error names."""

from __future__ import annotations

import errno

import pytest

from duplexd.core.markers import Copy
from duplexd.core.pair_states import FIRST_COPY, RESYNCING
from duplexd.replication.follower import SecondarySink, SinkError
from duplexd.replication.pieces import (
    copy_piece,
)
from tests.unit.replication.fakes import GRAIN, SIZE, World


def test_a_run_that_is_equal_already_is_not_written() -> None:
    world = World()
    pair = world.to_copy(content=b"x" * GRAIN)
    world.legs[pair].secondary.data[:GRAIN] = b"x" * GRAIN
    assert copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN)[:2] == (GRAIN, 0)
    assert not world.legs[pair].faults.calls["write"]


def test_after_its_disk_failed_what_looks_equal_is_written_again() -> None:
    """A failed sync may have dropped pages that the cache still shows."""
    world = World()
    pair = world.to_copy(content=b"x" * GRAIN)
    world.timeline.append(Copy({pair.id: pair.record.full_map()}, RESYNCING))
    world.legs[pair].secondary.data[:GRAIN] = b"x" * GRAIN
    assert copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN).copied == GRAIN


def test_zeroes_are_copied_as_a_hole() -> None:
    world = World()
    pair = world.to_copy()
    assert pair.reason == FIRST_COPY
    world.legs[pair].secondary.data[:] = b"old" * (SIZE // 3) + b"o"
    assert copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN)[:2] == (GRAIN, 0)
    assert world.legs[pair].faults.calls["zero"] == 1
    assert not any(world.legs[pair].secondary.data[:GRAIN])


def test_a_primary_that_cannot_be_read_is_not_the_secondarys_fault() -> None:
    world = World()
    pair = world.to_copy(content=b"x" * GRAIN)
    world.legs[pair].primary.close()
    with pytest.raises(OSError, match="closed"):
        copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN)


@pytest.mark.parametrize("operation", ["read_into", "write"])
def test_a_secondary_that_fails_is(operation: str) -> None:
    world = World()
    pair = world.to_copy(content=b"x" * GRAIN)
    faults = world.legs[pair].faults
    if operation == "write":
        faults.fail("write", errno.EIO)
    else:
        faults.fail("read_into", errno.EIO)
    with pytest.raises(SinkError) as caught:
        copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN)
    assert caught.value.pair is pair

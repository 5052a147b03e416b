"""One piece of a copy: what is read, what is written, and which image an error names."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.markers import Copy
from duplexd.core.pair_states import FIRST_COPY, RESYNCING
from duplexd.images.unreadable import BLOCK_BYTES
from duplexd.replication.follower import SecondarySink, SinkError
from duplexd.replication.pieces import (
    Piece,
    PrimaryUnreadableError,
    Progress,
    Range,
    copy_around,
    copy_changed,
    copy_piece,
    left_out,
)
from tests.support.bad_sectors import BadSectors
from tests.support.fault_leg import FaultLeg
from tests.support.sparse_leg import SparseLeg
from tests.unit.replication.fakes import GRAIN, SIZE, Legs, World

if TYPE_CHECKING:
    from duplexd.core.pair import Pair


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


# ------------------------------------------------------------------------------- what is left out


def bad(world: World, *blocks: int, content: bytes = b"x" * SIZE) -> tuple[Pair, Legs]:
    """A pair to be copied whose primary does not return some blocks."""
    pair = world.to_copy(content=content)
    legs = world.legs[pair]
    at = [block * BLOCK_BYTES for block in blocks]
    pair.set_legs(BadSectors(legs.primary, *at), legs.faults, pair.mode)
    return pair, legs


def test_an_error_of_the_primary_names_it_and_the_offset() -> None:
    pair, _ = bad(World(), 16)
    with pytest.raises(PrimaryUnreadableError) as caught:
        copy_piece(SecondarySink(), pair, GRAIN, SIZE, GRAIN)
    error = caught.value
    assert str(error.strerror) == f"/a/data: cannot be read at offset {GRAIN}: Input/output error"
    assert error.filename == "/a/data"


def test_an_error_of_the_secondary_names_it_and_the_offset() -> None:
    world = World()
    pair = world.to_copy(content=b"x" * SIZE)
    world.legs[pair].faults.fail("write", errno.EIO)
    with pytest.raises(SinkError) as caught:
        copy_piece(SecondarySink(), pair, GRAIN, SIZE, GRAIN)
    located = caught.value.located()
    assert located.strerror == f"/b/data: Input/output error at offset {GRAIN}"
    assert located.filename == "/b/data"


@pytest.mark.parametrize("blocks", [[0], [15], [3, 4], [0, 7, 15], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_a_piece_is_copied_around_the_blocks_that_cannot_be_read(blocks: list[int]) -> None:
    world = World()
    pair, legs = bad(world, *blocks)
    piece = copy_around(SecondarySink(), pair, 0, SIZE, GRAIN)
    assert piece.length == GRAIN
    assert piece.unreadable == [Range(at * BLOCK_BYTES, BLOCK_BYTES) for at in blocks]
    assert piece.copied == GRAIN - len(blocks) * BLOCK_BYTES
    for block in range(GRAIN // BLOCK_BYTES):
        at = block * BLOCK_BYTES
        assert any(legs.secondary.data[at : at + BLOCK_BYTES]) == (block not in blocks)


def test_a_disk_that_is_gone_is_not_asked_for_each_of_its_blocks() -> None:
    """Each read may take it seconds."""
    world = World()
    pair = world.to_copy()
    primary = FaultLeg(world.legs[pair].primary)
    pair.set_legs(primary, world.legs[pair].faults, pair.mode)
    primary.fail("read_into", errno.EIO)
    piece = copy_around(SecondarySink(), pair, 0, SIZE, SIZE)
    assert len(piece.unreadable) < SIZE // BLOCK_BYTES
    assert sum(length for _, length in piece.unreadable) == SIZE
    assert primary.calls["read_into"] < SIZE // BLOCK_BYTES


def test_what_was_left_out_is_counted_and_its_first_place_named() -> None:
    world = World()
    pair, _ = bad(world, 3, 4, 9)
    piece = copy_around(SecondarySink(), pair, 0, SIZE, GRAIN)
    text = str(left_out(pair, piece.unreadable).strerror)
    assert text.startswith(
        f"/a/data: {3 * BLOCK_BYTES} bytes cannot be read at offset {3 * BLOCK_BYTES} (2 places in"
    )


# ------------------------------------------------------------------------------------------ holes


def test_what_is_a_hole_on_both_is_not_read() -> None:
    world = World()
    pair = world.to_copy()
    primary, secondary = SparseLeg(SIZE), SparseLeg(SIZE)
    primary.write(GRAIN, b"x" * BLOCK_BYTES)
    pair.set_legs(primary, secondary, pair.mode)
    assert copy_piece(SecondarySink(), pair, 0, SIZE, BLOCK_BYTES) == (GRAIN, 0, False, ())
    assert primary.read_bytes == 0


@pytest.mark.parametrize("content", [b"x", b"\0"])
def test_a_hole_of_the_secondary_is_not_read(content: bytes) -> None:
    world = World()
    pair = world.to_copy()
    primary, secondary = SparseLeg(SIZE), SparseLeg(SIZE)
    primary.write(0, content * GRAIN)
    pair.set_legs(primary, secondary, pair.mode)
    assert copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN).read
    assert secondary.read_bytes == 0
    assert secondary.content == primary.content


def test_a_hole_over_old_data_is_copied() -> None:
    world = World()
    pair = world.to_copy()
    primary, secondary = SparseLeg(SIZE), SparseLeg(SIZE)
    secondary.write(0, b"x" * BLOCK_BYTES)
    pair.set_legs(primary, secondary, pair.mode)
    assert copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN).read
    assert not secondary.content


def test_what_is_between_holes_is_copied_alone() -> None:
    """A volume that is half full takes half the time, and its copy half the room."""
    world = World()
    pair = world.to_copy()
    primary, secondary = SparseLeg(SIZE), SparseLeg(SIZE)
    for at in range(0, SIZE, 2 * GRAIN):
        primary.write(at, b"x" * GRAIN)
    pair.set_legs(primary, secondary, pair.mode)
    assert copy_piece(SecondarySink(), pair, 0, SIZE, SIZE) == (SIZE, SIZE // 2, True, ())
    assert primary.read_bytes == SIZE // 2
    assert secondary.pages == primary.pages


def test_short_runs_are_copied_in_one_call() -> None:
    """To pass a call to a worker takes longer than to copy 64 KiB."""
    world = World()
    pair = world.to_copy(content=bytes(range(1, 251)) * (SIZE // 250) + b"x" * (SIZE % 250))
    todo = pair.new_map()
    todo.set(GRAIN, GRAIN)
    todo.set(4 * GRAIN, 2 * GRAIN)
    todo.set(SIZE - GRAIN, GRAIN)
    sink, legs = SecondarySink(), world.legs[pair]
    first = copy_changed(sink, pair, todo, 0, 2 * GRAIN)
    assert first == (5 * GRAIN, 2 * GRAIN, 2 * GRAIN, True)
    second = copy_changed(sink, pair, todo, 5 * GRAIN, 4 * GRAIN)
    assert second == (SIZE, 2 * GRAIN, 2 * GRAIN, True)
    assert copy_changed(sink, pair, todo, SIZE, 4 * GRAIN) is None
    for grain in range(SIZE // GRAIN):
        at = slice(grain * GRAIN, (grain + 1) * GRAIN)
        copied = grain in (1, 4, 5, SIZE // GRAIN - 1)
        assert legs.secondary.data[at] == (legs.primary.data[at] if copied else bytes(GRAIN))


def test_after_its_disk_failed_the_holes_of_a_secondary_are_not_believed() -> None:
    world = World()
    pair = world.to_copy()
    world.timeline.append(Copy({pair.id: pair.record.full_map()}, RESYNCING))
    primary, secondary = SparseLeg(SIZE), SparseLeg(SIZE)
    pair.set_legs(primary, secondary, pair.mode)
    assert copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN).read


def test_images_that_cannot_say_where_their_holes_are_are_read() -> None:
    world = World()
    pair = world.to_copy(content=b"x" * SIZE)
    world.legs[pair].faults.fail("extents", errno.EIO)
    assert copy_piece(SecondarySink(), pair, 0, SIZE, GRAIN) == (GRAIN, GRAIN, True, ())


# --------------------------------------------------------------------------------------- progress


def test_neighbours_become_one_range() -> None:
    """A marker says that whole grains are copied, and a grain may be of several pieces."""
    progress = Progress()
    for at in (0, 4096, 8192, 65536):
        progress.add(at, Piece(4096, 4096))
    assert progress.unmarked == [(0, 12288), (65536, 4096)]
    progress.marked()
    progress.add(69632, Piece(4096, 0))
    assert progress.unmarked == [(69632, 4096)]


def test_a_piece_with_something_left_out_is_not_called_copied() -> None:
    progress = Progress()
    progress.add(0, Piece(8192, 4096, unreadable=[Range(4096, 4096)]))
    assert progress.unmarked == []
    assert progress.unreadable == [(4096, 4096)]

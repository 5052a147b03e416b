"""Resyncs and copies of volumes of every size up to the limit: around powers of two that a field, a
grain or a piece could be too small for.
"""

from __future__ import annotations

import pytest

from duplexd.core.change_map import ChangeMap
from duplexd.core.markers import Attach, Copied, Copy, Detach, NewVolume, unpack
from duplexd.core.pair import Pair
from duplexd.core.pair_states import DUPLEX, FIRST_COPY
from duplexd.core.regions import DirtyRegions
from duplexd.limits import VOLUME_BYTES_MAX, EngineLimits
from duplexd.replication.job import JOURNAL, MAP
from duplexd.units import GIB, MIB, TIB
from tests.support.sparse_leg import PAGE, SparseLeg
from tests.unit.replication import fakes
from tests.unit.replication.fakes import World
from tests.unit.replication.test_resync import Replication

SIZES = [
    pytest.param(size, id=f"{size >> 20}MiB{'+' if size % (1 << 20) == PAGE else ''}")
    for edge in (
        4 * GIB,  # 2^32 bytes
        64 * GIB,  # 2^20 grains of 64 KiB
        4 * TIB,  # 2^20 grains of 4 MiB: the size of a piece
        16 * TIB,  # 2^32 blocks of 4 KiB; the largest file of ext4
        256 * TIB,  # 2^32 grains of 64 KiB
        1024 * TIB,
    )
    for size in (edge - PAGE, edge, edge + PAGE)
] + [pytest.param(VOLUME_BYTES_MAX - PAGE, id="1EiB-"), pytest.param(VOLUME_BYTES_MAX, id="1EiB")]


def large(world: World, size: int) -> Pair:
    """A DUPLEX pair of that size, both images holes."""
    ledger, timeline = world.timeline.ledger, world.timeline
    timeline.append(NewVolume(1, "data", size))
    pair = Pair(ledger.pairs[1], SparseLeg(size, "/a"), SparseLeg(size, "/b"), "sync")
    timeline.pairs[1] = pair
    timeline.append(Attach([1]))
    return pair


def legs(pair: Pair) -> tuple[SparseLeg, SparseLeg]:
    assert isinstance(pair.primary, SparseLeg)
    assert isinstance(pair.secondary, SparseLeg)
    return pair.primary, pair.secondary


def places(size: int) -> list[int]:
    """Pages at both ends, around the middle, and on both sides of a grain's border."""
    half = size // 2 // PAGE * PAGE
    wanted = (0, PAGE, half - PAGE, half, size - 2 * PAGE, size - PAGE, 4 * MIB, 8 * MIB - PAGE)
    return sorted({at for at in wanted if at < size})


def write(world: World, pair: Pair, times: int = 1) -> None:
    for number in range(times):
        for at in places(pair.size):
            world.timeline.write(pair, at, bytes([1 + number]) * PAGE)


@pytest.mark.parametrize("size", SIZES)
async def test_a_resync_by_map(size: int) -> None:
    world = World()
    pair = large(world, size)
    world.suspend(pair)
    write(world, pair)
    assert pair.changed is not None
    pair.record.tracked_bytes += 1 << 60  # as if it was written to much more often
    replication = Replication(world)
    assert await replication.resync(pair) == [MAP]
    entry = await replication.wait(pair)
    assert (entry["state"], entry["error"]) == (DUPLEX, None)
    primary, secondary = legs(pair)
    assert primary.content == secondary.content
    assert len(primary.content) == len(places(size))


@pytest.mark.parametrize("size", SIZES)
async def test_a_resync_by_journal(size: int) -> None:
    world = World()
    pair = large(world, size)
    world.suspend(pair)
    write(world, pair)
    replication = Replication(world)
    assert await replication.resync(pair) == [JOURNAL]
    assert (await replication.wait(pair))["state"] == DUPLEX
    primary, secondary = legs(pair)
    assert primary.content == secondary.content


@pytest.mark.parametrize("size", SIZES)
async def test_a_copy_of_what_changed(size: int) -> None:
    """No grain is read at once: one of 1 EiB has 1 TiB. And a restart knows what was copied."""
    world = World()
    pair = large(world, size)
    write(world, pair)
    legs(pair)[1].write(places(size)[-1], b"old" * 1365 + b"o")
    changed = pair.new_map()
    for at in places(size):
        changed.set(at, PAGE)
    world.timeline.append(Detach([pair.id]))
    world.timeline.append(Copy({pair.id: changed}, FIRST_COPY))
    replication = Replication(world)
    replication.followers.start([pair])
    assert (await replication.wait(pair))["state"] == DUPLEX
    primary, secondary = legs(pair)
    assert primary.content == secondary.content
    assert primary.read_bytes <= len(places(size)) * 2 * fakes.LIMITS.follower_chunk_bytes
    for marker in world.timeline.markers:
        if isinstance(marker, Copied):
            for offset, length in marker.runs:
                changed.clear(offset, length)
    assert not changed.any(), "what the markers say is whole grains"


@pytest.mark.parametrize("size", [4 * GIB, 16 * TIB])
async def test_holes_of_both_are_not_read_by_a_first_copy(size: int) -> None:
    world = World()
    pair = large(world, size)
    legs(pair)[0].write(size // 2, b"data" * 1024)
    world.timeline.append(Detach([pair.id]))
    world.timeline.append(Copy({pair.id: pair.record.full_map()}, FIRST_COPY))
    replication = Replication(world)
    replication.followers.start([pair])
    assert (await replication.wait(pair))["state"] == DUPLEX
    primary, secondary = legs(pair)
    assert primary.content == secondary.content
    assert primary.read_bytes <= 2 * MIB


@pytest.mark.parametrize("size", SIZES)
def test_a_change_map_is_stored_and_read_back(size: int) -> None:
    limits = EngineLimits()
    changed = ChangeMap(size, limits.change_grain_bytes_min, limits.change_grains_max)
    for at in places(size):
        changed.set(at, PAGE)
    assert ChangeMap.from_bytes(changed.to_bytes()) == changed
    marker = Copy({1: changed}, FIRST_COPY)
    assert unpack(marker.pack()) == marker
    full = ChangeMap(size, limits.change_grain_bytes_min, limits.change_grains_max)
    full.set_all()
    assert full.changed_bytes == size
    assert ChangeMap.from_bytes(full.to_bytes()) == full


@pytest.mark.parametrize("size", SIZES)
def test_dirty_regions_cover_the_volume(size: int) -> None:
    limits = EngineLimits()
    regions = DirtyRegions(size, limits.region_bytes_min, limits.regions_max)
    for at in places(size):
        regions.touch(at, PAGE)
    regions.checkpointed()
    ranges = regions.ranges(size)
    assert ranges[0][0] == 0
    assert ranges[-1][0] + ranges[-1][1] == size
    assert len(regions.of(0, size)) <= limits.regions_max

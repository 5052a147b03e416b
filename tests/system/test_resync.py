"""A resync copies only what changed, by journal or by map, and ends under any load."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.blocks import BLOCK_BYTES, Blocks
from tests.support.commands import call, resync, same_bytes, suspend, volumes, wait_until
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.load import Load, grains_bytes, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.daemon import Daemon, DaemonFiles

GRAIN_BYTES = 64 << 10
SIZE = 32 << 20
LATE_BYTES = 8 << 20  # of changes that were on their way when the test looked
MODES = pytest.mark.parametrize("mode", ["sync", "async"])

EXTENT_TREE_BLOCKS = (
    64  # of 512 bytes: how a file system keeps book of the same holes may differ by this
)


async def _equal(daemon: Daemon) -> None:
    verified = await call(daemon, "POST", "/v1/verify", {"targets": list(daemon.files.volumes)})
    assert verified["equal"], verified
    for name in daemon.files.volumes:
        assert same_bytes(daemon.files.primary(name), daemon.files.secondary_of(name)), name


async def _write(daemon: Daemon, blocks: Sequence[int], rounds: int = 1, fill: int = 1) -> None:
    async with connect(daemon.files.uri("data")) as nbd:
        for number in range(rounds):
            data = bytes([(fill + number) % 255 + 1]) * BLOCK_BYTES
            for at in range(0, len(blocks), 32):
                await asyncio.gather(
                    *(nbd.write(block * BLOCK_BYTES, data) for block in blocks[at : at + 32])
                )


@pytest.fixture
def start(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Callable[..., Daemon]:
    def start(**fields: object) -> Daemon:
        return start_daemon(
            make_files(volumes={"data": SIZE}, **{"journal_size": "64MiB", **fields})
        )

    return start


@MODES
async def test_nothing_is_copied_if_nothing_changed(
    start: Callable[..., Daemon], mode: str
) -> None:
    daemon = start(mode=mode)
    await _write(daemon, range(256))
    await suspend(daemon, "data")
    assert (await volumes(daemon))["data"]["changed_bytes"] == 0
    done = await resync(daemon, "data")
    assert (done["data"]["copied_bytes"], done["data"]["state"]) == (0, "DUPLEX")
    await _equal(daemon)


@MODES
async def test_by_journal_no_more_is_copied_than_was_written(
    start: Callable[..., Daemon], mode: str
) -> None:
    daemon = start(mode=mode)
    await _write(daemon, range(0, SIZE // BLOCK_BYTES, 16))
    await suspend(daemon, "data")
    changed = random.Random(1).sample(range(SIZE // BLOCK_BYTES), 100)
    await _write(daemon, changed, fill=7)
    done = (await resync(daemon, "data"))["data"]
    assert done["how"] == "journal"
    assert done["copied_bytes"] == 100 * BLOCK_BYTES
    await _equal(daemon)


@MODES
async def test_by_map_no_more_is_copied_than_the_grains_that_changed(
    start: Callable[..., Daemon], mode: str
) -> None:
    daemon = start(mode=mode, journal_size="16MiB")
    await suspend(daemon, "data")
    half = range(SIZE // BLOCK_BYTES // 2)
    await _write(daemon, half, rounds=2)  # twice what the journal holds
    await _write(daemon, [SIZE // BLOCK_BYTES - 1])
    status = (await volumes(daemon))["data"]
    assert status["changed_bytes"] == SIZE // 2 + GRAIN_BYTES
    done = (await resync(daemon, "data"))["data"]
    assert done["how"] == "map"
    assert 0 < done["copied_bytes"] <= SIZE // 2 + GRAIN_BYTES
    await _equal(daemon)


@MODES
async def test_a_block_written_ten_thousand_times_is_copied_as_one_grain(
    start: Callable[..., Daemon], mode: str
) -> None:
    daemon = start(mode=mode)
    await suspend(daemon, "data")
    await _write(daemon, [5], rounds=10_000)
    assert (await volumes(daemon))["data"]["changed_bytes"] == GRAIN_BYTES
    done = (await resync(daemon, "data"))["data"]
    assert 0 < done["copied_bytes"] <= GRAIN_BYTES
    await _equal(daemon)


@MODES
async def test_zeroes_and_trims_are_applied_without_copying(
    start: Callable[..., Daemon], mode: str
) -> None:
    daemon = start(mode=mode)
    await _write(daemon, range(1024))
    await suspend(daemon, "data")
    async with connect(daemon.files.uri("data")) as nbd:
        await nbd.write_zeroes(0, 1 << 20)
        await nbd.trim(2 << 20, 1 << 20)
        await nbd.write_zeroes(3 << 20, 4096, no_hole=True)
    done = (await resync(daemon, "data"))["data"]
    assert done["copied_bytes"] == 0
    await _equal(daemon)
    blocks = [
        side.stat().st_blocks
        for side in (daemon.files.primary("data"), daemon.files.secondary_of("data"))
    ]
    assert abs(blocks[0] - blocks[1]) <= EXTENT_TREE_BLOCKS, (
        f"a hole on one leg is none on the other: {blocks}"
    )


@pytest.mark.parametrize(
    ("mode", "how"), [("sync", "journal"), ("async", "journal"), ("sync", "map"), ("async", "map")]
)
async def test_a_resync_ends_under_continuous_load(
    start: Callable[..., Daemon], mode: str, how: str
) -> None:
    daemon = start(mode=mode, journal_size="64MiB" if how == "journal" else "16MiB")
    models = {"data": Blocks(SIZE)}
    moments = random.Random(2)
    pace: dict[str, Any] = (
        {"scattered": True, "pause_s": 0.01} if how == "journal" else {}
    )  # however fast the machine is, the map would not be shorter
    async with Load(daemon.files, models, moments, connections=3, depth=6, **pace) as load:
        await load.wrote(100)
        models["data"].forget_touched()
        await suspend(daemon, "data")
        at_the_cut = load.payload_bytes
        enough = 2 << 20 if how == "journal" else 24 << 20
        while load.payload_bytes - at_the_cut < enough:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
        changed, at_the_start = grains_bytes(models["data"].touched), load.payload_bytes
        done = (await asyncio.wait_for(resync(daemon, "data"), PATIENCE_SECONDS))["data"]
        meanwhile = load.payload_bytes - at_the_start
        await load.wrote(10)
        await load.stop()
    print(
        f"{mode} by {how}: copied {done['copied_bytes']}, "
        f"changed {changed} before and wrote {meanwhile} meanwhile",
        end="; ",
    )
    print(f"a reply took {load.longest_s * 1e3:.0f} ms at most")
    assert done["how"] == how
    assert done["copied_bytes"] <= changed + meanwhile + LATE_BYTES
    await settle(daemon.files, models, "after the resync")
    await _equal(daemon)


# ------------------------------------------------------------- images that are truncated meanwhile


@MODES
async def test_a_secondary_that_is_truncated_and_written_at_its_end_is_copied_as_a_whole(
    start: Callable[..., Daemon], mode: str
) -> None:
    """The write would make it as long as before, and a hole of all that it has lost."""
    daemon = start(mode=mode)
    blocks = range(SIZE // BLOCK_BYTES)
    await _write(daemon, blocks)
    os.truncate(daemon.files.secondary_of("data"), 0)
    await _write(daemon, [blocks[-1]], fill=7)
    found = await wait_until(daemon, lambda all_: all_["data"]["state"] != "DUPLEX", "suspended")
    assert not found["data"]["secondary"]["usable"]
    os.truncate(daemon.files.secondary_of("data"), SIZE)
    done = (await resync(daemon, "data"))["data"]
    assert done["copied_bytes"] == SIZE
    await _equal(daemon)


async def test_a_primary_that_is_truncated_and_written_at_its_end_gives_way(
    start: Callable[..., Daemon],
) -> None:
    daemon = start()
    blocks = range(SIZE // BLOCK_BYTES)
    await _write(daemon, blocks)
    os.truncate(daemon.files.primary("data"), 0)
    await _write(daemon, [blocks[-1]], fill=7)
    async with connect(daemon.files.uri("data")) as nbd:
        assert await nbd.read(0, BLOCK_BYTES) == b"\2" * BLOCK_BYTES
        assert await nbd.read(blocks[-1] * BLOCK_BYTES, BLOCK_BYTES) == b"\x08" * BLOCK_BYTES
    assert (await volumes(daemon))["data"]["swapped"]

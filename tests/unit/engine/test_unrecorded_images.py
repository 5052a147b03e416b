"""Images that no checkpoint has recorded yet: nothing says whether those that a start finds are the
ones that were used.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import PENDING, SUSPENDED
from tests.sim.image import Image
from tests.unit.engine.cores import SIZE, Core, new_disk, running, settings

if TYPE_CHECKING:
    from tests.sim.disk import SimDisk

FOREIGN = b"\x99" * SIZE
A, B = "/a/data.img", "/b/data.img"


async def died_before_its_first_checkpoint(disk: SimDisk) -> None:
    """The start that made the pair."""
    disk.fail("/state/checkpoint", errno.EIO, after=2, operation="replace_file")
    with pytest.raises(OSError, match="Input/output error"):
        await Core.begin(disk, settings())
    disk.heal("/state/checkpoint")
    disk.crash(power=False)


async def test_a_new_pair_is_compared_as_a_whole() -> None:
    disk = new_disk()
    await died_before_its_first_checkpoint(disk)
    disk.give(B, Image.of(FOREIGN))
    async with running(disk=disk) as core:
        assert core.states() == {"data": PENDING}
        await core.controller.resync_wait(["data"])
        assert core.equal()
        assert core.image("data", "b") == bytes(SIZE)


async def test_a_first_copy_to_an_empty_image_becomes_one_of_everything() -> None:
    """It would leave out what the primary has no data for, but the image may not be empty now."""
    disk = new_disk()
    disk.create(A, SIZE).close()
    await died_before_its_first_checkpoint(disk)
    disk.give(B, Image.of(FOREIGN))
    async with running(disk=disk) as core:
        assert core.states() == {"data": PENDING}
        await core.controller.resync_wait(["data"])
        assert core.image("data", "b") == bytes(SIZE)


async def test_nothing_is_served_from_a_secondary_that_may_be_any_image() -> None:
    disk = new_disk()
    await died_before_its_first_checkpoint(disk)
    ours = disk.take(A)
    disk.give(B, Image.of(FOREIGN))
    async with running(disk=disk) as core:
        pair = core.pair()
        assert (pair.state, pair.usable, pair.record.swapped) == (SUSPENDED, False, False)
        assert pair.failed == f"{A}: the image is missing"
        disk.give(A, ours)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.image("data", "b") == bytes(SIZE)


async def test_what_comes_back_in_the_place_of_such_a_secondary_is_copied_as_a_whole() -> None:
    disk = new_disk()
    await died_before_its_first_checkpoint(disk)
    disk.take(B)
    async with running(disk=disk) as core:
        assert core.states() == {"data": SUSPENDED}
        assert core.pair().changed == core.pair().record.full_map()
        disk.give(B, Image.of(FOREIGN))
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.image("data", "b") == bytes(SIZE)


async def test_a_current_image_that_is_not_recorded_wants_a_checkpoint() -> None:
    """Until then it cannot take the place of the primary at a start."""
    async with running() as core:
        checkpointer, record = core.controller.checkpointer, core.pair().record
        assert not checkpointer.would_record_images()
        core.controller.timeline.ledger.use_images(record, record.primary_image, None)
        assert checkpointer.would_record_images()
        await checkpointer.checkpoint()
        assert not checkpointer.would_record_images()


async def test_no_client_writes_to_a_primary_that_no_later_start_would_recognise() -> None:
    disk = new_disk()
    await died_before_its_first_checkpoint(disk)
    ours = disk.take(A)
    core = await Core.begin(disk, settings())
    assert core.pair().failed
    disk.give(A, ours)
    await core.controller.resync(["data"])
    assert await core.write("data", 0, b"flushed", fua=True) == 0
    await core.crash(power=False)
    disk.give(A, Image.of(FOREIGN))
    async with running(disk=disk) as core:
        assert "/a/data.img" in core.pair().failed or core.pair().record.swapped
        assert core.image("data", "a") == FOREIGN


async def test_an_adopted_image_is_recognised_by_the_next_start() -> None:
    disk = new_disk()
    async with running({"data": ""}, disk=disk):
        pass
    disk.give(A, Image.of(FOREIGN))
    core = await Core.begin(disk, settings({"data": ""}))
    await core.controller.adopt(["data"])
    assert await core.write("data", 0, b"flushed", fua=True) == 0
    await core.crash(power=False)
    disk.give(A, Image(SIZE))
    async with running({"data": ""}, disk=disk) as core:
        assert "/a/data.img" in core.pair().failed

"""Secondaries that trail their primary (`async` mode), on block devices: only samples show which
image is which, and a checkpoint takes them wherever the secondary is.
"""

from __future__ import annotations

import errno
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from duplexd.core.markers import MakeCut
from duplexd.core.pair_states import DUPLEX, PENDING, SUSPENDED, UNCLEAN_STOP
from duplexd.engine.recovery.foresee import Seen, foresee
from duplexd.images.probe import SAMPLE_BYTES, probe
from duplexd.journal.format import crc32c
from duplexd.limits import EngineLimits
from tests.sim.image import Image
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.images.probe import Found, Piece
    from tests.sim.disk import SimDisk

ASYNC = {"data": "async"}
FIRST, THEN = 1 * MIB, 2 * MIB  # written before the secondary falls behind, and after
UNSAMPLED = 3 * MIB + SAMPLE_BYTES  # neither always nor as one of those written last
OLD, NEW = b"o" * SAMPLE_BYTES, b"n" * SAMPLE_BYTES


async def arrived(core: Core) -> None:
    tail = core.controller.timeline.written
    await core.until(lambda: core.controller.secondaries.async_follower.floor >= tail)


async def trailing(
    disk: SimDisk, *, first: bool = True, cut: bool = False, everything: bool = False
) -> Core:
    """A daemon whose checkpoint was taken while the secondary lacked the last change."""
    disk.unmarked = True
    core = await Core.begin(disk, settings(ASYNC))
    await core.write("data", FIRST, OLD)
    await core.controller.stop()
    core = await Core.begin(disk, settings(ASYNC))
    if first:
        await core.write("data", FIRST, NEW)
    await arrived(core)
    await core.controller.secondaries.async_follower.stepping.acquire()
    await core.write("data", 0 if everything else THEN, bytes(SIZE) if everything else NEW)
    if cut:
        timeline, cut_marker = core.controller.timeline, MakeCut("cut", "", [core.pair().id])
        await timeline.at_rest(lambda: timeline.append(cut_marker))
    await core.controller.checkpointer.checkpoint()
    return core


def older(disk: SimDisk) -> None:
    """What the secondary was before `FIRST` was written again."""
    content = bytearray(disk.content("/b/data.img"))
    content[FIRST : FIRST + SAMPLE_BYTES] = OLD
    disk.take("/b/data.img")
    disk.give("/b/data.img", Image.of(bytes(content)))


def emptied(disk: SimDisk) -> None:
    disk.take("/b/data.img")
    disk.give("/b/data.img", Image.of(bytes(SIZE)))


each_wrong = pytest.mark.parametrize("wrong", [older, emptied])


async def test_what_it_holds_is_sampled_and_what_it_lacks_is_not() -> None:
    core = await trailing(new_disk())
    image = core.pair().record.secondary_image
    assert image is not None
    samples = dict(image.samples)
    assert samples[FIRST] == crc32c(NEW)
    assert THEN not in samples
    content = core.image("data", "b")
    assert content[THEN : THEN + SAMPLE_BYTES] != NEW, "it does not trail"
    assert all(
        crc32c(content[offset : offset + SAMPLE_BYTES]) == crc for offset, crc in samples.items()
    )
    await core.crash(power=False)


@each_wrong
@pytest.mark.parametrize("cut", [False, True])
async def test_another_image_in_its_place_is_not_called_current(
    wrong: Callable[[SimDisk], None], cut: bool
) -> None:
    disk = new_disk()
    await (await trailing(disk, cut=cut)).crash(power=False)
    wrong(disk)
    async with running(ASYNC, disk=disk) as core:
        pair = core.pair()
        assert (pair.state, pair.usable) == (SUSPENDED, False)
        assert core.named("image-changed")[0]["path"] == "/b/data.img"


@each_wrong
async def test_one_that_nothing_is_known_of_is_compared_before_it_is_called_current(
    wrong: Callable[[SimDisk], None],
) -> None:
    disk = new_disk()
    await (await trailing(disk, everything=True)).crash(power=False)
    wrong(disk)
    async with running(ASYNC, disk=disk) as core:
        pair = core.pair()
        assert (pair.state, pair.reason, pair.usable) == (PENDING, UNCLEAN_STOP, False)
        assert pair.changed == pair.record.full_map()
        await core.controller.resync_wait(["data"])
        assert (core.states(), core.equal()) == ({"data": DUPLEX}, True)


async def test_after_a_clean_stop_it_is_compared_as_well() -> None:
    disk = new_disk()
    disk.unmarked = True
    disk.fail("/b/data.img", errno.EIO, operation="read")
    async with running(disk=disk) as core:
        assert core.states() == {"data": DUPLEX}
    disk.heal("/b/data.img")
    disk.take("/b/data.img")
    disk.give("/b/data.img", Image.of(b"\x33" * SIZE))
    async with running(disk=disk) as core:
        assert core.states() == {"data": PENDING}
        await core.controller.resync_wait(["data"])
        assert core.equal()


def foreseen(disk: SimDisk) -> list[str]:
    """What `duplexd check` says of the images."""

    def look(path: str, offsets: Sequence[int], last: Piece | None) -> Found | None:
        if not disk.exists(path):
            return None
        with closing(disk.open(path)) as file:
            return probe(file, offsets, last)

    seen = Seen(disk.exists, look)
    return foresee(disk, settings(ASYNC), seen, disk.boot_id(), EngineLimits()).degraded


async def test_check_says_that_nothing_is_known_of_one_at_a_cut() -> None:
    disk = new_disk()
    await (await trailing(disk, cut=True, everything=True)).crash(power=False)
    (line,) = foreseen(disk)
    assert "volumes.data.secondary: /b/data.img: nothing shows that this is the image" in line
    assert "its cut would be lost" in line


async def test_check_does_not_say_that_it_takes_the_place_of_a_primary() -> None:
    disk = new_disk()
    await (await trailing(disk, everything=True)).crash(power=False)
    disk.take("/a/data.img")
    disk.give("/a/data.img", Image.of(b"?" * SIZE))
    (line,) = foreseen(disk)
    assert "the volume would not be served" in line


async def test_it_does_not_take_the_place_of_a_primary_that_is_gone() -> None:
    disk = new_disk()
    await (await trailing(disk, everything=True)).crash(power=False)
    emptied(disk)
    disk.remove("/a/data.img")
    async with running(ASYNC, disk=disk) as core:
        assert core.pair().failed


@each_wrong
async def test_one_at_a_cut_that_nothing_is_known_of_is_not_usable(
    wrong: Callable[[SimDisk], None],
) -> None:
    disk = new_disk()
    await (await trailing(disk, cut=True, everything=True)).crash(power=False)
    wrong(disk)
    async with running(ASYNC, disk=disk) as core:
        assert (core.pair().state, core.pair().usable) == (SUSPENDED, False)
        assert "nothing shows that this is the image" in core.named("image-changed")[0]["error"]
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert (core.states(), core.equal()) == ({"data": DUPLEX}, True)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_one_at_a_cut_is_doubted_whatever_its_mode_is_now(mode: str) -> None:
    """Where no record is, a replay makes nothing good."""
    disk = new_disk()
    disk.unmarked = True
    core = await Core.begin(disk, settings(ASYNC))
    await core.controller.secondaries.async_follower.stepping.acquire()
    await core.write("data", 0, bytes(UNSAMPLED))
    await core.write("data", UNSAMPLED + SAMPLE_BYTES, bytes(SIZE - UNSAMPLED - SAMPLE_BYTES))
    timeline, cut_marker = core.controller.timeline, MakeCut("cut", "", [core.pair().id])
    await timeline.at_rest(lambda: timeline.append(cut_marker))
    await core.crash(power=False)
    disk.take("/b/data.img")
    disk.give("/b/data.img", Image.of(b"?" * SIZE))
    async with running({"data": mode}, disk=disk) as core:
        assert (core.pair().state, core.pair().usable) == (SUSPENDED, False)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("cut", "state"), [(False, DUPLEX), (True, SUSPENDED)])
async def test_the_right_one_costs_no_copy(first: bool, cut: bool, state: str) -> None:
    disk = new_disk()
    await (await trailing(disk, first=first, cut=cut)).crash(power=False)
    async with running(ASYNC, disk=disk) as core:
        await core.controller.resync_wait(["data"])
        assert (core.pair().state, core.pair().usable) == (state, True)
        assert not core.named("image-changed")
        assert core.pair().copied_bytes == 0
        assert core.equal()


async def test_a_secondary_that_has_come_to_its_cut_is_sampled_there_soon() -> None:
    core = await trailing(new_disk(), cut=True, everything=True)
    checkpointer, pair = core.controller.checkpointer, core.pair()
    assert not checkpointer.would_record_images(), "it is on its way"
    core.controller.secondaries.async_follower.stepping.release()
    await arrived(core)
    assert checkpointer.would_record_images()
    await checkpointer.checkpoint()
    assert not checkpointer.would_record_images()
    assert pair.record.secondary_image is not None
    assert pair.record.secondary_image.samples
    await core.controller.stop()


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_what_a_run_before_wrote_last_is_sampled_by_the_next(mode: str) -> None:
    """What a replay brings to an image is in no checkpoint before the one at its end."""
    disk, volumes = new_disk(), {"data": mode}
    disk.unmarked = True
    async with running(volumes, disk=disk) as core:
        await core.write("data", FIRST, OLD)
    core = await Core.begin(disk, settings(volumes))
    await core.write("data", FIRST, NEW)
    await core.crash(power=False)
    async with running(volumes, disk=disk) as core:
        await core.controller.resync_wait(["data"])
    older(disk)
    async with running(volumes, disk=disk) as core:
        assert (core.pair().state, core.pair().usable) == (SUSPENDED, False)
        assert core.named("image-changed")[0]["path"] == "/b/data.img"


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_right_one_costs_no_copy_after_a_checkpoint_could_not_read_the_journal(
    mode: str,
) -> None:
    disk, volumes = new_disk(), {"data": mode}
    disk.unmarked = True
    async with running(volumes, disk=disk) as core:
        await core.write("data", FIRST, OLD)
    core = await Core.begin(disk, settings(volumes))
    await core.write("data", FIRST, OLD)
    await arrived(core)
    await core.controller.checkpointer.checkpoint()
    await core.write("data", FIRST, NEW)
    await arrived(core)
    segment = core.controller.timeline.writer.segment.file.path
    disk.fail(segment, errno.EIO, operation="read")
    await core.controller.checkpointer.checkpoint()
    disk.heal(segment)
    await core.crash(power=False)
    async with running(volumes, disk=disk) as core:
        assert not core.named("image-changed")
        await core.controller.resync_wait(["data"])
        assert (core.pair().state, core.pair().usable) == (DUPLEX, True)


async def test_a_journal_that_cannot_be_read_for_samples_is_named() -> None:
    async with running() as core:
        assert await core.write("data", 0, b"something") == 0
        core.disk.fail("/state/journal", errno.EIO, operation="read", times=1)
        with capture_logs() as said:
            await core.controller.checkpointer.checkpoint()
        (line,) = [each for each in said if "samples" in each["event"]]
        assert "/state/journal/" in line["error"]


# ---------------------------------------------------------------- the same, of a pair in sync mode


async def cut_twice(disk: SimDisk) -> bytes:
    """What the secondary held at a first cut. Killed at a second one, which no checkpoint knows."""
    disk.unmarked = True
    core = await Core.begin(disk, settings())
    await core.write("data", FIRST, OLD)
    await core.controller.suspend(["data"])
    before = disk.content("/b/data.img")
    await core.controller.resync(["data"])
    await core.controller.resync_wait(["data"])
    await core.write("data", THEN, NEW)
    await core.controller.suspend(["data"])
    await core.crash(power=False)
    return before


async def test_a_copy_of_an_earlier_cut_is_not_taken_for_one_that_no_checkpoint_has_sampled() -> (
    None
):
    disk = new_disk()
    before = await cut_twice(disk)
    disk.take("/b/data.img")
    disk.give("/b/data.img", Image.of(before))
    async with running(disk=disk) as core:
        assert (core.pair().state, core.pair().usable) == (SUSPENDED, False)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.equal()


async def test_a_cut_that_a_checkpoint_has_sampled_is_believed_after_a_kill() -> None:
    disk = new_disk()
    disk.unmarked = True
    core = await Core.begin(disk, settings())
    await core.write("data", FIRST, OLD)
    await core.controller.suspend(["data"])
    await core.controller.checkpointer.checkpoint()
    await core.write("data", THEN, NEW)
    await core.crash(power=False)
    async with running(disk=disk) as core:
        assert (core.pair().state, core.pair().usable) == (SUSPENDED, True)

"""The secondary of a volume that is not served: it is usable only at exactly the number whose
contents it holds, whatever a start has done to it.
"""

from __future__ import annotations

import dataclasses
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.errors import WrongStateError
from duplexd.limits import EngineLimits
from duplexd.runtime.watch import HungError
from tests.sim.faults import Fault
from tests.unit.engine.cores import MIB, SIZE, Core, new_disk, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config
    from duplexd.json_object import Json
    from tests.sim.disk import SimDisk
    from tests.sim.image import Image

A, B = "/a/data.img", "/b/data.img"
DATA = b"\x66" * 8192
LATER = b"\x77" * 8192
BOTH = {"data": "sync", "apart": "sync"}
JOURNAL = "16MiB"

each_mode = pytest.mark.parametrize("mode", ["sync", "async"])


def refusing(config: Config) -> Config:
    """Primaries are not replaced by their secondaries."""
    controller = config.controller.model_copy(update={"on_primary_error": "refuse"})
    return config.model_copy(update={"controller": controller})


async def killed(
    disk: SimDisk, volumes: dict[str, str], groups: dict[str, list[str]] | None = None
) -> None:
    """What a daemon leaves that dies in a power cut: flushed changes are in the journal alone."""
    core = await Core.begin(disk, settings(volumes, groups, journal=JOURNAL))
    assert await core.write("data", 0, DATA) == 0
    assert await core.write("data", MIB, DATA, fua=True) == 0
    await core.crash(power=True)


def torn(disk: SimDisk) -> None:
    """The second change tears."""
    disk.faults.add(B, Fault(errno.EIO, "write", 1, 1, torn=True))


def refused(disk: SimDisk) -> None:
    disk.fail(B, errno.EIO, after=1, operation="write", times=1)


def unsynced(disk: SimDisk) -> None:
    disk.fail(B, errno.EIO, operation="sync", times=1)


each_fault = pytest.mark.parametrize("fault", [torn, refused, unsynced])


def status(core: Core, name: str = "data") -> Json:
    """Of the secondary."""
    (volume,) = (each for each in core.controller.status()["volumes"] if each["name"] == name)
    return dict(volume["secondary"])


def back(disk: SimDisk, path: str, image: Image) -> None:
    image.opened = False
    disk.give(path, image)


async def fill_the_journal(core: Core) -> None:
    """With changes of the other volume."""
    content = bytes(range(256)) * (SIZE // 256)
    for _ in range(12):
        assert await core.write("apart", 0, content) == 0
    await core.controller.checkpointer.checkpoint()
    assert core.controller.timeline.writer.ring.oldest > 20


# ------------------------------------------------------------------------------ not brought along


@each_fault
@each_mode
async def test_one_that_failed_in_the_replay_is_not_usable_and_says_why(
    fault: Callable[[SimDisk], None], mode: str
) -> None:
    disk, volumes = new_disk(), {**BOTH, "data": mode}
    await killed(disk, volumes)
    disk.take(A)
    fault(disk)
    async with running(volumes, disk=disk, journal=JOURNAL) as core:
        shown = status(core)
        assert core.pair().failed
        assert (shown["usable"], shown["as_of_sequence"]) == (False, None)
        assert shown["error"].startswith("/b/data.img: ")


@each_fault
@each_mode
async def test_the_next_start_brings_it_to_the_last_number_and_serves_it(
    fault: Callable[[SimDisk], None], mode: str
) -> None:
    """Nothing that the failed replay brought to it counts, though a checkpoint was taken since."""
    disk, volumes = new_disk(), {**BOTH, "data": mode}
    await killed(disk, volumes)
    disk.take(A)
    fault(disk)
    core = await Core.begin(disk, settings(volumes, journal=JOURNAL))
    assert await core.write("apart", 0, LATER) == 0
    await core.controller.checkpointer.checkpoint()
    await core.crash(power=True)
    disk.heal(B)
    async with running(volumes, disk=disk, journal=JOURNAL) as core:
        assert core.pair().record.swapped
        assert await core.read("data", 0, len(DATA)) == (0, DATA)
        assert await core.read("data", MIB, len(DATA)) == (0, DATA)


async def test_it_is_unusable_for_good_once_the_journal_does_not_reach_back() -> None:
    disk = new_disk()
    await killed(disk, BOTH)
    disk.take(A)
    torn(disk)
    async with running(BOTH, disk=disk, journal=JOURNAL) as core:
        await fill_the_journal(core)
        assert not core.pair().usable
    async with running(BOTH, disk=disk, journal=JOURNAL) as core:
        assert (core.states()["data"], core.pair().usable) == (SUSPENDED, False)
        assert "the journal no longer has record" in status(core)["error"]


async def test_a_group_freeze_takes_it_to_no_cut() -> None:
    disk, groups = new_disk(), {"db": ["data", "apart"]}
    await killed(disk, BOTH, groups)
    disk.take(A)
    torn(disk)
    async with running(BOTH, groups, disk=disk, journal=JOURNAL) as core:
        disk.fail("/b/apart.img", errno.EIO)
        assert await core.write("apart", 0, LATER) == 0
        assert (core.states()["data"], status(core)["usable"]) == (SUSPENDED, False)
        assert not core.pair().record.usable, "it was not compared either"


async def test_nothing_is_swapped_with_one_that_is_at_no_number() -> None:
    disk = new_disk()
    await killed(disk, BOTH)
    disk.take(A)
    torn(disk)
    async with running(BOTH, disk=disk, journal=JOURNAL) as core:
        assert core.states()["data"] == DUPLEX
        with pytest.raises(WrongStateError, match="a restart brings it to the last number"):
            await core.controller.swap(["data"], False, None, False)


async def test_one_that_was_absent_is_at_no_number_when_it_is_back_before_its_primary() -> None:
    """An earlier start may have died while it applied records to it."""
    disk = new_disk()
    await killed(disk, BOTH)
    taken = disk.take(A), disk.take(B)
    async with running(BOTH, disk=disk, journal=JOURNAL) as core:
        back(disk, B, taken[1])
        with pytest.raises(WrongStateError, match=r"/a/data\.img: the image is missing"):
            await core.controller.resync(["data"])
        assert status(core)["error"] == "/b/data.img: the image is missing"
        assert not status(core)["usable"]


# -------------------------------------------------------------------------------- served again


async def test_what_one_that_failed_holds_is_copied_as_a_whole_once_its_volume_is_served() -> None:
    disk = new_disk()
    await killed(disk, BOTH)
    ours = disk.take(A)
    torn(disk)
    async with running(BOTH, disk=disk, journal=JOURNAL) as core:
        back(disk, A, ours)
        await core.controller.resync(["data"])
        assert (core.states()["data"], core.pair().usable) == (PENDING, False)
        assert core.pair().halfway is None
        assert core.pair().copy_total == SIZE
        await core.controller.resync_wait(["data"])
        assert core.equal()


async def test_of_one_that_was_absent_only_what_it_lacks_is_copied() -> None:
    disk, limits = new_disk(), dataclasses.replace(EngineLimits(), region_bytes_min=MIB // 4)
    core = await Core.begin(disk, settings(BOTH), limits=limits)
    assert await core.write("data", 0, DATA) == 0
    assert await core.write("data", MIB, DATA, fua=True) == 0
    await core.crash(power=True)
    taken = disk.take(A), disk.take(B)
    async with running(BOTH, disk=disk, limits=limits) as core:
        for path, image in zip((A, B), taken, strict=True):
            back(disk, path, image)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.states()["data"] == DUPLEX
        assert 0 < core.pair().copied_bytes < SIZE
        assert core.equal()


async def test_adopting_its_primary_makes_it_unusable_for_good() -> None:
    disk = new_disk()
    await killed(disk, BOTH)
    ours = disk.take(A)
    torn(disk)
    core = await Core.begin(disk, settings(BOTH, journal=JOURNAL))
    back(disk, A, ours)
    await core.controller.adopt(["data"])
    assert not core.pair().record.usable
    await core.crash(power=False)
    async with running(BOTH, disk=disk, journal=JOURNAL) as core:
        assert not core.pair().usable


async def test_a_new_secondary_of_a_volume_that_was_not_served_is_copied_to() -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings({"data": ""}))
    assert await core.write("data", 0, DATA) == 0
    await core.crash(power=False)
    ours = disk.take(A)
    async with running({"data": "sync"}, disk=disk) as core:
        assert core.states() == {"data": SIMPLEX}
        back(disk, A, ours)
        await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": DUPLEX}
        assert core.equal()


# ------------------------------------------------------------------------------ one that arrived


@each_mode
async def test_one_that_arrived_stays_current_however_far_the_others_go(mode: str) -> None:
    """Its volume gets no changes. The journal need not reach back for it."""
    disk, volumes = new_disk(), {**BOTH, "data": mode}
    await killed(disk, volumes)
    disk.take(A)
    config = refusing(settings(volumes, journal=JOURNAL))
    core = await Core.begin(disk, config)
    assert (core.states()["data"], core.pair().failed != "") == (DUPLEX, True)
    await fill_the_journal(core)
    pair, timeline = core.pair(), core.controller.timeline
    await core.until(lambda: pair.mirrors or pair.applied == timeline.written)
    await core.controller.checkpointer.checkpoint()
    await core.crash(power=True)
    core = await Core.begin(disk, config)
    assert core.states()["data"] == DUPLEX
    await core.controller.swap(["data"], False, None, False)
    assert not core.pair().failed
    assert await core.read("data", MIB, len(DATA)) == (0, DATA)
    await core.controller.stop()


async def test_one_that_was_not_compared_after_an_unclean_stop_is_not_usable_yet() -> None:
    """A change whose record was lost with the journal's end may be on it. As on any disk after a
    power cut, it may become the primary nevertheless.
    """
    disk, config = new_disk(), refusing(settings(BOTH, {"db": list(BOTH)}))
    await killed(disk, BOTH)
    disk.take(A)
    core = await Core.begin(disk, config)
    await core.controller.resync_wait(["apart"])
    assert (core.states()["data"], status(core)["usable"]) == (DUPLEX, False)
    assert "not compared since an unclean stop" in status(core)["error"]
    timeline, failures, apart = (
        core.controller.timeline,
        core.controller.failures,
        core.pair("apart"),
    )
    gone = OSError(errno.EIO, "gone")
    members = {apart, core.pair()}
    await timeline.at_rest(
        lambda: failures.freeze(members, apart, timeline.written, gone, {apart}, {})
    )
    assert (core.states()["data"], core.pair().record.usable) == (SUSPENDED, False)
    await core.controller.stop()


async def test_a_resync_that_the_replay_has_brought_to_the_end_is_not_given_up() -> None:
    disk, config = new_disk(), refusing(settings())
    core = await Core.begin(disk, settings())
    await core.controller.suspend(["data"])
    assert await core.write("data", 0, DATA) == 0
    assert (await core.controller.resync(["data"]))["volumes"][0]["how"] == "journal"
    await core.controller.timeline.durable()
    await core.crash(power=True)
    disk.take(A)
    core = await Core.begin(disk, config)
    assert (core.states()["data"], core.pair().record.usable) == (DUPLEX, True)
    assert core.image("data", "b")[: len(DATA)] == DATA
    await core.controller.stop()


async def test_one_whose_primary_hangs_while_it_is_served_stays_at_the_last_number() -> None:
    async with running(BOTH) as core:
        core.refuse_swaps()
        assert await core.write("data", 0, DATA) == 0
        pair = core.pair()
        error = HungError(pair.primary, 30)
        failures = core.controller.failures
        await core.controller.timeline.at_rest(lambda: failures.primary_failed(pair, error))
        assert await core.write("apart", 0, DATA) == 0
        assert status(core)["as_of_sequence"] == core.controller.timeline.written


async def test_what_an_async_one_has_yet_to_get_is_kept_in_the_journal() -> None:
    """It goes on without its primary, so it does not keep the others waiting for long."""
    async with running({**BOTH, "data": "async"}) as core:
        failures, checkpointer = core.controller.failures, core.controller.checkpointer
        pair, gone = core.pair(), OSError(errno.EIO, "gone")
        async with core.controller.followers.stepping:
            assert await core.write("data", 0, DATA) == 0
            await core.controller.timeline.at_rest(lambda: failures.primary_failed(pair, gone))
            await checkpointer.checkpoint()
            assert pair.failed
            assert checkpointer.replay_floor == pair.applied < core.controller.timeline.written
        await core.until(lambda: pair.applied == core.controller.timeline.written)
        await checkpointer.checkpoint()
        assert checkpointer.replay_floor == core.controller.timeline.written


# ----------------------------------------------------------------------------------- checkpoints


async def test_a_failed_secondary_does_not_keep_a_full_journal_from_starting() -> None:
    """What it lacks is dropped: it is copied as a whole in any case."""
    disk, volumes = new_disk(), {"data": "async", "apart": "sync"}
    await full_journal(disk, volumes)
    disk.fail(B, errno.EIO, operation="write")
    async with running(volumes, disk=disk, journal=JOURNAL) as core:
        assert core.states()["data"] == SUSPENDED


async def full_journal(disk: SimDisk, volumes: dict[str, str]) -> None:
    """A daemon that was killed when it had no room for another change."""
    core = await Core.begin(disk, settings(volumes, journal=JOURNAL))
    disk.fail("/state/checkpoint", errno.EIO)
    content = bytes(range(256)) * (MIB // 256)
    while (change := core.send("data", 0, content)).error == 0:
        await core.turns(500)
        if change not in core.peer.answers:
            break
    await core.crash(power=False)
    disk.heal("/state/checkpoint")


@pytest.mark.parametrize("path", [A, B])
async def test_a_sync_that_fails_while_room_is_made_costs_its_own_image(path: str) -> None:
    disk = new_disk()
    await full_journal(disk, BOTH)
    disk.fail(path, errno.EIO, operation="sync", after=1, times=1)  # the replay's succeeds
    async with running(BOTH, disk=disk, journal=JOURNAL) as core:
        assert core.states()["data"] == SUSPENDED
        assert core.pair().record.swapped is (path == A)


async def test_what_a_primary_may_have_lost_stays_open_when_its_first_sync_fails() -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings(BOTH))
    assert await core.write("data", 0, DATA) == 0
    await core.controller.checkpointer.checkpoint()
    await core.crash(power=False)
    disk.fail(A, errno.EIO, operation="sync", times=1)
    disk.fail(B, errno.EIO)
    async with running(BOTH, disk=disk) as core:
        assert core.pair().failed
        assert core.pair().regions.open | core.pair().regions.touched

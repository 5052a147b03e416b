"""Images have an identity: one that was deleted, moved or replaced, while the daemon has it open or
while it is stopped, is never called current.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.config import load as config
from duplexd.core import pair_states
from duplexd.errors import DuplexdError, WrongStateError
from duplexd.runtime.watch import HungError
from tests.sim.image import Image
from tests.unit.engine.cores import SIZE, Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config
    from tests.sim.disk import SimDisk

BOTH = {"data": "sync", "wal": "sync"}
DB = {"db": ["data", "wal"]}
DATA = b"\x55" * 4096
WRITTEN_NS = 1_795_001_000_000_000_000  # by the clock of `HandClock`


def replace(core: Core, side: str) -> None:
    """Put another image of the same content at the path, as `cp` and `mv` do."""
    core.disk.replace_file(f"/{side}/data.img", core.image("data", side))


def delete(core: Core, side: str) -> None:
    core.disk.remove(f"/{side}/data.img")


def shorten(core: Core, side: str) -> None:
    """Truncate it in place."""
    core.disk.shorten(f"/{side}/data.img", SIZE // 2)


each_loss = pytest.mark.parametrize("lose", [replace, delete])


# ------------------------------------------------------------------------------ while it is open


@each_loss
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_suspend_with_a_lost_secondary_is_void_and_says_which(
    lose: Callable[[Core, str], None], mode: str
) -> None:
    async with running({"data": mode, "wal": mode}) as core:
        await core.write("data", 0, b"something")
        lose(core, "b")
        result = await core.controller.suspend(["data", "wal"])
        assert result["verdict"] == "void"
        assert result["why"].startswith(
            "/b/data.img: this is not the image that the daemon has open"
        )
        assert (core.pair("data").usable, core.pair("wal").usable) == (False, True)


async def test_status_and_event_name_the_secondary_that_was_lost() -> None:
    async with running(BOTH) as core:
        replace(core, "b")
        await core.controller.suspend(["data", "wal"])
        (failed,) = [
            event for event in core.named("suspended") if event["reason"] == "by secondary error"
        ]
        assert (failed["failed"], failed["path"]) == ("data", "/b/data.img")
        data, wal = core.controller.status()["volumes"]
        assert "/b/data.img" in data["secondary"]["cut"]["why"]
        assert (data["secondary"]["usable"], wal["secondary"]["cut"]["verdict"]) == (False, "void")


async def test_a_suspend_of_pairs_at_a_cut_says_if_a_secondary_is_lost_since() -> None:
    async with running(BOTH) as core:
        cut = (await core.controller.suspend(["data", "wal"]))["cut"]
        delete(core, "b")
        with pytest.raises(WrongStateError, match=r"not at cut .* any more: data \(/b/data\.img"):
            await core.controller.suspend(["data", "wal"], existing=True)
        assert core.controller.cuts.show(cut)["volumes"] == ["wal"]


async def test_a_lost_secondary_of_a_freeze_leaves_the_others_at_their_cut() -> None:
    async with running(BOTH, DB) as core:
        core.secondary("wal").fail("write")
        await core.write("wal", 0, b"something")
        assert core.states() == dict.fromkeys(BOTH, pair_states.SUSPENDED)
        delete(core, "b")
        with pytest.raises(WrongStateError, match=r"/b/data\.img"):
            await core.controller.resync(["data", "wal"])
        assert (core.pair("data").usable, core.pair("wal").usable) == (False, True)


async def test_a_resync_does_not_start_on_a_lost_image_and_one_put_back_gets_all_of_it() -> None:
    async with running(BOTH) as core:
        await core.controller.suspend(["data", "wal"])
        await core.write("data", 5000, b"changed")
        ours = core.disk.take("/b/data.img")
        core.disk.give("/b/data.img", ours)
        delete(core, "b")
        for _ in range(2):
            with pytest.raises(
                WrongStateError,
                match=r"/b/data\.img: .* put it back, or any image .*; nothing was started",
            ):
                await core.controller.resync(["data", "wal"])
            assert core.states() == dict.fromkeys(BOTH, pair_states.SUSPENDED)
        assert not core.pair("data").usable
        core.disk.give("/b/data.img", ours)
        started = await core.controller.resync(["data", "wal"])
        assert [volume["how"] for volume in started["volumes"]] == ["copy", "journal"]
        await core.controller.resync_wait(["data", "wal"])
        assert core.states() == dict.fromkeys(BOTH, pair_states.DUPLEX)
        assert core.equal("data")


@pytest.mark.parametrize("state", ["SUSPENDED", "DUPLEX"])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_new_disk_at_the_path_of_a_secondary_is_taken_by_a_resync_and_gets_all_of_it(
    mode: str, state: str
) -> None:
    async with running({"data": mode, "wal": mode}, DB) as core:
        await core.write("data", 5000, b"something")
        if state == "SUSPENDED":
            await core.controller.suspend(["data", "wal"])
        before = core.pair("data").secondary
        core.disk.remove("/b/data.img")
        new = core.disk.create("/b/data.img", SIZE)
        new.write(0, b"of another life")
        new.close()
        started = await core.controller.resync(["data", "wal"])
        assert {row["name"]: row["how"] for row in started["volumes"]}["data"] == "copy"
        assert core.pair("data").secondary is not before
        await core.write("data", 9000, b"meanwhile")
        await core.controller.resync_wait(["data", "wal"])
        await core.until(lambda: core.states() == dict.fromkeys(BOTH, pair_states.DUPLEX))
        await core.until(lambda: core.equal("data"))
        assert (await core.controller.verify(["data"]))["equal"]


async def test_a_new_disk_whose_image_belongs_to_others_leaves_the_open_one_in_use() -> None:
    other = new_disk()
    async with running(disk=other):
        pass
    theirs = other.take("/b/data.img")
    theirs.opened = False
    async with running(BOTH) as core:
        cut = (await core.controller.suspend(["data", "wal"]))["cut"]
        before = core.pair("data").secondary
        core.disk.remove("/b/data.img")
        core.disk.give("/b/data.img", theirs)
        with pytest.raises(WrongStateError, match="belongs to volume data of a controller"):
            await core.controller.resync(["data"])
        assert core.pair("data").secondary is before
        assert core.controller.cuts.show(cut)["verdict"] == "consistent"


async def test_a_new_disk_is_not_taken_by_a_resync_that_nobody_asked_for() -> None:
    async with running(BOTH) as core:
        await core.controller.suspend(["data", "wal"])
        core.disk.remove("/b/data.img")
        core.disk.create("/b/data.img", SIZE).close()
        with pytest.raises(WrongStateError, match="`duplexctl resync data` takes it"):
            await core.controller.commands.resync_again(["data"])
        assert core.states()["data"] == pair_states.SUSPENDED


@pytest.mark.parametrize("side", ["a", "b"])
@each_loss
async def test_verify_does_not_call_legs_equal_whose_paths_lead_elsewhere(
    side: str, lose: Callable[[Core, str], None]
) -> None:
    async with running(BOTH) as core:
        lose(core, side)
        result = await core.controller.verify(["data", "wal"])
        data, wal = result["volumes"]
        assert (result["equal"], data["equal"], wal["equal"], wal["why"]) == (
            False,
            False,
            True,
            None,
        )
        assert data["why"].startswith(f"/{side}/data.img: ")
        assert data["compared_bytes"] == SIZE


async def test_a_checkpoint_notices_a_lost_secondary_and_is_taken_without_it() -> None:
    async with running(BOTH, DB) as core:
        delete(core, "b")
        before = core.controller.checkpointer.taken
        await core.controller.checkpointer.checkpoint()
        assert core.states() == dict.fromkeys(BOTH, pair_states.SUSPENDED)
        assert core.controller.checkpointer.taken == before + 1
        assert await core.write("data", 0, b"goes on") == 0


async def test_a_suspend_with_a_truncated_secondary_is_void_and_says_so() -> None:
    async with running(BOTH) as core:
        shorten(core, "b")
        result = await core.controller.suspend(["data", "wal"])
        assert result["verdict"] == "void"
        assert result["why"].startswith(
            "/b/data.img: the image was truncated: it has 2097152 bytes"
        )
        assert (core.pair("data").usable, core.pair("wal").usable) == (False, True)


async def test_verify_does_not_call_a_truncated_leg_equal() -> None:
    async with running(BOTH) as core:
        shorten(core, "a")
        result = await core.controller.verify(["data", "wal"])
        data, wal = result["volumes"]
        assert (data["equal"], wal["equal"]) == (False, True)
        assert "/a/data.img: the image was truncated" in data["why"]


async def test_a_primary_that_was_truncated_and_written_to_fails_at_the_next_checkpoint() -> None:
    async with running(BOTH) as core:
        shorten(core, "a")
        await core.write("data", 0, DATA)
        with contextlib.suppress(OSError):
            await core.controller.checkpointer.checkpoint()
        data = core.pair("data")
        assert data.failed or data.record.swapped
        assert not core.pair("wal").failed


# -------------------------------------------------------------------------- while it is stopped


def test_a_secondary_that_was_replaced_is_copied_after_an_orderly_restart() -> None:
    """It holds something else, and nothing compared it before the daemon was stopped."""
    disk = new_disk()

    async def first() -> None:
        async with running(BOTH, DB, disk=disk) as core:
            await core.write("data", 5000, b"something")
            disk.replace_file("/b/data.img", bytes(SIZE))
            await core.write("data", 9000, b"more")

    async def second() -> None:
        async with running(BOTH, DB, disk=disk) as core:
            assert core.states() == dict.fromkeys(BOTH, pair_states.SUSPENDED)
            assert (core.pair("data").usable, core.pair("wal").usable) == (False, True)
            await core.controller.resync(["data", "wal"])
            await core.controller.resync_wait(["data", "wal"])
            assert core.states() == dict.fromkeys(BOTH, pair_states.DUPLEX)
            assert core.equal("data")
            assert core.image("data", "a")[5000:5009] == b"something"

    run(first())
    run(second())


def configured(secondary: str) -> Config:
    line = f'secondary = "{secondary}"\n' if secondary else ""
    return config.parse(
        '[controller]\nname = "alpha"\nstate_dir = "/state"\njournal_size = "32MiB"\n'
        '[nbd]\nlisten = ["unix:/nbd.sock"]\n'
        f'[volumes.data]\nsize = {SIZE}\nprimary = "/a/data.img"\n{line}',
        "/duplexd.toml",
    )


def life(disk: SimDisk, secondary: str, data: bytes = b"") -> str:
    """Run a daemon with this secondary until all is copied; the state of the pair then."""

    async def scenario() -> str:
        core = await Core.begin(disk, configured(secondary))
        await core.until(lambda: core.pair().state != pair_states.PENDING)
        if data:
            assert await core.write("data", 0, data) == 0
        await core.controller.stop()
        return core.pair().state

    return run(scenario())


def test_a_secondary_at_another_path_is_not_taken_for_the_one_that_was_equal() -> None:
    disk = new_disk()
    life(disk, "/b/data.img", DATA)
    disk.create("/b/other.img", SIZE).close()
    assert life(disk, "/b/other.img") == pair_states.SUSPENDED
    assert disk.read_file("/b/other.img") == bytes(SIZE), "nothing was spoilt"


def test_another_secondary_is_taken_after_a_start_without_one_and_is_copied() -> None:
    disk = new_disk()
    life(disk, "/b/data.img", DATA)
    disk.create("/b/other.img", SIZE).close()
    assert life(disk, "") == pair_states.SIMPLEX
    assert life(disk, "/b/other.img") == pair_states.DUPLEX
    assert disk.read_file("/b/other.img")[: len(DATA)] == DATA


# ---------------------------------------------------------- while the journal lost its last records


def _drop_page_cache(disk: SimDisk) -> None:
    """What a failed sync gave up shows, without a reboot and without a new mount."""
    for name in disk.list("/state/journal"):
        disk.drop_cache(f"/state/journal/{name}")


async def _lose_records(disk: SimDisk, *, suspended: bool) -> None:
    """The sync of the journal fails after a change that is on the image, or images, already; the
    daemon ends, and the page cache is dropped.
    """
    core = await Core.begin(disk, settings({"data": "sync"}))
    if suspended:
        await core.controller.suspend(["data"])
    await core.write("data", 0, DATA)  # opens the region, durably
    await core.controller.checkpointer.checkpoint()
    disk.fail("/state/journal", errno.EIO, operation="sync", times=1)
    await core.write("data", 0, b"\xaa" * 4096)
    with contextlib.suppress(DuplexdError, OSError):
        await core.controller.timeline.durable()
    assert core.controller.failed
    await core.turns(200)
    await core.crash(power=False)
    _drop_page_cache(disk)


@pytest.mark.parametrize("suspended", [False, True])
async def test_images_with_changes_that_the_journal_lost_in_place_are_not_refused(
    suspended: bool,
) -> None:
    disk = new_disk()
    await _lose_records(disk, suspended=suspended)
    async with running({"data": "sync"}, disk=disk) as core:
        pair = core.pair()
        assert not pair.failed
        if suspended:
            assert pair.changed is not None
            assert pair.changed.next_run(0, SIZE) == (0, SIZE), "what was lost is copied"
            await core.controller.resync(["data"])
        await core.controller.resync_wait(["data"])
        assert core.states() == {"data": pair_states.DUPLEX}
        assert core.equal()


async def test_a_primary_that_a_call_wrote_to_after_it_was_given_up_is_not_refused() -> None:
    """Nothing of the change is there, only its time, when the daemon is killed."""
    disk, alone = new_disk(), {"data": ""}
    disk.now_ns = lambda: WRITTEN_NS
    core = await Core.begin(disk, settings(alone))
    await core.write("data", SIZE // 2, DATA)
    await core.controller.checkpointer.checkpoint()
    await core.write("data", 0, DATA)
    failures, pair = core.controller.failures, core.pair()
    hung = HungError(pair.primary, 30.0)
    await core.controller.timeline.at_rest(lambda: failures.primary_failed(pair, hung))
    await core.crash(power=False)
    image = disk.take("/a/data.img")
    image.current[: len(DATA)] = bytes(len(DATA))
    image.mtime_ns = WRITTEN_NS + 60_000_000_000
    disk.give("/a/data.img", image)
    async with running(alone, disk=disk) as core:
        assert not core.pair().failed
        assert core.image("data", "a")[: len(DATA)] == DATA


async def test_a_primary_that_got_what_it_lacked_is_not_refused_before_a_checkpoint() -> None:
    """What was applied to it has no record since the last one."""
    disk, alone = new_disk(), {"data": "", "apart": "sync"}
    disk.now_ns = lambda: WRITTEN_NS
    core = await Core.begin(disk, settings(alone))
    await core.write("data", SIZE // 2, DATA)
    await core.controller.checkpointer.checkpoint()
    await core.write("data", 0, DATA)
    await core.crash(power=False)
    image = disk.take("/a/data.img")
    core = await Core.begin(disk, settings(alone))
    await core.controller.checkpointer.checkpoint()
    disk.give("/a/data.img", image)
    disk.now_ns = lambda: WRITTEN_NS + 3600_000_000_000
    with pytest.raises(WrongStateError, match="no secondary to resync"):
        await core.controller.resync(["data"])
    assert not core.pair().failed
    await core.crash(power=False)
    async with running(alone, disk=disk) as core:
        assert not core.pair().failed


# ------------------------------------------------------------------- images that nobody knows


async def test_a_first_copy_onto_an_image_that_holds_data_is_said() -> None:
    """Without a mark nothing tells whose it is, or whether the state directory was lost."""
    disk = new_disk()
    for path in ("/a/data.img", "/b/data.img"):
        disk.give(path, Image.of(b"\x33" * SIZE))
    async with running(disk=disk) as core:
        assert core.states() == {"data": pair_states.PENDING}
        (event,) = core.named("secondary-overwritten")
        assert (event["volume"], event["path"]) == ("data", "/b/data.img")
        assert event["error"].startswith("/b/data.img: ")
        await core.controller.resync_wait(["data"])
    async with running(disk=disk) as core:
        assert not core.named("secondary-overwritten"), "it is known now"


async def test_a_first_copy_onto_an_empty_image_overwrites_nothing() -> None:
    disk = new_disk()
    disk.give("/a/data.img", Image.of(b"\x33" * SIZE))
    disk.create("/b/data.img", SIZE).close()
    async with running(disk=disk) as core:
        assert core.states() == {"data": pair_states.PENDING}
        assert not core.named("secondary-overwritten")


async def test_a_reload_says_what_it_overwrites() -> None:
    async with running({"data": ""}) as core:
        core.disk.give("/b/data.img", Image.of(b"\x33" * SIZE))
        changes = await core.controller.reload(settings({"data": "sync"}))
        what = "the first copy overwrites the data in /b/data.img"
        assert changes == [f"volume data: secondary added: /b/data.img; {what}"]


def test_a_volume_that_an_older_state_directory_does_not_know_is_refused_at_every_start() -> None:
    disk = new_disk()

    async def life(names: dict[str, str], text: bytes = b"") -> None:
        async with running(names, disk=disk) as core:
            for name in names if text else ():
                await core.write(name, 0, text)

    async def refused() -> str:
        async with running(BOTH, disk=disk) as core:
            return core.pair("wal").failed

    run(life({"data": "sync"}))
    older = {path: disk.read_file(path) for path in state_files(disk)}
    run(life(BOTH, DATA))
    for path in state_files(disk):
        disk.remove(path)
    for path, content in older.items():
        disk.replace_file(path, content)
    for _ in range(3):
        assert "the state directory" in run(refused())
    assert disk.content("/a/wal.img")[:4096] == DATA


def state_files(disk: SimDisk) -> list[str]:
    return [
        directory + name
        for directory in ("/state/", "/state/journal/")
        for name in disk.list(directory)
        if name != "journal"
    ]
